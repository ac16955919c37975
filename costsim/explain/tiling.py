"""The traffic that a finite buffer adds to an op, step by step: how its GEMM is cut, how often each operand is read."""

from collections.abc import Iterator

from costsim.cost.gemm import Gemm, Tiling, best, problem
from costsim.cost.row import Row, moves_by_name
from costsim.explain.derive import Derived
from costsim.explain.formula import Part, Step, worked
from costsim.graph.graph import Graph

_SOURCE = "traffic model tiled; Hong & Kung, STOC 1981; Smith et al., arXiv:1702.02017"
_FLASH = "flash attention in blocks that fit the buffer; Dao, arXiv:2307.08691, algorithms 1 and 2"


def _tiles(gemm: Gemm, cut: Tiling) -> dict[str, Part]:
    """How many tiles lie along each dim of a GEMM."""
    sizes = zip(("m", "n", "k"), (gemm.m, gemm.n, gemm.k), cut.tile, strict=True)
    return {
        dim: Part(f"ceil({size} / {tile}) tiles along {dim}", size // tile + (size % tile > 0))
        for dim, size, tile in sizes
    }


# How many passes a stationary operand leaves to the others: over which dim's tiles a, b and the sums go again.
_PASSES = {"output": ("n", "m", None), "a": (None, "m", "k"), "b": ("n", None, "k")}


def _gemm_steps(derived: Derived, row: Row, gemm: Gemm, cut: Tiling, buffer_bits: int) -> Iterator[Step]:
    """How a GEMM is cut into tiles, and the bits that all passes over them move."""
    sizes = f"m {gemm.m}, n {gemm.n}, k {gemm.k}" + (f", {gemm.batch} of them one by one" if gemm.batch > 1 else "")
    tile = " x ".join(map(str, cut.tile))
    why = f"the least traffic for a buffer of {buffer_bits // 8} byte; {_SOURCE}"
    yield Step("tiling", f"m x n x k: {sizes}", f"tiles of {tile}", f"{cut.stationary}-stationary", "", why)
    along, passes = _tiles(gemm, cut), _PASSES[cut.stationary]
    done: set[int] = set()
    for move in row.moves:
        if not move.read_bits:
            continue
        name, over = move.tensor(derived.op), passes[move.slot] if move.slot not in done else None
        done.add(move.slot)  # a second read, for the scale of the whole tensor, is a pass of its own
        if over is None or along[over].value == 1:
            continue
        term = [Part("one pass", move.read_bits), along[over]]
        step = worked(f"DRAM read, {name}, all passes", [term], "bit", _SOURCE)
        yield step
        read, written = derived.moved[name]
        derived.moved[name] = (read - move.read_bits + step.whole, written)
    spilled = passes[2]
    if spilled is not None and row.pair is not None and along[spilled].value > 1:
        accumulator = row.pair[2]
        sums = [Part("batch", gemm.batch), Part("m", gemm.m), Part("n", gemm.n)]
        again = Part(f"{along[spilled].symbol} but one", int(along[spilled].value) - 1)
        term = [
            *sums,
            Part(f"bits of {accumulator.name}", accumulator.element_bits),
            again,
            Part("runs", derived.op.times),
        ]
        name = f"{derived.op.outputs[0]}@sums.{accumulator.name}"
        why = f"sums leave the chip between passes over k; {_SOURCE}"
        bits = [worked(f"DRAM {way}, {name}", [term], "bit", why) for way in ("written", "read")]
        yield from bits
        derived.moved[name] = (bits[1].whole, bits[0].whole)


def _counted_steps(derived: Derived, tiled: Row) -> Iterator[Step]:
    """The bits that a hand-written kernel moves in all passes, as counted, and how many times one pass that is."""
    moved = moves_by_name(tiled, derived.op)
    for name, now in moved.items():
        before = derived.moved.get(name, (0, 0))
        for way, once, total in zip(("read", "written"), before, now, strict=True):
            if once != total:
                factor = f"{total / once:.6g} times one pass; " if once else ""
                terms = [[Part("one pass", once)], [Part("again", total - once)]]
                yield worked(f"DRAM {way}, {name}, all passes", terms, "bit", factor + _FLASH)
    derived.moved = moved


def add_passes(derived: Derived, graph: Graph, compulsory: Row, tiled: Row, buffer_bytes: int) -> None:
    """Add the steps and bits that a buffer makes an op move again; nothing if all is moved once."""
    if compulsory.moves == tiled.moves:
        return
    gemm = None if derived.op.kernel else problem(graph, compulsory)
    if gemm is None:
        steps = list(_counted_steps(derived, tiled))
    else:
        steps = list(_gemm_steps(derived, compulsory, gemm, best(gemm, 8 * buffer_bytes), 8 * buffer_bytes))
    for step in steps:
        derived.add(step)
