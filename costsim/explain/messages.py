"""What a collective adds up and sends, derived from dims: shares, rounds of a ring, and the bits of a message."""

from collections.abc import Mapping

from costsim.explain.formula import Part, Step, worked
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims

# How many shares a rank sends on a ring, besides those it has: by collective, factors.
ROUNDS: Mapping[str, tuple[int, str]] = {
    "all_gather": (1, "each share but the next rank's own passes by"),
    "reduce_scatter": (1, "a part of each other rank's sum passes by"),
    "all_reduce": (2, "a reduce-scatter, then an all-gather"),
    "all_to_all": (1, "to each other rank its part"),
    "send": (1, "to the stage behind, or of a gradient to the one before"),
}
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


def sent(graph: Graph, op: Op, share: Step) -> Step:
    """What a rank sends in a step, on a ring."""
    ranks = graph.mesh[op.params["axis"]].ranks
    rounds, why = ROUNDS[op.kind.collective]
    runs = [Part("runs", op.times)] if op.times != 1 else []
    twice = [Part("rounds", rounds)] if rounds != 1 else []
    others = [] if op.kind.collective == "send" else [Part("ranks - 1", ranks - 1)]
    term = [*runs, *twice, *others, Part(share.what, share.whole)]
    return worked(f"sent to ranks of {op.params['axis']}", [term], "bit", why)
