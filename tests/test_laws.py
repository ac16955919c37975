"""Laws against worked examples of their sources, and what happens where a law says nothing."""

import json

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.cost.laws import LAWS
from costsim.formats.named import EXAMPLES, parse_format


def cost(law, a, b, accumulator="fp32", summed=64):
    """Of one MAC, which is added in the accumulator."""
    return LAWS[law].cost(parse_format(a), parse_format(b), summed, 1, ((parse_format(accumulator), 1),))


# Darvish Rouhani et al., NeurIPS 2020, table 1: arithmetic density relative to fp32, by format
DENSITY = {"msfp16": 8.8, "msfp15": 10.8, "msfp14": 13.9, "msfp13": 18.3, "msfp12": 31.9, "msfp11": 50.9}


@pytest.mark.parametrize("name", DENSITY)
def test_msfp_densities(name):
    bits = int(name.removeprefix("msfp")) - 8
    assert cost("msfp", "fp32", "fp32") / cost("msfp", name, name) == pytest.approx(DENSITY[name], rel=1e-3)
    assert cost("msfp", f"bfp{bits}", f"bfp{bits}") == cost("msfp", name, name)  # the same format by another name


@pytest.mark.parametrize(
    ("a", "b"), [("fixed8", "fixed8"), ("bfp4", "bfp8"), ("bfp4-box32", "bfp4-box32"), ("bfp16", "bfp16")]
)
def test_msfp_is_defined_for_msfp_only(a, b):
    assert cost("msfp", a, b) is None


def test_hbfp_is_as_published():
    """8.5 times the throughput of fp16, of hbfp8 with hbfp8; nothing is said of others."""
    assert cost("hbfp", "fp16", "fp16") / cost("hbfp", "hbfp8", "hbfp8") == pytest.approx(8.5, rel=1e-4)
    for pair in (("hbfp12", "hbfp12"), ("fp32", "fp32"), ("hbfp8", "fp16"), ("bfp8", "bfp8")):
        assert cost("hbfp", *pair) is None


def test_passes_of_chunks():
    """FAST multiplies mantissas of m bits in m / 2 chunks: 4 x 4 bits are four passes, 2 x 2 one."""
    chunks = {f"fast{m}": len(range(0, m, 2)) for m in (2, 4)}
    for a, of_a in chunks.items():
        for b, of_b in chunks.items():
            assert cost("fast", a, b) == len([(i, j) for i in range(of_a) for j in range(of_b)])
    for name in ("bfp4-exp4", "bfp2-exp4", "mx4", "msfp12", "fp16"):
        assert cost("fast", name, name) is None


def test_bops_of_a_linear_layer():
    """UNIQ: m n (b_a b_w + b_a + b_w + log2 n); W8A8 with n = 128 takes 64 + 8 + 8 + 7 = 87 bit operations a MAC."""
    assert cost("bops", "int8", "int8", summed=128) == 87
    assert cost("bops", "int8", "int8", summed=129) == 88  # an accumulator has whole bits
    assert cost("bops", "fixed4", "fixed2", summed=1) == 8 + 4 + 2


def test_product_is_the_arithmetic_computation_effort():
    """PokeBNN: sum of n_ij i j; 1e9 MACs of 8 x 8 bits are 6.4e10."""
    assert 10**9 * cost("product", "int8", "int8") == 64 * 10**9
    assert cost("product", "fp32", "bf16") == 24 * 8


# Horowitz, ISSCC 2014, figure 1.1.9, in pJ: multiply plus add
@pytest.mark.parametrize(
    ("operand", "accumulator", "picojoule"),
    [
        ("int8", "int32", 0.2 + 0.1),
        ("fixed32", "fixed32", 3.1 + 0.1),
        ("fp16", "fp16", 1.1 + 0.4),
        ("fp16", "fp32", 1.1 + 0.9),
        ("fp32", "fp32", 3.7 + 0.9),
        ("fixed16", "int32", 3.1 / 4 + 0.1),  # scaled as (16/32)^2
        ("bfp2", "fp32", 3.1 / 256 + 0.9),
    ],
)
def test_energy(operand, accumulator, picojoule):
    assert cost("energy", operand, operand, accumulator) == pytest.approx(picojoule * 1e6, abs=0.5)


@pytest.mark.parametrize(
    ("a", "b", "accumulator"), [("bf16", "bf16", "fp32"), ("fp32", "int8", "fp32"), ("int8", "int8", "bf16")]
)
def test_energy_is_not_made_up(a, b, accumulator):
    assert cost("energy", a, b, accumulator) is None


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_law_prices_or_refuses_every_format(law, name):
    price = cost(law, name, name)
    assert price is None or (isinstance(price, int) and price >= 0)
    assert LAWS[law].source
    assert LAWS[law].defined


def run(*args):
    return CliRunner().invoke(main, ["run", "glue-mrpc-dsq", *args])


def test_an_undefined_law_says_so_and_the_rest_goes_on():
    done = run("--law", "msfp", "--policy", "static4-bfp", "--format", "json")
    assert done.exit_code == 0
    [row] = json.loads(done.stdout)["rows"]
    assert row["arithmetic_cost"] is row["arithmetic_reduction"] is row["square_bits_per_mac"] is None
    assert int(row["dram_bits"]) > 0
    table = run("--law", "msfp", "--policy", "static4-bfp").output
    assert "n/a" in table
    assert "law msfp is defined for" in table


@pytest.mark.parametrize("law", LAWS)
def test_laws_by_group_sum_to_the_total(law):
    total, groups = (
        json.loads(run("--law", law, "--policy", "fixed16", "--format", "json", *by).stdout)["rows"]
        for by in ((), ("--by", "layer"))
    )
    if cost(law, "fixed16", "fixed16") is None:
        assert total[0]["arithmetic_cost"] is None
    else:
        assert int(total[0]["arithmetic_cost"]) == sum(int(row["arithmetic_cost"]) for row in groups)
