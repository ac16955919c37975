"""What a collective adds up and sends, derived from dims: shares, rounds of a ring, and the bits of a message."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from costsim.explain.formula import Part, Step, worked
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims
from costsim.names import Collective

# How often a rank sends a share for each other rank, and why: by collective.
ROUNDS: Mapping[str, tuple[int, str]] = {
    "all_gather": (1, "each share but the next rank's own passes by"),
    "reduce_scatter": (1, "a part of each other rank's sum passes by"),
    "all_reduce": (2, "a reduce-scatter, then an all-gather"),
    "all_to_all": (1, "to each other rank its part"),
    "send": (1, "to the stage behind, or of a gradient to the one before"),
}
# What else than shares for other ranks is sent: by collective and algorithm.
_TREES = "up and down two trees, each of half the tensor, in one of which the rank is no leaf"
_BLOCKS = "blocks whose distance has bit k set, for each k"
_REDUCING = ("all_reduce", "reduce_scatter")


def _elements(graph: Graph, dims: Dims) -> int:
    elements = 1
    for dim in dims:
        elements *= graph.sizes[dim]
    return elements


def _ceiling(what: str, a: int, b: int, source: str) -> Step:
    return Step(what, "ceil(elements / ranks)", f"ceil({a} / {b})", a // b + (a % b > 0), "", source)


def added(graph: Graph, op: Op) -> tuple[str, list[Step], list[list[Part]]]:
    """The operation with which a collective reduces, the steps to a share, and the terms; "" if it does not."""
    if op.kind.collective not in _REDUCING:
        return "", [], []
    ranks, x = graph.mesh[op.params["axis"]].ranks, graph.tensors[op.inputs[0]].dims
    share = _ceiling("elements of a share", _elements(graph, x), ranks, "each rank reduces a share")
    runs = [Part("runs", op.times)] if op.times != 1 else []
    term = [*runs, Part("other ranks", ranks - 1), Part("elements of a share", share.whole)]
    return "cmp" if op.kind.name.endswith("_max") else "add", [share], [term]


def part_sent(graph: Graph, op: Op) -> Dims | None:
    """The dims of what a rank packs for another; None for a share of a flattened tensor."""
    x, y = (graph.tensors[name].dims for name in (op.inputs[0], op.outputs[0]))
    if op.kind.collective == "all_reduce":
        return None
    if op.kind.collective == "all_to_all":
        return tuple(a if graph.sizes[a] < graph.sizes[b] else b for a, b in zip(x, y, strict=True))
    return x if op.kind.collective in ("all_gather", "send") else y


def flat_share(graph: Graph, op: Op, format: Format) -> list[Step]:
    """The steps to the bits of a share of a flattened tensor, the last of which they are."""
    ranks, x = graph.mesh[op.params["axis"]].ranks, graph.tensors[op.inputs[0]].dims
    share = _ceiling("elements of a share", _elements(graph, x), ranks, "flattened, the last is filled up")
    terms = [[Part("codes", format.codes(share.whole)), Part(f"bits of {format.name}", format.element_bits)]]
    terms += [[Part(f"{of.kind}s", of.number(share.whole, 1)), Part("bits of each", of.bits)] for of in format.scales]
    return [share, worked("bits of a share", terms, "bit", f"{format.name}: {format.source}")]


def shares(collective: str, algorithm: str, ranks: int, of: str = "ranks") -> tuple[list[Part], str]:
    """How many shares a rank sends, as factors, and why; `of`: what ranks are called."""
    rounds, why = ROUNDS[collective]
    if collective == "send":
        return [], why
    if (collective, algorithm) == ("all_reduce", "tree"):
        if ranks == 3:
            return [Part("halves", 3), Part(of, ranks), Part("halves in a whole", 2, under=True)], _TREES
        return [Part("tensors", 1 if ranks == 2 else 2), Part(of, ranks)], _TREES
    if (collective, algorithm) == ("all_to_all", "bruck"):
        return [Part("blocks", sum(bin(distance).count("1") for distance in range(ranks)))], _BLOCKS
    return [*([Part("rounds", rounds)] if rounds != 1 else []), Part(f"other {of}", ranks - 1)], why


def waits(collective: str, algorithm: str, ranks: int) -> int:
    """How many sends of a collective wait for each other."""
    if algorithm == "direct" or collective == "send":
        return 1
    doublings = next(k for k in range(ranks) if 2**k >= ranks)
    return ROUNDS[collective][0] * (ranks - 1 if algorithm == "ring" else doublings)


def sent(graph: Graph, op: Op, share: Step) -> Step:
    """What a rank sends in a step."""
    ranks, does, what = graph.mesh[op.params["axis"]].ranks, op.kind.collective, f"sent to ranks of {op.params['axis']}"
    algorithm = graph.exchange.algorithms.get(cast(Collective, does), "ring")
    runs = [Part("runs", op.times)] if op.times != 1 else []
    factors, why = shares(does, algorithm, ranks)
    step = worked(what, [[*runs, *factors, Part(share.what, share.whole)]], "bit", why)
    if not any(factor.under for factor in factors):
        return step
    each = -(-math.prod(factor.value for factor in factors if not factor.under) * share.whole // 2)  # of halves
    return replace(step, formula=f"{step.formula}, of each run rounded up", result=op.times * int(each))
