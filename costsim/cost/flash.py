"""What flash attention moves under a finite buffer, in blocks that fit.

It is one kernel under every traffic model. Its forward goes over blocks of rows of q and, inside, over the keys (Dao,
arXiv:2307.08691, algorithm 1); its backward over blocks of keys and, inside, over the rows (algorithm 2). What the
model assumes of a buffer besides is in `tiling`. Blocks of keys that no query of a block of rows meets are skipped.
Convolutions, the other kernels that are written by hand, move what they move in `fused`.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from costsim.cost.gemm import Share, buffer_text, extra_copy, gemm_sizes, most_steps, read_times, spilled
from costsim.cost.row import Move, Row, each_op
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.graph.pairs import Pairs

Numbered = tuple[int, Op, Row]  # the number of a row, one op of it, and the row
Changed = dict[int, tuple[Move, ...]]  # by number of row: what it moves instead
At = tuple[int, int]  # the number of a row, and of a move of it


def tile_written_kernels(
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
    split: dict[int, dict[tuple[Move, ...], list[Op]]] = {}
    for kernel_rows in members.values():
        repeated = next((op.recomputes for _, op, _ in kernel_rows if op.recomputes), None)
        result_bits = _result_bits(members.get(kernel_of.get(repeated or "", ""), ()))
        key = (tuple([i for i, _, _ in kernel_rows]), result_bits)
        if key not in known:
            known[key] = _flash(graph, kernel_rows, result_bits, buffer_bits)
        for i, op, row in kernel_rows:
            split.setdefault(i, {}).setdefault(known[key].get(i, row.moves), []).append(op)
    return split


def _result_bits(forward: Iterable[Numbered]) -> int:
    """Bits of the result of a forward kernel's last GEMM as they lie in DRAM, for all its runs."""
    last = [row for _, _, row in forward if row.gemm is not None][-1:]
    return next((move.written_bits for row in last for move in row.moves if move.written_bits), 0)


def _sides(members: Sequence[Numbered]) -> tuple[list[At], list[At]]:
    """The reads that lie along the rows of scores (q, dO, log-sum-exp), and along the columns (k, v, masked keys).

    One along both, such as a mask of all scores, is in neither: each block needs its own part once.
    """
    rows: list[At] = []
    columns: list[At] = []
    for i, op, row in members:
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
    pairs: Pairs | None  # of queries, which are rows, and columns, if not all meet
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
        return self.accumulator.element_bits * elements

    def blocks(self, size: int, held: Share, beside: Share, scores: int, buffer_bits: int) -> int:
        """How many blocks `size` rows (or columns) are cut into, if one lies on chip with a column (or row) beside it.

        `scores` sums are kept for each point of the block. Raises InputError if not even one row fits.
        """
        most = most_steps(buffer_bits - beside.of(1), size, held, Share(self.sums(scores), 1), 1)
        if not most:
            least = held.of(1) + beside.of(1) + self.sums(scores)
            raise InputError(
                f"{buffer_text(buffer_bits)} is too small for flash attention: a row of each operand and its sums take "
                f"{-(-least // 8)} byte"
            )
        return -(-size // most)

    def passes(self, blocks: int, tokens: int, read: Callable[[Pairs, int], int]) -> Fraction:
        """How often blocks of one side read the other's tokens: once each, but for what no token of the block meets."""
        return Fraction(blocks) if self.pairs is None else Fraction(read(self.pairs, blocks), tokens)

    def repeat(self, reads: Iterable[At], times: Fraction) -> None:
        """Have these read so many times as often."""
        for i, j in reads:
            self.moves[i][j] = read_times(self.moves[i][j], times)


def _flash(graph: Graph, members: Sequence[Numbered], result_bits: int, buffer_bits: int) -> Changed:
    """What the rows of one flash kernel move, where a buffer does not hold all that is used again; {} if it does.

    Sums have the accumulator's width. Heads of queries that share a head of keys make up one block of rows.
    Raises InputError if the buffer is too small.
    """
    gemms = [(op, row) for _, op, row in members if row.gemm is not None]
    if len(gemms) < 2 or gemms[0][0].gemm != "forward" or gemms[0][1].pair is None:
        return {}  # a convolution, which has one product
    scores, pair = gemms[0][0], gemms[0][1].pair
    batch, m, n, _ = gemm_sizes(graph, scores)
    pairs = graph.ragged(graph.tensors[scores.outputs[0]].dims)
    n = n if pairs is None else pairs.tokens
    moves = {i: list(row.moves) for i, _, row in members}
    kernel = _Flash(batch, m, n, pairs, pair[2], scores.times, moves, *_sides(members))
    if all(op.gemm == "forward" for op, _ in gemms):
        result = graph.elements(graph.tensors[gemms[-1][0].outputs[0]].dims)
        _forward(kernel, result, buffer_bits)
    else:
        _backward(graph, kernel, members, result_bits, buffer_bits)
    return {i: tuple(changed) for i, changed in moves.items()}


def _forward(kernel: _Flash, result: int, buffer_bits: int) -> None:
    """Blocks of rows: k and v are read for each. Or all keys stay, and rows pass by.

    A block keeps q, the sums of the result, the largest score and the sum of each row, and a column of scores.
    """
    rows, columns = kernel.batch * kernel.rows, kernel.batch * kernel.columns
    held = Share(kernel.bits(kernel.along_rows) + kernel.sums(result + 2 * rows), rows)
    keys = Share(kernel.bits(kernel.along_columns), columns)
    if keys.of(kernel.columns) + held.of(1) + kernel.sums(kernel.columns) > buffer_bits:
        blocks = kernel.blocks(kernel.rows, held, keys, 1, buffer_bits)
        kernel.repeat(kernel.along_columns, kernel.passes(blocks, kernel.columns, Pairs.keys_read))


def _backward(graph: Graph, kernel: _Flash, members: Sequence[Numbered], result_bits: int, buffer_bits: int) -> None:
    """Blocks of keys: q, dO and log-sum-exp are read for each, and the sums of dq leave the chip in between.

    A block keeps k, v, the sums of their gradients, and of one row p, dp and dq. What is subtracted from each row of dp
    (delta) is made beforehand if there are several blocks, by a pass that reads the result and dO; it is written then,
    and read for each block.
    """
    written = [
        (i, op, graph.elements(graph.tensors[op.outputs[0]].dims))
        for i, op, row in members
        if op.gemm and any(move.written_bits for move in row.moves)
    ]
    rows, columns = kernel.batch * kernel.rows, kernel.batch * kernel.columns
    gradients = {side: sum(n for _, op, n in written if op.gemm == side) for side in ("dgrad", "wgrad")}
    held = Share(kernel.bits(kernel.along_columns) + kernel.sums(gradients["wgrad"]), columns)
    beside = Share(kernel.bits(kernel.along_rows) + kernel.sums(gradients["dgrad"] + rows), rows)
    blocks = kernel.blocks(kernel.columns, held, beside, 2, buffer_bits)
    if blocks == 1:
        return
    upstream = [(i, j) for i, j in kernel.along_rows if _is_upstream(members, i, kernel.moves[i][j])][:1]
    once = [(i, j, kernel.moves[i][j]) for i, j in upstream]
    queries = kernel.rows if kernel.pairs is None else kernel.pairs.queries_number
    passes = kernel.passes(blocks, queries, Pairs.queries_read)
    kernel.repeat(kernel.along_rows, passes)
    for i, op, elements in written:
        if op.gemm == "dgrad":
            again = (passes - 1) * kernel.times
            kernel.moves[i].append(spilled("sums", 2, "gradient", kernel.accumulator, elements, again, again))
    for i, op in [(i, op) for i, op, _ in members if op.gemm is None and op.phase == "backward"][-1:]:
        slot, times = len(op.inputs), kernel.times
        delta = spilled("delta", slot, "gradient", kernel.accumulator, rows, passes * times, times)
        kernel.moves[i].append(delta)
        for at, j, move in once:
            kernel.moves[at][j] = _more(kernel.moves[at][j], move)
            copy = extra_copy("delta", kernel.accumulator, "@delta.of_result")
            kernel.moves[i].append(Move(slot, copy, "activation", result_bits, 0, move.elements))


def _is_upstream(members: Sequence[Numbered], number: int, move: Move) -> bool:
    """Whether a read is of the gradient of the result."""
    gemm = next(op.gemm for i, op, _ in members if i == number)
    return (gemm, move.slot) in (("dgrad", 0), ("wgrad", 1))


def _more(move: Move, other: Move) -> Move:
    """Both reads as one."""
    return move._replace(read_bits=move.read_bits + other.read_bits, elements=move.elements + other.elements)
