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

from collections.abc import Sequence

from costsim.cost.flash import tile_written_kernels
from costsim.cost.gemm import best, problem, read_times, spilled
from costsim.cost.row import Row
from costsim.graph.graph import Graph


def _tiled(graph: Graph, row: Row, buffer_bits: int) -> Row:
    """A GEMM's row with what it moves under its best tiling."""
    gemm = problem(graph, row)
    if gemm is None or row.pair is None:
        return row
    found = best(gemm, buffer_bits)
    reads = {0: found.a_reads, 1: found.b_reads}
    moves = []
    for move in row.moves:  # a second read of an operand, for its scale, is a pass of its own
        moves.append(read_times(move, reads.pop(move.slot, 1)) if move.read_bits else move)
    if found.spills:
        passes = found.spills * row.ops[0].times
        moves.append(spilled("sums", 2, row.role, row.pair[2], gemm.batch * gemm.m * gemm.n, passes, passes))
    return row._replace(moves=tuple(moves))


def tile_rows(graph: Graph, rows: Sequence[Row], buffer_bits: int) -> list[Row]:
    """Rows of compulsory traffic with what a buffer of so many bits has to move again; none moves less than before.

    Sums that leave the chip are moved as `<result>@sums.<accumulator>`. Rows of a hand-written kernel may be split,
    where kernels differ elsewhere. Raises InputError if the buffer is too small for any tile.
    """
    written = tile_written_kernels(graph, rows, buffer_bits)
    found: list[Row] = []
    for i, row in enumerate(rows):
        if i in written:
            found += [row._replace(ops=ops, moves=moves) for moves, ops in written[i].items()]
        else:
            found.append(row if row.gemm is None else _tiled(graph, row, buffer_bits))
    return found
