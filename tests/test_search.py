"""Searches against enumeration: the front and the optimum of a small space are those of all its policies."""

import csv
import json
import random
from fractions import Fraction
from itertools import product

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import one_layer

import costsim
from costsim.cli import main
from costsim.errors import InputError
from costsim.names import COSTS
from costsim.policy.groups import groups_of
from costsim.policy.load import load_policies
from costsim.run.job import Request, prepare
from costsim.run.simulate import execute
from costsim.search.corners import corners
from costsim.search.found import Asked, search
from costsim.search.front import front
from costsim.search.interactions import components, interactions, take_apart
from costsim.search.optimum import Budget, optimum
from costsim.search.problem import problem
from costsim.search.sensitivity import Sensitivity, read_sensitivity

np = pytest.importorskip("numpy")
FORMATS = ("bfp4", "bfp8", "fp16")
FIELDS = ("role", "gemm", "operand")


@pytest.fixture(scope="module")
def job():
    return prepare(Request("iwslt17-dsq.yaml", assignments=one_layer("iwslt17-dsq")))


def losses(job, policy, seed, varied=("operand",), formats=FORMATS):
    """Made-up losses, over seven orders of magnitude."""
    draw = random.Random(seed)
    return {
        (group.name, format): Fraction(draw.randrange(1, 1000), 10 ** draw.randrange(3, 10))
        for group in groups_of(job.graph, policy, FIELDS, varied)
        for format in formats
    }


@pytest.fixture(scope="module", params=["fixed16", "dsq"])
def posed(request, job):
    policy = load_policies_named(request.param)
    return problem(job, policy, FIELDS, ("operand",), FORMATS, Sensitivity("s.csv", losses(job, policy, 1), {}))


def load_policies_named(name):
    from conftest import shipped_policy

    return shipped_policy(name)


@pytest.fixture(scope="module")
def every(posed):
    """All policies of the space."""
    return posed.points(list(product(*map(range, posed.space.sizes))))


@pytest.mark.parametrize("cost", COSTS[:2])
def test_the_front_is_the_hull_of_all_policies(posed, every, cost):
    at = COSTS.index(cost)
    hull = []
    for loss, of in sorted((point.loss, point.costs[at]) for point in every):
        if hull and of >= hull[-1][1]:
            continue
        while len(hull) > 1:
            (a, b), (c, d) = hull[-2:]
            if (c - a) * (of - b) > (loss - a) * (d - b):
                break
            hull.pop()
        hull.append((loss, of))
    assert [(point.loss, point.costs[at]) for point in front(posed, interactions(posed.terms), cost)] == hull


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_optimum_is_the_best_of_all_policies(posed, every, quantile):
    parts = interactions(posed.terms)
    limits = [sorted(point.costs[at] for point in every)[int(quantile * len(every))] for at in (0, 1)]
    budgets = [Budget(COSTS[at], limit, "") for at, limit in enumerate(limits)]
    fitting = [point.loss for point in every if point.costs[0] <= limits[0] and point.costs[1] <= limits[1]]
    if fitting:
        best = optimum(posed, parts, "loss", budgets)
        assert (best.point.loss, best.gap) == (min(fitting), pytest.approx(0, abs=1e-9))
    allowed = sorted(point.loss for point in every)[int(quantile * len(every))]
    for at, cost in enumerate(COSTS[:2]):
        best = optimum(posed, parts, cost, [Budget("loss", int(allowed * posed.scale), "")])
        assert best.point.costs[at] == min(point.costs[at] for point in every if point.loss <= allowed)


def test_budgets_that_nothing_keeps_say_what_can_be_reached(posed, every):
    parts = interactions(posed.terms)
    least = min(point.costs[0] for point in every)
    with pytest.raises(InputError, match=rf"^--at-most arithmetic_cost=1: no policy .* the least .* is {least}"):
        optimum(posed, parts, "loss", [Budget("arithmetic_cost", 1, "--at-most arithmetic_cost=1")])
    tight = min(point.loss for point in every)
    budgets = [Budget("loss", int(tight * posed.scale), "a"), Budget("arithmetic_cost", least, "b")]
    with pytest.raises(InputError, match=r"^b: no policy .* does under the budgets before it"):
        optimum(posed, parts, "loss", budgets)


def test_tables_are_taken_apart_and_put_together_again():
    table = np.array([[1, 5, 7], [2, 6, 8]], object)  # what two variables add
    parts = dict(take_apart(table[..., None], (0, 1)))
    assert {variables: part.ravel().tolist() for variables, part in parts.items()} == {
        (): [1],
        (0,): [0, 1],
        (1,): [0, 4, 6],
    }
    table = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 1)).astype(object)
    whole = np.zeros_like(table)
    for variables, part in take_apart(table, (0, 1, 2)):
        whole = whole + part.reshape([table.shape[i] if i in variables else 1 for i in range(3)] + [1])
    assert (whole == table).all()


def test_components():
    assert components(5, [(0, 3), (3, 4)]) == [(0, 3, 4), (1,), (2,)]


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = [arg for text in one_layer("iwslt17-dsq") for arg in ("--set", text)]


def cost(*arguments):
    return CliRunner().invoke(main, ["search", "iwslt17-dsq", *SMALL, *map(str, arguments)])


@pytest.fixture
def table(tmp_path, job):
    path = tmp_path / "s.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "format", "loss"])
        made = losses(job, load_policies_named("dsq"), 2, ("operand", "stash"))
        rows.writerows([group, format, float(loss)] for (group, format), loss in made.items())
    return path


DSQ = ("--policy", "dsq", "--vary", "operand", "--vary", "stash", "--formats", "bfp4,bfp8,fp16")


def test_run_confirms_what_is_found(tmp_path, table):
    """Each policy that is written counts the same integers under `run`, and none of one format beats the front."""
    out = tmp_path / "found"
    result = cost(*DSQ, "--sensitivity", table, "--against", "dram_bits", "--out", out, "--points", 5)
    assert result.exit_code == 0, result.output
    data = json.loads((out / "iwslt17-dsq-search.json").read_text())
    shown = [point for point in data["points"] if point["policy"]]
    assert len(shown) == 5
    for point in shown:
        path = out / f"{point['policy']}.yaml"
        assert yaml.safe_load(path.read_text())["compose"] == ["dsq"]
        job = prepare(Request("iwslt17-dsq", policies=[str(path)], assignments=one_layer("iwslt17-dsq")))
        total = execute(job).policies[0].total
        assert [str(total.priced), str(total.dram_bits)] == [point["arithmetic_cost"], point["dram_bits"]]
        assert str(total.vector["quantize"]) == point["quantize_ops"]
    best = [(point["loss"], int(point["dram_bits"])) for point in data["points"]]
    for uniform in data["uniform"]:
        loss, bits = uniform["loss"], int(uniform["dram_bits"])
        left = [pair for pair in best if pair[0] <= loss]
        assert left, "the front starts with the least loss"
        (a, b), right = left[-1], best[len(left) : len(left) + 1]
        line = b if not right else b + (right[0][1] - b) * (loss - a) / (right[0][0] - a)
        assert bits >= line * (1 - 1e-12)
    assert (out / "iwslt17-dsq-search.svg").read_text().startswith("<?xml")
    again = cost(*DSQ, "--sensitivity", table, "--against", "dram_bits", "--out", tmp_path / "again", "--points", 5)
    assert again.exit_code == 0
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_tiles(tmp_path):
    """The best policy for a buffer moves what `run` says, and others than for a buffer that holds everything."""
    out = tmp_path / "found"
    tiled = ["--traffic", "tiled", "--buffer-bytes", "4096"]
    result = cost(*DSQ, *tiled, "--minimise", "dram_bits", "--at-least", "dram_reduction=1.1", "--out", out)
    assert result.exit_code == 0, result.output
    [point] = json.loads((out / "iwslt17-dsq-search.json").read_text())["points"]
    path, sets = out / "iwslt17-dsq-01.yaml", one_layer("iwslt17-dsq")
    totals = []
    for traffic, size in (("tiled", 4096), ("unfused", None)):
        job = prepare(
            Request("iwslt17-dsq", policies=[str(path)], assignments=sets, traffic=traffic, buffer_bytes=size)
        )
        totals.append(execute(job).policies[0].total.dram_bits)
    assert str(totals[0]) == point["dram_bits"]
    assert totals[0] > totals[1]


def test_one_optimum(table):
    result = cost(*DSQ, "--sensitivity", table, "--at-least", "dram_reduction=1.5", "--format", "json")
    [point] = json.loads(result.output)["points"]
    assert point["dram_reduction"] >= 1.5
    assert "the least loss with at least dram_reduction=1.5: proved" in json.loads(result.output)["notes"]
    result = cost(*DSQ, "--minimise", "dram_bits", "--at-least", "arithmetic_reduction=3")
    assert result.exit_code == 0
    assert "loss" not in result.output.splitlines()[0]  # nobody says what is lost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "bfp4,bfp99x"], "--formats: unknown format 'bfp99x'"),
        (["--formats", "bfp4,bfp4"], "--formats: 'bfp4' is named twice"),
        (["--formats", ","], "--formats: expected names of formats"),
        (["--formats", "bfp4", "--group", "rolle"], "--group: unknown field 'rolle'; did you mean 'role'?"),
        (["--formats", "bfp4"], "--sensitivity: say what bits cost in quality"),
        (["--formats", "bfp4", "--at-most", "loss=1"], "--sensitivity: say what bits cost in quality"),
        (["--formats", "bfp4", "--minimise", "dram_bits", "--at-most", "dram_bit=1"], "did you mean 'dram_bits'?"),
        (["--formats", "bfp4", "--minimise", "dram_bits", "--at-most", "dram_bits=x"], "expected a number"),
        (["--formats", "bfp4", "--minimise", "dram_bits", "--at-least", "dram_reduction=0"], "expected a number"),
        (["--formats", "mask8", "--minimise", "dram_bits"], "mask8: holds mask values, not numbers"),
        (
            ["--formats", "bfp4", "--minimise", "time_s", "--hardware", "t4", "--traffic", "tiled"],
            "time_s: a search times no kernels in tiles",
        ),
        (
            ["--formats", "bfp4", "--minimise", "dram_bits", "--traffic", "tiled", "--buffer-bytes", "4"],
            "a buffer of 4 byte is too small",
        ),
        (["--formats", "bfp4,fp8-e4m3", "--minimise", "arithmetic_cost", "--law", "msfp"], "law msfp does not price"),
        (["--formats", "bfp4", "--policy", "dsqq", "--minimise", "dram_bits"], "policy 'dsqq'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    result = cost(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["expected the header group,format,loss"]),
        ("group,format,loss\n", ["no rows under the header"]),
        ("a,b\n", ["s.csv:1: expected the header group,format,loss, got 'a,b'"]),
        ("group,format,loss\na,bfp4,x\na,bfp8,1/2\nb,bfp4\n", ["s.csv:2: expected", "s.csv:3: expected", "s.csv:4:"]),
        ("group,format,loss\na,bfp4,1\na,bfp4,2\n", ["s.csv:3: a bfp4 stands on line 2 already"]),
    ],
)
def test_wrong_lines_of_a_sensitivity_table(tmp_path, text, messages):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_sensitivity(path)
    assert all(message in str(error.value) for message in messages)


def test_holes_of_a_sensitivity_table_are_all_told(tmp_path, table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:3], "operand/nothing,bfp4,1", *lines[5:]]) + "\n")
    result = cost(*DSQ, "--sensitivity", table)
    assert result.exit_code == 2
    assert "s.csv:4: unknown group 'operand/nothing'" in result.stderr
    assert "no loss for group" in result.stderr


def test_a_front_that_cannot_be_enumerated(monkeypatch, posed):
    """Its corners come one optimum at a time: all of them, or those of the widest gaps."""
    from costsim.search import front as module

    parts = interactions(posed.terms)
    whole = front(posed, parts, "arithmetic_cost")
    monkeypatch.setattr(module, "_LARGEST", 4)
    assert front(posed, parts, "arithmetic_cost") is None
    assert corners(posed, parts, "arithmetic_cost", 99) == (whole, True)
    some, all_of_them = corners(posed, parts, "arithmetic_cost", 4)
    assert not all_of_them
    assert len(some) == 4
    assert {point.chosen for point in some} < {point.chosen for point in whole}


def test_a_policy_made_of_several(tmp_path):
    asked = Asked(
        "w8-channel+a8-token", "gemm", ("operand",), "int8-row,bf16", None, "dram_bits", "dram_bits", (), (), 5
    )
    job = prepare(Request("iwslt17-dsq", assignments=one_layer("iwslt17-dsq")))
    from costsim.search.found import policy_text

    found = search(job, asked, None)
    text = yaml.safe_load(policy_text(found, found.points[0], tmp_path))
    assert text["compose"] == ["w8-channel", "a8-token"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(text))
    policy = load_policies((tmp_path / "p.yaml",))
    again = prepare(Request("iwslt17-dsq", policies=[policy], assignments=one_layer("iwslt17-dsq")))
    assert execute(again).policies[0].total.dram_bits == found.points[0].costs[1]


# --- in Python --------------------------------------------------------------------------------------------------------


def test_in_python(tmp_path, job):
    """A table of one's own; the policies run to the same integers; a point of the front for a budget is no worse."""
    made = losses(job, load_policies_named("dsq"), 2)
    table = pd.DataFrame([(*key, float(loss)) for key, loss in made.items()], columns=["group", "format", "loss"])
    workload = costsim.load("iwslt17-dsq", {"model.encoder_layers": 1, "model.decoder_layers": 1})
    search = workload.search(FORMATS, table, policy="dsq", points=4)
    assert list(search.table["policy"]) == [policy.name for policy in search.policies]
    total = workload.run(search.policies).by("policy").set_index("policy")
    for row in search.table.to_dict("records"):
        assert row["dram_bits"] == total.loc[row["policy"], "dram_bits"]
        assert row["arithmetic_cost"] == total.loc[row["policy"], "arithmetic_cost"]
    best = workload.search(FORMATS, table, ["arithmetic_reduction >= 3", "loss <= 1"], policy="dsq")
    assert best.table.loc[0, "arithmetic_reduction"] >= 3
    assert "proved" in best.to_text()
    names = {path.name for path in search.save(tmp_path)}
    assert {"iwslt17-dsq-01.yaml", "iwslt17-dsq-search.svg"} < names
    assert len(search.plot().axes) == 2
    with pytest.raises(InputError, match="unknown group 'x'"):
        workload.search(FORMATS, pd.DataFrame({"group": ["x"], "format": ["bfp4"], "loss": [1.0]}), policy="dsq")
    with pytest.raises(InputError, match="expected a number, got nan"):
        workload.search(FORMATS, table.assign(loss=float("nan")), policy="dsq")


def test_out_is_a_folder(tmp_path):
    result = cost("--formats", "bfp4,bfp8", "--minimise", "dram_bits", "--out", tmp_path / "found.csv")
    assert result.exit_code == 2
    assert "expected a folder" in result.stderr
    assert not list(tmp_path.iterdir())
