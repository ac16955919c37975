"""The model `tiled`: what a finite on-chip buffer makes GEMMs and flash attention move again, at best.

**A GEMM** C[m, n] = sum over k of A[m, k] B[k, n] is cut into tiles of A, B and the sums; one of each is on chip at a
time. Whichever loop over tiles is the innermost, one of the three stays where it is meanwhile:

    output-stationary  A read ceil(n/Tn) times, B ceil(m/Tm) times, no sum leaves the chip before it is done
    A-stationary       A once, B ceil(m/Tm) times, all sums written and read again ceil(k/Tk) - 1 times
    B-stationary       B once, A ceil(n/Tn) times, all sums written and read again ceil(k/Tk) - 1 times

C itself is written once. Sums have the width of the accumulator until they are done. The tile sizes are those of the
least traffic, exactly; a test enumerates all tile sizes and loop orders of small GEMMs and finds the same. The GEMMs of
a batch are problems of their own, one after another. Sources: Hong & Kung, STOC 1981; Smith et al., arXiv:1702.02017.

**Flash attention** is one kernel under every model. Its forward goes over blocks of rows of q and, inside, over the
keys (Dao, arXiv:2307.08691, algorithm 1); its backward over blocks of keys and, inside, over the rows (algorithm 2).

Assumed: a tile takes its share of the tensor's bits as they cross DRAM, scales included, rounded up; copies made on
chip are made as the multipliers are fed, in the work of one read. Nothing stays from one kernel to the next, tiles are
not double-buffered, loops do not turn back (the last tile of one pass is read again for the next), and epilogues,
softmax and norms hold the rows that they need, as under `fused`.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from costsim.cost.count import Move, Row, each_op
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


class _Share(NamedTuple):
    """Bits of so many elements: tiles take their share of them, rounded up."""

    bits: int
    elements: int

    def of(self, elements: int) -> int:
        return -(-self.bits * elements // self.elements)


def _most(room: int, limit: int, line: _Share, area: _Share, across: int) -> int:
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
    line: _Share  # of what is on chip beside the stationary tile, an element for each of the dim


def _cut(u: _Loop, v: _Loop, area: _Share, buffer_bits: int, below: int | None) -> tuple[int, int, int] | None:
    """The tile (of u, of v) of the least u.bits ceil(u/Tu) + v.bits ceil(v/Tv), with that; None if not `below`."""
    if u.size > v.size:
        found = _cut(v, u, area, buffer_bits, below)
        return found and (found[1], found[0], found[2])
    best = None
    for number, tile in _steps(u.size):
        if below is not None and u.bits * number + v.bits >= below:
            break  # however large the other
        other = _most(buffer_bits - u.line.of(tile), v.size, v.line, area, tile)
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
    a, b, c = _Share(a_bits, batch * m * k), _Share(b_bits, batch * k * n), _Share(sum_bits, batch * m * n)
    again = 2 * sum_bits  # written, and read again
    cases = (  # what stays, with its bits; the two dims, with what a tile more along each moves
        ("output", c, 0, _Loop(m, b_bits, a), _Loop(n, a_bits, b)),
        ("a", a, a_bits - again, _Loop(m, b_bits, c), _Loop(k, again, b)),
        ("b", b, b_bits - again, _Loop(n, a_bits, c), _Loop(k, again, a)),
    )
    chosen: Tiling | None = None
    for stationary, area, constant, u, v in cases:
        found = _cut(u, v, area, buffer_bits, chosen.moved_bits - constant if chosen else None)
        if found is None:
            continue
        tu, tv, moved = found
        nu, nv = -(-u.size // tu), -(-v.size // tv)
        tile, reads = {
            "output": ((tu, tv, 1), (nv, nu, 0)),
            "a": ((tu, 1, tv), (1, nu, nv - 1)),
            "b": ((1, tu, tv), (nu, 1, nv - 1)),
        }[stationary]
        chosen = Tiling(stationary, tile, *reads, moved + constant)
    if chosen is None:
        least = a.of(1) + b.of(1) + c.of(1)
        raise InputError(f"{_said(buffer_bits)} is too small: one element of each operand and a sum take {least} bit")
    return chosen


def _said(buffer_bits: int) -> str:
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
    return (batch, *(tuple(letter for letter in every if letter not in its) for its in (w, x, y)))


def _sizes(graph: Graph, op: Op) -> tuple[int, int, int, int]:
    """Batch, m, n and k of a contraction."""
    batch, m, n, k = (prod(graph.elements(op.env[letter]) for letter in part) for part in _letters(op.kind))
    return batch, m, n, k


def _extra(why: str, format: Format, label: str = "") -> Copy:
    """What stands for values that only cross DRAM because they do not fit on chip, named after a tensor."""
    return Copy(None, format, (), "stored", False, label or f"@{why}.{format.name}", why)


def _spilled(why: str, slot: int, role: str, format: Format, elements: int, reads: int, writes: int) -> Move:
    bits = format.stored_bits(elements, elements)
    return Move(slot, _extra(why, format), role, reads * bits, writes * bits, (reads + writes) * elements)


def _times(move: Move, reads: int) -> Move:
    """A move of what is read so many times as often."""
    return move._replace(read_bits=move.read_bits * reads, elements=move.elements * reads)


def problem(graph: Graph, row: Row) -> Gemm | None:
    """What a row's GEMM is to the buffer, for one of its runs; None if it does not read both operands from DRAM.

    That is one which reads the same thing twice: none that families make.
    """
    op = row.ops[0]
    reads = {move.slot: move.read_bits // op.times for move in reversed(row.moves) if move.read_bits}
    if 0 not in reads or 1 not in reads or row.pair is None:
        return None
    batch, m, n, k = _sizes(graph, op)
    sums = batch * m * n
    return Gemm(batch, m, n, k, reads[0], reads[1], row.pair[2].stored_bits(sums, sums))


def _tiled(graph: Graph, row: Row, buffer_bits: int) -> Row:
    """A GEMM's row with what it moves under its best tiling."""
    gemm = problem(graph, row)
    if gemm is None or row.pair is None:
        return row
    found = best(gemm, buffer_bits)
    reads = {0: found.a_reads, 1: found.b_reads}
    moves = []
    for move in row.moves:  # a second read of an operand, for its scale, is a pass of its own
        moves.append(_times(move, reads.pop(move.slot, 1)) if move.read_bits else move)
    if found.spills:
        passes = found.spills * row.ops[0].times
        moves.append(_spilled("sums", 2, row.role, row.pair[2], gemm.batch * gemm.m * gemm.n, passes, passes))
    return row._replace(moves=tuple(moves))


def tile_rows(graph: Graph, rows: Sequence[Row], buffer_bits: int) -> list[Row]:
    """Rows of compulsory traffic with what a buffer of so many bits has to move again; none moves less than before.

    Sums that leave the chip are moved as `<result>@sums.<accumulator>`. Rows of a hand-written kernel may be split,
    where kernels differ elsewhere. Raises InputError if the buffer is too small for any tile.
    """
    written = _written_kernels(graph, rows, buffer_bits)
    found: list[Row] = []
    for i, row in enumerate(rows):
        if i in written:
            found += [row._replace(ops=ops, moves=moves) for moves, ops in written[i].items()]
        else:
            found.append(row if row.gemm is None else _tiled(graph, row, buffer_bits))
    return found


# --- flash attention --------------------------------------------------------------------------------------------------

Numbered = tuple[int, Op, Row]  # the number of a row, one op of it, and the row
Changed = dict[int, tuple[Move, ...]]  # by number of row: what it moves instead
At = tuple[int, int]  # the number of a row, and of a move of it


def _written_kernels(
    graph: Graph, rows: Sequence[Row], buffer_bits: int
) -> dict[int, dict[tuple[Move, ...], list[Op]]]:
    """Of each row of ops in hand-written kernels: its ops by what they move."""
    number = {id(row): i for i, row in enumerate(rows)}
    members: dict[str, list[Numbered]] = {}
    kernel_of: dict[str, str] = {}
    for op, row in each_op(row for row in rows if row.cast is None and row.ops[0].kernel):
        members.setdefault(op.kernel, []).append((number[id(row)], op, row))
        kernel_of[op.name] = op.kernel
    known: dict[tuple[tuple[int, ...], int], Changed] = {}
    found: dict[int, dict[tuple[Move, ...], list[Op]]] = {}
    for its in members.values():
        repeated = next((op.again for _, op, _ in its if op.again), None)
        result_bits = _result_bits(members.get(kernel_of.get(repeated or "", ""), ()))
        key = (tuple([i for i, _, _ in its]), result_bits)
        if key not in known:
            known[key] = _flash(graph, its, result_bits, buffer_bits)
        for i, op, row in its:
            found.setdefault(i, {}).setdefault(known[key].get(i, row.moves), []).append(op)
    return found


def _result_bits(forward: Iterable[Numbered]) -> int:
    """Bits of the result of a forward kernel's last GEMM as they lie in DRAM, for all its runs."""
    last = [row for _, _, row in forward if row.gemm is not None][-1:]
    return next((move.written_bits for row in last for move in row.moves if move.written_bits), 0)


def _sides(its: Sequence[Numbered]) -> tuple[list[At], list[At]]:
    """The reads that lie along the rows of scores (q, dO, log-sum-exp), and along the columns (k, v, masked keys).

    One along both, such as a mask of all scores, is in neither: each block needs its own part once.
    """
    rows: list[At] = []
    columns: list[At] = []
    for i, op, row in its:
        scores = op.kind.outputs[0].pattern
        for j, move in enumerate(row.moves):
            if not move.read_bits:
                continue
            along = op.kind.inputs[move.slot].pattern
            if op.gemm is not None:
                (rows if op.gemm == "wgrad" or move.slot == 0 else columns).append((i, j))
            elif along != scores:
                (columns if along[-1:] == scores[-1:] else rows).append((i, j))
    return rows, columns


class _Flash(NamedTuple):
    """A flash kernel: sizes of the scores, the accumulator, and what the rows move."""

    batch: int
    rows: int
    columns: int
    accumulator: Format
    times: int
    moves: dict[int, list[Move]]  # by number of row
    along_rows: list[At]
    along_columns: list[At]

    def bits(self, reads: Iterable[At]) -> int:
        """Bits of what is read, for one run."""
        return sum(self.moves[i][j].read_bits for i, j in reads) // self.times

    def sums(self, elements: int) -> int:
        """Bits of so many sums."""
        return self.accumulator.stored_bits(elements, elements)

    def blocks(self, size: int, held: _Share, beside: _Share, scores: int, buffer_bits: int) -> int:
        """How many blocks `size` rows (or columns) are cut into, if one lies on chip with a column (or row) beside it.

        `scores` sums are kept for each point of the block. Raises InputError if not even one row fits.
        """
        most = _most(buffer_bits - beside.of(1), size, held, _Share(self.sums(scores), 1), 1)
        if not most:
            least = held.of(1) + beside.of(1) + self.sums(scores)
            raise InputError(
                f"{_said(buffer_bits)} is too small for flash attention: a row of each operand and its sums take "
                f"{-(-least // 8)} byte"
            )
        return -(-size // most)

    def repeat(self, reads: Iterable[At], times: int) -> None:
        """Have these read so many times as often."""
        for i, j in reads:
            self.moves[i][j] = _times(self.moves[i][j], times)


def _flash(graph: Graph, its: Sequence[Numbered], result_bits: int, buffer_bits: int) -> Changed:
    """What the rows of one flash kernel move, where a buffer does not hold all that is used again; {} if it does.

    Sums have the accumulator's width. Heads of queries that share a head of keys make up one block of rows.
    Raises InputError if the buffer is too small.
    """
    gemms = [(op, row) for _, op, row in its if row.gemm is not None]
    if not gemms or gemms[0][0].gemm != "forward" or gemms[0][1].pair is None:
        return {}
    scores, pair = gemms[0][0], gemms[0][1].pair
    batch, m, n, _ = _sizes(graph, scores)
    moves = {i: list(row.moves) for i, _, row in its}
    kernel = _Flash(batch, m, n, pair[2], scores.times, moves, *_sides(its))
    if all(op.gemm == "forward" for op, _ in gemms):
        result = graph.elements(graph.tensors[gemms[-1][0].outputs[0]].dims)
        _forward(kernel, result, buffer_bits)
    else:
        _backward(graph, kernel, its, result_bits, buffer_bits)
    return {i: tuple(changed) for i, changed in moves.items()}


def _forward(kernel: _Flash, result: int, buffer_bits: int) -> None:
    """Blocks of rows: k and v are read for each. Or all keys stay, and rows pass by.

    A block keeps q, the sums of the result, the largest score and the sum of each row, and a column of scores.
    """
    rows, columns = kernel.batch * kernel.rows, kernel.batch * kernel.columns
    held = _Share(kernel.bits(kernel.along_rows) + kernel.sums(result + 2 * rows), rows)
    keys = _Share(kernel.bits(kernel.along_columns), columns)
    if keys.of(kernel.columns) + held.of(1) + kernel.sums(kernel.columns) > buffer_bits:
        kernel.repeat(kernel.along_columns, kernel.blocks(kernel.rows, held, keys, 1, buffer_bits))


def _backward(graph: Graph, kernel: _Flash, its: Sequence[Numbered], result_bits: int, buffer_bits: int) -> None:
    """Blocks of keys: q, dO and log-sum-exp are read for each, and the sums of dq leave the chip in between.

    A block keeps k, v, the sums of their gradients, and of one row p, dp and dq. What is subtracted from each row of dp
    (delta) is made beforehand if there are several blocks, by a pass that reads the result and dO; it is written then,
    and read for each block.
    """
    written = [
        (i, op, graph.elements(graph.tensors[op.outputs[0]].dims))
        for i, op, row in its
        if op.gemm and any(move.written_bits for move in row.moves)
    ]
    rows, columns = kernel.batch * kernel.rows, kernel.batch * kernel.columns
    gradients = {side: sum(n for _, op, n in written if op.gemm == side) for side in ("dgrad", "wgrad")}
    held = _Share(kernel.bits(kernel.along_columns) + kernel.sums(gradients["wgrad"]), columns)
    beside = _Share(kernel.bits(kernel.along_rows) + kernel.sums(gradients["dgrad"] + rows), rows)
    blocks = kernel.blocks(kernel.columns, held, beside, 2, buffer_bits)
    if blocks == 1:
        return
    upstream = [(i, j) for i, j in kernel.along_rows if _is_upstream(its, i, kernel.moves[i][j])][:1]
    once = [(i, j, kernel.moves[i][j]) for i, j in upstream]
    kernel.repeat(kernel.along_rows, blocks)
    for i, op, elements in written:
        if op.gemm == "dgrad":
            passes = (blocks - 1) * kernel.times
            kernel.moves[i].append(_spilled("sums", 2, "gradient", kernel.accumulator, elements, passes, passes))
    for i, op in [(i, op) for i, op, _ in its if op.gemm is None and op.phase == "backward"][-1:]:
        slot, times = len(op.inputs), kernel.times
        delta = _spilled("delta", slot, "gradient", kernel.accumulator, rows, blocks * times, times)
        kernel.moves[i].append(delta)
        for at, j, move in once:
            kernel.moves[at][j] = _more(kernel.moves[at][j], move)
            copy = _extra("delta", kernel.accumulator, "@delta.of_result")
            kernel.moves[i].append(Move(slot, copy, "activation", result_bits, 0, move.elements))


def _is_upstream(its: Sequence[Numbered], number: int, move: Move) -> bool:
    """Whether a read is of the gradient of the result."""
    gemm = next(op.gemm for i, op, _ in its if i == number)
    return (gemm, move.slot) in (("dgrad", 0), ("wgrad", 1))


def _more(move: Move, other: Move) -> Move:
    """Both reads as one."""
    return move._replace(read_bits=move.read_bits + other.read_bits, elements=move.elements + other.elements)
