"""The lines of DSQ's sensitivity that formulas on paper give too: from the sizes of the model and the levels alone."""

import json
from fractions import Fraction
from math import ceil

import pytest
from click.testing import CliRunner
from conftest import policy, shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.cost.totals import sum_rows
from costsim.graph.builder import GraphBuilder
from costsim.policy.assign import assign
from costsim.policy.policy import with_case
from costsim.run.job import Request, prepare
from costsim.run.sensitivity import outcomes
from costsim.run.simulate import run

# fairseq's transformer_iwslt_de_en on 160 sentences of 25 tokens a side, and the phases of dsq.yaml
MODEL, FFN, VOCAB, TOKENS = 512, 1024, 16384, 4000
PHASES = {(2, 2, 2, 16): 9009, (4, 4, 4, 16): 81, (16, 4, 4, 16): 10}
BOX = 16
# MACs of one pass through all layers' weights: six encoder layers with one attention, six decoder layers with two.
WEIGHTS = TOKENS * (6 * (4 * MODEL**2 + 2 * MODEL * FFN) + 6 * (8 * MODEL**2 + 2 * MODEL * FFN) + MODEL * VOCAB)


def attention(tokens=25):
    """MACs of the scores of all 18 attentions, and of their contexts as many; no masks."""
    return 18 * TOKENS * tokens * MODEL


def product_cost(levels, bits=lambda level: level, tokens=25, attention_dy="q3"):
    """Of one step's micro-batch: forward, dgrad and wgrad, first of products with weights, then of attention's two."""
    q0, q1, q2, q3 = map(bits, levels)
    dy = {"q2": q2, "q3": q3}[attention_dy]
    of_weights = q0 * q0 + q3 * q0 + q1 * q2
    return WEIGHTS * of_weights + 2 * attention(tokens) * (q0 * q0 + dy * q1 + q2 * q1)


def reduction(fixed=16, phases=PHASES, **how):
    """How many times less than fixed point of so many bits in everything."""
    tokens = how.get("tokens", 25)
    steps = sum(phases.values())
    base = steps * 3 * (WEIGHTS + 2 * attention(tokens)) * fixed**2
    return Fraction(base, sum(n * product_cost(levels, **how) for levels, n in phases.items()))


@pytest.fixture(scope="module")
def lines():
    """{(assumption, case): its line} of the shipped table."""
    return {(line.assumption, line.case): line for line in outcomes(prepare(Request("iwslt17-dsq")))}


def test_as_shipped(lines):
    assert lines["as shipped", ""].arithmetic_reduction == reduction()
    assert float(reduction()) == pytest.approx(18.717, abs=1e-3)


def test_without_signs(lines):
    """Neither of block floating point nor of the baseline: 225 / (1 + 15 + 1) for a layer's three GEMMs at 2 bits."""
    without = reduction(fixed=15, bits=lambda level: level - 1)
    assert lines["law", "magnitude"].arithmetic_reduction == without
    assert float(without) == pytest.approx(37.72, abs=0.01)
    at_first = run("iwslt17-dsq", ["static2-bfp"], law="magnitude")
    ratios = at_first.policies[0].total.reductions(at_first.baseline.total)
    assert float(ratios.arithmetic_reduction) == pytest.approx(3 * 225 / (1 + 15 + 1), rel=1e-9)  # 39.7


@pytest.mark.parametrize("tokens", [10, 50, 100])
def test_sentences_of_another_length(lines, tokens):
    line = lines["tokens a sentence", f"{tokens}, {TOKENS // tokens} sentences"]
    assert line.arithmetic_reduction == reduction(tokens=tokens)


def test_attention_backward_at_q2(lines):
    assert lines["attention's backward", "dy at q2"].arithmetic_reduction == reduction(attention_dy="q2")


def test_attention_reads_dy_at_q2():
    """What scores.dx reads of dy: elements at 16 or 2 bits, and an exponent for each 16 of the 25 keys of a query."""
    job = prepare(Request("iwslt17-dsq"))
    shipped = shipped_policy("dsq")
    [assumption] = [each for each in shipped.assumptions if each.entry.name == "attention's backward"]
    scores = 8 * 160 * 4 * 25 * 25  # of 8 micro-batches
    for chosen, bits in ((shipped, 16), (with_case(shipped, assumption, 0), 2)):
        rows = each_op(count(job.graph, assign(job.graph, chosen), scope="gemm"))
        [row] = [row for op, row in rows if op.name == "encoder.0.self_attention.scores.dx"]
        [dy] = [move.read_bits for move in row.moves if move.role == "gradient" and move.read_bits]
        assert dy == bits * scores + 8 * ceil(25 / BOX) * scores // 25


# --- where products add up --------------------------------------------------------------------------------------------

PRODUCT = Fraction(3_100_000, 32**2)  # aJ: 3.1 pJ of a 32-bit multiplier, by the product of the widths
ADD_INTEGER, ADD_FLOAT = 100_000, 900_000  # aJ: 0.1 pJ of int32, 0.9 pJ of fp32; Horowitz, ISSCC 2014


def floats():
    """Float additions of a micro-batch: one for each box along a sum; 25 tokens are two boxes, all else is whole."""
    whole, of_tokens = Fraction(1, BOX), Fraction(ceil(25 / BOX), 25)
    # scores sum over a head, contexts over tokens; dgrad the other way round; wgrad over tokens in both
    return 3 * WEIGHTS * whole + attention() * (2 * (whole + of_tokens) + 2 * of_tokens)


def energy_reduction(float_additions, integer=ADD_INTEGER):
    """dsq against fixed16, whose products add as integers unless `integer` says otherwise."""
    macs, steps = 3 * (WEIGHTS + 2 * attention()), sum(PHASES.values())
    additions = macs * integer + float_additions * (ADD_FLOAT - integer)
    dsq = sum(n * (product_cost(levels) * PRODUCT + additions) for levels, n in PHASES.items())
    return float(steps * macs * (256 * PRODUCT + integer) / dsq)


def test_energy_by_accumulator(lines):
    case = "sums, under law energy"
    ratios = {key: float(line.arithmetic_reduction) for key, line in lines.items() if line.arithmetic_reduction}
    assert ratios["law", "energy"] == pytest.approx(energy_reduction(floats()), rel=1e-5)  # a product to 1 aJ
    assert ratios[case, "energy, all in int32"] == pytest.approx(energy_reduction(0), rel=1e-5)
    assert ratios[case, "energy, all in fp32"] == pytest.approx(energy_reduction(0, ADD_FLOAT), rel=1e-5)
    expected = {("law", "energy"): 4.57, (case, "energy, all in int32"): 6.19, (case, "energy, all in fp32"): 1.78}
    assert {key: round(ratios[key], 2) for key in expected} == expected


# --- what scope gemm writes -------------------------------------------------------------------------------------------


def test_writes_of_a_product_by_hand():
    """relu(x) -> h, y = h w, relu(y) -> z in 16 bits; h and w are multiplied in 4 bits."""
    b = GraphBuilder({"row": 4, "model": 40, "column": 3})
    h = b.op("relu", b.given("x", ("row", "model")), name="h")
    b.op("relu", b.linear(h, "y", ("column",), bias=False), name="z")
    graph = b.build()
    rules = {"format": "fixed16"}, {"copy": "operand", "format": "fixed4", "placement": "at_producer"}
    reads, y, copies = 4 * (160 + 120), 16 * 12, {"h": 4 * 160, "w": 4 * 120}
    assignment = assign(graph, policy(*rules))
    for writes, written in (("none", 0), ("gemms", y), ("operands", y + sum(copies.values()))):
        total = sum_rows(count(graph, assignment, scope="gemm", gemm_writes=writes), "product")
        assert (total.read_bits, total.written_bits) == (reads, written)
        assert (total.macs, dict(total.vector)) == (4 * 40 * 3, {})


@pytest.mark.parametrize("name", ["fixed16", "dsq", "bfp16", "stash-fixed"])
def test_writes_of_operands_are_those_of_the_whole_step(name):
    """Looked up by name among all writes of a step: what GEMMs read, in whatever order it is updated in place."""
    small = ["model.encoder_layers=1", "model.decoder_layers=1"]
    graph = prepare(Request("iwslt17-dsq", assignments=small)).graph
    assignment = assign(graph, shipped_policy(name))

    def name_of(op, move):
        root = graph.root[(op.inputs + op.outputs)[move.slot]]
        return root + (move.copy.label if move.copy else "")

    moves = [(op, row, move) for op, row in each_op(count(graph, assignment)) for move in row.moves]
    read = {name_of(op, move) for op, row, move in moves if row.gemm and move.read_bits}
    of_gemms = sum(move.written_bits for _, row, move in moves if row.gemm)
    of_others = sum(move.written_bits for op, row, move in moves if not row.gemm and name_of(op, move) in read)
    for writes, expected in (("none", 0), ("gemms", of_gemms), ("operands", of_gemms + of_others)):
        assert sum_rows(count(graph, assignment, "unfused", "gemm", writes), "product").written_bits == expected
    assert of_others

    def written(wanted, read_by):
        """Bits written of a role, by GEMMs and by others, that such a GEMM reads."""
        read = {name_of(op, move) for op, row, move in moves if row.gemm in read_by and move.read_bits}
        sums = [0, 0]
        for op, row, move in moves:
            if move.role == wanted and name_of(op, move) in read:
                sums[not row.gemm] += move.written_bits
        return sums

    gradients = sum(move.written_bits for _, row, move in moves if row.gemm and move.role == "gradient")
    stashes, dy = written("activation", {"dgrad", "wgrad"}), written("gradient", {"dgrad", "wgrad"})
    for writes, expected in (
        ("stashes", of_gemms + stashes[1]),
        ("stashes-alone", sum(stashes)),
        ("gradients", of_gemms - gradients + sum(dy)),
    ):
        assert sum_rows(count(graph, assignment, "unfused", "gemm", writes), "product").written_bits == expected
    assert stashes[1] > 0 < dy[1]
    assert dy[0] < gradients


def test_a_gradient_that_is_written_as_it_is_read_takes_both_widths():
    """A hidden layer of the feed-forward block: dx at q3 goes through ReLU's backward, and is read at q3 and at q2."""
    graph = prepare(Request("iwslt17-dsq", assignments=["model.encoder_layers=1", "model.decoder_layers=1"])).graph
    assignment = assign(graph, shipped_policy("dsq").with_(phases=[{"levels": [2, 3, 4, 8]}]))
    rows = count(graph, assignment, "unfused", "gemm", "gradients")
    by_op = {op.name: [m.written_bits for m in row.moves if m.written_bits] for op, row in each_op(rows)}
    elements, boxes = 8 * 160 * 25 * 1024, 8 * 160 * 25 * 1024 // 16
    assert by_op["encoder.0.ffn.fc2.dx"] == []
    assert by_op["encoder.0.ffn.relu.dx"] == [8 * (elements + boxes), 4 * elements + 8 * boxes]


@pytest.mark.parametrize(
    ("writes", "label"),
    [
        ("none", "(reads only)"),
        ("operands", "(and what others write for it)"),
        ("stashes-alone", "(reads, and writes of stashes)"),
    ],
)
def test_explanations_and_tables_say_which_writes_count(writes, label):
    args = ["glue-mrpc-dsq", "--policy", "dsq", "--scope", "gemm", "--set", "model.layers=1"]

    def costsim(*more):
        done = CliRunner().invoke(main, [*more[:1], *args, "--set", f"gemm_writes={writes}", *more[1:]])
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    assert f"scope gemm {label}" in costsim("run")
    assert json.loads(costsim("run", "--format", "json"))["convention"]["gemm_writes"] == writes
    explained = costsim("explain", "encoder.0.ffn.fc1")
    assert ("DRAM bits written: 0 bit" in explained) == (writes in ("none", "stashes-alone"))
    assert ("only the writes that GEMMs read" in costsim("explain", "encoder.0.ffn.gelu")) == (writes != "none")
    rows = json.loads(costsim("run", "--by", "op", "--format", "json"))["rows"]
    [bits] = [row["dram_bits"] for row in rows if row["op"] == "encoder.0.ffn.fc1"]
    assert f"DRAM bits over the run: {bits} bit" in explained
