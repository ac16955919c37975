"""Collectives: ops in which the ranks of a group exchange what they hold. `axis` names the group's axis of the mesh.

A rank has an operand and a result of its own, as of any op. A row's function takes the operands of all ranks of the
group, in order, and gives the results of all: one process may play all of them, or each its own part. What crosses the
links is counted from `collective`, not by element: see `cost.collectives`. Sums are made where a rank has them anyway,
each rank adding what the others send for its share.

Source of the pairs of forward and backward: Shoeybi et al., arXiv:1909.08053, section 3; Korthikanti et al.,
arXiv:2205.05198, section 4.2.2; of flat shards: Rajbhandari et al., arXiv:1910.02054, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from costsim.graph.kinds import Kind, make_kind
from costsim.graph.ops.register import Array, np
from costsim.graph.pairs import slice_of

COLLECTIVES: dict[str, Kind] = {}

_Run = Callable[..., list[Array]]


def _sum(parts: Sequence[Array]) -> Array:
    return np.add.reduce(np.asarray(parts), axis=0)


def _collective(signature: str, does: str, grad: str | None, **more: Any) -> Callable[[_Run], _Run]:
    """Add a row: `does` is the collective of `cost.collectives` whose messages it sends."""

    def register(run: _Run) -> _Run:
        operand = signature.partition("[")[0]
        grads = {operand: grad} if operand.isidentifier() else {}
        COLLECTIVES[run.__name__] = make_kind(
            run.__name__, signature, run, {}, grads, params=("axis",), fuses=False, collective=does, torch="", **more
        )
        return run

    return register


@_collective("x[...] -> y[...]", "all_reduce", "dy")
def all_reduce(parts: Sequence[Array]) -> list[Array]:
    """y = the sum of all ranks' x, on each. What follows is the same on all, and so is its gradient."""
    return [_sum(parts)] * len(parts)


@_collective("x[...] -> y[...]", "all_reduce", None)
def all_reduce_max(parts: Sequence[Array]) -> list[Array]:
    """y = the largest of all ranks' x, on each."""
    return [np.maximum.reduce(parts)] * len(parts)


@_collective("x[...] -> y[...]", "", "all_reduce(dy)", view=True, lies_in={"y": "x"})
def divide_work(parts: Sequence[Array]) -> list[Array]:
    """y = x, which all ranks have, where each goes on with a part of the work: their gradients are to be summed."""
    return list(parts)


@_collective("x[b s *k] -> y[b t *k]", "all_gather", "reduce_scatter(dy)")
def all_gather(parts: Sequence[Array]) -> list[Array]:
    """y = all ranks' positions of a sequence, one after another."""
    return [np.concatenate(parts, axis=1)] * len(parts)


@_collective("x[b s *k] -> y[b t *k]", "all_gather", "take_share(dy)")
def all_gather_alike(parts: Sequence[Array]) -> list[Array]:
    """y = all ranks' positions, with which all do the same: each has the whole gradient, and takes its share."""
    return all_gather(parts)


@_collective("x[b t *k] -> y[b s *k]", "reduce_scatter", "all_gather(dy)")
def reduce_scatter(parts: Sequence[Array]) -> list[Array]:
    """y = the sum of all ranks' x, of which each has its own positions of a sequence."""
    return list(np.split(_sum(parts), len(parts), axis=1))


@_collective("x[*n] -> y[s]", "reduce_scatter", None, runtime=("shape",))
def reduce_scatter_flat(parts: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """y = the sum of all ranks' x, flattened, of which each has its own share; the last is filled up with zeros."""
    total = _sum(parts).reshape(-1)
    filled = np.concatenate([total, np.zeros(len(parts) * shape[0] - total.size, total.dtype)])
    return list(np.split(filled, len(parts)))


@_collective("x[s] -> y[*n]", "all_gather", None, runtime=("shape",))
def all_gather_flat(parts: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """y = all ranks' shares of a flattened tensor, without what fills up the last."""
    return [np.concatenate(parts)[: math.prod(shape)].reshape(shape)] * len(parts)


@_collective("x[e c *k] -> y[f d *k]", "all_to_all", "all_to_all(dy)", runtime=("shape",))
def all_to_all(parts: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """Tokens to their experts, and back: all experts' rows of each rank become some experts' rows of all ranks.

    x [experts, rows] becomes y [experts of the rank, rows of all], or the other way round.
    """
    n = len(parts)
    if shape[0] < parts[0].shape[0]:
        cut = [np.split(x, n, axis=0) for x in parts]
        return [np.concatenate([of[rank] for of in cut], axis=1) for rank in range(n)]
    cut = [np.split(x, n, axis=1) for x in parts]
    return [np.concatenate([of[rank] for of in cut], axis=0) for rank in range(n)]


def _in_order(ranks: int, tokens: int) -> Array:
    """By position of a sequence: where it is among all ranks' slices, one after another."""
    slices = [np.asarray(run) for rank in range(ranks) for run in slice_of(tokens, ranks, rank)]
    return np.argsort(np.concatenate(slices))


@_collective("x[b t *k] -> y[b s *k]", "all_gather", "ring_scatter(dy)", passes="y")
def ring_gather(parts: Sequence[Array]) -> list[Array]:
    """y = all ranks' slices of a sequence, in its order, as they pass by: keys or values of ring attention.

    Source: Liu et al., Ring Attention, arXiv:2310.01889, algorithm 1; each slice passes n - 1 times, as in NVIDIA's
    Transformer Engine, where the last is not sent home.
    """
    whole = np.concatenate(parts, axis=1)
    return [whole[:, _in_order(len(parts), whole.shape[1])]] * len(parts)


@_collective("x[b s *k] -> y[b t *k]", "reduce_scatter", "ring_gather(dy)", passes="x")
def ring_scatter(parts: Sequence[Array]) -> list[Array]:
    """y = the sum of what all ranks have for a rank's slice: gradients of keys or values, each added as they pass."""
    total = _sum(parts)
    runs = [slice_of(total.shape[1], len(parts), rank) for rank in range(len(parts))]
    return [np.concatenate([total[:, run.start : run.stop] for run in own], axis=1) for own in runs]


@_collective("x[b t *k] -> y[b s *k]", "", "all_gather(dy)", view=True, lies_in={"y": "x"})
def take_share(parts: Sequence[Array]) -> list[Array]:
    """y = a rank's own positions of what all ranks have."""
    return [np.split(x, len(parts), axis=1)[rank] for rank, x in enumerate(parts)]


@_collective("x[t *k] -> y[s *k]", "", None, view=True, lies_in={"y": "x"})
def take_rows_of_share(parts: Sequence[Array]) -> list[Array]:
    """y = a rank's own rows of a table by position."""
    return [np.split(x, len(parts), axis=0)[rank] for rank, x in enumerate(parts)]


@_collective("x[...] -> sent[nothing]", "send", "receive()", unit=("dsent",))
def send(parts: Sequence[Array]) -> list[Array]:
    """To the next stage of a pipeline (or, of a gradient, to the one before); what is left here has no elements.

    Its gradient is received: of the others it is an end of the stage, as the loss is.
    """
    return [x.reshape(-1)[:0] for x in parts]


@_collective("-> y[...]", "receive", None, runtime=("shape",))
def receive(parts: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """y = what the stage before sent, or, of a gradient, the one behind."""
    return [x.reshape(shape) for x in parts]
