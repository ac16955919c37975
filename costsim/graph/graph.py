"""The graph of one training step: tensors with named dims, and ops in execution order.

It has names and sizes, never values. The cost model counts this graph, the reference runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from costsim.graph.kinds import Dims, Env, Kind, expand
from costsim.names import Gemm, Operand, Values

# The two operands of each GEMM of a layer y = x w, as that layer names them.
GEMM_OPERANDS: Mapping[Gemm, tuple[Operand, Operand]] = {
    "forward": ("x", "w"),
    "dgrad": ("dy", "w"),
    "wgrad": ("x", "dy"),
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


class Op(NamedTuple):
    """One op: a kind, the tensors it reads and writes, when it runs and how often in a step.

    A product of two matrices has `gemm`: `forward`, or in the backward `dgrad` (the gradient of the first operand) and
    `wgrad` (of the second; in attention that is the key or value, which stands where a layer has its weight).
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

    @property
    def original(self) -> str:
        """The name that rules see: a recomputing op has that of its forward op."""
        return self.recomputes or self.name


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole training step. `ops` are in execution order and each tensor is written at most once."""

    sizes: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    micro_batches: int = 1

    @cached_property
    def producer(self) -> Mapping[str, Op]:
        """The op that writes each tensor; tensors given from outside are missing."""
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """The weights, each once."""
        return tuple(t for t in self.tensors.values() if t.role == "weight" and t.alias is None)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters; a tied weight counts once."""
        return sum(self.elements(t.dims) for t in self.weights)

    @cached_property
    def trainable_parameters(self) -> int:
        """Number of parameters that get gradients."""
        return sum(self.elements(t.dims) for t in self.weights if t.trainable)

    @cached_property
    def _elements(self) -> dict[Dims, int]:
        return {}

    def elements(self, dims: Dims) -> int:
        """Exact number of elements of a tensor with these dims."""
        number = self._elements.get(dims)
        if number is None:
            number = self._elements[dims] = math.prod(self.sizes[dim] for dim in dims)
        return number

    @cached_property
    def _work(self) -> dict[int, tuple[int, Mapping[str, int]]]:
        return {}

    def work(self, op: Op) -> tuple[int, Mapping[str, int]]:
        """MACs, and operations on elements by name, of all runs of an op in a step."""
        work = self._work.get(op.position)
        if work is None:
            vector: dict[str, int] = {}
            for pattern, counts in op.kind.work:
                points = self.elements(expand(pattern, op.env)) * op.times
                for name, n in counts.items():
                    vector[name] = vector.get(name, 0) + n * points
            work = self._work[op.position] = vector.pop("mac", 0), vector
        return work

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor's dims."""
        return tuple(self.sizes[dim] for dim in self.tensors[name].dims)

    @cached_property
    def root(self) -> Mapping[str, str]:
        """The tensor in whose memory each one lies: itself, or the one that it updates in place."""
        roots: dict[str, str] = {}
        for name, tensor in self.tensors.items():  # a tensor comes after the one that it updates
            roots[name] = name if tensor.alias is None else roots[tensor.alias]
        return roots

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
        """The op that last writes each tensor's memory: for a weight, the update."""
        return {self.root[name]: op for op in self.ops for name in op.outputs}
