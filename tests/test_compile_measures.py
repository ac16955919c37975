"""Compiled time, energy and peak memory against those of one policy: any of a space, family and traffic model."""

import random
from functools import lru_cache

import numpy as np
import pytest
from conftest import POLICIES, STEPS, decoder_step, in_turn, shipped_policy

from costsim.cost import lives
from costsim.cost.count import count
from costsim.cost.kernels import compile_kernels
from costsim.cost.measure import Measure, in_bulk, of_run, with_tables
from costsim.cost.memory import of_policy
from costsim.cost.peak import peak_memory, pruned
from costsim.cost.terms import Alternative, Condition, Table, Terms
from costsim.devices.compiled import Timed
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import Rates, kernels, spend
from costsim.devices.spent import Spent
from costsim.errors import InputError
from costsim.graph.fusion import UNTILED
from costsim.graph.graph import most_in_flight
from costsim.names import VARIED
from costsim.policy.assign import assign
from costsim.policy.groups import groups_of, space_of
from costsim.policy.space import Space, Variable
from costsim.run.job import Request, prepare

FORMATS = ("bfp4", "int8-row", "fp16", "fp8-e4m3")
CONVENTIONS = [
    ("unfused", "step", ("gemms", ())),
    ("fused", "step", ("gemms", ())),
    ("fused", "layer", ("gemms", ())),
    ("unfused", "gemm", ("gemms", ())),
    ("unfused", "gemm", ("none", ())),
    ("unfused", "gemm", ("operands", ())),
    ("unfused", "gemm", ("operands", ("*fc1*",))),
]
# Those with tensor cores, one that takes all pairs of integers at their own rates, and one without some multipliers.
DEVICES = ("t4", "h100-sxm", "rtx-4090", "abstract-bit-serial", "tpu-v5e", "gap9")
FIELDS = (("role", "gemm", "operand"), ("role", "layer"), ("layer", "gemm"))
device = lru_cache(load_hardware)


def made(i, name, formats=FORMATS):
    """A graph and a space of a policy's groups; of every policy on one family, in one to three micro-batches."""
    graph, policy = STEPS[sorted(STEPS)[i % len(STEPS)]](micro_batches=1 + i % 3), shipped_policy(name)
    return graph, policy, space_of(policy, groups_of(graph, policy, FIELDS[i % 3], VARIED), formats)


def drawn(space, draw, number=3):
    return [tuple(draw.randrange(size) for size in space.sizes) for _ in range(number)]


def spent_of(graph, policy, convention, hardware, overlap):
    traffic, scope, of_gemms = convention
    rows, rates = count(graph, assign(graph, policy), traffic, scope, *of_gemms), Rates(hardware)
    step = kernels(graph, rows, traffic, scope)
    return sum((kernel.number * spend(kernel, hardware, overlap, rates) for kernel in step), Spent())


def agree(measure, points, expected):
    for value in (in_bulk(measure).evaluate(np.array(points)).tolist(), [measure.one(point) for point in points]):
        assert value == [pytest.approx(each, rel=1e-12, abs=0) for each in expected]


@pytest.mark.parametrize(("i", "name"), list(enumerate(POLICIES)))
def test_time_and_energy_of_any_policy(i, name):
    draw = random.Random(name)
    graph, _, space = made(i, name)
    convention, hardware = draw.choice(CONVENTIONS), device(DEVICES[i % len(DEVICES)])
    step = compile_kernels(graph, space, *convention)
    for overlap in (True, False):
        timed, points = Timed(step, hardware, overlap), drawn(space, draw)
        spent = [
            spent_of(graph, space.point(dict(enumerate(point))), convention, hardware, overlap) for point in points
        ]
        agree(timed.time(), points, [np.inf if each.unsupported else each.time_s for each in spent])
        if None not in [each.energy_j for each in spent if not each.unsupported]:
            agree(timed.energy(), points, [np.inf if each.unsupported else each.energy_j for each in spent])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_passes_before_ops_under_every_convention(convention):
    """Scales that are known only once all values are there: passes before each reader, and copies that are stored."""
    for name in ("fp8-current", "bf16-autocast"):
        graph, policy = decoder_step(micro_batches=2), shipped_policy(name)
        space = space_of(policy, groups_of(graph, policy, FIELDS[0], VARIED), ("fp8-e4m3", "bf16"))
        points, hardware = drawn(space, random.Random(0)), device("h100-sxm")
        spent = [spent_of(graph, space.point(dict(enumerate(p))), convention, hardware, True) for p in points]
        timed = Timed(compile_kernels(graph, space, *convention), hardware, True)
        agree(timed.time(), points, [each.time_s for each in spent])
        agree(timed.energy(), points, [each.energy_j for each in spent])


def test_a_profile_without_a_figure_is_refused():
    graph, _, space = made(0, "fp32")
    step = compile_kernels(graph, space, *CONVENTIONS[0])
    lacking = [name for name in ("cortex-m4", "edge-tpu", "apple-m1") if not device(name).vector_op_per_s]
    for name in lacking:
        with pytest.raises(InputError, match=f"--hardware {name}: its profile has no vector_op_per_s, so no time is"):
            Timed(step, device(name), True).time()
    assert lacking


# --- peak memory ------------------------------------------------------------------------------------------------------


def check_peaks(graph, policy, space, traffic, draw):
    measure = peak_memory(graph, space, traffic, range(len(policy.file.phases)))
    points = drawn(space, draw)
    peaks = [of_policy(graph, space.point(dict(enumerate(p))), traffic)[1].peak_bytes for p in points]
    assert in_bulk(measure).evaluate(np.array(points)).tolist() == [measure.one(p) for p in points] == peaks


@pytest.mark.parametrize(("i", "name"), list(enumerate(POLICIES)))
def test_peak_memory_of_any_policy(i, name):
    draw = random.Random(name)
    check_peaks(*made(i, name), draw.choice(UNTILED), draw)


@pytest.mark.parametrize(
    ("name", "traffic", "family"),
    in_turn(
        [(name, traffic) for name in ("dsq", "fp32", "g8-tensor", "m1-4-tensor", "qlora") for traffic in UNTILED],
        ["encoder-decoder", "decoder"],
    ),
)
def test_peak_memory_reader_by_reader(monkeypatch, name, traffic, family):
    """As where too many readers decide together: the same bytes, without any table over all of them."""
    monkeypatch.setattr(lives, "LARGEST", 0)
    graph, policy = STEPS[family](micro_batches=3), shipped_policy(name)
    space = space_of(policy, groups_of(graph, policy, FIELDS[0], ("operand", "stash", "stored")), FORMATS)
    check_peaks(graph, policy, space, traffic, random.Random(name))


def test_too_many_readers_are_refused(monkeypatch):
    """Of a stash that a pass makes of what is given, the first reader pays; who that is hangs on all of them."""
    monkeypatch.setattr(lives, "LARGEST", 0)
    graph, policy = STEPS["llama"](), shipped_policy("bf16-autocast")
    space = space_of(policy, groups_of(graph, policy, FIELDS[0], VARIED), FORMATS)
    with pytest.raises(InputError, match=r"^peak memory: too many groups decide together how long .* is kept; ask for"):
        peak_memory(graph, space, "unfused", [0])


# --- sums and maxima --------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    space = Space(shipped_policy("dsq"), (Variable("q0", ("2", "4")), Variable("q1", ("2", "4", "8"))))
    table = Table((0,), np.array([[5, 0, 3], [1, 2, 1]], object))
    other = Table((1,), np.array([[0, 1, 0], [0, 3, 0], [0, 7, 0]], object))
    late = Alternative(frozenset([Condition((0,), (False, True)), Condition((1,), (False, False, True))]),
                       np.array([1, 1, 0], object))  # fmt: skip
    return Terms(space, (table, other), (late,))


EVERY = [(a, b) for a in range(2) for b in range(3)]


def by_hand(a, b):
    first, second = [[5, 0, 3], [1, 2, 1]][a], [[0, 1, 0], [0, 3, 0], [0, 7, 0]][b]
    late = [1, 1, 0] if a == 1 or b == 2 else [0, 0, 0]
    return max(map(sum, zip(first, second, late, strict=True)))


def test_maxima_by_hand(small):
    measure = Measure(small.space, Terms(small.space, (), ()), (small,))
    expected = [by_hand(*point) for point in EVERY]
    assert measure.evaluate(np.array(EVERY)).tolist() == expected
    assert not with_tables(measure).maxima
    assert in_bulk(measure).evaluate(np.array(EVERY)).tolist() == expected
    twice = of_run([(2, measure), (3, measure)])
    assert twice.evaluate(np.array(EVERY)).tolist() == [5 * each for each in expected]
    barred = Measure(small.space, measure.sum, (small,), frozenset([Condition((0,), (False, True))]))
    assert in_bulk(barred).evaluate(np.array(EVERY)).tolist() == [*expected[:3], np.inf, np.inf, np.inf]


def test_moments_that_others_exceed_are_left_out(small):
    """The third moment never has the most; without it the maximum is the same under every policy."""
    assert pruned(small) == [0, 1]


# --- stages of a pipeline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize(("stage", "name"), [(0, "fp32"), (1, "dsq"), (2, "g8-tensor")])
def test_peak_memory_of_a_stage_with_several_micro_batches_in_flight(monkeypatch, stage, name, schedule):
    """As `memory` has it: what the forwards of the others have kept lies there until the update."""
    fields = ["model.layers=6", "batch.tokens=32", "training.micro_batches=8", "parallel.pipeline=3"]
    fields += [f"parallel.stage={stage}", f"parallel.schedule={schedule}"]
    graph, policy = prepare(Request("gpt2-small", assignments=fields)).graph, shipped_policy(name)
    assert most_in_flight(graph.in_flight) == (8 if schedule == "gpipe" else 3 - stage)
    space = space_of(policy, groups_of(graph, policy, FIELDS[0], VARIED), FORMATS)
    for largest in (lives.LARGEST, 0):
        monkeypatch.setattr(lives, "LARGEST", largest)
        check_peaks(graph, policy, space, "fused", random.Random(name))
