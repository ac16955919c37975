"""Pipeline schedules: closed forms of their papers, what must come before what, and stages that tick."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.parallel.schedules import SCHEDULES, order, play, refusal

CHUNKED = [name for name, schedule in SCHEDULES.items() if schedule.chunked]


def equal(name, stages, micro_batches, times=(2, 2, 2), send_s=0, chunks=1):
    """Played with parts that all take the same: forward, dgrad, wgrad."""
    return play(name, *[[Fraction(time)] * (stages * chunks) for time in times], micro_batches, send_s, chunks)


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [1, 3, 4, 8, 64])
def test_bubble_of_gpipe_and_1f1b(name, stages, micro_batches):
    """(p - 1) / m of the ideal time: Narayanan et al., arXiv:2104.04473, section 2.2.1."""
    played = equal(name, stages, micro_batches, (3, 4, 2))
    assert played.total_s == (micro_batches + stages - 1) * 9
    assert played.bubble_of_ideal == Fraction(stages - 1, micro_batches)
    assert played.bubble_share == Fraction(stages - 1, micro_batches + stages - 1)


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("chunks", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_bubble_of_interleaved(stages, chunks, groups):
    """(p - 1) / (v m) of the ideal time: arXiv:2104.04473, section 2.2.2."""
    micro_batches = groups * stages
    played = equal("interleaved", stages, micro_batches, (3, 4, 2), chunks=chunks)
    assert played.bubble_of_ideal == Fraction(stages - 1, chunks * micro_batches)


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("micro_batches", [16, 64])
def test_bubble_of_zb_h1(stages, micro_batches):
    """(p - 1) (T_F + T_B - T_W), which is (p - 1) / 3 m where all take the same: arXiv:2401.10241, section 2.3."""
    assert equal("zb-h1", stages, micro_batches).bubble_of_ideal == Fraction(stages - 1, 3 * micro_batches)
    for times in ((2, 2, 1), (4, 5, 3), (3, 3, 3)):
        beyond = equal("zb-h1", stages, micro_batches, times).total_s - micro_batches * sum(times)
        assert beyond == (stages - 1) * (times[0] + times[1] - times[2])


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batches", [1, 4, 8, 32])
def test_micro_batches_in_flight(stages, micro_batches):
    """1F1B keeps p - stage of them, GPipe all, and ZB-H1 on every stage as many as 1F1B on the first."""
    by_stage = [min(stages - stage, micro_batches) for stage in range(stages)]
    assert equal("1f1b", stages, micro_batches).in_flight == tuple(by_stage)
    assert equal("gpipe", stages, micro_batches).in_flight == (micro_batches,) * stages
    assert equal("zb-h1", stages, micro_batches).in_flight == (min(stages, micro_batches),) * stages


def test_memory_of_interleaved():
    """1 + (p - 1) / (p v) of 1F1B's on the first stage: Korthikanti et al., arXiv:2205.05198, section 4.2.3."""
    for stages, chunks in ((4, 2), (8, 2), (8, 4)):
        played = equal("interleaved", stages, 4 * stages, chunks=chunks)
        assert Fraction(played.in_flight[0], chunks) == stages * (1 + Fraction(stages - 1, stages * chunks))


def test_a_send_delays_the_first_and_the_last():
    """Each way through the pipeline waits for p - 1 sends, where one micro-batch goes."""
    assert equal("1f1b", 4, 1, (1, 1, 1), send_s=10).total_s == 4 * 3 + 2 * 3 * 10
    assert equal("zb-h1", 4, 1, (1, 1, 1), send_s=10).total_s == 4 * 2 + 1 + 2 * 3 * 10


# --- any times --------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    stages = draw(st.integers(1, 5))
    chunks = draw(st.integers(1, 3)) if SCHEDULES[name].chunked else 1
    micro_batches = draw(st.integers(1, 3)) * stages if chunks > 1 else draw(st.integers(1, 9))
    times = [draw(st.lists(st.integers(1, 5), min_size=stages * chunks, max_size=stages * chunks)) for _ in range(3)]
    return name, stages, chunks, micro_batches, times, draw(st.integers(0, 4))


def needed(name, parts, what, part):
    """What work needs of the same micro-batch, as the chain rule has it; whether another stage sends it."""
    if what == "forward":
        return [("forward", part - 1, True)] if part else []
    if what == "wgrad":
        return [("dgrad", part, False)]
    last = "dgrad" if SCHEDULES[name].split else "wgrad"  # else a part's backward is one, and sends at its end
    return [("forward", part, False)] + ([(last, part + 1, True)] if part + 1 < parts else [])


@settings(deadline=None)
@given(cases())
def test_nothing_comes_before_what_it_needs(case):
    name, stages, chunks, micro_batches, times, send_s = case
    played = play(name, *times, micro_batches, send_s, chunks)
    ends = {(w.what, w.chunk * stages + w.stage, w.micro_batch): w.end_s for w in played.timeline}
    assert len(ends) == len(played.timeline) == 3 * stages * chunks * micro_batches  # each work once
    took = dict(zip(("forward", "dgrad", "wgrad"), times, strict=True))
    for w in played.timeline:
        part = w.chunk * stages + w.stage
        assert w.end_s - w.start_s == took[w.what][part]
        for what, of, sent in needed(name, stages * chunks, w.what, part):
            assert ends[what, of, w.micro_batch] + (send_s if sent and stages > 1 else 0) <= w.start_s
    for stage in range(stages):
        own = [w for w in played.timeline if w.stage == stage]
        assert all(a.end_s <= b.start_s for a, b in pairwise(own))
        assert played.busy_s[stage] == sum(w.end_s - w.start_s for w in own)
    assert played.total_s == max(w.end_s for w in played.timeline)


def ticked(case):
    """Second by second: a stage that is free begins its next work if all that it needs has arrived by now."""
    name, stages, chunks, micro_batches, times, send_s = case
    queues = [list(order(name, stage, stages, micro_batches, chunks)) for stage in range(stages)]
    took = dict(zip(("forward", "dgrad", "wgrad"), times, strict=True))
    arrives, until, now = {}, [0] * stages, 0
    while any(queues):
        for stage, queue in enumerate(queues):
            if not queue or until[stage] > now:
                continue
            what, chunk, micro_batch = queue[0]
            part = chunk * stages + stage
            waits = [
                arrives.get((work, of, micro_batch), now + 1) + (send_s if sent and stages > 1 else 0)
                for work, of, sent in needed(name, stages * chunks, what, part)
            ]
            if all(wait <= now for wait in waits):
                queue.pop(0)
                until[stage] = arrives[what, part, micro_batch] = now + took[what][part]
        now += 1
    return max(until)


@settings(deadline=None)
@given(cases())
def test_unequal_stages_against_ticks(case):
    name, _, chunks, micro_batches, times, send_s = case
    assert play(name, *times, micro_batches, send_s, chunks).total_s == ticked(case)


@settings(deadline=None)
@given(cases())
def test_in_flight_is_what_the_timeline_shows(case):
    name, stages, chunks, micro_batches, times, send_s = case
    played = play(name, *times, micro_batches, send_s, chunks)
    for stage in range(stages):
        own = [w for w in played.timeline if w.stage == stage]
        begins = {(w.chunk, w.micro_batch): w.start_s for w in own if w.what == "forward"}
        ends = {(w.chunk, w.micro_batch): w.end_s for w in own if w.what == "wgrad"}
        most = max(sum(begins[key] <= now < ends[key] for key in begins) for now in begins.values())
        assert played.in_flight[stage] == most


def test_no_schedule_is_faster_than_the_busiest_stage():
    for name in SCHEDULES:
        played = play(name, [1, 9, 1, 1], [1, 9, 1, 1], [1, 9, 1, 1], 32)
        assert played.total_s >= max(played.busy_s) == 32 * 27


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_does():
    says = "interleaved takes micro-batches in multiples of the 4 stages, got 6; 4 or 8 would fit"
    assert refusal("interleaved", 4, 6, 2) == says
    assert refusal("interleaved", 4, 3, 2).endswith("got 3; 4 would fit")
    assert refusal("1f1b", 4, 8, 2) == "1f1b has one chunk a stage, got 2; interleaved, zb-h1 have several"
    assert not any(refusal(name, 4, 6) for name in SCHEDULES)
    with pytest.raises(ValueError, match="multiples of the 4 stages, got 6"):
        equal("interleaved", 4, 6, chunks=2)
    with pytest.raises(ValueError, match="3, 3 and 3 parts for 2 a stage"):
        play("interleaved", [1] * 3, [1] * 3, [1] * 3, 4, chunks=2)
