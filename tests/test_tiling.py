"""Traffic under a finite buffer: against an enumeration of all tilings and loop orders, closed forms and relations."""

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import permutations, product

import pytest
from click.testing import CliRunner
from conftest import STEPS, adamw, counted, decoder_step, moves, of_each_op, policy, shipped_policy, spend_all
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from costsim.cli import main
from costsim.cost.gemm import Gemm, best, problem
from costsim.cost.memory import of_policy
from costsim.cost.row import each_op
from costsim.cost.tiling import tile_rows
from costsim.cost.totals import group, sum_rows
from costsim.devices.profile import load_hardware
from costsim.devices.roofline import kernels
from costsim.errors import InputError
from costsim.graph.autodiff import backward
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import COMPARED, MODELS, PATTERNS, UNTILED, _group_ops, group_ops
from costsim.inputs import files
from costsim.inputs.widths import Widths
from costsim.names import SCOPES
from costsim.results.records import published, records
from costsim.run import simulate

MIB = 2**20 * 8  # bits
UNLIMITED = 10**18

# --- one GEMM, against walking through every tiling -------------------------------------------------------------------


def walk(sizes, tile, order):
    """Elements of A, of B and of sums that cross the border of the chip, and the largest tiles held.

    One tile of each is held. A is loaded whenever another tile of it is wanted, so is B; sums that are not done when
    another tile of them is wanted are stored, and loaded when that comes again.
    """
    counts = [-(-size // part) for size, part in zip(sizes, tile, strict=True)]
    extent = [[min(part, size - i * part) for i in range(n)] for size, part, n in zip(sizes, tile, counts, strict=True)]
    held = {"a": None, "b": None, "c": None}
    moved = dict.fromkeys(held, 0)
    done = {}
    for point in product(*(range(counts[axis]) for axis in order)):
        i, j, p = (point[order.index(axis)] for axis in range(3))
        rows, columns, depth = extent[0][i], extent[1][j], extent[2][p]
        if held["a"] != (i, p):
            held["a"] = (i, p)
            moved["a"] += rows * depth
        if held["b"] != (p, j):
            held["b"] = (p, j)
            moved["b"] += depth * columns
        if held["c"] != (i, j):
            if held["c"] is not None and done[held["c"]] < counts[2]:
                moved["c"] += extent[0][held["c"][0]] * extent[1][held["c"][1]]
            if (i, j) in done:
                moved["c"] += rows * columns
            held["c"] = (i, j)
        done[i, j] = done.get((i, j), 0) + 1
    assert set(done.values()) == {counts[2]}
    return moved


def least_of_all(batch, sizes, bits, buffer_bits):
    """The fewest bits over all tile sizes and loop orders; None if no tile fits."""
    m, n, k = sizes
    whole = {"a": batch * m * k, "b": batch * k * n, "c": batch * m * n}
    per_element = {name: Fraction(bits[name], whole[name]) for name in whole}
    found = []
    for tile in product(*(range(1, size + 1) for size in sizes)):
        tm, tn, tk = tile
        room = sum(math.ceil(per_element[x] * part) for x, part in (("a", tm * tk), ("b", tk * tn), ("c", tm * tn)))
        if room <= buffer_bits:
            for order in permutations(range(3)):
                found.append(sum(batch * per_element[x] * n for x, n in walk(sizes, tile, order).items()))
    return min(found, default=None)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 2),
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    bits=st.tuples(*[st.integers(0, 90)] * 3),
    buffer_bits=st.integers(3, 300),
)
def test_the_best_tiling_is_the_best_of_all_tile_sizes_and_loop_orders(batch, sizes, bits, buffer_bits):
    """Stored bits need not be a whole number an element: scales are among them."""
    m, n, k = sizes
    a, b, c = (max(1, extra) + 2 * batch * size for extra, size in zip(bits, (m * k, k * n, m * n), strict=True))
    expected = least_of_all(batch, sizes, {"a": a, "b": b, "c": c}, buffer_bits)
    gemm = Gemm(batch, m, n, k, a, b, c)
    if expected is None:
        with pytest.raises(InputError, match="too small: one element of each operand and a sum take"):
            best(gemm, buffer_bits)
    else:
        found = best(gemm, buffer_bits)
        assert found.moved_bits == expected
        assert found.moved_bits == a * found.a_reads + b * found.b_reads + 2 * c * found.spills


def test_each_kind_of_tiling_is_the_best_somewhere():
    """Sums that stay, an operand that nearly fits: by hand, 8 bit operands and 32 bit sums."""

    def found(m, n, k, bits):
        its = best(Gemm(1, m, n, k, 8 * m * k, 8 * k * n, 32 * m * n), bits)
        return its.stationary, its.a_reads, its.b_reads, its.spills

    assert found(64, 64, 4096, 32 * 32 * 32 + 2 * 32 * 8) == ("output", 2, 2, 0)
    assert found(16, 4096, 16, 8 * 256 + 8 * 16 + 32 * 16) == ("a", 1, 1, 0)  # A fits, with a column of B and of sums
    assert found(4096, 16, 16, 8 * 256 + 8 * 16 + 32 * 16) == ("b", 1, 1, 0)
    assert found(1, 4096, 64, 8 * 32 + 8 * 32 + 32)[3] == 0  # a row of A: its sums one by one


WIDTH = st.sampled_from([2, 4, 8, 16, 32])


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 48)] * 3),
    widths=st.tuples(WIDTH, WIDTH, WIDTH),
    buffer_bits=st.integers(96, 20000),
)
def test_no_tile_size_that_is_skipped_is_better(sizes, widths, buffer_bits):
    """Every pair of tile sizes of each stationary case, not only those that change a number of tiles."""
    m, n, k = sizes
    a, b, c = widths
    costs = []
    for tm, tn, tk in (
        *((tm, tn, 1) for tm in range(1, m + 1) for tn in range(1, n + 1)),
        *((tm, 1, tk) for tm in range(1, m + 1) for tk in range(1, k + 1)),
        *((1, tn, tk) for tn in range(1, n + 1) for tk in range(1, k + 1)),
    ):
        if a * tm * tk + b * tk * tn + c * tm * tn > buffer_bits:
            continue
        nm, nn, nk = -(-m // tm), -(-n // tn), -(-k // tk)
        sums = 2 * (nk - 1) * c * m * n
        costs += [a * m * k * nn + b * k * n * nm] if tk == 1 else []
        costs += [a * m * k + b * k * n * nm + sums, a * m * k * nn + b * k * n + sums]
    assert best(Gemm(1, m, n, k, a * m * k, b * k * n, c * m * n), buffer_bits).moved_bits == min(costs)


@settings(max_examples=100, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 5000)] * 3), buffers=st.tuples(*[st.integers(64, 10**8)] * 2), data=st.data())
def test_a_larger_buffer_never_moves_more_and_none_less_than_once(sizes, buffers, data):
    m, n, k = sizes
    a, b, c = (data.draw(WIDTH) for _ in range(3))
    gemm = Gemm(1, m, n, k, a * m * k, b * k * n, c * m * n)
    assume(min(buffers) >= a + b + c)
    less, more = (best(gemm, size).moved_bits for size in sorted(buffers))
    once = a * m * k + b * k * n
    assert less >= more >= once
    assert best(gemm, UNLIMITED).moved_bits == once
    assert best(gemm, min(a * m * k + b * k + c * m, a * m + b * k * n + c * n)).moved_bits >= once


# --- closed forms: shared/facts/formulas.json, copied -----------------------------------------------------------------

M = N = 4096
K = 1024  # the example of all GEMM formulas of the file


def bytes_of(m, n, k, a, b, c, sums, buffer_bytes):
    """Bytes moved under the best tiling, with C written once; widths in byte."""
    gemm = Gemm(1, m, n, k, 8 * a * m * k, 8 * b * k * n, 8 * sums * m * n)
    return best(gemm, 8 * buffer_bytes).moved_bits // 8 + c * m * n


def test_gemm_bytes_compulsory():
    """bA m k + bB k n + bC m n (calculon, LLMCompass)."""
    assert bytes_of(M, N, K, 2, 2, 2, 4, UNLIMITED) == 50331648


def test_gemm_bytes_output_stationary():
    """bA m k ceil(n/Tn) + bB k n ceil(m/Tm) + bC m n, Tm = Tn = 256: what fits with a column of A and a row of B."""
    assert bytes_of(M, N, K, 2, 2, 2, 4, 256 * 256 * 4 + 256 * 2 + 256 * 2) == 301989888
    tiling = best(Gemm(1, M, N, K, 16 * M * K, 16 * K * N, 32 * M * N), 8 * (256 * 256 * 4 + 1024))
    assert (tiling.stationary, tiling.tile, tiling.a_reads, tiling.b_reads) == ("output", (256, 256, 1), 16, 16)


def test_gemm_bytes_min_mixed():
    """2 m n k sqrt(bA bB bAcc / S) + m n bC: what output-stationary tiles cost at least, continuous and without edges.

    167772160 for k 1024. There it is beaten: rows of A over all of k leave no sums unfinished, and wide sums need no
    room. That pays for k < 2 sqrt(bAcc S / (bA bB)), here 2048.
    """
    assert bytes_of(M, N, K, 1, 1, 2, 4, 262144) < 167772160
    tiling = best(Gemm(1, M, N, K, 8 * M * K, 8 * K * N, 32 * M * N), 8 * 262144)
    assert (tiling.stationary, tiling.tile[2], tiling.spills) == ("a", K, 0)
    longer = 167772160 + 3 * (167772160 - 2 * M * N)  # k 4096
    assert longer <= bytes_of(M, N, 4 * K, 1, 1, 2, 4, 262144) < 1.08 * longer


@settings(max_examples=100, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 3000)] * 3), elements=st.integers(3, 10**6))
def test_no_lower_bound_is_beaten(sizes, elements):
    """2 m n k / sqrt(S) - 2 S (Smith et al., arXiv:1702.02017), and with + m n instead (COSMA, arXiv:1908.09606).

    The second is recalled. It cannot hold for k < 2 sqrt(S), where rows of A over all of k leave no sums unfinished
    (nor where a whole matrix fits): then it is not asked for.
    """
    m, n, k = sizes
    ours = bytes_of(m, n, k, 1, 1, 1, 1, elements)
    leading = 2 * m * n * k / math.sqrt(elements)
    assert ours >= leading - 2 * elements
    assert ours >= m * k + k * n + m * n
    if elements < min(m * k, k * n, m * n) and k >= 2 * math.sqrt(elements):
        assert ours >= leading + m * n


def test_lower_bounds_of_the_file():
    ours = bytes_of(M, N, K, 1, 1, 1, 1, 65536)
    assert ours >= 150994944 >= 134086656  # gemm_lower_bound_cosma, gemm_lower_bound_smith
    assert ours < 1.03 * 151520255.99609378  # gemm_elems_cosma_schedule; tiles here are whole numbers of a side
    assert ours < 249249140.17245993  # gemm_elems_three_tile


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(64, 3000)] * 3),
    widths=st.tuples(*[st.integers(1, 4)] * 3),
    buffer_bytes=st.integers(300, 10**6),
)
def test_output_stationary_is_never_below_the_continuous_minimum(sizes, widths, buffer_bytes):
    m, n, k = sizes
    a, b, c = widths
    tiling = best(Gemm(1, m, n, k, 8 * a * m * k, 8 * b * k * n, 8 * c * m * n), 8 * buffer_bytes)
    if tiling.stationary == "output" and min(tiling.a_reads, tiling.b_reads) > 1:
        assert tiling.moved_bits / 8 >= 2 * m * n * k * math.sqrt(a * b * c / buffer_bytes) * (1 - 1e-12)


# --- whole steps ------------------------------------------------------------------------------------------------------

FAMILIES = {**STEPS, "flash": lambda **changes: decoder_step(attention="flash", **changes)}
FAMILIES["flash-llama"] = lambda **changes: STEPS["llama"](attention="flash", checkpointing="full", **changes)
POLICIES = ("fp32", "dsq", "bf16-mixed", "mxfp8", "fixed16")
SMALL_BUFFERS = (1200, 6000, 20000)  # bits, for steps of a few hundred elements a tensor


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("name", POLICIES)
def test_a_buffer_that_holds_everything_is_fused(family, name):
    graph = family(micro_batches=2)
    for scope in SCOPES:
        rows = counted(graph, shipped_policy(name), "fused", scope)
        assert counted(graph, shipped_policy(name), "tiled", scope) == rows
        assert tile_rows(graph, rows, UNLIMITED) == rows


@pytest.mark.parametrize("name", POLICIES)
def test_no_op_moves_less_than_fused_and_all_compute_the_same(family, name):
    graph = family(micro_batches=2, dropout=0.1)
    fused = each_op(counted(graph, shipped_policy(name), "fused"))
    totals = []
    for buffer_bits in (*SMALL_BUFFERS, UNLIMITED):
        tiled = each_op(tile_rows(graph, counted(graph, shipped_policy(name), "tiled"), buffer_bits))
        assert [(op.name, row._replace(moves=(), ops=[])) for op, row in tiled] == [
            (op.name, row._replace(moves=(), ops=[])) for op, row in fused
        ]
        for (op, row), (_, before) in zip(tiled, fused, strict=True):
            more = len(row.moves) - len(before.moves)
            assert more in (0, 1, 2), op.name
            for now, was in zip(row.moves, before.moves, strict=False):
                assert (now.slot, now.copy, now.written_bits) == (was.slot, was.copy, was.written_bits)
                assert now.read_bits >= was.read_bits
                assert now.elements >= was.elements
            assert row.gemm or not more or op.kernel
        totals.append(sum_rows([row._replace(ops=[op]) for op, row in tiled], "product").dram_bits)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1] or name == "dsq"  # of 2 bit, everything fits


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_alike_is_tiled_alike(family, name):
    """Rows of all ops that are alike, or each op in a row of its own: the same moves."""
    graph = family(micro_batches=2)
    rules = shipped_policy(name)
    numbers = {tensor: (i,) for i, tensor in enumerate(graph.tensors)}
    apart = replace(rules, widths=Widths("numbers", "tensor", ("unused",), numbers, {}))
    for buffer_bits in SMALL_BUFFERS:
        rows, alone = (tile_rows(graph, counted(graph, its, "tiled"), buffer_bits) for its in (rules, apart))
        assert of_each_op(rows) == of_each_op(alone)


def test_sums_that_leave_the_chip_are_named_moves():
    """y[2, 6] = x[2, 3] w[3, 6] of 32 bit with sums of 2 bit, two micro-batches, by hand.

    Two columns of x stay (128 bit), with two elements of w (64) and of y's sums (4): all sums are stored once between.
    """
    b = GraphBuilder({"batch": 2, "in": 3, "out": 6}, micro_batches=2)
    b.linear(b.given("x", ("batch", "in"), role="activation"), "y", ("out",), bias=False)
    graph = b.build()
    rows = counted(graph, policy({"format": "fixed32"}, accumulator="fixed2"), "tiled")
    found = moves(tile_rows(graph, rows, 210))["y"]
    sums = 2 * 6 * 2
    assert found.pop("y@sums.fixed2") == (2 * sums, 2 * sums)
    assert found == moves(rows)["y"] == {"x": (2 * 192, 0), "y.weight": (2 * 576, 0), "y": (0, 2 * 12 * 32)}
    assert best(problem(graph, rows[0]), 210).tile == (2, 1, 2)


def test_a_second_read_for_a_scale_is_one_pass_whatever_the_tiling(linear):
    """x is read once more for the scale over all of it; the tiles of the first pass are read again, not those."""
    current = {"copy": "operand", "gemm": ("forward",), "operand": ("x",), "format": "int8", "scale_time": "current"}
    rows = counted(linear, policy({"format": "fp32"}, current), "tiled")
    [first] = [row for row in tile_rows(linear, rows, 200) if row.ops[0].name == "layer.first"]
    reads = [move.read_bits for move in first.moves if move.slot == 0]
    tiling = best(problem(linear, rows[0]), 200)
    assert tiling.a_reads > 1
    assert reads == [tiling.a_reads * 4 * 20 * 32, 4 * 20 * 32]


def test_flash_kernels_that_begin_alike_may_differ():
    """A policy that stores the values of one layer in fewer bits: its blocks are larger, the other's are not."""
    graph = FAMILIES["flash"](batch={"tokens": 9})
    rules = policy({"format": "fp32"}, {"name": "decoder.1.self_attention.v.add_bias", "format": "fp8-e4m3"})
    numbers = {tensor: (i,) for i, tensor in enumerate(graph.tensors)}
    apart = replace(rules, widths=Widths("numbers", "tensor", ("unused",), numbers, {}))
    different = 0
    for buffer_bits in range(1200, 4000, 100):
        rows, alone = (tile_rows(graph, counted(graph, its, "tiled"), buffer_bits) for its in (rules, apart))
        assert of_each_op(rows) == of_each_op(alone)
        reads = [moves(rows)[f"decoder.{i}.self_attention.scores.recompute"] for i in range(2)]
        different += len({tuple(its.values()) for its in reads}) > 1
    assert different


def attention(n=16, d=4, flash=False, grouped=1):
    """One head of attention on given q, k and v, with its backward; the loss is a cross-entropy of the result."""
    sizes = {"batch": 1, "tokens": n, "heads": 1, "group": grouped, "head": d}
    b = GraphBuilder(sizes, trainable=("*",))
    of_keys = ("batch", "tokens", "heads", "head")
    of_queries = of_keys if grouped == 1 else ("batch", "tokens", "heads", "group", "head")
    scores, context = ("bqhe,bkhe->bhqk", "bhqk,bkhe->bqhe")
    if grouped > 1:
        scores, context = ("bqgre,bkge->bgrqk", "bgrqk,bkge->bqgre")
    q = b.given("q", of_queries, role="weight")
    k, v = (b.given(name, of_keys, role="weight") for name in "kv")
    with b.segment_if(flash, "flash", kernel=True) as kept:
        s = b.op(scores, q, k, name="scores")
        p = b.op("softmax_lse" if flash else "softmax", s, name="softmax")
        if flash:
            kept.add(f"{p}.lse")
        o = b.op(context, p, v, name="context")
    labels = b.given("labels", b.tensors[o].dims[:-1], values="index")
    loss = b.op("cross_entropy", o, labels, name="cross_entropy", smoothing=0.0, ignore=-1, share=1.0)
    backward(b, loss, lambda weight, gradient: None)
    return b.build()


def elements(graph, rows):
    """Elements moved by attention itself, in the forward and after it."""
    found = {"forward": 0, "after": 0}
    for op, row in each_op(rows):
        if not op.name.startswith("cross_entropy"):
            found["forward" if op.phase == "forward" else "after"] += sum(move.elements for move in row.moves)
    return found


def test_unfused_attention_moves_what_closed_forms_say():
    """std_attn_fwd_elems_exact 4 N d + 4 N^2, std_attn_bwd_elems_exact 7 N^2 + 8 N d; no mask, dropout or scaling."""
    graph = attention(1024, 64)
    found = elements(graph, counted(graph, policy({"format": "fp16"})))
    assert found == {"forward": 4456448, "after": 7864320}


# Bits of a row of q, of the result's sums, of the largest score and the sum, and a score; of a row of k and v.
D = 64
ROW, KEYS = 16 * D + 32 * (D + 2 + 1), 2 * 16 * D


def test_flash_forward_moves_what_the_closed_form_says():
    """fa2_fwd_elems_exact 2 N d + N + ceil(N/Br) 2 N d, N 1024, d 64, Br 128."""
    graph = attention(1024, D, flash=True)
    rows = counted(graph, policy({"format": "fp16"}), "tiled")
    for buffer_bits in (128 * ROW + KEYS, 129 * ROW + KEYS - 1):
        assert elements(graph, tile_rows(graph, rows, buffer_bits))["forward"] == 1180672
    assert elements(graph, tile_rows(graph, rows, 64 * ROW + KEYS))["forward"] == 1180672 + 8 * 2 * 1024 * D
    everything = 1024 * (KEYS + 32) + ROW - 32  # k and v stay, rows of q pass by
    assert elements(graph, tile_rows(graph, rows, everything))["forward"] == 4 * 1024 * D + 1024
    assert elements(graph, tile_rows(graph, rows, everything - 1))["forward"] > 4 * 1024 * D + 1024


@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_flash_backward_by_hand(blocks):
    """k, v, dk, dv once; q, dO and log-sum-exp for each block of keys; sums of dq in between; delta beforehand."""
    n = 1024
    graph = attention(n, D, flash=True)
    rows = counted(graph, policy({"format": "fp16"}), "tiled")
    key = 2 * 16 * D + 2 * 32 * D + 2 * 32  # k, v, the sums of dk and dv, p and dp
    row = 2 * 16 * D + 16 + 32 * (D + 1)  # q, dO, log-sum-exp, the sums of dq, delta
    found = elements(graph, tile_rows(graph, rows, n // blocks * key + row))["after"]
    once = 4 * n * D + n * D  # k, v, dk, dv; dq
    if blocks == 1:
        assert found == once + 2 * n * D + n
    else:
        delta = 2 * n * D + n + blocks * n  # o and dO are read, delta is written, and read for each block
        assert found == once + blocks * (2 * n * D + n) + 2 * (blocks - 1) * n * D + delta


def test_what_flash_attention_spills_has_names():
    graph = attention(64, 8, flash=True)
    found = moves(tile_rows(graph, counted(graph, policy({"format": "fp16"}), "tiled"), 8 * 2000))
    assert found["scores.dx"]["q.grad@sums.fp32"][0] == found["scores.dx"]["q.grad@sums.fp32"][1] > 0
    read, written = found["softmax.dx"]["scores.grad@delta.fp32"]
    assert written == 64 * 32
    assert read % written == 0
    assert found["softmax.dx"]["scores.grad@delta.of_result"] == (64 * 8 * 16, 0)
    bits = sum_rows(
        tile_rows(graph, counted(graph, policy({"format": "fp16"}), "tiled"), 8 * 2000), "product"
    ).dram_bits
    by_tensor = group(
        [(1, tile_rows(graph, counted(graph, policy({"format": "fp16"}), "tiled"), 8 * 2000))], "tensor", "product"
    )
    assert sum(total.dram_bits for total in by_tensor.values()) == bits
    assert by_tensor["q.grad@sums.fp32"].dram_bits > 0


def test_heads_that_share_keys_are_blocked_together():
    """Two heads of queries on one of keys: blocks of rows of both, so keys are read as for twice as many rows."""
    rules = policy({"format": "fp16"})
    one, two = attention(256, 16, flash=True), attention(128, 16, flash=True, grouped=2)
    buffer_bits = 8 * 4000
    reads = []
    for graph in (one, two):
        found = moves(tile_rows(graph, counted(graph, rules, "tiled"), buffer_bits))
        reads.append(found["scores"]["k"][0] / graph.elements(graph.tensors["k"].dims))
    assert reads[0] == reads[1] > 16


@pytest.mark.parametrize("flash", [False, True])
def test_a_buffer_too_small_for_anything_is_refused(flash):
    graph = attention(16, 8, flash=flash)
    rows = counted(graph, policy({"format": "fp16"}), "tiled")
    message = "flash attention: a row of each operand and its sums take" if flash else "one element of each operand"
    with pytest.raises(InputError, match=f"a buffer of 3 byte is too small.*{message}"):
        tile_rows(graph, rows, 24)


# --- BERT-large: Ivanov et al., MLSys 2021, arXiv:2007.00072 ----------------------------------------------------------

GI = 2**30
# (FLOP / 2^30, Melem in, Melem out) of the rows of data_movement_bert_large that are one op here, too, by op.
BERT = {
    "self_attention.scores": (4, 8.3886, 33.5544),
    "self_attention.context": (4, 37.7487, 4.1943),
    "self_attention.out": (8, 5.2429, 4.1943),
    "ffn.fc1": (32, 8.3886, 16.7772),
    "ffn.fc2": (32, 20.9715, 4.1943),
    "ffn.fc2.dx": (32, 8.3886, 16.7772),
    "ffn.fc2.dw": (32, 20.9715, 4.1943),
    "ffn.fc1.dx": (32, 20.9715, 4.1943),
    "ffn.fc1.dw": (32, 20.9715, 4.1943),
    "self_attention.out.dx": (8, 5.2429, 4.1943),
    "self_attention.out.dw": (8, 8.3886, 1.0486),
    "self_attention.context.dx": (4, 8.3886, 33.5544),
    "self_attention.context.dw": (4, 37.7487, 4.1943),
    "self_attention.scores.dx": (4, 37.7487, 4.1943),
    "self_attention.scores.dw": (4, 37.7487, 4.1943),
}
# The paper's QKV projection is one GEMM of a merged weight; here it is three, and the input is read by each.
MERGED = {"": (24, 7.34, 12.5829), ".dx": (24, 15.7286, 4.1943), ".dw": (24, 16.7772, 3.1457)}
READ_TWICE_MORE = {"": 8 * 512 * 1024, ".dx": 0, ".dw": 8 * 512 * 1024}  # elements of x, in two more GEMMs
WRITTEN_TWICE_MORE = {"": 0, ".dx": 8 * 512 * 1024, ".dw": 0}  # dx in three parts, which are added


@pytest.fixture(scope="module")
def bert():
    """Contractions of the first layer: (FLOP, elements in, elements out)."""
    graph = STEPS["encoder-classifier"](
        d_model=1024, ffn_dim=4096, heads=16, layers=1, max_positions=512, batch={"sequences": 8, "tokens": 512}
    )
    found = {}
    for op, row in each_op(counted(graph, policy({"format": "fixed8"}), "unfused", "gemm")):
        if op.layer == "encoder.0":
            read, written = (sum(getattr(move, f"{way}_bits") for move in row.moves) for way in ("read", "written"))
            found[op.name.removeprefix("encoder.0.")] = (2 * row.macs, read // 8, written // 8)
    return found


def test_contractions_of_a_bert_large_layer(bert):
    """data_movement_bert_large: 312 x 2^30 FLOP; each contraction's FLOP, and elements in and out."""
    assert sum(flop for flop, _, _ in bert.values()) == 335007449088 == 312 * GI
    for name, (flop, read, written) in BERT.items():
        assert bert[name][0] == flop * GI, name
        assert (round(bert[name][1] / 1e6, 4), round(bert[name][2] / 1e6, 4)) == (read, written), name
    assert len(bert) == len(BERT) + 3 * 3


@pytest.mark.parametrize("which", MERGED)
def test_projections_of_q_k_and_v_are_three(bert, which):
    its = [bert[f"self_attention.{part}{which}"] for part in "qkv"]
    flop, read, written = (sum(figures) for figures in zip(*its, strict=True))
    gi, merged_read, merged_written = MERGED[which]
    assert flop == gi * GI
    assert round((read - 2 * READ_TWICE_MORE[which]) / 1e6, 4) == merged_read
    assert round((written - 2 * WRITTEN_TWICE_MORE[which]) / 1e6, 4) == merged_written


# --- fusion patterns --------------------------------------------------------------------------------------------------


def kernels_without(graph, left_out, monkeypatch, traffic="fused"):
    """How many kernels there are if a traffic model lacks some patterns."""
    model = MODELS[traffic]
    with monkeypatch.context() as patch:
        patch.setitem(MODELS, traffic, model._replace(patterns=tuple(p for p in model.patterns if p not in left_out)))
        _group_ops.cache_clear()
        found = group_ops(graph, traffic)
    _group_ops.cache_clear()
    return len(set(found)), found


@pytest.mark.parametrize("pattern", [pattern.name for pattern in PATTERNS])
def test_each_pattern_decides_something(pattern, monkeypatch):
    """Without it there are more kernels in some step."""
    graphs = [step(dropout=0.1) for step in STEPS.values()] + [decoder_step(attention="flash")]
    graphs.append(decoder_step(optimizer=adamw(clip_norm=1.0)))
    traffic = "fused" if pattern in MODELS["fused"].patterns else "eager"
    differences = [
        kernels_without(graph, (pattern,), monkeypatch, traffic)[0]
        - kernels_without(graph, (), monkeypatch, traffic)[0]
        for graph in graphs
    ]
    assert min(differences) >= 0
    # What is written as one kernel is one whatever the model; calls are those of traced steps: test_eager.
    assert max(differences) > 0 or pattern in ("written", "calls")


def test_without_patterns_every_op_is_a_kernel(family, monkeypatch):
    graph = family(dropout=0.1)
    every = tuple(pattern.name for pattern in PATTERNS)
    assert kernels_without(graph, every, monkeypatch)[1] == group_ops(graph, "unfused")
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)
    assert UNTILED == ("unfused", "fused", "eager")


# --- as a user asks for it --------------------------------------------------------------------------------------------

ONE = ["model.encoder_layers=1", "model.decoder_layers=1"]


def tiled(*assignments, policies=("dsq",), **options):
    return simulate.run("iwslt17-dsq", policies, assignments=[*ONE, *assignments], traffic="tiled", **options)


def costsim(*args):
    return CliRunner().invoke(main, args)


def refused(*args):
    done = costsim(*args)
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
    return done.output


def test_the_buffer_is_said_or_the_workloads_or_the_first_devices():
    def convention(*assignments, **options):
        said = tiled(*assignments, **options).job.convention
        return said.buffer_bytes, said.buffer_of

    device = load_hardware("jetson-orin-nano")
    assert convention("buffer_bytes=70000") == (70000, "")
    assert convention("buffer_bytes=70000", buffer_bytes=80000) == (80000, "")
    assert convention("buffer_bytes=70000", hardware=["jetson-orin-nano"]) == (70000, "")
    assert convention(hardware=["jetson-orin-nano", "h100-sxm"]) == (device.on_chip_bytes, device.name)


def test_the_convention_says_the_buffer():
    args = [
        "run",
        "iwslt17-dsq",
        "--policy",
        "dsq",
        "--traffic",
        "tiled",
        *(part for s in ONE for part in ("--set", s)),
    ]
    text = " ".join(costsim(*args, "--hardware", "jetson-orin-nano").output.split())
    assert "traffic tiled, buffer 2097152 byte (jetson-orin-nano), scope" in text
    assert "tiled for a buffer of 2097152 byte" in text
    text = " ".join(costsim(*args, "--buffer-bytes", "65536").output.split())
    assert "traffic tiled, buffer 65536 byte, scope" in text
    said = json.loads(costsim(*args, "--buffer-bytes", "65536", "--format", "json").output)["convention"]
    assert (said["traffic"], said["buffer_bytes"], said["buffer_of"]) == ("tiled", 65536, None)
    plain = json.loads(costsim("run", "iwslt17-dsq", "--policy", "dsq", "--format", "json").output)["convention"]
    assert "buffer_bytes" not in plain


def test_a_run_counts_tiled_rows():
    found = tiled(buffer_bytes=65536, scope="step")
    [counted_policy] = found.policies
    for phase in counted_policy.phases:
        assert phase.rows == tile_rows(found.job.graph, phase.compulsory, 8 * 65536)
    bits = [tiled(buffer_bytes=size, scope="step").policies[0].total.dram_bits for size in (2**12, 2**16, 2**20, 2**40)]
    assert bits == sorted(bits, reverse=True)
    fused = simulate.run("iwslt17-dsq", ("dsq",), assignments=ONE, traffic="fused", scope="step")
    assert bits[0] > bits[-1] == fused.policies[0].total.dram_bits


@pytest.mark.parametrize("scope", SCOPES)
def test_published_figures_are_shown_under_tiled_only_if_asked(scope):
    there = tiled(buffer_bytes=65536, scope=scope)
    [row] = records(there, "policy")
    ours = {e["quantity"]: e["ours"] for e in published(there) if (e["scope"], e["traffic"]) == (scope, "tiled")}
    assert ours == {quantity: row[quantity] for quantity in ("arithmetic_reduction", "dram_reduction")}
    untiled = published(simulate.run("iwslt17-dsq", ("dsq",), assignments=ONE))
    assert {e["traffic"] for e in untiled} == set(COMPARED)
    assert [e for e in published(there) if e["traffic"] != "tiled"] == untiled


def test_the_file_may_compare_under_tiled():
    there = simulate.run("iwslt17-dsq", ("dsq",), assignments=[*ONE, "traffic=tiled", "buffer_bytes=65536"])
    assert {(e["scope"], e["traffic"]) for e in published(there) if e["convention"]} == {("gemm", "tiled")}


def test_each_device_is_tiled_for_its_own_buffer():
    found = tiled(hardware=["jetson-orin-nano", "raspberry-pi-5"], scope="step")
    said = found.job.convention
    for device in found.job.hardware:
        total = 0.0
        for phase in found.policies[0].phases:
            rows = tile_rows(found.job.graph, phase.compulsory, 8 * device.on_chip_bytes)
            step = kernels(found.job.graph, rows, said.traffic, said.scope)
            total += phase.steps * spend_all(step, device).time_s
        assert found.spent["dsq", device.name].time_s == pytest.approx(total, rel=1e-12)
    given = tiled(hardware=["jetson-orin-nano", "raspberry-pi-5"], scope="step", buffer_bytes=4096)
    bits = {given.spent["dsq", device.name].dram_bits for device in given.job.hardware}
    assert bits == {given.policies[0].total.dram_bits}


def test_a_device_without_a_known_buffer_has_no_time_and_says_why(tmp_path):
    source = files.list_shipped("hardware_profiles")["raspberry-pi-5"].read_text()
    text = re.sub(r"on_chip_bytes:\n(  .*\n)+", "on_chip_bytes: unknown\n", source)
    assert text != source
    (tmp_path / "unknown.yaml").write_text(text)
    path = str(tmp_path / "unknown.yaml")
    found = tiled(hardware=["jetson-orin-nano", path])
    spent = found.spent["dsq", "unknown"]
    assert (spent.time_s, spent.energy_j, spent.dram_s, spent.op_per_byte, spent.bound) == (
        None,
        None,
        None,
        None,
        "n/a",
    )
    assert spent.mac_s > 0
    args = ("run", "iwslt17-dsq", "--policy", "dsq", "--traffic", "tiled")
    text = " ".join(costsim(*args, "--hardware", "jetson-orin-nano", "--hardware", path).output.split())
    assert "n/a, as the profile does not know: on_chip_bytes, for traffic tiled (or say --buffer-bytes)" in text
    assert "the profile unknown does not know its on_chip_bytes; say --buffer-bytes N" in refused(
        *args, "--hardware", path
    )
    assert tiled(hardware=[path], buffer_bytes=2**16).spent["dsq", "unknown"].time_s > 0


def test_memory_is_that_of_fused():
    job = tiled(buffer_bytes=65536).job
    for counted_policy in job.policies:
        fused, small = (of_policy(job.graph, counted_policy, traffic)[1] for traffic in ("fused", "tiled"))
        assert small.peak_bytes == fused.peak_bytes
        assert small.stored == fused.stored
    assert costsim("memory", "glue-mrpc-dsq", "--traffic", "tiled", "--buffer-bytes", "65536").exit_code == 0
    assert costsim("memory", "glue-mrpc-dsq", "--traffic", "tiled", "--hardware", "h100-sxm").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("run", "iwslt17-dsq", "--traffic", "tiled"),
            "traffic tiled needs a buffer: say --buffer-bytes N, buffer_bytes",
        ),
        (
            ("run", "iwslt17-dsq", "--buffer-bytes", "9"),
            "only traffic tiled has a buffer, this is unfused; add --traffic",
        ),
        (
            ("run", "iwslt17-dsq", "--traffic", "tiled", "--buffer-bytes", "2"),
            "a buffer of 2 byte is too small: one element",
        ),
        (("run", "iwslt17-dsq", "--set", "buffer_bytes=0"), "--set buffer_bytes=0: expected at least 1, got 0"),
        (
            ("validate", "glue-mrpc-dsq", "--traffic", "tiled"),
            "--traffic tiled: the reference has no buffer to tile for",
        ),
        (
            ("validate", "glue-mrpc-dsq", "--set", "traffic=tiled", "--set", "buffer_bytes=9999"),
            "--traffic tiled: the reference has no buffer to tile for",
        ),
    ],
)
def test_what_is_asked_wrongly(args, message):
    assert message in refused(*args)


def test_traffic_models_are_listed_and_shown():
    lines = costsim("list", "traffic").output.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    for name, model in MODELS.items():
        text = costsim("show", name).output
        assert text.startswith(f"traffic model {name}: {model.description}")
        assert all((f"    {its.name}: {its.description}" in text) == (its.name in model.patterns) for its in PATTERNS)
    assert "--buffer-bytes" in costsim("show", "tiled").output


def test_by_tensor_and_op_add_up_to_the_total():
    for by in ("tensor", "op", "role", "layer"):
        found = tiled(buffer_bytes=16384, scope="step")
        total = found.policies[0].total.dram_bits
        assert sum(int(row["dram_bits"]) for row in records(found, by)) == total
