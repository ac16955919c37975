"""Peak memory compiled: the largest of what lies in memory at each moment, for any policy of a space.

A moment is a kernel that runs. Bytes at a moment are a sum of tables, one for each place in memory. Moments that others
exceed under every policy are left out, so that few are left to compare.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costsim.cost.lives import Interval, Lives, Place
from costsim.cost.measure import Measure
from costsim.cost.memory import is_of_forward
from costsim.cost.reader_lives import by_reader
from costsim.cost.terms import Alternative, Condition, Integers, Sum, Table, Terms
from costsim.errors import InputError
from costsim.graph.graph import Graph, most_in_flight
from costsim.names import PEAK, Traffic
from costsim.policy.space import Outcomes, Space

_LEADERS = 12  # moments with which all are compared, before tables are made
_Bytes = NDArray[np.int64]


class _Entry(NamedTuple):
    """A part of what lies in a place: bytes by value and stretch, and the last kernel of each stretch.

    Stretches are: before the first kernel that touches the place, it, those up to the next, that, and so on.
    """

    of: Outcomes[Any] | frozenset[Condition]  # what has the values; or, as one of two, whether any condition holds
    rows: _Bytes
    ends: _Bytes

    def at(self, moments: _Bytes) -> _Bytes:
        """Bytes at some moments, by value."""
        return self.rows[:, np.searchsorted(self.ends, moments)]


def _rows(place: Place, intervals: Outcomes[tuple[Interval, ...]]) -> _Bytes:
    """By value: bytes in each stretch."""
    last_rank, stretches = len(place.kernels), 2 * len(place.kernels) + 1
    rows = np.zeros((len(intervals.values), stretches), np.int64)
    for row, each in zip(rows, intervals.values, strict=True):
        for first, last, size in each:
            row[0 if first < 0 else 2 * first + 1 : stretches if last == last_rank else 2 * last + 2] += size
    return rows


def _kept(place: Place, intervals: Outcomes[tuple[Interval, ...]], after: int) -> _Bytes:
    """By value, in a column: bytes that lie there from the first kernels, so many, to one behind them that reads."""
    last_rank = len(place.kernels)
    return np.array([[sum(n for a, b, n in each if a < after <= b < last_rank)] for each in intervals.values], np.int64)


class _Lying(NamedTuple):
    """A part of what lies in a place, by value: bytes in each stretch, and kept from the forward for the backward."""

    of: Outcomes[Any] | frozenset[Condition]
    rows: _Bytes
    kept: _Bytes


def _in_place(lives: Lives, place: Place, after: int) -> Iterator[_Lying]:
    """What lies in a place, so many of whose kernels are of the forward."""
    intervals = lives.intervals(place)
    if intervals is not None:
        yield _Lying(intervals, _rows(place, intervals), _kept(place, intervals, after))
        return
    terms = by_reader(lives, place).terms(lives.space)
    for variables, counts in terms.tables:
        numbers = tuple(range(len(counts)))
        rows = counts.astype(np.int64)
        yield _Lying(Outcomes(variables, numbers, numbers), rows, rows[:, [2 * after]])
    for conditions, counts in terms.alternatives:
        rows = np.array([np.zeros_like(counts), counts], np.int64)
        yield _Lying(conditions, rows, rows[:, [2 * after]])


def _entries(lives: Lives) -> Iterator[_Entry]:
    """What lies in memory during a step, place by place, with what other micro-batches in flight have kept."""
    graph, end = lives.graph, lives.group[-1]
    flying = most_in_flight(graph.in_flight)  # of one chunk of layers
    forward_end = max(lives.group[op.position] for op in graph.ops if op.phase == "forward")
    update = max(lives.group[op.position] for op in graph.ops if op.phase != "update") + 1
    for place in lives.places():
        ends = np.array([end for kernel in place.kernels for end in (kernel - 1, kernel)] + [end])
        after = bisect_right(place.kernels, forward_end)
        is_kept = after < len(place.kernels) and is_of_forward(graph.tensors[place.name])
        for of, rows, kept in _in_place(lives, place, after):
            yield _Entry(of, rows, ends)
            if flying > 1 and is_kept:
                others = (flying - 1) * kept
                yield _Entry(of, np.hstack([others, np.zeros_like(others)]), np.array([update - 1, end]))


class _Moments:
    """All that lies in memory during a step."""

    def __init__(self, lives: Lives) -> None:
        self.end = lives.group[-1]
        self.space = lives.space
        self.entries = [entry for entry in _entries(lives) if entry.rows.any()]
        starts = [start for entry in self.entries for start in (0, *(entry.ends[:-1] + 1).tolist())]
        self.starts = np.array(starts, np.int64)  # the first moment of each stretch of all entries
        lengths = [0, *(len(entry.ends) for entry in self.entries)]
        self.firsts = np.cumsum(lengths)[:-1]  # of these, the place of each entry's first

    def _summed(self, every: Iterable[_Bytes]) -> _Bytes:
        """By moment: the sum of what each entry has in the stretch that it is in."""
        values = np.concatenate([np.zeros(1, np.int64), *every])
        changes = np.diff(values)
        changes[self.firsts] = values[1:][self.firsts]  # nothing of it came before
        change = np.zeros(self.end + 2, np.int64)
        np.add.at(change, self.starts, changes)
        return np.cumsum(change)[:-1]

    def bounds(self) -> tuple[_Bytes, _Bytes]:
        """By moment: no policy has less, and none more."""
        rows = [entry.rows for entry in self.entries]
        return self._summed(of.min(axis=0) for of in rows), self._summed(of.max(axis=0) for of in rows)

    def above(self, leader: int) -> _Bytes:
        """By moment: by how much it may be above that of the leader, at most."""
        places = [(rows, bisect_left(ends.tolist(), leader)) for _, rows, ends in self.entries]
        return self._summed((rows - rows[:, [at]]).max(axis=0) for rows, at in places)

    def terms(self, moments: _Bytes) -> Terms:
        """The bytes at some moments, a column each."""
        total = Sum()
        for entry in self.entries:
            rows = entry.at(moments)
            if isinstance(entry.of, Outcomes):
                table = Table(entry.of.variables, rows[list(entry.of.which)])
                total.include(Terms(self.space, (table,), ()))
            else:
                total.include(Terms(self.space, (), (Alternative(entry.of, rows[1]),)))
        return total.terms(self.space)


def _candidates(of: _Moments) -> _Bytes:
    """The moments of a step that some policy may have its peak in, but for those that a few leaders exceed."""
    moments = np.arange(of.end + 1)
    low, high = of.bounds()
    leaders: list[int] = []
    while len(leaders) < _LEADERS:
        left = np.flatnonzero(~np.isin(moments, leaders))
        if not len(left):
            break
        leader = int(moments[left[np.argmax((low + high)[moments[left]])]])
        leaders.append(leader)
        moments = moments[(of.above(leader)[moments] > 0) | (moments == leader)]
    return moments


def pruned(terms: Terms) -> list[int]:
    """Of columns: those that no other reaches under every policy."""
    every = [table.counts for table in terms.tables]
    every += [np.array([np.zeros_like(counts), counts]) for _, counts in terms.alternatives]
    largest: _Bytes = np.sum([rows.max(axis=0) for rows in every], axis=0)
    kept: list[int] = []
    for column in np.argsort(-largest, kind="stable").tolist():
        above: _Bytes = np.sum([(rows[:, [column]] - rows[:, kept]).max(axis=0) for rows in every], axis=0)
        if not (above <= 0).any():
            kept.append(column)
    return sorted(kept)


def _columns(terms: Terms, columns: Sequence[int], since: int, number: int) -> Terms:
    """Some columns of terms, from a place on among so many."""

    def placed(counts: Integers) -> Integers:
        wide = np.zeros((*counts.shape[:-1], number), np.int64)
        wide[..., since : since + len(columns)] = counts[..., columns]
        return wide

    return Terms(
        terms.space,
        tuple(table._replace(counts=placed(table.counts)) for table in terms.tables),
        tuple(each._replace(counts=placed(each.counts)) for each in terms.alternatives),
    )


def peak_memory(graph: Graph, space: Space, traffic: Traffic, phases: Iterable[int]) -> Measure:
    """Peak bytes of a step, in the one of some phases of a policy in which they are most, whatever the scope.

    The same integers as `memory.of_policy`. Raises InputError for choices that do not fit, for a place of which too
    many choices decide together how long it is kept, and for a stage of a pipeline in several chunks.
    """
    if len(graph.in_flight) > 1:
        raise InputError(f"{PEAK}: not searched where a stage has several chunks of layers; leave parallel.chunks out")
    every = []
    for index in phases:
        moments = _Moments(Lives(graph, space, index, traffic))
        terms = moments.terms(_candidates(moments))
        every.append((terms, pruned(terms)))
    number, total = sum(len(kept) for _, kept in every), Sum()
    since = 0
    for terms, kept in every:
        total.include(_columns(terms, kept, since, number))
        since += len(kept)
    whole = total.terms(space)
    kept = pruned(whole)
    return Measure(space, Terms(space, (), ()), (_columns(whole, kept, 0, len(kept)),))
