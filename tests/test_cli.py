"""The command line's contract: what every command prints, in every format, from anywhere."""

import csv
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_docs import SHOWN, TYPED

from costsim import names
from costsim.cli import main
from costsim.inputs.files import find, list_shipped
from costsim.reference import calibrate, kernel_bench

RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))
WORKLOADS = list(list_shipped("workloads"))
POLICIES = list(list_shipped("policies"))
GROUPS = names.BY[1:-2]  # rows per assumption and reductions are no parts of a total
# At least so many entries.
LISTS = {"workloads": 5, "policies": 20, "hardware": 0, "formats": 50, "ops": 30, "traffic": 3}
SMALL = ("--set", "model.encoder_layers=1", "--set", "model.decoder_layers=2")
COUNTS = ("macs", "arithmetic_cost", "dram_bits", "dram_read_bits", "dram_written_bits", "vector_ops", "quantize_ops")
NAME = r"[a-z0-9.-]+"


def costsim(*args):
    """What a command prints that ends well and warns of nothing."""
    result = RUNNER.invoke(main, args)
    assert result.exit_code == 0, (args, result.stderr, result.exception)
    assert result.stderr == ""
    return result.stdout


def python(*args, **env):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env={**os.environ, **env}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rows_of(*args):
    return list(csv.DictReader(io.StringIO(costsim("run", *args, "--format", "csv"))))


def width(text):
    return max(map(len, text.splitlines()))


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- run: every output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_with_its_policies(name):
    table = costsim("run", name)
    assert width(table) <= 80
    rows, _, notes = table.partition("\n\n")
    policies = [row["policy"] for row in rows_of(name)]
    names = "\n".join(line.split()[0] for line in rows.splitlines()[3:] if line[0] != " ")
    assert names.replace("\n+", "+").splitlines() == policies  # long composed names take a line a part
    assert "traffic" in notes


@pytest.mark.parametrize("by", names.BY)
@pytest.mark.parametrize("name", WORKLOADS)
def test_tables_fit_a_terminal(name, by):
    if by not in ("op", "tensor"):  # names that other commands take are never cut
        assert width(costsim("run", name, "--by", by, "--scope", "step", "--policy", "stash-fixed")) <= 80


DSQ, FIXED16 = (find(name, "policies", "policy").read_text(encoding="utf-8") for name in ("dsq", "fixed16"))
MANY_PHASES = "".join(f"  - {{until_fraction: 0.{i}, levels: [2, 2, 2, {i}]}}\n" for i in range(2, 10))
MANY_LEVELS = (
    f"description: x\nlevels: [{', '.join(f'q{i}' for i in range(17))}]\nrules:\n  - {{format: fp32}}\n"
    + "".join(f"  - {{format: fixed<q{i}>, name: nothing, optional: true}}\n" for i in range(17))
    + f"phases: [{{levels: [{', '.join(['16'] * 17)}]}}]\n"
)
WIDE = {  # arguments beside a policy's name and text
    "many phases": ([], "p", DSQ.replace("  - {until_", MANY_PHASES + "  - {until_", 1)),
    "long name": ([], "p" * 90, DSQ),
    "many steps": (["--set", f"training.steps={10**18}", "--set", f"batch.sequences={10**9}"], "p", DSQ),
    "long source": (
        ["--set", f"published=[{{quantity: dram_reduction, policy: p, stated: 2, source: {'s' * 200}}}]"],
        "p",
        DSQ,
    ),
    "long name beside published figures": (
        ["--set", f"published=[{{quantity: dram_reduction, policy: {'p' * 60}, stated: 2, source: s}}]"],
        "p" * 60,
        DSQ,
    ),
    "long name by role": (["--by", "role", "--scope", "step"], "p" * 90, DSQ),
    "long setup": ([], "p", FIXED16.replace("setup: ", f"setup: {'long ' * 30}")),
    "many levels": ([], "p", MANY_LEVELS),
}


@pytest.mark.parametrize("case", WIDE)
def test_wide_tables_fit_a_terminal(case, tmp_path):
    more, name, text = WIDE[case]
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    assert width(costsim("run", "glue-mrpc-dsq", "--policy", str(tmp_path / f"{name}.yaml"), *more)) <= 80


def test_sources_end_the_notes_where_figures_are_stated():
    for policy, stated in (("dsq", True), ("fixed32", False)):
        lines = costsim("run", "iwslt17-dsq", *SMALL, "--policy", policy).splitlines()
        assert lines[-1].startswith("stated by ") == any("stated by" in line for line in lines) == stated


@pytest.mark.parametrize("style", names.STYLES)
@pytest.mark.parametrize("by", names.BY)
def test_every_grouping_in_every_format_twice_the_same(by, style):
    args = ("run", "glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "dsq", "--by", by, "--format", style)
    text = costsim(*args)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert costsim(*args) == text


def test_the_same_bytes_whatever_the_hash_seed():
    args = ("-m", "costsim", "run", "iwslt17-dsq", *SMALL, "--by", "tensor", "--format", "json", "--scope", "step")
    assert python(*args, PYTHONHASHSEED="1") == python(*args, PYTHONHASHSEED="2")


# --- run: JSON and CSV ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_json(name):
    data = json.loads(costsim("run", name, "--format", "json"))
    assert list(data) == ["workload", "baseline", "convention", "warnings", "rows", "published", "recipes"]
    baseline = re.search(r"^baseline: (\S+)", list_shipped("workloads")[name].read_text(), re.M)[1]
    assert (data["workload"], data["baseline"]) == (name, baseline)
    assert {"law", "traffic", "scope", "steps"} <= data["convention"].keys()
    for row in data["rows"]:
        assert isinstance(row["policy"], str)
        assert all(re.fullmatch(r"\d+", row[key]) for key in COUNTS)
        ratios = ("arithmetic_reduction", "dram_reduction", "square_bits_per_mac", "bits_per_element_moved")
        assert all(is_number(row[key]) for key in ratios)
        assert int(row["dram_bits"]) == int(row["dram_read_bits"]) + int(row["dram_written_bits"])
        assert int(row["peak_memory_bytes"]) > data["convention"]["parameters"]
        assert row["square_bits_per_mac"] == int(row["arithmetic_cost"]) / int(row["macs"])
    by_name = {row["policy"]: row for row in data["rows"]}
    base = by_name[baseline]
    for row in data["rows"]:
        assert row["arithmetic_reduction"] == int(base["arithmetic_cost"]) / int(row["arithmetic_cost"])
        assert row["dram_reduction"] == int(base["dram_bits"]) / int(row["dram_bits"])
    for entry in data["published"]:
        keys = {"quantity", "stated", "ours", "difference", "scope", "traffic", "convention", "source"}
        assert keys <= entry.keys()
        assert entry["difference"] == pytest.approx(entry["ours"] / entry["stated"] - 1, rel=1e-12)
        if {key: entry[key] for key in ("scope", "traffic")}.items() <= data["convention"].items():
            assert entry["convention"]
            assert entry["ours"] == by_name[entry["policy"]][entry["quantity"]]
    marks = [entry["convention"] for entry in data["published"]]
    assert marks == sorted(marks, reverse=True)


@pytest.mark.parametrize("by", GROUPS)
def test_json_by_group(by):
    data = json.loads(costsim("run", "glue-mrpc-dsq", "--policy", "dsq", "--by", by, "--format", "json"))
    for row in data["rows"]:
        assert list(row)[:2] == ["policy", by]
        assert isinstance(row[by], str)
        assert all(re.fullmatch(r"\d+", row[key]) for key in COUNTS)
        assert all(is_number(row[key]) for key in ("arithmetic_share", "dram_share"))


def test_iwslt17_dsq():
    data = json.loads(costsim("run", "iwslt17-dsq", "--format", "json"))
    names = {"fixed32", "fixed16", "bfp32", "bfp16", "stash-fixed", "stash-bfp", "dsq"}
    assert names <= {row["policy"] for row in data["rows"]}
    assert (data["baseline"], data["convention"]["law"]) == ("fixed16", "product")
    stated = {entry["quantity"]: entry["stated"] for entry in data["published"] if entry["policy"] == "dsq"}
    assert stated["arithmetic_reduction"] == 20.95


@pytest.mark.parametrize(("traffic", "scope"), list(product(("unfused", "fused"), ("gemm", "layer", "step"))))
def test_groups_sum_to_the_policy_exactly(traffic, scope):
    policies = ("fixed16", "bfp16", "stash-fixed", "dsq")
    chosen = [option for name in policies for option in ("--policy", name)]
    args = ("iwslt17-dsq", *SMALL, *chosen, "--traffic", traffic, "--scope", scope)
    data = json.loads(costsim("run", *args, "--format", "json"))
    assert (data["convention"]["traffic"], data["convention"]["scope"]) == (traffic, scope)
    totals = {row["policy"]: {key: int(row[key]) for key in COUNTS} for row in rows_of(*args)}
    assert list(totals) == list(policies)
    assert totals == {row["policy"]: {key: int(row[key]) for key in COUNTS} for row in data["rows"]}
    for by in GROUPS:
        rows = rows_of(*args, "--by", by)
        assert list(rows[0])[:2] == ["policy", by]
        assert len({(row["policy"], row[by]) for row in rows}) == len(rows)
        sums = {name: dict.fromkeys(COUNTS, 0) for name in policies}
        for row in rows:
            for key in COUNTS:
                sums[row["policy"]][key] += int(row[key])
        assert sums == totals, by


def test_csv_is_a_header_and_rows():
    lines = costsim("run", "glue-mrpc-dsq", "--format", "csv").splitlines()
    assert lines[0].split(",")[0] == "policy"
    assert len(lines) == 1 + len(rows_of("glue-mrpc-dsq"))


# --- run: options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "suffix"), [("policy", ""), ("layer", "-by-layer")])
def test_out_writes_what_each_format_prints_and_replaces_it(by, suffix, tmp_path):
    args = ("run", "glue-mrpc-dsq", "--policy", "dsq", "--policy", "bfp16", "--by", by)
    out = tmp_path / "new" / "folder"
    wanted = {
        f"glue-mrpc-dsq{suffix}.{ending}": costsim(*args, "--format", style) for style, ending in names.STYLES.items()
    }
    for _ in range(2):
        printed = costsim(*args, "--out", str(out))
        assert printed.splitlines() == [str(out / name) for name in wanted]
        assert {path.name: path.read_bytes().decode() for path in out.iterdir()} == wanted
        for name in wanted:
            (out / name).write_text("old " * 100_000)


@pytest.mark.parametrize("scope", ["gemm", "step"])
def test_twice_the_encoder_layers(scope):
    """As 6 layers, the inner ones of which are alike, with 6 inner ones more; nothing else changes."""
    args = ("iwslt17-dsq", "--policy", "dsq", "--policy", "bfp16", "--by", "layer", "--scope", scope)
    six, twelve = (
        {(row["policy"], row["layer"]): [int(row[key]) for key in COUNTS] for row in rows_of(*args, *more)}
        for more in ((), ("--set", "model.encoder_layers=12"))
    )
    expected = dict(six)
    for name in ("dsq", "bfp16"):
        assert six[name, "encoder.1"] == six[name, "encoder.4"]
        expected |= {(name, f"encoder.{i}"): six[name, "encoder.1"] for i in range(5, 11)}
        expected[name, "encoder.11"] = six[name, "encoder.5"]
        encoder = [
            sum(row[0] for (p, layer), row in run.items() if p == name and "encoder." in layer) for run in (six, twelve)
        ]
        assert encoder[1] == 2 * encoder[0]
    for name in ("dsq", "bfp16"):  # the global norm sums over more weights
        assert twelve.pop((name, "clip"), [0]) >= expected.pop((name, "clip"), [0])
    assert twelve == expected


def test_several_assignments_and_a_section():
    by_field = rows_of("iwslt17-dsq", *SMALL, "--policy", "dsq", "--set", "policies=[bfp16]", "--set", "law=product")
    assert [row["policy"] for row in by_field] == ["dsq"]
    rows = rows_of("iwslt17-dsq", *SMALL, "--set", "policies=[bfp16, dsq]", "--set", "training.steps=10")
    assert [row["policy"] for row in rows] == ["bfp16", "dsq"]
    assert int(rows[1]["macs"]) * 910 == int(by_field[0]["macs"])


def test_the_same_policy_twice_is_one_row():
    args = ("iwslt17-dsq", *SMALL, "--policy", "dsq", "--policy", "bfp16")
    assert rows_of(*args, "--policy", "dsq", "--policy", "dsq.yaml") == rows_of(*args)
    assert rows_of(*args[:-4], "--set", "policies=[dsq, bfp16, dsq.yaml]") == rows_of(*args)


def test_the_same_policy_by_two_paths_is_one_row(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(DSQ, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    policies = ("--policy", "p.yaml", "--policy", str(tmp_path / "p.yaml"))
    assert len(rows_of("iwslt17-dsq", *SMALL, *policies)) == 1


def test_baseline():
    rows = rows_of("glue-mrpc-dsq", "--policy", "fixed32", "--baseline", "fixed32")
    assert (rows[0]["arithmetic_reduction"], rows[0]["dram_reduction"]) == ("1.0", "1.0")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["dsq", "dsq.yaml", str(find("dsq", "policies", "policy"))])
def test_names_resolve_from_anywhere(policy, tmp_path, monkeypatch):
    path = find("glue-mrpc-dsq", "workloads", "workload").resolve()
    wanted = costsim("run", "glue-mrpc-dsq", "--policy", "dsq")
    for folder in (tmp_path, path.parent):
        monkeypatch.chdir(folder)
        for workload in ("glue-mrpc-dsq", "glue-mrpc-dsq.yaml", str(path), os.path.relpath(path)):
            assert (
                costsim("run", workload, "--policy", policy, "--baseline", "fixed16.yaml").replace(
                    "fixed16.yaml", "fixed16"
                )
                == wanted
            )


def test_a_folder_does_not_hide_a_shipped_name(tmp_path, monkeypatch):
    args = ("run", "glue-mrpc-dsq", "--policy", "dsq")
    wanted = costsim(*args)
    monkeypatch.chdir(tmp_path)
    for name in ("glue-mrpc-dsq", "dsq", "fixed16"):
        (tmp_path / name).mkdir()
    assert costsim(*args) == wanted


def test_policy_beside_its_workload(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    text = find("glue-mrpc-dsq", "workloads", "workload").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^policies: .*$", "policies: [dsq, eight.yaml]", text)
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    (folder / "eight.yaml").write_text("description: eight bits\nrules: [{format: fixed8}]\n", encoding="utf-8")
    results = []
    for at, name in ((tmp_path, "mine/task.yaml"), (folder, "task.yaml"), (tmp_path, str(folder / "task.yaml"))):
        monkeypatch.chdir(at)
        results.append(rows_of(name))
    assert [row["policy"] for row in results[0]] == ["dsq", "eight"]
    assert float(results[0][1]["arithmetic_reduction"]) == 4
    assert results[0] == results[1] == results[2]


# --- list, show, schema -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", LISTS)
def test_list_and_show(what):
    result = RUNNER.invoke(main, ["list", what])
    assert result.exit_code == 0
    entries = [line.split(None, 1) for line in result.stdout.splitlines()]
    shipped = [name for name, _ in entries]
    assert len(shipped) == len(set(shipped)) >= LISTS[what]
    assert not (shipped and result.stderr)
    for name, text in entries:
        assert re.fullmatch(NAME, name)
        assert text.strip()
        assert costsim("show", name).endswith("\n")


def test_every_list_is_tested():
    assert tuple(LISTS) == names.CATALOGUES


def test_lists_are_what_is_shipped():
    for what, shipped in (("workloads", WORKLOADS), ("policies", POLICIES)):
        assert [line.split()[0] for line in costsim("list", what).splitlines()] == shipped
        for name in shipped:
            text = find(name, what, what).read_text(encoding="utf-8")
            assert costsim("show", name) == costsim("show", f"{name}.yaml") == text


@pytest.mark.parametrize(("what", "folder"), [("workload", "workloads"), ("policy", "policies")])
def test_schema_has_every_key_of_the_shipped_files(what, folder):
    found = json.loads(costsim("schema", what))
    assert found["type"] == "object"
    for path in list_shipped(folder).values():
        keys = set(re.findall(r"(?m)^(\w+):", path.read_text(encoding="utf-8")))
        assert set(found["required"]) <= keys <= set(found["properties"])


# --- help, version, imports -------------------------------------------------------------------------------------------


def commands(command=main, path=()):
    """Every command with its path."""
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


HELP = {path: costsim(*path, "--help") for path, command in commands()}
EXAMPLES = {path: re.findall(r"(?m)^ +(?:\$ )?(costsim .*?) *$", text) for path, text in HELP.items()}


@pytest.mark.parametrize("path", HELP)
def test_help_with_an_example(path):
    text = HELP[path]
    assert text == costsim(*path, "-h")
    assert width(text) <= 80
    assert EXAMPLES[path], text


@pytest.mark.parametrize("example", sorted({each for of in EXAMPLES.values() for each in of} - {*TYPED, *dict(SHOWN)}))
def test_examples_run(example, tmp_path, monkeypatch):
    if example.startswith("costsim trace"):
        pytest.skip("needs PyTorch, and a module: tests/pytorch runs it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernel_bench, "SIZES", kernel_bench.SIZES[:1])  # small, and rates in a second: calibrate
    monkeypatch.setattr(kernel_bench, "_MOST", kernel_bench._LEAST)
    monkeypatch.setattr(calibrate, "_OF_RATES", 0.01)
    shutil.copy(Path(__file__).parent / "data" / "configs" / "gpt2.json", tmp_path / "config.json")
    shutil.copy(list_shipped("hardware_profiles")["h100-sxm"], tmp_path / "my-machine.yaml")
    assert costsim(*shlex.split(example)[1:]) or "--out" in example


def test_version():
    assert costsim("--version") == f"costsim {version('costsim')}\n"


@pytest.mark.parametrize(
    "code",
    [
        "import costsim",
        *(
            f"from costsim.cli import main; main({args!r}, standalone_mode=False)"
            for args in (["--help"], ["run", "--help"], ["--version"])
        ),
    ],
)
def test_nothing_heavy_is_loaded(code):
    heavy = {"numpy", "pandas", "pydantic", "pydantic_core", "matplotlib", "yaml"}
    printed = python("-c", f"{code}\nimport sys\nprint(); print('loaded:', sorted({heavy!r} & sys.modules.keys()))")
    assert printed.endswith("\nloaded: []\n")


def test_shells_complete_commands(monkeypatch):
    """As the README says; click asks for the program's name in this way."""
    monkeypatch.setenv("_COSTSIM_COMPLETE", "bash_source")
    done = CliRunner().invoke(main, prog_name="costsim")
    assert done.exit_code == 0
    assert "_costsim_completion" in done.output


# --- what a first user stumbled over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "start"), [("tex", "% "), ("csv", "policy,"), ("json", "{"), ("md", "| policy")])
def test_out_with_an_ending_is_one_file(ending, start, tmp_path):
    path = tmp_path / f"table.{ending}"
    done = CliRunner().invoke(main, ["run", "iwslt17-dsq", *SMALL, "--policy", "dsq", "--out", str(path)])
    assert (done.exit_code, done.output) == (0, f"{path}\n")
    assert path.read_text().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_out_and_format_have_to_agree(tmp_path):
    arguments = ["run", "iwslt17-dsq", "--format", "json", "--out", str(tmp_path / "table.csv")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "table.csv: that is for csv, and --format says json" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("24000000000", 24 * 10**9), ("24e9", 24 * 10**9), ("24GB", 24 * 10**9), ("24 gib", 24 * 2**30), ("1.5KiB", 1536)],
)
def test_bytes_take_units(text, size):
    arguments = ["memory", "glue-mrpc-dsq", "--policy", "dsq", "--capacity-bytes", text, "--format", "json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    assert json.loads(done.output)["rows"][0]["capacity_bytes"] == str(size)


@pytest.mark.parametrize("text", ["0", "-1", "24GG", "0.3", "1e99", "", "GB"])
def test_what_is_no_number_of_bytes(text):
    done = CliRunner().invoke(main, ["memory", "glue-mrpc-dsq", f"--capacity-bytes={text}"])
    assert done.exit_code == 2
    assert "expected bytes, 1 or more, such as 24000000000, 24GB or 24GiB" in done.stderr


def test_names_that_other_commands_take_are_whole_in_a_pipe():
    done = CliRunner().invoke(main, ["run", "iwslt17-dsq", *SMALL, "--policy", "dsq", "--by", "op"])
    assert "\ndsq       decoder.0.cross_attention.context.dw " in done.output


def test_a_run_that_cannot_fit_says_so():
    arguments = ["run", "llama-2-7b", "--policy", "bf16-mixed", "--hardware", "jetson-nano", "--hardware", "b200"]
    done = CliRunner().invoke(main, arguments)
    text = " ".join(done.output.split())
    assert text.count("DOES NOT FIT") == 1
    assert "weights and states alone take more than its 4.29 GB of DRAM: bf16-mixed 80.9 GB" in text


def test_devices_are_found_by_how_their_names_begin():
    done = CliRunner().invoke(main, ["run", "iwslt17-dsq", "--hardware", "h100"])
    assert "did you mean 'h100-node' or 'h100-pcie' or 'h100-sxm'?" in done.stderr
    done = CliRunner().invoke(main, ["run", "iwslt17-dsq", *SMALL, "--policy", "dsq", "--hardware", "H100-SXM"])
    assert done.exit_code == 0
