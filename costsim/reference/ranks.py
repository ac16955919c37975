"""Runs the step of one rank on all ranks at once: a thread each, which meet at collectives and exchange packed bits.

What is sent is measured from the lengths of the buffers that are handed over, as traffic is in `accelerator`. Nothing
here reads what the cost model says of collectives.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from queue import Queue
from threading import Barrier
from typing import Any, cast

import numpy as np

from costsim.cost.collectives import ALGORITHMS
from costsim.formats.format import Format
from costsim.formats.pack import pack, unpack
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims
from costsim.graph.pairs import slice_of
from costsim.names import Collective
from costsim.parallel.layout import SHARE
from costsim.policy.assign import Assignment
from costsim.reference.execute import Executor, Run
from costsim.reference.numpy_ops import Array, run_op, runtime
from costsim.reference.plan import Plan

_PATIENCE_S = 60.0  # how long a rank waits for another, which may have failed


def ranks_of(graph: Graph) -> int:
    """How many devices the mesh has."""
    return max((axis.ranks * axis.stride for axis in graph.mesh.values() if not axis.stages), default=1)


def place(graph: Graph, rank: int, axis: str) -> int:
    """The place of a rank on an axis; 0 if the axis has one rank."""
    of = graph.mesh.get(axis)
    if of is not None and of.stages:
        return sum(stage < rank // graph.mesh["pipeline"].stride for stage in of.stages)
    return 0 if of is None else rank // of.stride % of.ranks


def group(graph: Graph, rank: int, axis: str) -> list[int]:
    """The ranks that a rank meets on an axis, in order."""
    of = graph.mesh[axis]
    if of.stages:
        between = graph.mesh["pipeline"].stride
        return [rank % between + stage * between for stage in of.stages]
    first = rank - place(graph, rank, axis) * of.stride
    return [first + i * of.stride for i in range(of.ranks)]


def neighbour(graph: Graph, rank: int, axis: str, steps: int) -> int:
    """The rank so many places further on an axis, behind whose last comes the first."""
    of, at = graph.mesh[axis], place(graph, rank, axis)
    return rank + ((at + steps) % of.ranks - at) * of.stride


# --- what a rank has of a tensor --------------------------------------------------------------------------------------


def cut(graph: Graph, dims: Dims, x: Array, rank: int) -> Array:
    """A rank's share of a tensor whose own dims are these."""
    for at, dim in enumerate(dims):
        for part in dict.fromkeys((dim.removesuffix(SHARE), dim)):  # a share of a slice is cut twice
            if (axis := graph.divided.get(part)) is None:
                continue
            ranks, own = graph.mesh[axis].ranks, place(graph, rank, axis)
            if axis == "context":
                runs = slice_of(x.shape[at], ranks, own)
                x = np.concatenate([x[(slice(None),) * at + (slice(run.start, run.stop),)] for run in runs], axis=at)
            else:
                x = np.split(x, ranks, axis=at)[own]
    return x


def _flat_share(x: Array, ranks: int, at: int, size: int) -> Array:
    """One of so many shares of a flattened tensor, the last of which is filled up."""
    flat = x.reshape(-1)
    return np.concatenate([flat, np.zeros(ranks * size - flat.size, x.dtype)])[at * size : (at + 1) * size]


def own_weights(graph: Graph, weights: Mapping[str, Array], rank: int) -> dict[str, Array]:
    """What a rank keeps of whole weights: its share, flattened where ranks of data share it."""
    own: dict[str, Array] = {}
    gathers = {op.inputs[0]: op for op in graph.ops if op.kind.name == "all_gather_flat" and op.phase == "forward"}
    for tensor in graph.weights:
        gather = gathers.get(tensor.name)
        if gather is None:
            own[tensor.name] = cut(graph, tensor.dims, weights[tensor.name], rank)
            continue
        whole, axis = graph.tensors[gather.outputs[0]], gather.params["axis"]
        mine = cut(graph, whole.dims, weights[whole.name], rank)
        (size,) = graph.shape(tensor.name)
        own[tensor.name] = _flat_share(mine, graph.mesh[axis].ranks, place(graph, rank, axis), size)
    return own


def own_batch(graph: Graph, batch: Mapping[str, Array], rank: int) -> dict[str, Array]:
    """What a rank has of the data of its micro-batch, as far as its stage reads it."""
    read = {name: x for name, x in batch.items() if name in graph.tensors}
    return {name: cut(graph, graph.tensors[name].dims, x, rank) for name, x in read.items()}


# --- exchange ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Exchange:
    """Where ranks leave messages for each other. `sent_bits` are those of each rank, by name of the op."""

    graphs: Sequence[Graph]  # by stage of a pipeline
    plans: Sequence[Plan]
    barriers: dict[tuple[int, ...], Barrier]
    sent_bits: list[dict[str, int]]
    boxes: dict[tuple[tuple[int, ...], int], Array] = field(default_factory=dict)
    mail: dict[tuple[int, int, str], Queue[Array]] = field(default_factory=dict)

    def box(self, sender: int, receiver: int, name: str) -> Queue[Array]:
        """Where one rank leaves something for another, whoever looks there first."""
        return self.mail.setdefault((sender, receiver, name), Queue())  # at once, so that no two threads make one each

    def compute(
        self, rank: int, graph: Graph, op: Op, inputs: Sequence[Array | None], *, seed: int, step: int, micro: int
    ) -> tuple[tuple[Array, ...], int]:
        """The results of one op of a rank, as `run_op`."""
        if "axis" not in op.params:
            own = place(graph, rank, "context")
            return run_op(graph, op, inputs, seed=seed, step=step, micro=micro, rank=own)
        at, axis = place(graph, rank, op.params["axis"]), graph.mesh[op.params["axis"]]
        if not (op.kind.collective or op.kind.view):  # an op on the rank's share of something
            return run_op(graph, op, inputs, seed=seed, step=step, micro=micro, rank=at)
        forward = op.phase == "forward"
        if op.kind.collective == "receive":
            other = neighbour(graph, rank, op.params["axis"], -1 if forward else 1)
            return (self.box(other, rank, _of(op.outputs[0], forward)).get(timeout=_PATIENCE_S),), 0
        (x,) = inputs
        assert x is not None
        if op.kind.collective:
            self._note(graph, op, rank, x)
        if op.kind.collective == "send":
            other = neighbour(graph, rank, op.params["axis"], 1 if forward else -1)
            self.box(rank, other, op.name.removesuffix(".send")).put(x)
            return (x.reshape(-1)[:0],), 0
        parts = self._meet(graph, op, rank, x) if op.kind.collective else [x] * axis.ranks
        return (op.kind.run(parts, **runtime(graph, op, step, None))[at],), 0

    def _note(self, graph: Graph, op: Op, rank: int, x: Array) -> None:
        """Note what a rank sends, in the format in which the op reads its operand."""
        plan, sent = self.plans[place(graph, rank, "pipeline")], self.sent_bits[rank]
        local = plan.local.get((op.position, 0))
        item = (op.inputs[0], local[-1]) if local else plan.loads[op.position, 0]
        bits = _sent_bits(graph, op, x, *plan.format_of(item))
        sent[op.name] = sent.get(op.name, 0) + ceil(bits * _to_rings(graph, op))

    def _meet(self, graph: Graph, op: Op, rank: int, x: Array) -> list[Array]:
        """What all ranks of the group have."""
        members = tuple(group(graph, rank, op.params["axis"]))
        barrier = self.barriers[members]
        self.boxes[members, rank] = x
        barrier.wait(_PATIENCE_S)
        parts = [self.boxes[members, member] for member in members]
        barrier.wait(_PATIENCE_S)  # nobody overwrites what another has not read yet
        return parts


def _of(name: str, forward: bool) -> str:
    """What a message is: a tensor, or the gradient of one."""
    return name if forward else f"{name.rpartition('.grad')[0]}.grad"


def _packed(x: Array, format: Format, axes: tuple[int, ...] | None) -> int:
    """Bits of a message."""
    packed = pack(x, format, axes)
    assert unpack(packed).shape == x.shape
    return packed.bits


def _to_rings(graph: Graph, op: Op) -> Fraction:
    """How many times as much a rank sends by the algorithm that is chosen, of shares that are alike."""
    does = cast(Collective, op.kind.collective)
    ranks, name = graph.mesh[op.params["axis"]].ranks, graph.exchange.algorithms.get(does, "ring")
    first, *_ = ALGORITHMS[does].values()
    return Fraction(ALGORITHMS[does].get(name, first).shards(ranks)) / first.shards(ranks)


def _sent_bits(graph: Graph, op: Op, x: Array, format: Format | None, axes: tuple[int, ...] | None) -> int:
    """What a rank sends: around a ring, or to each other rank its part."""
    if format is None:
        return 0
    ranks = graph.mesh[op.params["axis"]].ranks
    does = op.kind.collective
    if does == "send":
        return _packed(x, format, axes)
    if does == "all_gather":  # of each rank's own, or around a ring
        return (ranks - 1) * _packed(x, format, axes)
    if does == "all_to_all":
        along = 0 if op.kind.inputs[0].pattern[0] and x.shape[0] > graph.shape(op.outputs[0])[0] else 1
        return sum(_packed(part, format, axes) for part in np.split(x, ranks, axis=along)[1:])
    if op.kind.name in ("reduce_scatter", "ring_scatter"):
        return sum(_packed(part, format, axes) for part in np.split(x, ranks, axis=1)[1:])
    size = -(-x.size // ranks)
    chunks = [_flat_share(x, ranks, at, size) for at in range(ranks)]
    once = sum(_packed(chunk, format, None) for chunk in chunks[1:])
    return 2 * once if does == "all_reduce" else once


# --- a step -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RanksRun:
    """What a step left on each rank, and what each sent."""

    runs: Sequence[Run]
    sent_bits: Sequence[Mapping[str, int]]


def run_ranks(
    graphs: Sequence[Graph],
    weights: Mapping[str, Array],
    batches: Sequence[Iterable[Mapping[str, Array]]],
    *,
    assignments: Sequence[Assignment | None] | None = None,
    measure: bool = False,
    seed: int = 0,
    step: int = 1,
) -> RanksRun:
    """A step of all ranks, from whole weights and the micro-batches of each rank of data.

    `graphs` are those of the stages of a pipeline: without one, of the one stage; `assignments` are theirs. Raises what
    a rank raises; the others end then, too.
    """
    number = ranks_of(graphs[0])
    held = list(assignments) if assignments is not None else [None] * len(graphs)
    groups = {tuple(group(graphs[0], rank, axis)) for axis in graphs[0].mesh for rank in range(number)}
    plans = [Plan(graph, of, range(len(graph.ops))) for graph, of in zip(graphs, held, strict=True)]
    barriers = {members: Barrier(len(members)) for members in groups}
    exchange = Exchange(graphs, plans, barriers, [{} for _ in range(number)])

    def of_rank(rank: int) -> Run:
        def compute(*arguments: Any, **options: Any) -> tuple[tuple[Array, ...], int]:
            return exchange.compute(rank, *arguments, **options)

        stage = place(graphs[0], rank, "pipeline")
        graph = graphs[stage]
        executor = Executor(graph, held[stage], seed=seed, measure=measure, compute=compute)
        slices = graph.mesh["context"].ranks if "context" in graph.mesh else 1
        own = [own_batch(graph, batch, rank) for batch in batches[place(graph, rank, "data") // slices]]
        try:
            return executor.step(own_weights(graph, weights, rank), own, step)
        except BaseException:
            for barrier in barriers.values():
                barrier.abort()
            raise

    with ThreadPoolExecutor(number) as pool:
        runs = list(pool.map(of_rank, range(number)))
    return RanksRun(runs, exchange.sent_bits)
