"""Pipeline schedules as data, and played out: when each stage works on which micro-batch, and how long it waits.

A model is cut into parts. With one part a stage they are the stages; with several, `chunks`, part k lies on stage
k % stages, so that a micro-batch passes all stages `chunks` times. A schedule says in which order a stage works.
When it does, follows: as soon as it is free and what the work needs has arrived. A send takes its time from who waits
for it, not from who sends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from costsim.graph.graph import InFlight, most_in_flight
from costsim.names import PipelineSchedule

What = Literal["forward", "dgrad", "wgrad"]
_Needs = dict[tuple[str, int], tuple[tuple[str, int, float], ...]]


class Schedule(NamedTuple):
    """In which order a stage works: some forwards, then a backward after each, then the backwards that are left."""

    warm_up: Callable[[int, int, int], int | None]  # forwards at first, of stage, stages, chunks; None: all
    split: bool  # dgrad is sent at once, and wgrads wait; else both are one, and the gradient is sent after it
    chunked: bool  # whether a stage may have several chunks
    source: str


def _all(_stage: int, _stages: int, _chunks: int) -> None:
    return None


def _behind(stage: int, stages: int, _chunks: int) -> int:
    return stages - 1 - stage


def _twice_behind(stage: int, stages: int, chunks: int) -> int:
    return 2 * (stages - 1 - stage) + (chunks - 1) * stages


def _behind_in_last_chunk(stage: int, stages: int, chunks: int) -> int:
    return stages - 1 - stage + (chunks - 1) * stages


_MEGATRON = "Narayanan et al., Megatron-LM, arXiv:2104.04473, section 2.2"
_ZERO_BUBBLE = "Qi et al., Zero bubble pipeline parallelism, arXiv:2401.10241, section 2; several chunks as in PyTorch"

SCHEDULES: Mapping[PipelineSchedule, Schedule] = {
    "gpipe": Schedule(_all, split=False, chunked=False, source="Huang et al., GPipe, arXiv:1811.06965, figure 2"),
    "1f1b": Schedule(_behind, split=False, chunked=False, source=f"PipeDream-Flush, arXiv:2006.09503; {_MEGATRON}.1"),
    "interleaved": Schedule(_twice_behind, split=False, chunked=True, source=f"{_MEGATRON}.2"),
    "zb-h1": Schedule(_behind_in_last_chunk, split=True, chunked=True, source=_ZERO_BUBBLE),
}


class Work(NamedTuple):
    """What a stage does at one go."""

    what: What
    chunk: int
    micro_batch: int


class Played(NamedTuple):
    """Work of a stage, with its time."""

    stage: int
    what: What
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float


class Play(NamedTuple):
    """A schedule as it was played; everything by stage is in their order."""

    total_s: float
    busy_s: tuple[float, ...]
    in_flight: tuple[int, ...]  # most micro-batches of a chunk whose forward has begun and whose wgrad has not ended
    timeline: tuple[Played, ...]  # by stage, then by time

    @property
    def bubble_share(self) -> float:
        """What part of all stages' time they wait, (p-1)/(m+p-1) of p equal stages and m micro-batches in 1F1B."""
        whole = len(self.busy_s) * self.total_s
        return (whole - sum(self.busy_s)) / whole if whole else 0.0

    @property
    def bubble_of_ideal(self) -> float:
        """The same as a part of the time that they work, as Megatron states it: (p-1)/m."""
        busy = sum(self.busy_s)
        return (len(self.busy_s) * self.total_s - busy) / busy if busy else 0.0


def refusal(name: PipelineSchedule, stages: int, micro_batches: int, chunks: int = 1) -> str:
    """Why a schedule does not run with so many of each, and what would fit; empty if it does."""
    if chunks > 1 and not SCHEDULES[name].chunked:
        several = ", ".join(other for other, schedule in SCHEDULES.items() if schedule.chunked)
        return f"{name} has one chunk a stage, got {chunks}; {several} have several"
    below = micro_batches // stages * stages
    if chunks > 1 and micro_batches != below:
        fitting = f"{below} or {below + stages}" if below else str(stages)
        fits = f"{fitting} would fit"
        return f"{name} takes micro-batches in multiples of the {stages} stages, got {micro_batches}; {fits}"
    return ""


def order(name: PipelineSchedule, stage: int, stages: int, micro_batches: int, chunks: int = 1) -> Iterator[Work]:
    """The work of a stage in its order. Micro-batches pass in groups of as many as there are stages, chunk by chunk."""
    schedule, runs = SCHEDULES[name], chunks * micro_batches
    first = schedule.warm_up(stage, stages, chunks)
    warm_up = runs if first is None else min(first, runs)
    lag = stage if schedule.split else 0

    def work(what: What, run: int) -> Work:
        chunk = run // stages % chunks
        return Work(
            what,
            chunk if what == "forward" else chunks - 1 - chunk,
            run // (stages * chunks) * stages + run % stages,
        )

    for run in range(runs + warm_up):
        if run < runs:
            yield work("forward", run)
        if run >= warm_up:
            yield work("dgrad", run - warm_up)
            if run - warm_up >= lag:
                yield work("wgrad", run - warm_up - lag)
    for run in range(max(0, runs - lag), runs):
        yield work("wgrad", run)


def _largest(states: set[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Those of which no other has as many or more of all."""
    exceeded = {a for a in states for b in states if a != b and all(x <= y for x, y in zip(a, b, strict=True))}
    return tuple(sorted(states - exceeded))


@lru_cache(maxsize=256)
def in_flight(name: PipelineSchedule, stage: int, stages: int, micro_batches: int, chunks: int = 1) -> InFlight:
    """By chunk at work: micro-batches of each chunk whose forward has begun and whose wgrad has not ended, at most."""
    now, seen = [0] * chunks, [set[tuple[int, ...]]() for _ in range(chunks)]
    for what, chunk, _ in order(name, stage, stages, micro_batches, chunks):
        now[chunk] += what == "forward"
        seen[chunk].add(tuple(now))
        now[chunk] -= what == "wgrad"
    return tuple(_largest(states) for states in seen)


def play(
    name: PipelineSchedule,
    forward_s: Sequence[float],
    dgrad_s: Sequence[float],
    wgrad_s: Sequence[float],
    micro_batches: int,
    send_s: float = 0.0,
    chunks: int = 1,
) -> Play:
    """Play a schedule: how long each part takes of a micro-batch, in the order of the model, and a send between stages.

    Raises ValueError for what `refusal` refuses, and for parts that `chunks` does not divide.
    """
    parts = len(forward_s)
    stages = parts // chunks
    wrong = refusal(name, stages, micro_batches, chunks)
    if wrong or stages * chunks != parts or not parts == len(dgrad_s) == len(wgrad_s):
        raise ValueError(wrong or f"{parts}, {len(dgrad_s)} and {len(wgrad_s)} parts for {chunks} a stage")
    works = [tuple(order(name, stage, stages, micro_batches, chunks)) for stage in range(stages)]
    took = {
        (what, part): seconds[part]
        for what, seconds in (("forward", forward_s), ("dgrad", dgrad_s), ("wgrad", wgrad_s))
        for part in range(parts)
    }
    timeline = _played(works, took, _needs(parts, SCHEDULES[name].split, send_s if stages > 1 else 0))
    return Play(
        total_s=max(played[-1].end_s for played in timeline),
        busy_s=tuple(sum(took[w.what, w.chunk * stages + w.stage] for w in played) for played in timeline),
        in_flight=tuple(
            most_in_flight(in_flight(name, stage, stages, micro_batches, chunks)) for stage in range(stages)
        ),
        timeline=tuple(work for played in timeline for work in played),
    )


def _needs(parts: int, split: bool, send_s: float) -> _Needs:
    """What work on a part needs of the same micro-batch: the work before it, and how long that takes to arrive."""
    needs: _Needs = {}
    for part in range(parts):
        needs["forward", part] = (("forward", part - 1, send_s),) if part else ()
        needs["dgrad", part] = (("forward", part, 0),)
        if part + 1 < parts:
            needs["dgrad", part] += (("dgrad" if split else "wgrad", part + 1, send_s),)
        needs["wgrad", part] = (("dgrad", part, 0),)
    return needs


def _played(
    works: Sequence[Sequence[Work]], took: Mapping[tuple[str, int], float], needs: _Needs
) -> list[list[Played]]:
    """The work of each stage with its time: stages go on, one after the other, until each waits for another."""
    ended: dict[tuple[str, int, int], float] = {}
    timeline: list[list[Played]] = [[] for _ in works]
    while len(ended) < sum(map(len, works)):
        before = len(ended)
        for stage, played in enumerate(timeline):
            free_s: float = played[-1].end_s if played else 0
            while len(played) < len(works[stage]):
                what, chunk, micro_batch = works[stage][len(played)]
                part = chunk * len(works) + stage
                waits = [(ended.get((of, at, micro_batch)), sent_s) for of, at, sent_s in needs[what, part]]
                start_s = max([free_s, *[end_s + sent_s for end_s, sent_s in waits if end_s is not None]])
                if any(end_s is None for end_s, _ in waits):
                    break
                free_s = ended[what, part, micro_batch] = start_s + took[what, part]
                played.append(Played(stage, what, chunk, micro_batch, start_s, free_s))
        assert len(ended) > before, "stages wait for each other"
    return timeline
