"""The model `tiled`: what a finite on-chip buffer makes GEMMs and flash attention move again, at best.

Each GEMM is tiled by itself (`gemm`), each kernel of flash attention goes in blocks (`flash`).

Assumed: a tile takes its share of the tensor's bits as they cross DRAM, scales included, rounded up; copies made on
chip are made as the multipliers are fed, in the work of one read. Nothing stays from one kernel to the next, tiles are
not double-buffered, loops do not turn back (the last tile of one pass is read again for the next), and epilogues,
softmax and norms hold the rows that they need, as under `fused`.
"""

from collections.abc import Sequence

from costsim.cost.flash import tile_written_kernels
from costsim.cost.gemm import best, problem, read_times, spilled
from costsim.cost.row import Row
from costsim.graph.graph import Graph


def tiled_row(graph: Graph, row: Row, buffer_bits: int) -> Row:
    """A GEMM's row with what it moves under its best tiling. Raises InputError if the buffer is too small for any."""
    gemm = problem(graph, row)
    if gemm is None or row.pair is None:
        return row
    tiling = best(gemm, buffer_bits)
    reads = {0: tiling.a_reads, 1: tiling.b_reads}
    moves = []
    for move in row.moves:  # a second read of an operand, for its scale, is a pass of its own
        moves.append(read_times(move, reads.pop(move.slot, 1)) if move.read_bits else move)
    if tiling.spills:
        passes = tiling.spills * row.ops[0].times
        moves.append(spilled("sums", 2, row.role, row.pair[2], gemm.batch * gemm.m * gemm.n, passes, passes))
    return row._replace(moves=tuple(moves))


def tile_rows(graph: Graph, rows: Sequence[Row], buffer_bits: int) -> tuple[Row, ...]:
    """Rows of compulsory traffic with what a buffer of so many bits has to move again; none moves less than before.

    Sums that leave the chip are moved as `<result>@sums.<accumulator>`. Rows of a hand-written kernel may be split,
    where kernels differ elsewhere. Raises InputError if the buffer is too small for any tile.
    """
    written = tile_written_kernels(graph, rows, buffer_bits)
    tiled: list[Row] = []
    for i, row in enumerate(rows):
        if i in written:
            tiled += [row._replace(ops=ops, moves=moves) for moves, ops in written[i].items()]
        else:
            tiled.append(row if row.gemm is None else tiled_row(graph, row, buffer_bits))
    return tuple(tiled)
