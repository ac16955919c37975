"""Searches by time, energy and peak memory against enumeration, and against `run`."""

import json
import math
import random
from fractions import Fraction
from itertools import pairwise, product

import pytest
from click.testing import CliRunner
from conftest import one_layer, shipped_policy

from costsim.cli import main
from costsim.cost.memory import of_policy
from costsim.errors import InputError
from costsim.policy.groups import groups_of
from costsim.run.job import Request, prepare
from costsim.run.simulate import execute
from costsim.search.corners import corners
from costsim.search.front import front
from costsim.search.interactions import interactions
from costsim.search.optimum import Budget, optimum
from costsim.search.problem import problem
from costsim.search.sensitivity import Sensitivity

pytest.importorskip("scipy")
FIELDS = ("gemm", "operand")
MEASURES = ("peak_memory_bytes", "time_s", "energy_j")
SMALL = one_layer("glue-mrpc-dsq")


@pytest.fixture(scope="module", params=[("bf16-mixed", "h100-sxm", "gemm"), ("fp8-tensor", "rtx-4090", "step")])
def posed(request):
    """Two formats for six operands and two of what is stashed, with made-up losses: bounds of all sorts."""
    name, device, scope = request.param
    job = prepare(Request("glue-mrpc-dsq", assignments=SMALL, hardware=[device], scope=scope))
    policy, formats, varied = shipped_policy(name), ("bf16", "fp8-e4m3"), ("operand", "stash")
    draw = random.Random(1)
    groups = groups_of(job.graph, policy, FIELDS, varied)
    losses = {(group.name, format): Fraction(draw.randrange(1, 1000), 1000) for group in groups for format in formats}
    return problem(
        job, policy, FIELDS, varied, formats, Sensitivity("s.csv", losses, {}), dict.fromkeys(MEASURES, True)
    )


@pytest.fixture(scope="module")
def every(posed):
    """All policies of the space."""
    return posed.points(list(product(*map(range, posed.space.sizes))))


@pytest.mark.parametrize("field", MEASURES)
def test_the_optimum_is_the_best_of_all_policies(posed, every, field):
    parts, at = interactions(posed.terms), posed.fields.index(field)
    for quantile in (0.2, 0.7):
        allowed = sorted(point.loss for point in every)[int(quantile * len(every))]
        best = optimum(posed, parts, field, [Budget("loss", int(allowed * posed.scale), "")])
        assert best.point.loss <= allowed
        least = min(point.costs[at] for point in every if point.loss <= allowed)
        assert best.point.costs[at] == pytest.approx(least, rel=1e-6)
        limit = sorted(point.costs[at] for point in every)[int(quantile * len(every))]
        best = optimum(posed, parts, "loss", [Budget(field, limit, "")])
        assert best.point.costs[at] <= limit
        assert best.point.loss == min(point.loss for point in every if point.costs[at] <= limit)


@pytest.mark.parametrize("field", MEASURES)
def test_the_front_is_the_hull_of_all_policies(monkeypatch, posed, every, field):
    """By enumeration of what hangs together, and one optimum at a time."""
    from costsim.search import front as module

    parts, at = interactions(posed.terms), posed.fields.index(field)
    found = front(posed, parts, field)
    one_by_one, whole = corners(posed, parts, field, 99)
    assert found is not None
    assert whole
    for points in (found, one_by_one):
        for a, b in pairwise(points):
            assert a.loss < b.loss
            assert a.costs[at] > b.costs[at]
            slope = (b.costs[at] - a.costs[at]) / float(b.loss - a.loss)
            for point in every:  # none lies below the line
                line = a.costs[at] + slope * float(point.loss - a.loss)
                assert point.costs[at] >= line - 1e-5 * a.costs[at]
        assert points[0].loss == min(point.loss for point in every)
        assert points[-1].costs[at] == pytest.approx(min(point.costs[at] for point in every), rel=1e-6)
    monkeypatch.setattr(module, "_LARGEST", 1)
    assert front(posed, parts, field) is None


def test_run_says_the_same_of_every_policy(posed, every):
    for point in random.Random(0).sample(every, 6):
        policy = posed.space.point(dict(enumerate(point.chosen)), "it")
        job = prepare(Request("glue-mrpc-dsq", policies=[policy], assignments=SMALL, scope=posed.job.convention.scope,
                              hardware=[posed.job.hardware[0].name]))  # fmt: skip
        [spent] = (spent for (name, _), spent in execute(job).spent.items() if name == "it")
        peak = of_policy(job.graph, policy, job.convention.traffic)[1].peak_bytes
        assert point.costs[3] == peak
        assert point.costs[4:] == pytest.approx((spent.time_s, spent.energy_j), rel=1e-12)


# --- the command ------------------------------------------------------------------------------------------------------


def search(*arguments):
    sets = [part for text in SMALL for part in ("--set", text)]
    return CliRunner().invoke(main, ["search", "glue-mrpc-dsq", *sets, *arguments])


@pytest.mark.parametrize("field", ["time_s", "energy_j", "peak_memory_bytes"])
def test_what_is_written_runs_as_it_was_found(tmp_path, field):
    asked = ["--policy", "bf16-mixed", "--formats", "bf16,fp8-e4m3", "--vary", "operand", "--vary", "stash"]
    result = search(*asked, "--minimise", field, "--hardware", "h100-sxm", "--out", str(tmp_path / "found"))
    assert result.exit_code == 0, result.output
    [point] = json.loads((tmp_path / "found" / "glue-mrpc-dsq-search.json").read_text())["points"]
    path = tmp_path / "found" / "glue-mrpc-dsq-01.yaml"
    job = prepare(Request("glue-mrpc-dsq", policies=[str(path)], assignments=SMALL, hardware=["h100-sxm"]))
    ran = execute(job)
    spent = ran.spent["glue-mrpc-dsq-01", "h100-sxm"]
    assert point["time_s"] == pytest.approx(spent.time_s, rel=1e-12)
    assert point["energy_j"] == pytest.approx(spent.energy_j, rel=1e-12)
    if field == "peak_memory_bytes":
        peak = of_policy(job.graph, job.policies[0], job.convention.traffic)[1].peak_bytes
        assert point["peak_memory_bytes"] == str(peak)
        assert "memory is the peak of a step" in result.stdout


def test_several_devices_have_fields_of_their_own(tmp_path):
    asked = ["--policy", "bf16-mixed", "--formats", "bf16,fp8-e4m3", "--hardware", "h100-sxm", "--hardware", "t4"]
    result = search(*asked, "--minimise", "t4.time_s", "--at-least", "h100-sxm.energy_reduction=1.2")
    assert result.exit_code == 0, result.output
    assert "t4 time x" in result.stdout
    assert "the least t4.time_s with at least h100-sxm.energy_reduction=1.2: " in result.stdout
    assert search(*asked, "--minimise", "time_s").stderr.startswith("costsim: --minimise: unknown field 'time_s'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "bf16", "--minimise", "time_s"], "unknown field 'time_s' (time_s and energy_j are of a "),
        (["--formats", "bf16", "--minimise", "times_s", "--hardware", "t4"], "'times_s'; did you mean 'time_s'?"),
        (["--formats", "bf16", "--minimise", "loss", "--at-least", "time_reduction=2"], "time_s and energy_j are of a"),
        (["--formats", "bf16", "--minimise", "time_s", "--hardware", "t5"], "hardware profile 't5'"),
        (
            ["--formats", "bf16,fp16", "--minimise", "time_s", "--hardware", "tpu-v5e"],
            "--formats fp16: tpu-v5e has no multiplier for it in any of these groups",
        ),
        (
            ["--formats", "bf16", "--vary", "stash", "--minimise", "time_s", "--hardware", "tpu-v5e",
             "--policy", "fp32"],
            "--hardware tpu-v5e: has no multiplier for bf16 x fp32 + fp32, fp32 x bf16 + fp32, ",
        ),
        (
            ["--formats", "bf16,fp8-e4m3", "--minimise", "time_s", "--hardware", "t4", "--at-most", "energy_j=1"],
            "--at-most energy_j=1: no policy of these groups and formats does; the least energy_j is",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(arguments, message):
    result = search(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def two_formats(path):
    """A device that multiplies two formats, but not one by the other."""
    rates = [
        f"  - {{operands: [{name}, {name}], accumulator: fp32, mac_per_s: {rate}, source: [us]}}"
        for name, rate in (("fp16", 10**12), ("bf16", 2 * 10**12))
    ]
    head = ["schema_version: 1", "description: two formats", "memory: hbm2", "energy_table: horowitz-45nm", "rates:"]
    figures = [f"{name}: {{value: 100000000000, source: [us]}}" for name in ("vector_op_per_s", "dram_bytes_per_s")] + [
        "dram_bytes: unknown",
        "on_chip_bytes: unknown",
        "sources: {us: made up}",
    ]
    path.write_text("\n".join([*head, *rates, *figures]) + "\n")
    return str(path)


def test_choices_that_do_not_run_are_barred(tmp_path):
    """Mixed policies have no time, and are not found, though by itself each group had rather mixed."""
    job = prepare(Request("glue-mrpc-dsq", assignments=SMALL, hardware=[two_formats(tmp_path / "two.yaml")]))
    policy, formats = shipped_policy("fp32"), ("bf16", "fp16")
    better = {"x": "bf16", "w": "fp16", "dy": "bf16"}
    losses = {
        (group.name, format): Fraction(1 if better[dict(group.fields)["operand"]] == format else 2)
        for group in groups_of(job.graph, policy, FIELDS, ("operand",))
        for format in formats
    }
    posed = problem(job, policy, FIELDS, ("operand",), formats, Sensitivity("", losses, {}), {"time_s": True})
    every = posed.points(list(product(*map(range, posed.space.sizes))))
    running = [point for point in every if math.isfinite(point.costs[-1])]
    assert len(running) == 2**3 < len(every)
    parts = interactions(posed.terms)
    best = optimum(posed, parts, "loss", [Budget("time_s", max(point.costs[-1] for point in running), "")])
    assert best.point in running
    assert best.point.loss == min(point.loss for point in running) > min(point.loss for point in every)
    assert set(front(posed, parts, "time_s")) <= set(running)
    with pytest.raises(InputError, match="time_s=1e-9: no policy of these groups and formats does; the "):
        optimum(posed, parts, "loss", [Budget("time_s", 1e-9, "--at-most time_s=1e-9")])


def test_a_baseline_that_does_not_run(tmp_path):
    """Times are told all the same, and the figure leaves out what nothing can be compared with."""
    losses = tmp_path / "s.csv"
    groups = ("forward/x", "forward/w", "dgrad/dy", "dgrad/w", "wgrad/x", "wgrad/dy")
    lines = [f"operand/{group},{name},{loss}" for group in groups for name, loss in (("bf16", 1), ("int8", 2))]
    losses.write_text("\n".join(["group,format,loss", *lines]) + "\n")
    asked = ["--policy", "bf16-mixed", "--group", "gemm,operand", "--formats", "bf16,int8", "--hardware", "tpu-v5e"]
    out = tmp_path / "found"
    result = search(*asked, "--sensitivity", str(losses), "--against", "time_s", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "n/a: fixed16 has no time_s, energy_j there; another --baseline has" in result.stdout
    points = json.loads((out / "glue-mrpc-dsq-search.json").read_text())["points"]
    assert all(point["time_s"] > 0 and point["time_reduction"] is None for point in points)
    figure = (out / "glue-mrpc-dsq-search.svg").read_text()
    assert figure.count("of the same policies") == 2  # panels of arithmetic and of DRAM traffic, and no others
    assert figure.count("loss (sum over groups)") == 2
    refused = search(*asked, "--sensitivity", str(losses), "--at-least", "time_reduction=2")
    assert "the baseline fixed16 does not run on the device" in refused.stderr


# --- many devices -----------------------------------------------------------------------------------------------------

SPLIT = ("parallel.tensor=2", "parallel.data=4", "parallel.zero=1")


@pytest.mark.parametrize("overlap", ["none", "data", "full"])
@pytest.mark.parametrize("field", ["time_s", "energy_j"])
def test_messages_hide_in_a_search_as_in_a_run(overlap, field):
    """All policies of a small space: each takes what `run` says of it, and the best is the best of them."""
    fields = [*one_layer("llama-small"), "batch.tokens=64", *SPLIT, f"parallel.overlap={overlap}"]
    job = prepare(Request("llama-small", ["bf16-mixed"], assignments=fields, hardware=["h100-node"]))
    posed = problem(job, job.policies[0], ("gemm",), ("operand", "sent"), ("bf16", "fp8-e4m3"), None, {field: True})
    every = posed.points(list(product(*map(range, posed.space.sizes))))
    policies = [posed.space.point(dict(enumerate(point.chosen)), f"p{i}") for i, point in enumerate(every)]
    ran = execute(prepare(Request("llama-small", policies, assignments=fields, hardware=["h100-node"])))
    taken = [point.costs[-1] for point in every]
    said = [getattr(ran.spent[policy.name, "h100-node"], field) for policy in policies]
    assert taken == pytest.approx(said, rel=1e-12)
    assert len(set(taken)) > 1 or overlap == "full"
    best = optimum(posed, interactions(posed.terms), field, [])
    assert best.point.costs[-1] == pytest.approx(min(taken), rel=1e-6)
