"""The life of a place that hangs on too many readers together for a table: reader by reader.

What is there at a moment is what some later reader wants, and what some earlier op has made. Each of the two is a
question of whether any of some readers does, each by its own few choices. Of A and B, of which one always holds where
either does, both hold as often as A, and B, less that either does: so what lies in memory is a sum of alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from costsim.cost.lives import Lives, Place
from costsim.cost.memory import Key, from_start, to_end
from costsim.cost.terms import Sum
from costsim.cost.traffic import Reading, elsewhere, follow
from costsim.errors import InputError
from costsim.graph.graph import Op
from costsim.policy.assign import Chain, Copy
from costsim.policy.space import Outcomes

_ALWAYS = Outcomes((), (0,), (True,))


class _Touch(NamedTuple):
    """A kernel, by its place among those that touch the place, and when it does."""

    rank: int
    when: Outcomes[bool]


class _ByReader:
    def __init__(self, lives: Lives, place: Place) -> None:
        self.lives, self.graph, self.place = lives, lives.graph, place
        self.end = 2 * len(place.kernels) + 1
        self.total = Sum()

    def error(self) -> InputError:
        """That it cannot be told apart."""
        return InputError(
            f"peak memory: too many groups decide together how long {self.place.name} is kept; "
            "ask for fewer groups or formats"
        )

    def readings(self, name: str) -> Iterator[tuple[Op, int, Outcomes[Chain]]]:
        """Who reads a tensor, in which of the kernels, and through which copies."""
        chains, ranks = self.lives.chains(name), self.place.ranks[name]
        for i, (op, _) in enumerate(self.graph.readers.get(name, ())):
            if not op.kind.view:
                yield op, ranks[i], chains[i]

    def _when(self, name: str, op: Op, chains: Outcomes[Chain], key: Key) -> Outcomes[bool]:
        """When a reader touches what is held of a tensor."""
        made_here = name in self.graph.maker
        so = [self._touches(name, op, follow(chain, made_here), key) for chain in chains.values]
        return self.lives.family.outcomes([chains], partial(self._pick, chains, so))

    def _pick(self, of: Outcomes[Any], so: Sequence[bool], chosen: Mapping[int, int]) -> bool:
        return so[self.lives.family.place(of, chosen)]

    def _touches(self, name: str, op: Op, reading: Reading, key: Key) -> bool:
        for copy, source in reading.casts:
            if source == key.copy and not copy.transient:  # read by the first who wants the copy, whoever that is
                raise self.error()
            if key.copy in (copy, source):
                return True
        return reading.held == key.copy and elsewhere(self.graph, name, op, reading, self.lives.group)

    # --- what is held ---

    def all(self) -> Sum:
        """What lies in the place, by stretch: before its first kernel, in it, up to the next, in that, and so on."""
        standing = self.lives.standing(self.place)
        for name in standing:
            stored = self.lives.stored(name)
            sizes = [self.lives.raw_bytes(name, format) for format in stored.values]
            self.total.add(stored, [[size] * self.end for size in sizes])
        if self.place.name not in standing:
            self._raw()
        self._copies()
        return self.total

    def _copies(self) -> None:
        """The copies of all tensors."""
        touches: dict[Key, list[_Touch]] = {}
        born: dict[Key, int] = {}
        for name in self.place.ranks:
            for copy, made in self._held(name).items():
                key = Key(self.graph.root[name], copy)
                of = [_Touch(rank, self._when(name, op, chains, key)) for op, rank, chains in self.readings(name)]
                touches.setdefault(key, []).extend(of)
                if made:
                    born[key] = self.place.ranks[name][-1]
        for key, of in touches.items():
            assert key.copy is not None
            size = self.lives.copy_bytes(key.name, key.copy)
            if not key.copy.transient:
                self._live(key, of, born.get(key), size)
                continue
            for rank in {touch.rank for touch in of}:
                there = [touch.when for touch in of if touch.rank == rank]
                self._add(there, 2 * rank + 1, 2 * rank + 2, size)

    def _held(self, name: str) -> dict[Copy, bool]:
        """The copies of a tensor that lie in memory, and whether they are made along with it."""
        found: dict[Copy, bool] = {}
        for _, _, chains in self.readings(name):
            for chain in chains.values:
                reading = follow(chain, name in self.graph.maker)
                found |= dict.fromkeys(reading.made, True)
                found |= {copy: False for copy, _ in reading.casts}
        return found

    def _raw(self) -> None:
        """The tensors themselves, which share the place."""
        key = Key(self.place.name, None)
        reads: list[_Touch] = []
        writes: list[_Touch] = []  # whether anybody reads it or not
        born: list[int] = []
        for name, ranks in self.place.ranks.items():
            reads += [_Touch(rank, self._when(name, op, of, key)) for op, rank, of in self.readings(name)]
            producer = self.graph.producer.get(name)
            if producer is not None and not producer.kind.view:
                born.append(ranks[-2])
                if self.graph.root[name] != name or not self.graph.readers.get(name):
                    writes.append(_Touch(ranks[-2], _ALWAYS))
        sizes, family = self.lives.sizes(key.name), self.lives.family
        for size in sizes.values:
            so = [each == size for each in sizes.values]
            of_size = family.outcomes([sizes], partial(self._pick, sizes, so))
            read, written = (
                [_Touch(touch.rank, self._both(touch.when, of_size)) for touch in touches]
                for touches in (reads, writes)
            )
            self._live(key, [*read, *written], min(born, default=None), size)
            if written and key.name not in self.lives.again:  # what nobody reads is a result of the step, and stays
                since = 2 * max(touch.rank for touch in written) + 2
                self._add([touch.when for touch in written], since, self.end, size)
                self._add([touch.when for touch in read], since, self.end, -size)

    def _both(self, a: Outcomes[bool], b: Outcomes[bool]) -> Outcomes[bool]:
        pick = self.lives.family.pick
        return self.lives.family.outcomes([a, b], lambda chosen: pick(a, chosen) and pick(b, chosen))

    # --- how long ---

    def _live(self, key: Key, touches: Sequence[_Touch], born: int | None, size: int) -> None:
        """Add what is there from its birth (if that is always the same) to its last touch."""
        every = [touch.when for touch in touches]
        stays = to_end(self.graph, key, self.lives.lasts)
        ranks = sorted({touch.rank for touch in touches})
        start = 0 if from_start(self.graph, key) else None if born is None else 2 * born + 1
        if stays:
            self._add(every, start or 0, self.end, size)
        else:
            since = start or 0
            for rank in ranks:  # up to it, whoever touches it then or later
                until = 2 * rank + 2
                if until > since:
                    self._add([touch.when for touch in touches if touch.rank >= rank], since, until, size)
                    since = until
        if start is not None:
            return
        for rank, after in zip(ranks, [*ranks[1:], None], strict=True):  # from it on, whoever touched it by then
            until = self.end if after is None else 2 * after + 1
            self._add([touch.when for touch in touches if touch.rank <= rank], 2 * rank + 1, until, size)
        self._add(every, 0, self.end, -size)

    def _add(self, conditions: Sequence[Outcomes[bool]], since: int, until: int, size: int) -> None:
        self.total.add_if_any(conditions, [size if since <= at < until else 0 for at in range(self.end)])


def by_reader(lives: Lives, place: Place) -> Sum:
    """What lies in a place, by stretch, as a sum of alternatives.

    Raises InputError where what a pass reads hangs on which of many readers is the first.
    """
    return _ByReader(lives, place).all()
