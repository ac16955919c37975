"""Runs a graph in NumPy: the ops that the cost model counts, in the same order, on real numbers in real formats.

Without an assignment every tensor is held as it is computed. With one, every tensor is held in its stored format, every
read goes through its copies, and what crosses between DRAM (packed bits) and the chip is measured: multiplications from
the shapes of the arrays that are handed to matmul, traffic from the lengths of the buffers loaded and stored. Nothing
here, or in `accelerator`, `plan` and `numpy_ops`, reads the cost model or the work that op kinds declare.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from costsim.graph.autodiff import AFTER_FORWARD
from costsim.graph.graph import Graph
from costsim.policy.assign import Assignment
from costsim.reference.accelerator import Accelerator, Clock, Measured, Values
from costsim.reference.numpy_ops import Array, run_op
from costsim.reference.plan import Plan


@dataclass(slots=True)
class Run:
    """What a run left: every tensor (of the last micro-batch), every loss, and by op (and cast) what was measured."""

    values: Values
    losses: list[float]  # one per micro-batch
    measured: dict[str, Measured]

    def weights(self, graph: Graph) -> Values:
        """The weights and states that the next step starts from."""
        updated = (t for t in graph.tensors.values() if t.alias is not None and t.role in ("weight", "state"))
        return {str(tensor.alias): self.values[tensor.name] for tensor in updated}


def _no_time() -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Executor:
    """Runs steps of a graph: weights and states go in by name, and so do the data tensors of each micro-batch.

    Missing states start at 0, the gradient of the loss is 1. The dtype is that of the weights.
    """

    graph: Graph
    assignment: Assignment | None = None  # None: every tensor is held as it is computed
    group: Sequence[int] | None = None  # by position of the op, which kernel it is in; None: each is one by itself
    seed: int = 0  # of dropout
    measure: bool = False  # whether tensors are packed to bits, and these are counted
    clock: Clock = _no_time  # times each op, without holding and packing
    compute: Callable[..., tuple[tuple[Array, ...], int]] | None = None  # of a rank among others: see `ranks`

    def step(self, weights: Mapping[str, Array], batches: Iterable[Mapping[str, Array]], number: int = 1) -> Run:
        """A training step: forward and backward once per micro-batch, then the update; the first has the number 1.

        Raises KeyError for a missing tensor, ValueError if there are not as many batches as the graph has
        micro-batches, or numbers are not finite where a format must have them so.
        """
        return self._run(weights, batches, number, ("forward", *AFTER_FORWARD, "update"))

    def gradients(self, weights: Mapping[str, Array], batches: Iterable[Mapping[str, Array]]) -> Run:
        """As `step`, without the update."""
        return self._run(weights, batches, 1, ("forward", *AFTER_FORWARD))

    def forward(self, weights: Mapping[str, Array], batches: Iterable[Mapping[str, Array]]) -> Run:
        """As `step`, which ends at the loss of each micro-batch."""
        return self._run(weights, batches, 1, ("forward",))

    @cached_property
    def _plan(self) -> Plan:
        return Plan(self.graph, self.assignment, range(len(self.graph.ops)) if self.group is None else self.group)

    def _run(
        self,
        weights: Mapping[str, Array],
        batches: Iterable[Mapping[str, Array]],
        number: int,
        phases: Collection[str],
    ) -> Run:
        accelerator = self._start(weights, number)
        losses = self._micro_batches(accelerator, batches, phases)
        return Run(accelerator.values, losses, accelerator.measured)

    def _start(self, weights: Mapping[str, Array], number: int) -> Accelerator:
        """An accelerator whose DRAM has all that a step starts from."""
        graph = self.graph
        floats = [x.dtype for x in weights.values() if x.dtype.kind == "f"]
        dtype = np.result_type(*floats) if floats else np.dtype(np.float32)
        compute = partial(self.compute or run_op, graph, seed=self.seed, step=number)
        accelerator = Accelerator(self._plan, compute, dtype, self.measure, self.clock)
        for tensor in graph.tensors.values():
            if tensor.name in graph.producer or tensor.alias is not None:
                continue
            if tensor.role == "weight" or tensor.name in weights:
                accelerator.give(tensor.name, weights[tensor.name])
            elif tensor.role == "state":
                accelerator.give(tensor.name, np.zeros(graph.shape(tensor.name), dtype))
            elif tensor.role == "gradient":
                accelerator.give(tensor.name, np.ones(graph.shape(tensor.name), dtype))
        return accelerator

    def _micro_batches(
        self, accelerator: Accelerator, batches: Iterable[Mapping[str, Array]], phases: Collection[str]
    ) -> list[float]:
        """Run some phases once per micro-batch, updates in the last one alone; the losses."""
        graph = self.graph
        given = [t.name for t in graph.tensors.values() if t.role == "data" and t.name not in graph.producer]
        ops = [op for op in graph.ops if op.phase in phases]
        losses: list[float] = []
        number = 0
        for micro, batch in enumerate(batches):
            for name in given:
                accelerator.give(name, batch[name])
            for op in ops:
                if op.kind.collective and op.times < graph.micro_batches:  # once a step: before all others, or after
                    if micro == (0 if op.phase == "forward" else graph.micro_batches - 1):
                        accelerator.run(op, micro, counts=True)
                    continue
                starts = micro < graph.micro_batches - op.times  # the first gradient is the sum: nothing to add yet
                if op.phase == "update":  # after the last micro-batch, or in its backward
                    if not starts:
                        accelerator.run(op, 0, counts=True)
                    continue
                accelerator.run(op, micro, counts=not starts)
            if graph.loss:  # of the stages of a pipeline, the last has it
                losses.append(float(accelerator.values[graph.loss]))
            number += 1
        if number != graph.micro_batches:
            raise ValueError(f"the graph takes {graph.micro_batches} micro-batches, got {number}")
        return losses


def run(
    graph: Graph,
    weights: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    *,
    assignment: Assignment | None = None,
    group: Sequence[int] | None = None,
    seed: int = 0,
    step: int = 1,
    measure: bool = False,
) -> Run:
    """One training step: see `Executor.step`."""
    return Executor(graph, assignment, group, seed, measure).step(weights, batches, step)
