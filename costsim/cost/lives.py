"""How long what is held of a tensor lies in memory, for any policy of a space: from which kernel to which.

That hangs on who reads the tensor through which copies, so on the choices of its few readers, as its traffic does. What
lies in one place (a tensor, its updates, its views and parts) is worked out together, and once for all that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

from costsim.cost.classes import Alike, KernelClasses, kernel_classes
from costsim.cost.memory import Key, bytes_here, from_start, lasting, made_again, to_end
from costsim.cost.parts import Parts, bits_of
from costsim.cost.read_only import resident_bits
from costsim.cost.traffic import Held, TensorTraffic, tensor_traffic
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.assign import Chain, Copy
from costsim.policy.space import Family, Outcomes, Space

LARGEST = 20_000  # combinations over which the lives of one place are worked out
_NO_COPIES: Outcomes[Chain] = Outcomes((), (0,), ((),))


class Touch(NamedTuple):
    """A kernel that writes or reads what is held of a tensor."""

    held: Held
    site: int  # the number of a reader; after them the op that writes the tensor, and the one that writes it last
    read: bool


class Interval(NamedTuple):
    """Bytes that lie in memory from one kernel to another, both included, of those that touch a place, in order.

    -1 is the start of the step, and one more than the last its end.
    """

    first: int
    last: int
    size_bytes: int


class Place(NamedTuple):
    """A place in memory: the tensors in it, and the kernels that touch it, in order."""

    name: str
    kernels: tuple[int, ...]
    ranks: Mapping[str, tuple[int, ...]]  # by tensor and site: which of the kernels; -1 where no op of the step is


class Lives:
    """The lives of all that is in memory during a step, for any policy of a space, in the phase of that index."""

    def __init__(self, graph: Graph, space: Space, index: int, traffic: Traffic) -> None:
        self.graph, self.space = graph, space
        self.family: Family = space.family(graph, index)
        self.kernels: KernelClasses = kernel_classes(graph, self.family.selectors, traffic)
        self.group = self.kernels.group
        self.parts = Parts(graph, self.kernels)
        self.alike = {op.position: (i, alike) for i, alike in enumerate(self.kernels.alike) for op in alike.ops}
        self.lasts, self.again = lasting(graph), made_again(graph)
        self._chains: dict[int, Outcomes[Chain]] = {}
        self._touches: dict[object, Outcomes[tuple[Touch, ...]]] = {}
        self._lives: dict[object, Outcomes[tuple[Interval, ...]] | None] = {}

    # --- one tensor ---

    def chains(self, name: str) -> list[Outcomes[Chain]]:
        """By reader of a tensor: through which copies that lie in memory it reads."""
        read_as, of = self.family.classes.read_as, self.graph.readers.get(name, ())
        numbers = [read_as.get((op.position, i)) for op, i in of]
        return [_NO_COPIES if number is None else self._chain(number) for number in numbers]

    def _chain(self, number: int) -> Outcomes[Chain]:
        if number not in self._chains:
            of, pick = self.family.chains[number], self.family.pick
            self._chains[number] = self.family.outcomes(
                [of], lambda chosen: tuple([copy for copy in pick(of, chosen) if copy.placement != "on_chip"])
            )
        return self._chains[number]

    def stored(self, name: str) -> Outcomes[Format]:
        """How a tensor is stored."""
        return self.family.stored[self.family.classes.stored_as[name]]

    def ops_of(self, name: str) -> list[Op | None]:
        """The ops that touch a tensor, by site."""
        last = self.graph.maker.get(name)
        return [*(op for op, _ in self.graph.readers.get(name, ())), self.graph.producer.get(name), last]

    def form(self, name: str) -> tuple[object, ...]:
        """What tells from others how a tensor is touched."""
        alike = [None if op is None else self.alike[op.position][0] for op in self.ops_of(name)]
        return self.kernels.traffic_of[name], self.graph.root[name] == name, *alike

    def touches(self, name: str) -> Outcomes[tuple[Touch, ...]]:
        """Who touches a tensor and its copies."""
        form = self.form(name)
        if form not in self._touches:
            chains = self.chains(name)
            self._touches[form] = self.family.outcomes(chains, partial(self._touched, name, chains))
        return self._touches[form]

    def _touched(self, name: str, chains: Sequence[Outcomes[Chain]], chosen: Mapping[int, int]) -> tuple[Touch, ...]:
        graph, read_through = self.graph, [self.family.pick(chain, chosen) for chain in chains]
        traffic = tensor_traffic(graph, name, self.stored(name).values[0], read_through, self.group)
        touches: list[Touch] = []
        for i, (op, slot) in enumerate(graph.readers.get(name, ())):
            if not op.kind.view:
                touches += self._read(traffic, i, self.alike[op.position][1]._replace(ops=[op]), slot)
        first, last, readers = graph.producer.get(name), graph.maker.get(name), len(read_through)
        if first is not None and not first.kind.view and (traffic.written or graph.root[name] != name):
            touches.append(Touch(None, readers, False))
        if last is not None:
            touches += [Touch(copy, readers + 1, False) for copy, is_written in traffic.copies if is_written]
        return tuple(touches)

    def _read(self, traffic: TensorTraffic, i: int, alike: Alike, slot: int) -> Iterator[Touch]:
        for cast in self.parts.casts(alike, slot, traffic):
            for move in cast.part.moves:
                yield Touch(move.copy, i, move.read_bits > 0)
        for move in self.parts.read(alike, slot, traffic).moves:
            yield Touch(move.copy, i, True)

    # --- one place ---

    def places(self) -> Iterator[Place]:
        """All places."""
        members: dict[str, list[str]] = {}
        for name in self.graph.tensors:
            members.setdefault(self.graph.place[name], []).append(name)
        for place, names in members.items():
            ops = {name: self.ops_of(name) for name in names}
            sites = {name: [None if op is None else self.group[op.position] for op in of] for name, of in ops.items()}
            kernels = sorted({kernel for each in sites.values() for kernel in each if kernel is not None})
            rank = {kernel: i for i, kernel in enumerate(kernels)}
            ranks = {name: tuple([-1 if k is None else rank[k] for k in each]) for name, each in sites.items()}
            yield Place(place, tuple(kernels), ranks)

    def intervals(self, place: Place) -> Outcomes[tuple[Interval, ...]] | None:
        """What lies in a place, by choices; None if that hangs on too many of them together."""
        form = self.form_of_place(place.name, place.ranks)
        if form not in self._lives:
            self._lives[form] = self._life(place)
        return self._lives[form]

    def form_of_place(self, place: str, ranks: Mapping[str, tuple[int, ...]]) -> tuple[object, ...]:
        """What tells from others what lies in a place, and how long, in kernels that touch it."""
        graph, tensors, stored_as = self.graph, self.graph.tensors, self.family.classes.stored_as
        members = [
            (self.form(name), of, tensors[name].dims, tensors[name].role, stored_as[name], tensors[name].alias is None)
            + (graph.root[name] == name, name in graph.producer, name in self.lasts, name in self.again)
            + (name in graph.parts, name in graph.passing)
            for name, of in ranks.items()
        ]
        return (place in graph.shared, *members)

    def _life(self, place: Place) -> Outcomes[tuple[Interval, ...]] | None:
        variables = {i for name in place.ranks for each in self.chains(name) for i in each.variables}
        stored = [self.stored(name) for name in place.ranks]
        if prod(self.space.sizes[i] for i in variables.union(*(each.variables for each in stored))) > LARGEST:
            return None
        touches = {name: self.touches(name) for name in place.ranks}
        return self.family.outcomes([*touches.values(), *stored], partial(self._intervals, place, touches))

    def _intervals(
        self, place: Place, touches: Mapping[str, Outcomes[tuple[Touch, ...]]], chosen: Mapping[int, int]
    ) -> tuple[Interval, ...]:
        """What lies in a place, as `memory.memory` has it."""
        raw = {name: self.sizes(name) for name in {place.name, *self.standing(place)}}
        found: dict[Key, list[tuple[int, bool]]] = {}
        for name, of in touches.items():
            for held, site, read in self.family.pick(of, chosen):
                at = place.ranks[name][site]
                if held is None:
                    key = Key(place.name, None)
                else:
                    key = Key(self.graph.root[name], held, at if held.transient else None)
                found.setdefault(key, []).append((at, read))
        for name in self.standing(place):
            found.setdefault(Key(name, None), [(-1, False)])
        lives = []
        for key, sites in found.items():
            unread = not any(read for _, read in sites) and key.name not in self.again
            first = -1 if from_start(self.graph, key) else min(at for at, _ in sites)
            last = len(place.kernels) if unread or to_end(self.graph, key, self.lasts) else max(at for at, _ in sites)
            size = self.copy_bytes(key.name, key.copy) if key.copy else self.family.pick(raw[key.name], chosen)
            lives.append(Interval(first, last, size))
        return tuple(lives)

    def standing(self, place: Place) -> list[str]:
        """What lies there from step to step, read or not."""
        return [name for name in place.ranks if name in self.lasts and self.graph.tensors[name].alias is None]

    def sizes(self, place: str) -> Outcomes[int]:
        """The bytes that tensors take which share a place."""
        parts = [(part, self.stored(part)) for part in self.graph.shared.get(place, (place,))]
        pick = self.family.pick
        return self.family.outcomes(
            [of for _, of in parts], lambda chosen: max(self.raw_bytes(part, pick(of, chosen)) for part, of in parts)
        )

    def raw_bytes(self, name: str, format: Format) -> int:
        """The bytes of a tensor that is stored in a format."""
        return bytes_here(self.graph, name, resident_bits(self.graph, name, format))

    def copy_bytes(self, name: str, copy: Copy) -> int:
        """The bytes of a copy of a tensor."""
        return bytes_here(self.graph, name, bits_of(self.graph, self.graph.tensors[name].dims, copy.axes, copy.format))
