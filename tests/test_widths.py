"""Widths per layer or tensor from a CSV file: they change the formats of what they name, and nothing else."""

import pytest
from click.testing import CliRunner
from conftest import ENCODERS, STEPS, adamw, copies_of, counted, formats_of, of_each_op, policy, shipped_policy

from costsim.cli import main
from costsim.errors import InputError
from costsim.inputs.widths import read_widths
from costsim.policy.policy import with_widths
from costsim.results.records import records
from costsim.run.simulate import run

FIXED_BITS = shipped_policy("fixed-bits")
# Weights and activations with numbers of their own, and copies of activations for the forward.
TWO = """\
description: two numbers
numbers: {w: 16, x: 12}
rules:
  - {format: fp32}
  - {format: fixed<w>, role: [weight]}
  - {format: int<x>, role: [activation]}
  - {copy: operand, gemm: [forward], operand: [x], format: bfp<x>}
"""
X = "encoder.0.self_attention_norm"  # read by fc1 in the forward, and by what follows the residual


@pytest.fixture(params=ENCODERS)
def graph(request):
    return STEPS[request.param](dropout=0.1, micro_batches=2, optimizer=adamw(clip_norm=1.0))


@pytest.fixture
def widths(tmp_path):
    """A policy with the widths of a table."""

    def make(table, base=FIXED_BITS):
        (tmp_path / "t.csv").write_text(table)
        return with_widths(base, read_widths(tmp_path / "t.csv"))

    return make


@pytest.fixture
def two(tmp_path):
    (tmp_path / "two.yaml").write_text(TWO)
    return shipped_policy(str(tmp_path / "two.yaml"))


def names(graph, policy):
    return {name: format.name for name, format in formats_of(graph, policy).items()}


def test_a_layer_table_changes_all_of_a_layer(graph, widths):
    before, after = (names(graph, rules) for rules in (FIXED_BITS, widths("layer,bits\nencoder.0,4\nhead,7\n")))
    new = {"encoder.0": "fixed4", "head": "fixed7"}
    assert after == {  # ids and masks stay
        name: new.get(graph.tensors[name].layer, old) if old == "fixed16" else old for name, old in before.items()
    }
    assert set(after.values()) == {*new.values(), *before.values()}


def test_a_tensor_table_changes_those_tensors_and_what_updates_them(graph, widths):
    weight, made, state = (f"encoder.0.ffn.fc1{part}" for part in (".weight", "", ".weight.m"))
    after = names(graph, widths(f"tensor,bits\n{weight},2\n{made},3\n{state},32\n"))
    changed = {
        made: "fixed3",
        weight: "fixed2",
        f"{weight}.next": "fixed2",
        state: "fixed32",
        f"{state}.next": "fixed32",
    }
    assert after == names(graph, FIXED_BITS) | changed


@pytest.mark.parametrize("by", ["layer", "tensor"])
def test_a_table_of_everything_is_another_number(graph, widths, by):
    everything = graph.tensors if by == "tensor" else {tensor.layer for tensor in graph.tensors.values()}
    table = widths(f"{by},bits\n" + "".join(f"{name},5\n" for name in everything))
    assert formats_of(graph, table) == formats_of(graph, policy({"format": "fixed5"}))


def test_numbers_of_a_layer_hold_for_what_its_gemms_read(graph, widths, two):
    """A copy goes with the GEMM that reads it, whichever layer made its source."""
    changed = widths("layer, w ,x\n\nencoder.0,4,3\n", two)
    before, after = names(graph, two), names(graph, changed)
    new = {"fixed16": "fixed4", "int12": "int3"}
    assert after == {
        name: new.get(old, old) if graph.tensors[name].layer == "encoder.0" else old for name, old in before.items()
    }
    made = {op: [copy.format.name for copy in chain] for (op, _), chain in copies_of(graph, changed).items()}
    assert made == {op: ["bfp3" if op.startswith("encoder.0.") else "bfp12"] for op in made}
    assert len({op.partition(".")[0] for op in made}) > 1


def test_numbers_of_a_tensor_hold_for_copies_of_it(graph, widths, two):
    made = copies_of(graph, widths(f"tensor,w,x\n{X},4,3\n", two))
    source = {(op.name, i): name for op in graph.ops for i, name in enumerate(op.inputs)}
    assert {read: chain[0].format.name for read, chain in made.items()} == {
        read: "bfp3" if source[read] == X else "bfp12" for read in made
    }
    assert ("encoder.0.ffn.fc1", 0) in made


def test_columns_are_named_not_counted(graph, widths, two):
    tables = ("layer,w,x\nencoder.0,4,3\n", "layer,x,w\r\nencoder.0,3,4\r\n", '\ufefflayer,"x",w\n"encoder.0", 3 ,004')
    assert len({str(sorted(names(graph, widths(table, two)).items())) for table in tables}) == 1


def test_a_column_may_leave_numbers_out(graph, widths, two):
    assert names(graph, widths("layer,x\nencoder.0,12\n", two)) == names(graph, two)


RULES = [
    {"copy": "operand", "operand": ("x",), "format": "int<x>", "placement": "stored", "scale_time": "current"},
    {"copy": "stash", "format": "bfp<x>"},
    {"role": ("weight",), "format": "fixed<x>"},
]


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
@pytest.mark.parametrize("by", ["layer", "tensor"])
def test_a_table_is_short_for_rules(graph, widths, by, traffic):
    layers = sorted({tensor.layer for tensor in graph.tensors.values()})
    numbers = {name: n for n, name in enumerate(layers if by == "layer" else [X, *list(graph.tensors)[::60]], 3)}
    table = f"{by},x\n" + "".join(f"{name},{n}\n" for name, n in numbers.items())
    short = widths(table, policy({"format": "fixed16"}, *RULES, numbers={"x": 2}))
    field = "layer" if by == "layer" else "name"
    longer = [
        {**rule, **more, "format": rule["format"].replace("<x>", str(n))}
        for rule in RULES
        for n, more in ((2, {}), *((n, {field: name, "optional": True}) for name, n in numbers.items()))
    ]
    by_rules = policy({"format": "fixed16"}, *longer)
    assert of_each_op(counted(graph, short, traffic)) == of_each_op(counted(graph, by_rules, traffic))


# --- --bits -----------------------------------------------------------------------------------------------------------

ONE_LAYER = ["model.layers=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("layer,bits\nencoder.0,4\n")
    (tmp_path / "two.csv").write_text("layer,w\nencoder.0,4\n")
    (tmp_path / "two.yaml").write_text(TWO)
    (tmp_path / "q0.csv").write_text("layer,q0\nencoder.0,4\n")
    (tmp_path / "q0.yaml").write_text(TWO.replace("w: 16", "q0: 16").replace("<w>", "<q0>"))


def rows(*policies, bits=None):
    result = run("glue-mrpc-dsq", policies, assignments=[*ONE_LAYER, "policies=[dsq, bfp16]"], bits=bits)
    return {row["policy"]: row for row in records(result, "policy")}


def test_bits_adds_the_policy_that_takes_them(folder):
    without, with_bits = rows(), rows(bits="t.csv")
    assert list(with_bits) == ["dsq", "bfp16", "fixed-bits"]
    assert {name: with_bits[name] for name in without} == without
    assert 1 < with_bits["fixed-bits"]["arithmetic_reduction"] < 16
    assert with_bits["fixed-bits"] == rows("fixed-bits", bits="t.csv")["fixed-bits"]


@pytest.mark.parametrize(("bits", "takes"), [("t.csv", "fixed-bits"), ("two.csv", "two"), ("q0.csv", "q0")])
def test_policies_without_such_a_number_are_left_alone(folder, bits, takes):
    """dsq has a level q0, but no such number."""
    policies = [f"{name}.yaml" for name in ("two", "q0", "fixed-bits", "dsq")]
    without, with_bits = rows(*policies), rows(*policies, bits=bits)
    assert {name for name in with_bits if with_bits[name] != without[name]} == {takes}
    assert with_bits[takes]["dram_bits"] != without[takes]["dram_bits"]


def test_bits_on_the_command_line(folder):
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--set", *ONE_LAYER, "--bits", "t.csv"])
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.output.splitlines() if line.startswith("fixed-bits")] == [
        ["fixed-bits", "--bits"]
    ]


def test_without_bits_it_is_fixed16():
    by_policy = rows("fixed-bits", "fixed16")
    assert {**by_policy["fixed-bits"], "policy": "", "setup": "", "grade": ""} == {
        **by_policy["fixed16"],
        "policy": "",
        "setup": "",
        "grade": "",
    }


@pytest.mark.parametrize("content", ["layer,bits\r" + "encoder.0,4\r", "layer,bits\r\nencoder.0,4\r\n"])
def test_any_line_ends(content, tmp_path):
    (tmp_path / "table.csv").write_bytes(content.encode())
    assert read_widths(tmp_path / "table.csv").rows == {"encoder.0": (4,)}


def test_a_cell_that_csv_refuses_is_one_line(tmp_path):
    (tmp_path / "table.csv").write_text(f"layer,bits\nencoder.0,{'4' * 200_000}\n")
    with pytest.raises(InputError, match=r"table.csv:2: not valid CSV: field larger"):
        read_widths(tmp_path / "table.csv")
