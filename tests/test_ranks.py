"""Steps on many devices: all ranks, run together, do what one device does with all micro-batches."""

import numpy as np
import pytest
import yaml

import costsim
from costsim.cost.collectives import sent_bits
from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.policy.assign import assign
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.ranks import own_weights, ranks_of, run_ranks
from costsim.run.job import Request, prepare

DECODER = """
description: small
model: {family: decoder, d_model: 16, ffn_dim: 32, heads: 4, layers: 2, vocab: 24, max_positions: 8, dropout: 0.0, %s}
batch: {sequences: 2, tokens: 8}
training: {steps: 10, micro_batches: %d}
optimizer: {kind: sgd, lr: 1.0}
policies: [fp32]
baseline: fp32
"""
LLAMA = (
    "kv_heads: 2, norm_kind: rms, positions: rotary, tied: false, qkv_bias: false, out_bias: false, ffn_bias: false, "
    "activation: silu, gated: true"
)
MODELS = {
    "gpt2": "",
    "gpt2 by layers": "checkpointing: full",
    "llama": LLAMA,
    "llama flash": f"{LLAMA}, attention: flash, fused_norm: false, upcast: true",
    "gemma": f"{LLAMA}, norm: sandwich, zero_centered_norm: true, qk_norm: true",
    "parallel": "parallel: two_norms",
    "lora": f"{LLAMA}, lora: {{rank: 2, alpha: 4, targets: ['*.q', '*.out']}}",
    "experts": f"{LLAMA}, experts: {{number: 4, chosen: 2, capacity_factor: 2.0}}",
}
SPLITS = [
    "{tensor: 2}",
    "{tensor: 2, sequence: false}",
    "{data: 2}",
    "{data: 4, zero: 1}",
    "{data: 2, zero: 2}",
    "{data: 3, zero: 3}",
    "{tensor: 2, data: 2, zero: 3}",
    "{tensor: 2, data: 2, zero: 1, sequence: false}",
]
OF_EXPERTS = ["{data: 2}", "{data: 2, expert: 2}", "{data: 4, expert: 2}", "{data: 4, expert: 2, zero: 3}"]
CASES = [(model, split) for model in MODELS for split in (OF_EXPERTS if model == "experts" else SPLITS)]


def graph_of(tmp_path, model, parallel="{}", micro_batches=2, more=()):
    file = tmp_path / "small.yaml"
    text = DECODER % (MODELS[model], micro_batches)
    file.write_text(text + (f"parallel: {parallel}\n" if parallel else ""))
    return prepare(Request(str(file), assignments=more)).graph


def updated(graph):
    """By weight: what the update makes of it."""
    return {tensor.alias: tensor.name for tensor in graph.tensors.values() if tensor.alias and tensor.role == "weight"}


ADAM = ("optimizer={kind: adamw, lr: 0.01, clip_norm: 0.1, weight_decay: 0.1}",)


@pytest.mark.parametrize("optimizer", [(), ADAM], ids=["sgd", "adamw"])  # sgd shows gradients themselves
@pytest.mark.parametrize(("model", "split"), CASES)
def test_all_ranks_together_do_what_one_device_does(tmp_path, model, split, optimizer):
    data, micro = yaml.safe_load(split).get("data", 1), 2
    ranks = graph_of(tmp_path, model, split, micro, optimizer)
    alone = graph_of(tmp_path, model, micro_batches=micro * data, more=optimizer)
    rng = np.random.default_rng(0)
    weights = draw_weights(alone, rng)
    batches = [draw_batch(alone, rng) for _ in range(micro * data)]
    one = run(alone, weights, batches)
    many = run_ranks(ranks, weights, [batches[i * micro : (i + 1) * micro] for i in range(data)])
    assert sum(one.losses) == pytest.approx(sum(sum(of.losses) for of in many.runs) * data / ranks_of(ranks))
    changed = updated(alone)
    # Cut as before the step, each rank has of the new weights what it has made itself.
    new = {name: one.values[changed[name]] if name in changed else weights[name] for name in weights}
    for rank, of in enumerate(many.runs):
        names = updated(ranks)
        assert names
        for name, mine in own_weights(ranks, new, rank).items():
            if name in names:
                np.testing.assert_allclose(of.values[names[name]], mine, rtol=1e-9, atol=1e-12, err_msg=name)


RULES = {
    "plain": [],
    "fp8 weights": [
        {"role": ["weight"], "collective": ["all_gather"], "format": "bf16"},
        {"copy": "operand", "collective": ["all_gather"], "role": ["weight"], "format": "fp8-e4m3-tensor"},
    ],
    "int8 gradients": [
        {"copy": "operand", "collective": ["reduce_scatter", "all_reduce"], "format": "mxint8"},
        {"copy": "operand", "collective": ["all_to_all"], "format": "mxfp8"},
    ],
}
BITS = [(model, split) for model, split in CASES if model in ("gpt2", "llama flash", "experts")]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("model", "split"), BITS)
def test_bits_sent_are_bits_counted(tmp_path, model, split, rules):
    """Every collective of every rank, from the lengths of packed buffers."""
    data, micro = yaml.safe_load(split).get("data", 1), 3
    graph = graph_of(tmp_path, model, split, micro)
    alone = graph_of(tmp_path, model, micro_batches=micro)
    policy = costsim.load_policy("bf16-mixed")
    for rule in RULES[rules]:
        policy = policy.with_(**rule, optional=True)
    assignment = assign(graph, policy)
    rng = np.random.default_rng(0)
    weights = {name: x.astype(np.float32) for name, x in draw_weights(alone, rng).items()}
    batches = [[draw_batch(alone, rng, np.float32) for _ in range(micro)] for _ in range(data)]
    many = run_ranks(graph, weights, batches, assignment=assignment, measure=True)
    counted = {op.name: sum(map(sent_bits, row.messages)) for op, row in each_op(count(graph, assignment))}
    sending = {name: bits for name, bits in counted.items() if bits}
    assert sending
    for sent in many.sent_bits:
        assert sent == sending
