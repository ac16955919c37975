"""Searches over phases against enumeration of all monotone courses, and against `run`."""

import json
import random
from fractions import Fraction
from itertools import combinations_with_replacement, product

import pytest
import yaml
from click.testing import CliRunner
from conftest import one_layer, shipped_policy

import costsim
from costsim.cli import main
from costsim.cost.memory import of_policy
from costsim.errors import InputError
from costsim.policy.groups import groups_of
from costsim.policy.load import load_policy, make_policy
from costsim.run.job import Request, prepare
from costsim.run.simulate import execute
from costsim.search.corners import spaced
from costsim.search.interactions import interactions
from costsim.search.optimum import Budget, optimum
from costsim.search.phases import stretches
from costsim.search.problem import problem
from costsim.search.sensitivity import Sensitivity

pytest.importorskip("scipy")
FIELDS = ("gemm", "operand")
FORMATS = ("bfp4", "bfp8")
SMALL = [*one_layer("iwslt17-dsq"), "training.steps=1000"]
# Its own phase ends amid the second of three stretches, and is another number of bits for what is kept.
OWN = {
    "description": "stashes that rise",
    "levels": ["q"],
    "rules": [
        {"format": "bfp16"},
        {"copy": "operand", "format": "bfp16", "placement": "at_producer"},
        {"copy": "stash", "format": "bfp<q>", "placement": "at_producer"},
    ],
    "phases": [{"until_step": 450, "levels": [4]}, {"levels": [16]}],
}


def losses(job, policy, formats=FORMATS):
    draw = random.Random(3)
    made = {}
    for group in groups_of(job.graph, policy, FIELDS, ("operand",)):
        of = sorted((Fraction(draw.randrange(1, 1000), 1000) for _ in formats), reverse=True)
        made |= {(group.name, format): loss for format, loss in zip(formats, of, strict=True)}
    return Sensitivity("s.csv", made, {})


@pytest.fixture(scope="module", params=["dsq", "own"])
def posed(request):
    job = prepare(Request("iwslt17-dsq", assignments=SMALL, hardware=["h100-sxm"]))
    policy = make_policy("own", OWN) if request.param == "own" else shipped_policy("dsq")
    asked = dict.fromkeys(("peak_memory_bytes", "time_s"), True)
    return problem(job, policy, FIELDS, ("operand",), FORMATS, losses(job, policy), asked, phases=3)


@pytest.fixture(scope="module")
def every(posed):
    """All policies in which no group goes back to fewer bits."""
    courses = list(combinations_with_replacement(range(len(FORMATS)), 3))
    groups = len(posed.space.variables)
    assert groups == 6
    chosen = [tuple(of[i] for i in range(3) for of in each) for each in product(courses, repeat=groups)]
    assert len(chosen) == 4**6
    return posed.points(chosen)


def limit(every, value, quantile):
    return sorted(map(value, every))[int(quantile * len(every))]


@pytest.mark.parametrize("field", ["arithmetic_cost", "dram_bits", "peak_memory_bytes", "time_s"])
def test_the_optimum_is_the_best_of_all_courses(posed, every, field):
    parts, at = interactions(posed.terms), posed.fields.index(field)
    assert len({point.costs[at] for point in every}) > 3
    for quantile in (0.15, 0.6):
        most = limit(every, lambda point: point.costs[at], quantile)
        best = optimum(posed, parts, "loss", [Budget(field, most, "")])
        assert best.point.costs[at] <= most
        assert best.point.loss == min(point.loss for point in every if point.costs[at] <= most)
        assert best.point in every
    allowed = limit(every, lambda point: point.loss, 0.4)
    best = optimum(posed, parts, field, [Budget("loss", int(allowed * posed.scale), "")])
    least = min(point.costs[at] for point in every if point.loss <= allowed)
    assert best.point.loss <= allowed
    assert best.point.costs[at] == pytest.approx(least, rel=1e-6)


def test_a_course_can_beat_all_that_stay_as_they_are(posed, every):
    """Else there were nothing to search: under most budgets the best policy changes its formats."""
    changing, groups = 0, len(posed.space.variables)
    for quantile in (0.2, 0.4, 0.6, 0.8):
        most = limit(every, lambda point: point.costs[0], quantile)
        best = min((point for point in every if point.costs[0] <= most), key=lambda point: point.loss)
        changing += best.chosen[:groups] != best.chosen[-groups:]
    assert changing >= 2


def test_a_front_of_budgets(posed, every):
    at = posed.fields.index("dram_bits")
    found, gap = spaced(posed, interactions(posed.terms), "dram_bits", 6)
    assert len(found) > 3
    assert gap < 1e-9
    for point in found[1:-1]:
        assert point.loss == min(other.loss for other in every if other.costs[at] <= point.costs[at])
    assert found[0].loss == min(point.loss for point in every)
    assert found[-1].costs[at] == min(point.costs[at] for point in every)


def test_run_says_the_same_of_every_course(posed, every):
    for number, point in enumerate(random.Random(1).sample(every, 6)):
        policy = posed.policy(point, f"course-{number}")
        job = prepare(Request("iwslt17-dsq", policies=[policy], assignments=SMALL, hardware=["h100-sxm"]))
        ran = execute(job)
        total = ran.policies[0].total
        peak = of_policy(job.graph, policy, job.convention.traffic)[1].peak_bytes
        assert point.costs[:4] == (total.priced, total.dram_bits, total.vector["quantize"], peak)
        assert point.costs[4] == pytest.approx(ran.spent[policy.name, "h100-sxm"].time_s, rel=1e-12)


def test_what_a_course_loses_is_weighed_by_steps(posed):
    """By hand: a third of 1000 steps is 333, then 333, then 334."""
    assert [stretch.steps for stretch in posed.stretches] == [333, 333, 334]
    table = losses(posed.job, posed.space.policy)
    of = table.of([variable.name for variable in posed.space.variables], FORMATS)
    chosen = (0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1)
    expected = sum(
        Fraction(steps, 1000) * of[group][chosen[6 * i + group]]
        for i, steps in enumerate((333, 333, 334))
        for group in range(6)
    )
    assert posed.points([chosen])[0].loss == expected


# --- small parts, by hand ---------------------------------------------------------------------------------------------


def test_stretches_by_hand():
    made = stretches(make_policy("own", OWN), 1000, 3)
    assert [(of.start, of.of_phases, of.phases) for of in made] == [
        ("0", (333, 0), (0,)),
        ("333", (117, 216), (0, 1)),
        ("666", (0, 334), (1,)),
    ]
    made = stretches(shipped_policy("dsq"), 50, 2)  # whose phases end at 0.99 and 0.999, which is step 49 here
    assert [(of.start, of.of_phases, of.phases) for of in made] == [
        ("0%", (25, 0, 0), (0,)),
        ("50%", (24, 0, 1), (0, 1, 2)),
    ]
    with pytest.raises(InputError, match=r"^--phases 4: expected at most 3, the steps of the run$"):
        stretches(shipped_policy("bfp16"), 3, 4)


def test_plateaus_have_no_order(tmp_path):
    (tmp_path / "loss.csv").write_text("step,loss\n1,2\n")
    phases = [{"until_plateau": {"patience": 1}, "levels": [4]}, {"levels": [16]}]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({**OWN, "phases": phases, "loss_log": "loss.csv"}))
    with pytest.raises(InputError, match=r"^--phases 3: p has a phase that ends where a loss stops falling$"):
        stretches(load_policy(tmp_path / "p.yaml"), 1000, 3)


# --- the command ------------------------------------------------------------------------------------------------------


def search(*arguments):
    sets = [part for text in SMALL for part in ("--set", text)]
    return CliRunner().invoke(main, ["search", "iwslt17-dsq", *sets, *map(str, arguments)])


def test_run_takes_what_is_written(tmp_path):
    """On a policy with phases of its own, and formats of two families."""
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    table = ["group,format,loss"] + [
        f"operand/{gemm}/{operand},{format},{loss}"
        for gemm, operands in (("forward", "xw"), ("dgrad", ("dy", "w")), ("wgrad", ("x", "dy")))
        for operand in operands
        for format, loss in (("bfp4", 1), ("fp16", 0.01))
    ]
    (tmp_path / "s.csv").write_text("\n".join(table) + "\n")
    asked = ["--policy", tmp_path / "own.yaml", "--group", "gemm,operand", "--formats", "bfp4,fp16", "--phases", 7]
    asked += ["--sensitivity", tmp_path / "s.csv"]
    result = search(*asked, "--points", 4, "--out", tmp_path / "found")
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "found" / "iwslt17-dsq-search.json").read_text())
    assert any("phases" in point for point in data["points"])
    for point in data["points"]:
        path = tmp_path / "found" / f"{point['policy']}.yaml"
        job = prepare(Request("iwslt17-dsq", policies=[str(path)], assignments=SMALL))
        total = execute(job).policies[0].total
        assert [str(total.priced), str(total.dram_bits)] == [point["arithmetic_cost"], point["dram_bits"]]
        ends = [phase.until_step for phase in job.policies[0].file.phases]
        assert {phase["from_step"] for phase in point.get("phases", ())} <= {*ends}
    single = search(*asked, "--at-least", "arithmetic_reduction=5")
    assert single.exit_code == 0, single.output
    assert "the least loss with at least arithmetic_reduction=5: proved" in single.stdout
    assert "from step" in single.stdout
    assert "each weighed by the share of all steps" in " ".join(single.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "bfp4,bfp8", "--phases", 20, "--set", "training.steps=10"], "--phases 20: expected at most 10"),
        (["--formats", "bfp4,bfp8", "--phases", 0], "Invalid value for '--phases'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message):
    result = search(*arguments, "--minimise", "arithmetic_cost")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_in_python():
    workload = costsim.load("iwslt17-dsq", {"model.encoder_layers": 1, "model.decoder_layers": 1})
    found = workload.search(FORMATS, "reference", policy="bfp16", groups=FIELDS, phases=4, points=5)
    total = workload.run(found.policies).by("policy").set_index("policy")
    for row in found.table.to_dict("records"):
        assert row["dram_bits"] == total.loc[row["policy"], "dram_bits"]
    assert any(len(policy.file.phases) > 1 for policy in found.policies)


def test_messages_that_hide_are_those_of_each_stretch():
    fields = [*one_layer("llama-small"), "batch.tokens=64", "training.steps=100", "parallel.tensor=2",
              "parallel.overlap=full"]  # fmt: skip
    job = prepare(Request("llama-small", ["bf16-mixed"], assignments=fields, hardware=["h100-node"]))
    posed = problem(job, job.policies[0], ("gemm",), ("operand", "sent"), ("fp8-e4m3", "bf16"), None,
                    {"time_s": True}, phases=2)  # fmt: skip
    groups = len(posed.space.variables)
    draw = random.Random(0)
    starts = [tuple(draw.randrange(2) for _ in range(groups)) for _ in range(4)]
    points = posed.points([(*start, *(max(i, draw.randrange(2)) for i in start)) for start in starts])
    policies = [posed.policy(point, f"p{i}") for i, point in enumerate(points)]
    ran = execute(prepare(Request("llama-small", policies, assignments=fields, hardware=["h100-node"])))
    said = [ran.spent[policy.name, "h100-node"].time_s for policy in policies]
    assert [point.costs[-1] for point in points] == pytest.approx(said, rel=1e-12)
