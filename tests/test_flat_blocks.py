"""Blocks along the flattened tensor (bitsandbytes, torchao), and rules by the number of elements: by closed forms."""

import math

import numpy as np
import pytest
from conftest import adamw, decoder_step, policy, shipped_policy

from costsim.cost.count import stored_bits
from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.policy.assign import assign
from costsim.run.job import Request, prepare

# Bits of a tensor of n elements that is stored flattened: elements, and what each block of them has.
FLAT = {
    "nf4": lambda n: 4 * n + 32 * math.ceil(n / 64),
    "nf4-128": lambda n: 4 * n + 32 * math.ceil(n / 128),
    "nf4-double": lambda n: 4 * n + 8 * math.ceil(n / 64) + 32 * math.ceil(n / 16384),
    "nf4-double-128": lambda n: 4 * n + 8 * math.ceil(n / 128) + 32 * math.ceil(n / 32768),
    "dynamic8": lambda n: 8 * n + 32 * math.ceil(n / 2048),
    "dynamic8-256": lambda n: 8 * n + 32 * math.ceil(n / 256),
    "int8-flat100": lambda n: 8 * n + 32 * math.ceil(n / 100),
    "int4-asym-flat64": lambda n: 4 * n + (32 + 4) * math.ceil(n / 64),
    "fp8-e4m3-flat256": lambda n: 8 * n + 32 * math.ceil(n / 256),
}

BASE = {"format": "fp32"}
ATTENTION = "decoder.0.self_attention"


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", FLAT)
def test_stored_bits_do_not_depend_on_how_heads_split_a_matrix(name, heads):
    graph = decoder_step(d_model=96, heads=heads, head_dim=96 // heads if heads < 32 else 3, layers=1)
    assignment = assign(graph, policy({**BASE, "format": name}))
    for matrix in ("q", "k", "v", "out"):
        for tensor in (f"{ATTENTION}.{matrix}.weight", f"{ATTENTION}.{matrix}.weight.m"):
            assert stored_bits(graph, assignment, tensor, None) == FLAT[name](96 * 96), (tensor, heads)


@pytest.mark.parametrize("name", FLAT)
def test_short_rows_share_a_block(name):
    """A block is as large as the largest of its elements, in whatever row that lies."""
    x = np.zeros((40, 3), np.float32)
    x[0, 0], x[1, 1] = 1.0, 1e-6
    format = parse_format(name)
    assert quantize(x, format)[1, 1] != np.float32(1e-6) or name.startswith(("dynamic8", "fp8"))
    np.testing.assert_array_equal(quantize(x, format), quantize(x.reshape(-1), format).reshape(x.shape))
    np.testing.assert_array_equal(quantize(x[:, None], format)[:, 0], quantize(x, format))


def test_blocks_of_copies_for_gemms_lie_along_the_flattened_tensor_too():
    graph = decoder_step()
    rule = {"copy": "operand", "operand": ("w",), "role": ("weight",), "placement": "stored"}
    flat, rows = (assign(graph, policy(BASE, {**rule, "format": name})) for name in ("nf4", "nf4-1x64"))
    ops = [op for op in graph.ops if op.name.startswith(f"{ATTENTION}.q") and op.gemm in ("forward", "dgrad")]
    assert len(ops) == 2
    assert len({flat.chain(op, 1) for op in ops}) == 1  # one copy, whatever is summed over
    assert len({rows.chain(op, 1) for op in ops}) == 2
    weight = graph.tensors[ops[0].inputs[1]]
    assert {copy.axes for op in ops for copy in flat.chain(op, 1)} == {tuple(range(len(weight.dims)))}


@pytest.mark.parametrize(
    ("name", "same"), [("dynamic8-2048", "dynamic8"), ("nf4-64", "nf4"), ("nf4-double-64", "nf4-double")]
)
def test_a_format_has_one_name(name, same):
    assert parse_format(name) is parse_format(same)


@pytest.mark.parametrize("name", ["dynamic8-0", "dynamic8-65537", "nf4-1x0", "fp8-e4m3-flat0", "int8-flat"])
def test_blocks_that_are_none(name):
    with pytest.raises(InputError, match=r"block.s side|unknown format"):
        parse_format(name)


# --- published figures ------------------------------------------------------------------------------------------------

# Llama-2-7B by its config: linear layers of the blocks, embedding or head, norms.
LINEAR = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
TABLE = 32000 * 4096
NORMS = 65 * 4096


@pytest.mark.parametrize(
    ("name", "block", "expected"), [("adam8bit", 2048, 14_290_669_568), ("adam8bit-256", 256, 14_471_331_840)]
)
def test_states_of_8_bit_adam(name, block, expected):
    """bitsandbytes' blocks of 2048, since 0.44 of 256 (pull request 1365); embedding and norms in 32 bits."""
    job = prepare(Request("llama-2-7b", policies=(f"bf16-mixed+{name}",)))
    held = memory(job.graph, assign(job.graph, job.policies[0]), "fused")
    eight = LINEAR + TABLE
    assert expected == 2 * (eight + 4 * eight // block + 4 * (TABLE + NORMS))
    assert held.components["optimizer_states"] == expected


def test_weights_of_qlora():
    """4n + 8n/64 + 32n/16384 bits of the frozen matrices; embedding, head, norms and copies of adapters in bf16."""
    job = prepare(Request("llama-2-7b-lora", policies=("qlora",)))
    held = memory(job.graph, assign(job.graph, job.policies[0]), job.convention.traffic)
    adapters = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    nf4 = LINEAR // 2 + LINEAR // 64 + 4 * (LINEAR // 16384)
    assert held.components["weights"] == nf4 + 2 * (2 * TABLE + NORMS + adapters) == 4_185_407_488


# --- copies of weights over micro-batches -----------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batches", [3, 4])
def test_copies_cast_once_a_step_stay_for_the_next_micro_batch(micro_batches):
    """Regression: the last layer's were gone at the peak, but the micro-batch after it reads them."""
    graph = decoder_step(adamw(), micro_batches)
    rule = {"copy": "operand", "operand": ("w",), "role": ("weight",), "format": "bf16", "placement": "stored"}
    held = memory(graph, assign(graph, policy(BASE, rule)), "unfused")
    copies = [place for place in held.stored if place.copy is not None and place.component == "weights"]
    assert copies
    assert {(place.first, place.last) for place in copies} == {(0, max(place.last for place in held.stored))}


# --- rules by size ----------------------------------------------------------------------------------------------------


def test_rules_select_by_the_number_of_elements():
    graph = decoder_step()
    for bound in (1, 7, 8, 9, 95, 96, 97, 10**9):
        rules = ({"role": ("state",), "elements_at_least": bound, "format": "bf16", "optional": True},)
        assignment = assign(graph, policy(BASE, *rules))
        for name, tensor in graph.tensors.items():
            if tensor.values != "float":
                continue
            large = tensor.role == "state" and math.prod(graph.sizes[dim] for dim in tensor.dims) >= bound
            assert assignment.format(name).name == ("bf16" if large else "fp32"), name


def test_copies_go_by_the_size_of_what_is_read():
    graph = decoder_step()
    rule = {"copy": "operand", "format": "bf16", "elements_at_least": 96}
    assignment = assign(graph, policy(BASE, rule))
    for op in graph.ops:
        for i, name in enumerate(op.inputs):
            if op.gemm:
                large = math.prod(graph.sizes[dim] for dim in graph.tensors[name].dims) >= 96
                assert bool(assignment.chain(op, i)) == large


# --- fake quantization ------------------------------------------------------------------------------------------------


def test_blocks_of_values_in_a_container_lie_as_they_would_without_it():
    """Regression: they lay along the last dim, so that a row of w was an input channel, not an output channel."""
    graph = decoder_step()
    coded, plain = (assign(graph, shipped_policy(name)) for name in ("w8-channel+as-coded", "w8-channel"))
    op = next(op for op in graph.ops if op.name == f"{ATTENTION}.q")
    assert coded.chain(op, 1)[-1].format.grid == plain.chain(op, 1)[-1].format
    assert coded.chain(op, 1)[-1].axes == plain.chain(op, 1)[-1].axes == (0,)
