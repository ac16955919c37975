"""The best tiling of a GEMM under a finite buffer, exactly.

C[m, n] = sum over k of A[m, k] B[k, n] is cut into tiles of A, B and the sums; one of each is on chip at a time.
Whichever loop over tiles is the innermost, one of the three stays where it is meanwhile:

    output-stationary  A read ceil(n/Tn) times, B ceil(m/Tm) times, no sum leaves the chip before it is done
    A-stationary       A once, B ceil(m/Tm) times, all sums written and read again ceil(k/Tk) - 1 times
    B-stationary       B once, A ceil(n/Tn) times, all sums written and read again ceil(k/Tk) - 1 times

C itself is written once. Sums have the width of the accumulator until they are done. The tile sizes are those of the
least traffic, exactly; a test enumerates all tile sizes and loop orders of small GEMMs and finds the same. The GEMMs of
a batch are problems of their own, one after another. Sources: Hong & Kung, STOC 1981; Smith et al., arXiv:1702.02017.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

from costsim.cost.row import Move, Row
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Kind
from costsim.policy.assign import Copy

# --- one GEMM ---------------------------------------------------------------------------------------------------------


class Gemm(NamedTuple):
    """A batch of products of matrices, and how many bits all of its A, B and sums take."""

    batch: int
    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    sum_bits: int  # in the accumulator's format


class Tiling(NamedTuple):
    """How a GEMM is cut: sizes of tiles, and what that moves besides C."""

    stationary: str  # output, a or b
    tile: tuple[int, int, int]  # of m, n and k
    a_reads: int
    b_reads: int
    spills: int  # how many times all sums are written and read again
    moved_bits: int  # of A, B and sums


class Share(NamedTuple):
    """Bits of so many elements: tiles take their share of them, rounded up."""

    bits: int
    elements: int

    def of(self, elements: int) -> int:
        """Bits of so many of the elements, rounded up."""
        return -(-self.bits * elements // self.elements)


def most_steps(room: int, limit: int, line: Share, area: Share, across: int) -> int:
    """The most t, up to the limit, for which `t` of line and `across` by t of area fit the room; 0 if none does."""
    per_step = line.bits * area.elements + area.bits * across * line.elements
    t = limit if not per_step else min(limit, room * line.elements * area.elements // per_step)
    while t > 0 and line.of(t) + area.of(across * t) > room:  # rounding up takes less than 2 bits
        t -= 1
    return max(t, 0)


def _steps(size: int) -> Iterator[tuple[int, int]]:
    """Each number of tiles that a dim can be cut into, rising, with the least tile: O(sqrt(size)) of them."""
    number = 1
    while True:
        tile = -(-size // number)
        yield number, tile
        if tile == 1:
            return
        number = -(-size // (tile - 1))


class _Loop(NamedTuple):
    """One of the two dims along which the stationary tile lies."""

    size: int
    bits: int  # moved once for each tile along it
    line: Share  # of what is on chip beside the stationary tile, an element for each of the dim


def _cut(u: _Loop, v: _Loop, area: Share, buffer_bits: int, below: int | None) -> tuple[int, int, int] | None:
    """The tile (of u, of v) of the least u.bits ceil(u/Tu) + v.bits ceil(v/Tv), with that; None if not `below`."""
    if u.size > v.size:
        turned = _cut(v, u, area, buffer_bits, below)
        return turned and (turned[1], turned[0], turned[2])
    best = None
    for number, tile in _steps(u.size):
        if below is not None and u.bits * number + v.bits >= below:
            break  # however large the other
        other = most_steps(buffer_bits - u.line.of(tile), v.size, v.line, area, tile)
        if other:
            moved = u.bits * number + v.bits * -(-v.size // other)
            if below is None or moved < below:
                best, below = (tile, other, moved), moved
    return best


@lru_cache(maxsize=4096)
def best(gemm: Gemm, buffer_bits: int) -> Tiling:
    """The tiling of the least traffic; of equal ones the output-stationary, then the A-stationary.

    Raises InputError if not even a tile of one element of A, of B and a sum fits.
    """
    batch, m, n, k, a_bits, b_bits, sum_bits = gemm
    a, b, c = Share(a_bits, batch * m * k), Share(b_bits, batch * k * n), Share(sum_bits, batch * m * n)
    again = 2 * sum_bits  # written, and read again
    cases = (  # what stays, with its bits; the two dims, with what a tile more along each moves
        ("output", c, 0, _Loop(m, b_bits, a), _Loop(n, a_bits, b)),
        ("a", a, a_bits - again, _Loop(m, b_bits, c), _Loop(k, again, b)),
        ("b", b, b_bits - again, _Loop(n, a_bits, c), _Loop(k, again, a)),
    )
    chosen: Tiling | None = None
    for stationary, area, constant, u, v in cases:
        cut = _cut(u, v, area, buffer_bits, chosen.moved_bits - constant if chosen else None)
        if cut is None:
            continue
        tu, tv, moved = cut
        nu, nv = -(-u.size // tu), -(-v.size // tv)
        tile, reads = {
            "output": ((tu, tv, 1), (nv, nu, 0)),
            "a": ((tu, 1, tv), (1, nu, nv - 1)),
            "b": ((1, tu, tv), (nu, 1, nv - 1)),
        }[stationary]
        chosen = Tiling(stationary, tile, *reads, moved + constant)
    if chosen is None:
        least = a.of(1) + b.of(1) + c.of(1)
        raise InputError(
            f"{buffer_text(buffer_bits)} is too small: one element of each operand and a sum take {least} bit"
        )
    return chosen


def buffer_text(buffer_bits: int) -> str:
    """A buffer of so many bits, in the words of errors."""
    return f"a buffer of {buffer_bits // 8} byte"


# --- rows of counts ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _letters(kind: Kind) -> tuple[tuple[str, ...], ...]:
    """The indices of an equation by where they stand: in all three (batch), not in w (m), not in x (n), not in y (k).

    By letters, not by names of dims: self attention's scores have one name twice.
    """
    x, w, y = (operand.pattern for operand in (*kind.inputs, *kind.outputs))
    every = tuple(dict.fromkeys((*x, *w)))
    batch = tuple(letter for letter in every if letter in x and letter in w and letter in y)
    return (batch, *(tuple(letter for letter in every if letter not in pattern) for pattern in (w, x, y)))


def gemm_sizes(graph: Graph, op: Op) -> tuple[int, int, int, int]:
    """Batch, m, n and k of a contraction."""
    batch, m, n, k = (prod(graph.elements(op.env[letter]) for letter in part) for part in _letters(op.kind))
    return batch, m, n, k


def extra_copy(why: str, format: Format, label: str = "") -> Copy:
    """What stands for values that only cross DRAM because they do not fit on chip, named after a tensor."""
    return Copy(None, format, (), "stored", False, label or f"@{why}.{format.name}", why)


def spilled(
    why: str, slot: int, role: str, format: Format, elements: int, reads: Fraction | int, writes: Fraction | int
) -> Move:
    """What crosses DRAM of values that do not fit on chip: written so many times, and read again."""
    bits = format.element_bits * elements  # they are in the units of what they sum
    moved = int((reads + writes) * elements)
    return Move(slot, extra_copy(why, format), role, int(reads * bits), int(writes * bits), moved)


def read_times(move: Move, reads: Fraction | int) -> Move:
    """A move of what is read so many times as often, to the next whole bit and element."""
    return move._replace(read_bits=ceil(move.read_bits * reads), elements=ceil(move.elements * reads))


def problem(graph: Graph, row: Row) -> Gemm | None:
    """What a row's GEMM is to the buffer, for one of its runs; None if it does not read both operands from DRAM.

    That is one which reads the same thing twice: none that families make. Nor is a product of only those pairs that
    meet cut into tiles: each kernel skips the others in its own way, and what it reads again is not counted.
    """
    op = row.ops[0]
    if graph.ragged(tuple([dim for dims in op.env.values() for dim in dims])) is not None:
        return None
    reads = {move.slot: move.read_bits // op.times for move in reversed(row.moves) if move.read_bits}
    if 0 not in reads or 1 not in reads or row.pair is None:
        return None
    batch, m, n, k = gemm_sizes(graph, op)
    sums = batch * m * n
    return Gemm(batch, m, n, k, reads[0], reads[1], row.pair[2].element_bits * sums)
