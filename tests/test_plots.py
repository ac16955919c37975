"""Figures: what they say, the same bytes each time, and whole files or none."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from conftest import one_layer

from costsim.cli import main
from costsim.files import list_shipped
from costsim.plots import PLOTS, save
from costsim.sensitivity import outcomes
from costsim.simulate import run

BEGINS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
ONE_LAYER = ("glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "stash-fixed")


def small(workload, *policies, **options):
    return run(workload, policies, assignments=one_layer(workload), **options)


def texts(path):
    """Every text in an SVG file, those of several lines in one."""
    return [
        " ".join("".join(part.itertext()).split())
        for part in ElementTree.parse(path).iter()
        if part.tag.endswith(("}text", "}g"))
    ]


@pytest.fixture(scope="module")
def result():
    return small("glue-mrpc-dsq", "stash-fixed")


@pytest.mark.parametrize("ending", BEGINS)
@pytest.mark.parametrize("kind", PLOTS)
def test_the_same_bytes_when_drawn_again(result, kind, ending, tmp_path):
    first, again = (save(result, kind, tmp_path / f"{name}.{ending}").read_bytes() for name in ("first", "again"))
    assert first == again
    assert first.startswith(BEGINS[ending])
    assert len(first) > 5000
    assert {path.name for path in tmp_path.iterdir()} == {f"first.{ending}", f"again.{ending}"}


def test_the_same_bytes_in_another_process(result, tmp_path):
    here, there = tmp_path / "here.svg", tmp_path / "there.svg"
    save(result, "sensitivity", here)
    arguments = [sys.executable, "-m", "costsim", "plot", *ONE_LAYER, "sensitivity", "--out", str(there)]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=60)
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_sensitivity_names_every_case_and_its_ratios(workload, tmp_path):
    drawn = small(workload, "dsq")
    found = texts(save(drawn, "sensitivity", tmp_path / "f.svg"))
    assert {"arithmetic, times less", "DRAM traffic, times less", f"dsq* against {drawn.baseline.policy.name}"} <= set(
        found
    )
    said = drawn.job.convention
    note = f"{workload}: law product, traffic {said.traffic}, scope {said.scope} as shipped"
    assert f"{note} (* levels recalled, not stated)" in found
    shipped, *cases = outcomes(drawn.job)
    for name in ("arithmetic_reduction", "dram_reduction"):
        was = f"{float(getattr(shipped, name)):.2f}"
        assert f"as shipped, {was}" in found
        values = [getattr(outcome, name) for outcome in cases]
        assert {f"{float(value):.2f}" for value in values if value is not None} <= {*found, was}
    assert ("not defined" in found) == any(outcome.arithmetic_reduction is None for outcome in cases)
    assert {f"{outcome.assumption}: {outcome.case}" for outcome in cases} <= set(found)
    stated = {f"stated, {figure.stated:g}" for figure in drawn.job.file.published}
    assert stated == {text for text in found if text.startswith("stated, ")}


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_schedule_names_levels_and_policies(workload, tmp_path):
    drawn = small(workload, "dsq", "fixed16", "bfp16", scope="layer")
    found = " ".join(texts(save(drawn, "schedule", tmp_path / "f.svg")))
    for said in ("training step", "dsq* bits per level", "share of all that", "q0", "q3", "bfp16, DRAM"):
        assert said in found
    note = f"{workload}: law product, traffic {drawn.job.convention.traffic}, scope layer"
    assert f"{note} (* levels recalled, not stated)" in found
    assert "bfp16*" not in found


def test_nothing_is_marked_that_is_not_recalled(tmp_path):
    drawn = small("glue-mrpc-dsq", "bfp16")
    for kind in PLOTS:
        assert "*" not in " ".join(texts(save(drawn, kind, tmp_path / f"{kind}.svg")))


def test_what_is_spent_in_the_end_is_the_inverse_of_the_ratio():
    drawn = small("glue-mrpc-dsq", "dsq", "bfp16", "fixed16")
    lines = {line.get_label(): line for line in PLOTS["schedule"](drawn).axes[-2].get_lines()}
    assert len(lines) == 6
    for counted in drawn.policies:
        for name, field in (("arithmetic", "arithmetic_cost"), ("DRAM", "dram_bits")):
            steps, shares = lines[f"{counted.policy.name}, {name}"].get_data()
            own, base = (getattr(total, field) for total in (counted.total, drawn.baseline.total))
            assert (steps[0], shares[0], steps[-1]) == (0, 0, 2296)
            assert shares[-1] == pytest.approx(own / base, rel=1e-12)


def test_levels_are_drawn_where_their_phases_are():
    drawn = small("glue-mrpc-dsq", "dsq")
    steps = {line.get_label(): line for line in PLOTS["schedule"](drawn).axes[0].get_lines()}
    for i, name in enumerate(("q0", "q1", "q2", "q3")):
        first, second, third = ([2, 2, 2, 16][i], [4, 4, 4, 16][i], [16, 4, 4, 16][i])
        assert list(steps[name].get_xdata()) == [0, 2273, 2293, 2296]  # floor(0.99 x 2296), floor(0.999 x 2296)
        assert list(steps[name].get_ydata()) == [first, first, second, third]
        assert steps[name].get_drawstyle() == "steps-pre"


# --- costsim plot -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder.svg").mkdir()
    return tmp_path


def plot(*more):
    return CliRunner().invoke(main, ["plot", *ONE_LAYER[:-1], "fixed16", "schedule", *more])


def test_the_default_file_is_in_the_current_folder(folder):
    for out in ((), ("--out", "new.PDF")):
        before = set(os.listdir())
        done = plot(*out)
        [new] = set(os.listdir()) - before
        assert (done.exit_code, done.output) == (0, f"{new}\n")
    assert {"glue-mrpc-dsq-schedule.svg", "new.PDF"} < set(os.listdir())
    assert (folder / "new.PDF").read_bytes().startswith(BEGINS["pdf"])


def test_a_file_that_is_there_is_replaced(folder):
    (folder / "f.svg").write_text("old " * 100_000)
    assert plot("--out", "f.svg").exit_code == 0
    assert ElementTree.parse("f.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("f.gif", "--out f.gif: expected a name that ends in .svg, .pdf or .png"),
        ("f", "--out f: expected a name that ends in"),
        (".svg", "--out .svg: expected a name that ends in"),
        ("f.svg.", "--out f.svg.: expected a name that ends in"),
        ("", "--out: expected a name"),
        ("file", "--out file: expected a name that ends in"),
        (".", "--out .: expected a name that ends in"),
        ("folder.svg", "folder.svg: Is a directory"),
        ("nowhere/f.svg", "nowhere/f.svg: No such file or directory"),
        ("file/f.svg", "file/f.svg: Not a directory"),
        ("/proc/f.svg", "/proc/f.svg: "),  # nobody may write there
        ("x" * 300 + ".svg", "File name too long"),
    ],
)
def test_what_cannot_be_written(folder, out, says):
    before = {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}
    done = plot("--out", out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize("args", [[], ["schedule"], ["glue-mrpc-dsq"], ["glue-mrpc-dsq", "pie"], ["nope", "schedule"]])
def test_plot_usage(folder, args):
    done = CliRunner().invoke(main, ["plot", *args])
    assert (done.exit_code, done.stdout) == (2, "")
    assert not list(Path().glob("*-*.svg"))


def test_names_with_signs_of_formulas_are_drawn_as_they_are(tmp_path):
    policy = tmp_path / "$x_{$.yaml"
    policy.write_text("description: x\nrules:\n  - {format: fixed8}\n")
    path = save(small("glue-mrpc-dsq", str(policy)), "sensitivity", tmp_path / "figure.svg")
    assert any(text.startswith("$x_{$ against") for text in texts(path))
