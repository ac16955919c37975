"""How products add up: counted by hand for one GEMM, priced by hand from the table, and as policies name it."""

import json

import pytest
from click.testing import CliRunner
from conftest import POLICIES, STEPS, decoder_step, policy, shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.laws import LAWS
from costsim.cost.row import each_op
from costsim.cost.totals import sum_rows
from costsim.devices.energy import TABLES
from costsim.errors import InputError
from costsim.explain.arithmetic import arithmetic
from costsim.graph.builder import GraphBuilder
from costsim.policy.assign import assign
from costsim.policy.load import make_policy

ROWS, SUMMED, COLUMNS = 4, 40, 3
MACS = ROWS * SUMMED * COLUMNS  # 480: 12 sums of 40 products
GEMMS = ("forward", "dgrad", "wgrad")
HOROWITZ = TABLES["horowitz-45nm"]  # another writing of the figures that the law has, in pJ


def product(dims=(("model", SUMMED),)):
    """y = x w, over one dim or several."""
    names = tuple(name for name, _ in dims)
    b = GraphBuilder({"row": ROWS, "column": COLUMNS, **dict(dims)})
    b.linear(b.given("x", ("row", *names)), "y", ("column",), inner=len(names), bias=False)
    return b.build()


def counted(*rules, graph=None, **fields):
    """The additions of a product by accumulator, its energy in aJ, and the name of its formats."""
    graph = graph or product()
    assignment = assign(graph, policy(*rules, **fields))
    [row] = [row for row in count(graph, assignment) if row.gemm]
    derived = arithmetic(graph, assignment, "energy", row.ops[0], row.macs, row.summed)
    additions = {format.name: n for format, n in row.additions}
    assert (derived.additions, derived.cost) == (additions, row.cost(LAWS["energy"]))  # the second way
    return additions, row.cost(LAWS["energy"]), row.pair_name


def everywhere(format):
    """A policy's rules: a format for what is stored, and for operands along what is summed."""
    return {"format": format}, {"copy": "operand", "format": format}


def picojoules(width_a, width_b, integers, floats):
    """By hand: products of integers scale from 32 bits with both widths; additions are those of the table."""
    multiply = HOROWITZ.multiply_pj["int", 32] * width_a * width_b / 32**2
    return MACS * multiply + integers * HOROWITZ.add_pj["int", 32] + floats * HOROWITZ.add_pj["float", 32]


@pytest.mark.parametrize(
    ("format", "width", "floats"),
    [
        ("fixed16", 16, 0),  # 12 sums of 40 products, no scale
        ("int16", 16, 0),  # a scale for a tensor
        ("int16-row", 16, 0),  # a scale for what a sum runs over
        ("bfp4-exp0", 4, 0),
        ("bfp4", 4, 12 * 3),  # 40 products go through boxes of 16, 16 and 8
        ("bfp2-box40", 2, 12),  # one box a sum: it is added to no other, but is a float from then on
        ("bfp2-box64", 2, 12),
        ("bfp2-box7", 2, 12 * 6),
        ("bfp4-box1", 4, MACS),  # each product has an exponent of its own
        ("int4-1x8", 4, 12 * 5),
        ("int4-3x5", 4, 12 * 8),
        ("int4-asym-1x8", 4, 12 * 5),
        ("int16-column", 16, MACS),
        ("int4-flat8", 4, MACS),  # blocks of the flattened weight lie across what is summed
    ],
)
def test_additions_and_energy_by_hand(format, width, floats):
    additions, energy, pair = counted(*everywhere(format))
    integers = MACS - floats
    assert additions == {name: n for name, n in (("int32", integers), ("fp32", floats)) if n}
    assert energy == pytest.approx(1e6 * picojoules(width, width, integers, floats), abs=MACS)  # a product to 1 aJ
    assert pair.endswith("+ fp32" if floats else "+ int32")


def test_two_operands_with_blocks_of_their_own():
    mixed = ({"format": "bfp4"}, {"copy": "operand", "operand": ("w",), "format": "bfp2-box5"})
    additions, energy, _ = counted(*mixed)
    assert additions == {"int32": MACS - 12 * 8, "fp32": 12 * 8}  # the smaller boxes count
    assert energy == pytest.approx(1e6 * picojoules(4, 2, MACS - 96, 96), abs=MACS)
    fixed = ({"format": "bfp4"}, {"copy": "operand", "operand": ("w",), "format": "fixed8"})
    assert counted(*fixed)[0] == {"int32": MACS - 12 * 3, "fp32": 12 * 3}


def test_blocks_run_through_all_dims_that_are_summed():
    """8 heads of 5: boxes of 16 along 40, not along each head; those of what is stored end with each head."""
    graph = product((("heads", 8), ("head", 5)))
    assert counted(*everywhere("bfp4"), graph=graph)[0] == {"int32": MACS - 12 * 3, "fp32": 12 * 3}
    stored = ({"format": "bfp4"}, {"copy": "operand", "operand": ("w",), "format": "fixed4"})
    assert counted(*stored, graph=graph)[0] == {"int32": MACS - 12 * 8, "fp32": 12 * 8}
    rows = ({"format": "int4-row"}, {"copy": "operand", "operand": ("w",), "format": "fixed4"})
    assert counted(*rows, graph=graph)[0] == {"int32": MACS - 12 * 8, "fp32": 12 * 8}


def test_blocks_across_a_sum_leave_no_integers():
    """Without operand copies the weight keeps its boxes along the columns: neighbours in a sum share no exponent."""
    assert counted({"format": "bfp4"})[0] == {"fp32": MACS}


@pytest.mark.parametrize("format", ["fp16", "fp32", "bf16", "int8-in-bf16", "nvfp4", "fp8-e4m3-1x16"])
def test_products_of_floats_add_as_floats(format):
    assert counted(*everywhere(format))[0] == {"fp32": MACS}


def test_the_published_figures():
    multiply, add = HOROWITZ.multiply_pj, HOROWITZ.add_pj
    assert counted(*everywhere("int8"))[1] == round(1e6 * MACS * (multiply["int", 8] + add["int", 32]))
    assert counted(*everywhere("fp16"))[1] == round(1e6 * MACS * (multiply["float", 11] + add["float", 32]))
    assert counted(*everywhere("fp16"), accumulator="fp16")[1] == round(1e6 * MACS * (1.1 + 0.4))
    assert counted(*everywhere("int8"), accumulator="bf16")[1] is None


@pytest.mark.parametrize(("family", "name"), [(family, "dsq") for family in STEPS] + [("decoder", n) for n in POLICIES])
def test_as_many_additions_as_macs(family, name):
    graph = STEPS[family](micro_batches=2)
    total = sum_rows(count(graph, assign(graph, shipped_policy(name))), "energy")
    assert sum(total.additions.values()) == total.macs > 0


# --- as policies name it ----------------------------------------------------------------------------------------------


def accumulators(*rules, **fields):
    """{gemm: names of the formats in which it sums}, in a decoder."""
    graph, found = decoder_step(), {}
    for op, row in each_op(count(graph, assign(graph, policy(*everywhere("bfp8"), *rules, **fields)))):
        if op.gemm:
            found.setdefault(op.gemm, set()).update(format.name for format, _ in row.additions)
    return found


def test_a_policy_names_the_accumulator_of_all_gemms():
    assert accumulators(accumulator="fp16") == {gemm: {"fp16"} for gemm in GEMMS}
    assert accumulators() == {gemm: {"int32", "fp32"} for gemm in GEMMS}


def test_rules_name_accumulators_of_gemms_and_the_last_wins():
    wgrad = {"gemm": ("wgrad",), "accumulator": "int32"}
    found = accumulators({"accumulator": "bf16"}, wgrad)
    assert found == {"forward": {"bf16"}, "dgrad": {"bf16"}, "wgrad": {"int32"}}
    assert accumulators(wgrad, accumulator="fp16")["dgrad"] == {"fp16"}  # a rule before the policy
    one = accumulators({"op": "*.fc1", "accumulator": "fp16"})
    assert one["forward"] == {"fp16", "int32", "fp32"}


def test_a_level_may_be_an_accumulator():
    levels = {"levels": ("q",), "phases": ({"until_fraction": 0.5, "levels": (8,)}, {"levels": (32,)})}
    changing = policy(*everywhere("bfp8"), {"accumulator": "int<q>"}, **levels)
    graph = product()
    rows = [next(row for row in count(graph, assign(graph, changing, phase)) if row.gemm) for phase in (0, 1)]
    assert [row.additions[0][0].name for row in rows] == ["int8", "int32"]


def test_the_format_of_what_is_written_is_the_rules_before():
    [row] = count(product(), assign(product(), policy({"format": "bf16"}, {"accumulator": "fp16"})))
    assert [move.written_bits for move in row.moves if move.written_bits] == [16 * ROWS * COLUMNS]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"copy": "operand", "accumulator": "fp32"}, "rules.1.accumulator: only what a GEMM writes has one"),
        ({"accumulator": "index64"}, "rules.1.accumulator: index64 holds no sums"),
        ({"accumulator": "fp33"}, "rules.1.accumulator: unknown format 'fp33'; did you mean"),
        ({"accumulator": "int<q9>"}, "rules.1.accumulator: unknown level or number 'q9'"),
        ({"role": ["weight"], "accumulator": "fp16"}, "rules.1: this rule matches nothing"),  # no GEMM writes weights
    ],
)
def test_accumulators_that_do_not_fit(rule, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        assign(product(), make_policy("mine", {"description": "x", "rules": [{"format": "bf16"}, rule]}))


# --- where it is shown ------------------------------------------------------------------------------------------------


def costsim(*args):
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_runs_and_explanations_say_what_was_counted():
    args = ("glue-mrpc-dsq", "--policy", "dsq", "--set", "model.layers=1")
    said = costsim("run", *args, "--law", "energy")
    assert "sums: 6.3 % in fp32, 93.7 % in int32 (dsq); int32 (fixed16)" in said
    assert "sums:" not in costsim("run", *args)  # where it costs nothing
    explained = costsim("explain", *args, "--law", "energy", "encoder.0.ffn.fc1")
    assert "additions in int32" in explained
    assert "cost of an addition in fp32: 900000 aJ/op" in explained
    [row] = json.loads(costsim("run", *args, "--format", "json"))["rows"]
    additions = {name: int(n) for name, n in row["additions_by_accumulator"].items()}
    assert additions.keys() == {"fp32", "int32"}
    assert sum(additions.values()) == int(row["macs"])
    groups = json.loads(costsim("run", *args, "--by", "gemm", "--format", "json"))["rows"]
    assert sum(int(group["additions_by_accumulator"]["fp32"]) for group in groups) == additions["fp32"]
