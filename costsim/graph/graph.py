"""The graph of one training step: tensors with named dims, and ops in execution order.

It has names and sizes, never values. The cost model counts this graph, the reference runs it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from costsim.graph.kinds import Dims, Env, Kind, expand
from costsim.graph.pairs import Pairs, base_of, pairs_of, ragged_dim
from costsim.names import Collective, CollectiveAlgorithm, Gemm, Operand, Values

# The two operands of each GEMM of a layer y = x w, as that layer names them.
GEMM_OPERANDS: Mapping[Gemm, tuple[Operand, Operand]] = {
    "forward": ("x", "w"),
    "dgrad": ("dy", "w"),
    "wgrad": ("x", "dy"),
    "update": ("x", "w"),
}


class Tensor(NamedTuple):  # named tuples: they exist by the thousand, and are cheaper to make than dataclasses
    """A named array. `alias` names the tensor that it overwrites in memory (updates in place)."""

    name: str
    dims: Dims
    role: str
    layer: str
    values: Values = "float"  # an index is an id or a label
    alias: str | None = None
    trainable: bool = True  # False: a weight that gets no gradient
    recomputes: str | None = None  # the forward tensor whose values this one has once more
    share_of: str | None = None  # the weight of which this is a rank's share

    @property
    def original(self) -> str:
        """The name that rules see: what has a tensor's values once more, or a share of them, has that tensor's."""
        return self.recomputes or self.share_of or self.name


# By chunk of layers that a stage of a pipeline works on: numbers of micro-batches, by chunk, that it has begun and not
# ended then, its own included. Of several such there are those that no other exceeds.
InFlight = tuple[tuple[tuple[int, ...], ...], ...]
ALONE: InFlight = (((1,),),)


def most_in_flight(states: InFlight) -> int:
    """The most micro-batches in flight at once, counted in each chunk."""
    return max(sum(state) for of_chunk in states for state in of_chunk)


class MeshAxis(NamedTuple):
    """An axis of the mesh of devices: ranks of a group, and how many places apart two neighbours in it are.

    Of an axis that joins some stages of a pipeline `stages` are these; its stride is the largest between two of them.
    """

    ranks: int
    stride: int
    stages: tuple[int, ...] = ()


class Exchange(NamedTuple):
    """How ranks carry out collectives: by which algorithm each, and whether groups that span nodes work in levels."""

    algorithms: Mapping[Collective, CollectiveAlgorithm] = {}
    levels: bool = True


class Op(NamedTuple):
    """One op: a kind, the tensors it reads and writes, when it runs and how often in a step.

    A product of two matrices has `gemm`: `forward`, or in the backward `dgrad` (the gradient of the first operand) and
    `wgrad` (of the second; in attention that is the key or value, which stands where a layer has its weight); or
    `update`, of what an optimizer makes of gradients.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    phase: str
    layer: str
    times: int  # runs per training step
    gemm: Gemm | None
    params: Mapping[str, Any]
    env: Env  # what the indices of the kind's patterns stand for
    position: int  # in the graph
    kernel: str = ""  # a kernel written for this op and its neighbours, under every traffic model: flash attention
    recomputes: str | None = None  # in phase `recompute`: the forward op that this one repeats
    joins: bool | None = None  # of a traced graph: whether PyTorch does it in one call with the op before

    @property
    def original(self) -> str:
        """The name that rules see: a recomputing op has that of its forward op."""
        return self.recomputes or self.name


AS_RINGS = Exchange()


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole training step. `ops` are in execution order and each tensor is written at most once."""

    sizes: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    micro_batches: int = 1
    pairs: Mapping[str, Pairs] = field(default_factory=dict)  # by name: which tokens meet in attention
    loss: str = ""  # the tensor of which the backward makes the gradients
    mesh: Mapping[str, MeshAxis] = field(default_factory=dict)  # by name; a mesh of devices has one step each
    divided: Mapping[str, str] = field(default_factory=dict)  # by dim of which a rank has a share: the axis
    in_flight: InFlight = ALONE  # micro-batches whose forward has begun here and whose backward has not ended
    layers_of: Mapping[str, int] = field(default_factory=dict)  # by stack: its layers, on whatever stage they are
    exchange: Exchange = AS_RINGS
    frozen_in_flash: bool = False  # whether weights that are not trained lie in flash, and are read from there
    of_structure: Graph | None = None  # the one of which this is the same with other sizes

    @property
    def structure(self) -> Graph:
        """A graph with the same tensors and ops, whose sizes may be others: one for all that differ in these alone."""
        return self.of_structure or self

    def resized(self, sizes: Mapping[str, int]) -> Graph:
        """The same with other sizes; sizes that are not among them stay. Pairs are those of as many tokens."""
        if sizes.items() <= self.sizes.items():
            return self
        pairs = {label: replace(of, tokens=sizes[of.dim] * of.ranks) for label, of in self.pairs.items()}
        graph = replace(self, sizes={**self.sizes, **sizes}, pairs=pairs, of_structure=self.structure)
        vars(graph).update({name: value for name, value in vars(self.structure).items() if name in _OF_STRUCTURE})
        return graph

    @cached_property
    def producer(self) -> Mapping[str, Op]:
        """The op that writes each tensor; tensors given from outside are missing."""
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def stacks(self) -> Mapping[str, int]:
        """By stack of layers: how many it has; where nobody says it, as many as ops are in."""
        number: dict[str, int] = {}
        for layer in {op.layer for op in self.ops}:
            stack, _, place = layer.rpartition(".")
            if place.isdigit():
                number[stack] = max(number.get(stack, 0), int(place) + 1)
        return {**number, **self.layers_of}

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """The weights, each once; of those that a step gathers, the shares."""
        made = self.producer
        return tuple(t for t in self.tensors.values() if t.role == "weight" and t.alias is None and t.name not in made)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters; a tied weight counts once."""
        return sum(self.elements(t.dims) for t in self.weights)

    @cached_property
    def trainable_parameters(self) -> int:
        """Number of parameters that get gradients."""
        trained = (self.tensors[self.parts.get(t.name, t.name)] for t in self.weights if t.trainable)
        return sum(self.elements(tensor.dims) for tensor in trained)

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """By weight of which a share of the channels is trained: the view that is that share."""
        return {
            op.inputs[0]: op.outputs[0] for op in self.ops if op.phase == "update" and op.kind.name == "take_channels"
        }

    @cached_property
    def active_parameters(self) -> int:
        """Number of parameters that work on a token: of experts, which a weight's first dim numbers, those chosen."""
        idle = sum(self.elements(t.dims) for t in self.weights if t.dims[:1] == ("experts",) and len(t.dims) > 1)
        return self.parameters - (idle - idle * self.sizes["chosen"] // self.sizes["experts"] if idle else 0)

    @cached_property
    def _elements(self) -> dict[Dims, int]:
        return {}

    def elements(self, dims: Dims) -> int:
        """Exact number of elements of a tensor with these dims; of ragged ones, those of pairs that meet."""
        number = self._elements.get(dims)
        if number is None:
            number = self._elements[dims] = sum(run * times for run, times in self.runs(dims, dims))
        return number

    def ragged(self, dims: Dims) -> Pairs | None:
        """The pairs that a ragged dim among these stands for, if its queries' dim is there too."""
        dim = ragged_dim(dims) if self.pairs else None
        return None if dim is None else self.pairs[pairs_of(dim)]

    def size(self, dim: str) -> int:
        """The size of a dim; of a ragged one by itself the most keys that a query meets."""
        return self.pairs[pairs_of(dim)].longest if pairs_of(dim) else self.sizes[dim]

    @cached_property
    def _runs(self) -> dict[tuple[Dims, Dims], tuple[tuple[int, int], ...]]:
        return {}

    def runs(self, dims: Dims, along: Dims) -> tuple[tuple[int, int], ...]:
        """The elements of a tensor with these dims in runs along some of them: (elements of a run, number of runs)."""
        runs = self._runs.get((dims, along))
        if runs is None:
            runs = self._runs[dims, along] = self._cut(dims, along)
        return runs

    def _cut(self, dims: Dims, along: Dims) -> tuple[tuple[int, int], ...]:
        pairs = self.ragged(dims)
        if pairs is None:
            run = math.prod(map(self.size, along))
            return ((run, math.prod(map(self.size, dims)) // run if run else 0),)
        rest = math.prod(self.size(dim) for dim in dims if not pairs_of(dim)) // pairs.queries_number
        inner = math.prod(self.size(dim) for dim in along if not pairs_of(dim))
        if self.ragged(along) is not None:  # pairs as a whole
            inner //= pairs.queries_number
            return ((pairs.number * inner, rest // inner),)
        of_queries = pairs.dim in along
        if not of_queries and not any(map(pairs_of, along)):
            return ((inner, pairs.number * rest // inner),)
        inner //= pairs.queries_number if of_queries else 1
        runs = pairs.runs_of_keys if of_queries else pairs.runs
        return tuple((run * inner, times * rest // inner) for run, times in runs.items())

    @cached_property
    def _work(self) -> dict[int, tuple[int, Mapping[str, int]]]:
        return {}

    def work(self, op: Op) -> tuple[int, Mapping[str, int]]:
        """MACs, and operations on elements by name, of all runs of an op in a step."""
        work = self._work.get(op.position)
        if work is None:
            vector: dict[str, int] = self._summed(op) if op.kind.collective else {}
            for pattern, counts in op.kind.work:
                points = self.elements(expand(pattern, op.env)) * op.times
                for name, n in counts.items():
                    vector[name] = vector.get(name, 0) + n * points
            work = self._work[op.position] = vector.pop("mac", 0), vector
        return work

    def _summed(self, op: Op) -> dict[str, int]:
        """Additions (or comparisons) of a collective that reduces: a rank adds what the others send for its share."""
        if op.kind.collective not in ("all_reduce", "reduce_scatter"):
            return {}
        ranks = self.mesh[op.params["axis"]].ranks
        share = -(-self.elements(self.tensors[op.inputs[0]].dims) // ranks)
        return {"cmp" if op.kind.name == "all_reduce_max" else "add": (ranks - 1) * share * op.times}

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor's dims; where it is ragged, of the square that has its pairs."""
        return tuple(self.sizes[base_of(dim)] for dim in self.tensors[name].dims)

    @cached_property
    def root(self) -> Mapping[str, str]:
        """The tensor in whose memory each one lies: itself, or the one that it updates in place."""
        roots: dict[str, str] = {}
        for name, tensor in self.tensors.items():  # a tensor comes after the one that it updates
            roots[name] = name if tensor.alias is None else roots[tensor.alias]
        return roots

    @cached_property
    def _lies_in(self) -> Mapping[str, str]:
        """By tensor that lies in the memory of another, which no op overwrites whole: the other."""
        lies_in: dict[str, str] = {}
        for op in self.ops:
            if op.kind.lies_in:
                names = dict(zip(op.kind.names, op.inputs + op.outputs, strict=True))
                lies_in |= {names[part]: names[whole] for part, whole in op.kind.lies_in.items()}
        return lies_in

    @cached_property
    def place(self) -> Mapping[str, str]:
        """By tensor: as `root`, or the tensor of which it is a view or a part, or whose memory it takes over."""
        if not self._lies_in:
            return self.root
        places: dict[str, str] = {}
        for name in self.tensors:
            way, place = [name], self.root[name]
            while place in self._lies_in and place not in places:
                way.append(place)
                place = self.root[self._lies_in[place]]
            places |= dict.fromkeys(way, places.get(place, place))
        return places

    @cached_property
    def chunk_of(self) -> tuple[int, ...]:
        """By position of an op: the chunk of layers of a pipeline's stage that it belongs to, 0 but for interleaving.

        A chunk begins, forward and backward, where something is received.
        """
        last, behind = len(self.in_flight) - 1, Counter[bool]()
        every: list[int] = []
        for op in reversed(self.ops):
            forward = op.phase == "forward"
            every.append(max(0, last - behind[True]) if forward else min(last, behind[False]))
            behind[forward] += op.kind.collective == "receive"
        return tuple(reversed(every))

    @cached_property
    def shared(self) -> Mapping[str, Sequence[str]]:
        """The tensors in each place that several have, where they are not updates of each other."""
        shared: dict[str, list[str]] = {}
        for name in self._lies_in:
            shared.setdefault(self.place[name], [self.place[name]]).append(name)
        return shared

    @cached_property
    def passing(self) -> Mapping[str, int]:
        """By tensor that passes round a ring of ranks and is never whole: how many shares it has, of which 2 are here.

        One is worked with while the next comes, or the one before goes.
        """
        passing: dict[str, int] = {}
        for op in self.ops:
            if op.kind.passes:
                names = dict(zip(op.kind.names, op.inputs + op.outputs, strict=True))
                passing[names[op.kind.passes]] = self.mesh[op.params["axis"]].ranks
        return passing

    @cached_property
    def viewed(self) -> Mapping[str, str]:
        """By result of a view: the tensor whose bits it has."""
        return {name: op.inputs[0] for op in self.ops if op.kind.view for name in op.outputs}

    @cached_property
    def readers(self) -> Mapping[str, Sequence[tuple[Op, int]]]:
        """The ops that read each tensor, as which operand, in order; tensors that nobody reads are missing."""
        readers: dict[str, list[tuple[Op, int]]] = {}
        for op in self.ops:
            for i, name in enumerate(op.inputs):
                readers.setdefault(name, []).append((op, i))
        return readers

    def reader_number(self, op: Op, operand: int) -> int:
        """The place of an op, by one of its operands, among the `readers` of that operand's tensor."""
        return self._reader_numbers[op.position, operand]

    @cached_property
    def _reader_numbers(self) -> Mapping[tuple[int, int], int]:
        """By position of an op and operand."""
        every = self.readers.values()
        return {(op.position, operand): at for readers in every for at, (op, operand) in enumerate(readers)}

    @cached_property
    def maker(self) -> Mapping[str, Op]:
        """The op that last writes each tensor's memory: for a weight, the update. A view writes nothing."""
        return {self.root[name]: op for op in self.ops if not op.kind.view for name in op.outputs}


# What is worked out of a graph whatever its sizes.
_OF_STRUCTURE = frozenset(
    ["producer", "weights", "root", "_lies_in", "place", "shared", "viewed", "readers", "_reader_numbers", "maker"]
)
