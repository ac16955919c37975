"""Names of files may hold any character: none that steers a terminal, or reverses a line, leaves in any output."""

import re

import pytest
from click.testing import CliRunner

from costsim import names
from costsim.cli import main
from costsim.inputs.files import find

HOSTILE = "p\x1b[31mx\u202ey\nz\x07"  # a colour, an override of the writing direction, a line feed, a bell
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SMALL = ("--set", "model.layers=1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a workload, two policies and a device of hostile names."""
    monkeypatch.chdir(tmp_path)
    for prefix, name, kind in (
        ("w", "glue-mrpc-dsq", "workloads"),
        ("p", "fp8-block", "policies"),
        ("d", "dsq", "policies"),
        ("h", "h100-sxm", "hardware_profiles"),
    ):
        text = find(name, kind, kind).read_text(encoding="utf-8")
        (tmp_path / f"{prefix}{HOSTILE}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


POLICIES = ("--policy", f"./p{HOSTILE}.yaml", "--policy", f"./d{HOSTILE}.yaml", "--baseline", f"./p{HOSTILE}.yaml")
DEVICE = ("--hardware", f"./h{HOSTILE}.yaml")
COMMANDS = {
    **{f"run --by {by}": ("run", *DEVICE, "--by", by) for by in names.BY if by != "op"},
    "run --sweep": ("run", "--sweep", "batch=1,2"),
    "memory": ("memory", "--capacity-bytes", "1", "--stash", "--activations"),
}


def outputs(command, *arguments, baseline=True, code=0):
    policies = POLICIES if baseline else POLICIES[:-2]
    done = CliRunner().invoke(main, [command, f"./w{HOSTILE}.yaml", *arguments, *policies, *SMALL])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.mark.parametrize("style", names.STYLES)
@pytest.mark.parametrize("name", COMMANDS)
def test_tables_and_the_lines_under_them(name, style, folder):
    command, *arguments = COMMANDS[name]
    text = outputs(command, *arguments, "--format", style, baseline=command == "run")
    assert not CONTROL.search(text)
    assert r"\x1b[31mx" in text.replace(r"\\", "\\").replace(r"\textbackslash{}", "\\") or style in ("json", "latex")


@pytest.mark.parametrize("kind", names.PLOTS)
def test_figures_and_the_names_of_files(kind, folder):
    more = ("--sweep", "batch=1,2") if kind == "sweep" else ()
    said = outputs("plot", kind, *more, *DEVICE)
    assert not CONTROL.search(said)
    assert said.count("\n") == 1
    [path] = folder.glob(f"*{kind}.*")
    assert not CONTROL.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("result", ["dram_bits", "encoder.0.ffn.fc1"])
def test_explanations(result, folder):
    assert not CONTROL.search(outputs("explain", result, *DEVICE))


def test_a_failed_assertion(folder):
    assert not CONTROL.search(outputs("run", "--assert", f'"p{HOSTILE}".macs < 2', code=1))
