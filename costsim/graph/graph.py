"""The graph of one training step: tensors with named dims, ops in execution order, and the builder that appends them.

Names and sizes only, never values. The cost model counts this graph, the reference runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from costsim.graph.kinds import Dims, Env, Kind, expand

# What the operands of a GEMM are to the layer y = x w, whichever of its three GEMMs reads them.
GEMM_OPERANDS = {"forward": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("x", "dy")}


class Tensor(NamedTuple):  # named tuples: they exist by the thousand, and are cheaper to make than dataclasses
    """A named array. `alias` names the tensor in whose place it is written (updates in place)."""

    name: str
    dims: Dims
    role: str
    layer: str
    values: str = "float"  # float, index (ids and labels) or mask
    alias: str | None = None
    trainable: bool = True  # False: a weight that gets no gradient
    recomputes: str | None = None  # the forward tensor that this one is made again of


class Op(NamedTuple):
    """One op: a kind, the tensors it reads and writes, when it runs and how often in a step.

    `gemm` is set on products of two matrices: `forward`, or in the backward `dgrad` (the gradient of the first operand)
    and `wgrad` (of the second; in attention that is the key or value, which stands where a layer has its weight).
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    phase: str
    layer: str
    times: int  # runs per training step
    gemm: str | None
    params: Mapping[str, Any]
    env: Env  # what the indices of the kind's patterns stand for
    position: int  # in the graph
    kernel: str = ""  # the kernel written for it and its neighbours, whatever the traffic model: flash attention
    recomputes: str | None = None  # the forward op that this one repeats in phase `recompute`

    @property
    def original(self) -> str:
        """The name that rules see: of a repeated op, that of the forward's."""
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
        found = self._elements.get(dims)
        if found is None:
            found = self._elements[dims] = math.prod(self.sizes[dim] for dim in dims)
        return found

    @cached_property
    def _work(self) -> dict[int, tuple[int, Mapping[str, int]]]:
        return {}

    def work(self, op: Op) -> tuple[int, Mapping[str, int]]:
        """MACs, and operations on elements by name, of all runs of an op in a step."""
        found = self._work.get(op.position)
        if found is None:
            vector: dict[str, int] = {}
            for pattern, counts in op.kind.work:
                points = self.elements(expand(pattern, op.env)) * op.times
                for name, n in counts.items():
                    vector[name] = vector.get(name, 0) + n * points
            found = self._work[op.position] = vector.pop("mac", 0), vector
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor's dims."""
        return tuple(self.sizes[dim] for dim in self.tensors[name].dims)

    @cached_property
    def root(self) -> Mapping[str, str]:
        """The tensor whose memory each one takes: itself, or what it updates in place."""
        roots: dict[str, str] = {}
        for name, tensor in self.tensors.items():  # a tensor is made after what it updates
            roots[name] = name if tensor.alias is None else roots[tensor.alias]
        return roots

    @cached_property
    def readers(self) -> Mapping[str, Sequence[tuple[Op, int]]]:
        """The ops that read each tensor, as which operand, in order; tensors that nobody reads are missing."""
        found: dict[str, list[tuple[Op, int]]] = {}
        for op in self.ops:
            for i, name in enumerate(op.inputs):
                found.setdefault(name, []).append((op, i))
        return found

    def reader_number(self, op: Op, operand: int) -> int:
        """Which of the readers of an operand's tensor an op is, in the order of `readers`."""
        return self.readers[op.inputs[operand]].index((op, operand))

    @cached_property
    def maker(self) -> Mapping[str, Op]:
        """The op that last writes each tensor's memory: of a weight, the update."""
        return {self.root[name]: op for op in self.ops for name in op.outputs}
