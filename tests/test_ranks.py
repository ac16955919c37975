"""Steps on many devices: all ranks, run together, do what one device does with all micro-batches."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from conftest import in_turn

import costsim
from costsim.cost.collectives import sent_bits
from costsim.cost.count import count
from costsim.cost.memory import memory
from costsim.cost.row import each_op
from costsim.cost.totals import sum_rows
from costsim.errors import InputError
from costsim.explain.derive import Deriver, differences
from costsim.formats.named import parse_format
from costsim.formats.quantize import quantize
from costsim.graph.graph import ALONE, most_in_flight
from costsim.parallel.schedules import order, play
from costsim.policy.assign import assign
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.ranks import own_weights, place, ranks_of, run_ranks
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
LATENT = (
    f"{LLAMA.replace('kv_heads: 2, ', '')}, head_dim: 6, rotary_dim: 2, "
    "latent: {kv_rank: 5, nope_dim: 4, rope_dim: 2, value_dim: 3}"
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
    "biased experts": f"{LLAMA}, experts: {{number: 4, chosen: 2, capacity_factor: 2.0, bias: true, ffn_dim: 24, "
    "shared_ffn_dim: 8, shared_gate: true, groups: 2, chosen_groups: 1, router: sigmoid, correction_bias: true}",
}
SPLITS = [
    "{context: 2}",
    "{context: 2, data: 2, tensor: 2, zero: 3}",
    "{pipeline: 2}",
    "{pipeline: 2, tensor: 2, data: 2, zero: 1}",
    "{pipeline: 2, data: 2, zero: 3}",
    "{pipeline: 2, chunks: 2, schedule: interleaved}",
    "{pipeline: 2, chunks: 2, schedule: zb-h1, data: 2, zero: 2, tensor: 2}",
    "{tensor: 2}",
    "{tensor: 2, sequence: false}",
    "{data: 2}",
    "{data: 4, zero: 1}",
    "{data: 2, error_feedback: true}",
    "{data: 2, zero: 1, error_feedback: true}",
    "{data: 2, zero: 2}",
    "{data: 3, zero: 3}",
    "{data: 4, zero: 3, secondary: 2}",
    "{tensor: 2, data: 2, zero: 3}",
    "{tensor: 2, data: 2, zero: 1, sequence: false}",
]
OF_EXPERTS = [
    "{tensor: 2}",
    "{tensor: 2, sequence: false, data: 2, expert: 2}",
    "{tensor: 2, data: 4, expert: 2, zero: 3}",
    "{pipeline: 2, data: 2, expert: 2}",
    "{data: 2, expert: 2}",
    "{data: 4, expert: 2}",
    "{data: 4, expert: 2, zero: 3}",
    "{context: 2, data: 2, expert: 4}",
]
CASES = [(model, split) for model in MODELS for split in (OF_EXPERTS if "experts" in model else SPLITS)]


def graph_of(tmp_path, model, parallel="{}", micro_batches=2, more=()):
    file = tmp_path / "small.yaml"
    text = DECODER % (MODELS[model], micro_batches)
    file.write_text(text + (f"parallel: {parallel}\n" if parallel else ""))
    return prepare(Request(str(file), assignments=more)).graph


def deep(split):
    """As many layers as there are parts of a pipeline."""
    return ("model.layers=4",) if "chunks" in split else ()


def stages_of(tmp_path, model, parallel, micro_batches, more=()):
    stages = yaml.safe_load(parallel).get("pipeline", 1)
    more = (*more, *deep(parallel))
    sets = [[*more, f"parallel.stage={stage}"] if stage else more for stage in range(stages)]
    return [graph_of(tmp_path, model, parallel, micro_batches, of) for of in sets]


def updated(graph):
    """By weight: what the update makes of it."""
    return {tensor.alias: tensor.name for tensor in graph.tensors.values() if tensor.alias and tensor.role == "weight"}


ADAM = ("optimizer={kind: adamw, lr: 0.01, clip_norm: 0.1, weight_decay: 0.1}",)


@pytest.mark.parametrize(
    ("model", "split", "optimizer"),
    [(*case, ()) for case in CASES]  # sgd shows gradients themselves
    + [(*case, ADAM) for case in CASES if case[0] in ("gpt2", "experts")],
)
def test_all_ranks_together_do_what_one_device_does(tmp_path, model, split, optimizer):
    data, micro = yaml.safe_load(split).get("data", 1), 2
    replicas = data * yaml.safe_load(split).get("context", 1)
    stages = stages_of(tmp_path, model, split, micro, optimizer)
    alone = graph_of(tmp_path, model, micro_batches=micro * data, more=(*optimizer, *deep(split)))
    rng = np.random.default_rng(0)
    weights = draw_weights(alone, rng)
    batches = [draw_batch(alone, rng) for _ in range(micro * data)]
    one = run(alone, weights, batches)
    many = run_ranks(stages, weights, [batches[i * micro : (i + 1) * micro] for i in range(data)])
    ends = ranks_of(stages[0]) // len(stages)  # those of the last stage have the loss
    assert sum(one.losses) == pytest.approx(sum(sum(of.losses) for of in many.runs) * replicas / ends)
    changed = updated(alone)
    # Cut as before the step, each rank has of the new weights what it has made itself.
    new = {name: one.values[changed[name]] if name in changed else weights[name] for name in weights}
    for rank, of in enumerate(many.runs):
        ranks = stages[place(stages[0], rank, "pipeline")]
        names = updated(ranks)
        assert names
        for name, mine in own_weights(ranks, new, rank).items():
            if name in names:
                digits = {"rtol": 1e-9, "atol": 1e-12} if optimizer else {"rtol": 1e-12, "atol": 1e-14}
                np.testing.assert_allclose(of.values[names[name]], mine, **digits, err_msg=name)


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
BITS += [
    ("gpt2", "{data: 4, algorithms: {all_reduce: tree}}"),
    ("gpt2", "{data: 4, zero: 3, algorithms: {all_gather: bruck, reduce_scatter: recursive}}"),
    ("experts", "{data: 4, expert: 4, algorithms: {all_to_all: bruck}}"),
]


def with_rules(name):
    policy = costsim.load_policy("bf16-mixed")
    for rule in RULES[name]:
        policy = policy.with_(**rule, optional=True)
    return policy


@pytest.mark.parametrize(("model", "split", "rules"), in_turn(BITS, RULES))
def test_bits_sent_are_bits_counted(tmp_path, model, split, rules):
    """Every collective of every rank, from the lengths of packed buffers."""
    data, micro = yaml.safe_load(split).get("data", 1), 2 if "chunks" in split else 3
    stages = stages_of(tmp_path, model, split, micro)
    alone = graph_of(tmp_path, model, micro_batches=micro, more=deep(split))
    assignments = [assign(graph, with_rules(rules)) for graph in stages]
    rng = np.random.default_rng(0)
    weights = {name: x.astype(np.float32) for name, x in draw_weights(alone, rng).items()}
    batches = [[draw_batch(alone, rng, np.float32) for _ in range(micro)] for _ in range(data)]
    many = run_ranks(stages, weights, batches, assignments=assignments, measure=True)
    for stage, (graph, assignment) in enumerate(zip(stages, assignments, strict=True)):
        counted = {op.name: sum(map(sent_bits, row.messages)) for op, row in each_op(count(graph, assignment))}
        sending = {name: bits for name, bits in counted.items() if bits}
        assert sending
        for rank, sent in enumerate(many.sent_bits):
            if place(graph, rank, "pipeline") == stage:
                assert sent == sending
        if rules == "int8 gradients" and len(stages) == 1:
            plain = count(graph, assign(graph, costsim.load_policy("bf16-mixed")))
            assert sum(sending.values()) < sum(sum_rows(plain, "product").sent_bits.values())


@pytest.mark.parametrize(("model", "split", "rules", "traffic"), in_turn(BITS, RULES, ["unfused", "fused"]))
def test_derived_is_counted_for_every_op(tmp_path, model, split, rules, traffic):
    graph = graph_of(tmp_path, model, split, 4, deep(split))
    assignment = assign(graph, with_rules(rules))
    deriver = Deriver(graph, assignment, traffic, "product")
    for op, row in each_op(count(graph, assignment, traffic)):
        if row.cast is None:
            assert differences(deriver.op(op), row) == []


TINY = ["model.layers=1", "model.d_model=16", "model.ffn_dim=32", "model.heads=4", "model.vocab=24", "model.dropout=0"]
TINY += ["batch={sequences: 2, tokens: 8}", "training.micro_batches=1", "optimizer={kind: sgd, lr: 1.0}"]


@pytest.mark.parametrize("split", ["{tensor: 2}", "{tensor: 2, sequence: false}", "{tensor: 2, data: 2, zero: 3}"])
def test_classifiers_look_at_the_first_token_of_all(split):
    """What all ranks do alike with all positions has one gradient: they were summed over the ranks."""
    sets = [*TINY, "model.attention_dropout=0"]
    alone = prepare(Request("glue-mrpc-dsq", assignments=sets)).graph
    graph = prepare(Request("glue-mrpc-dsq", assignments=[*sets, f"parallel={split}"])).graph
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(alone, rng), draw_batch(alone, rng)
    one, many = run(alone, weights, [batch]), run_ranks([graph], weights, [[batch]] * 2)
    new = {weight: one.values[name] for weight, name in updated(alone).items()}
    for rank, of in enumerate(many.runs):
        for weight, mine in own_weights(graph, new, rank).items():
            np.testing.assert_allclose(of.values[updated(graph)[weight]], mine, rtol=1e-11, atol=1e-13)


LOSSES = {
    "latent attention": (LATENT, []),
    "smoothed": ("", ["label_smoothing=0.1"]),
    "in chunks": ("head: {chunks: 3, backward: at_once}", []),
    "made again in chunks": ("head: {chunks: 3, backward: recompute}", ["label_smoothing=0.1"]),
}


OF_LOSSES = ["{tensor: 2}", "{tensor: 2, sequence: false}", "{tensor: 2, pipeline: 2, context: 2}"]


@pytest.mark.parametrize("split", OF_LOSSES)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_shared_vocabularies(tmp_path, name, split, monkeypatch):
    model, more = LOSSES[name]
    monkeypatch.setitem(MODELS, name, model)
    stages = stages_of(tmp_path, name, split, 1, more)
    alone = graph_of(tmp_path, name, micro_batches=1, more=more)
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(alone, rng), draw_batch(alone, rng)
    one, many = run(alone, weights, [batch]), run_ranks(stages, weights, [[batch]], measure=True)
    changed = updated(alone)
    new = {weight: one.values[changed[weight]] for weight in weights}
    for rank, of in enumerate(many.runs):
        graph = stages[place(stages[0], rank, "pipeline")]
        names = updated(graph)
        for weight, mine in own_weights(graph, new, rank).items():
            np.testing.assert_allclose(of.values[names[weight]], mine, rtol=1e-12, atol=1e-14)
    exchanged = [op for op in stages[-1].ops if op.layer == "head" and op.kind.collective in ("all_reduce",)]
    exchanged = [op for op in exchanged if op.params["axis"] == "tensor" and "cross_entropy" in op.name]
    chunks = 3 if "chunks" in name else 1
    assert len(exchanged) == 3 * chunks  # three numbers a token, once
    assert {len(stages[-1].tensors[op.inputs[0]].dims) for op in exchanged} == {2 if chunks == 1 else 1}


def test_a_loss_of_one_kernel_is_that_of_one_device():
    with pytest.raises(InputError, match="not one kernel: say at_once or recompute"):
        prepare(Request("gpt2-small", assignments=['model.head={"chunks": 2}', "parallel.tensor=2"]))


# --- pipelines of encoders and decoders -------------------------------------------------------------------------------


TWO_STACKS = """
description: small
model: {family: encoder-decoder, d_model: 16, ffn_dim: 32, heads: 4, encoder_layers: %d, decoder_layers: %d,
  source_vocab: 24, target_vocab: 24, max_positions: 8, dropout: 0.0, %s}
batch: {sequences: 2, source_tokens: 8, target_tokens: 4}
training: {steps: 10, micro_batches: 2}
optimizer: {kind: sgd, lr: 1.0}
policies: [fp32]
baseline: fp32
"""
PIPELINES = [
    ("tied: decoder", (2, 2), "{pipeline: 2}", 1),
    ("tied: decoder, final_norm: true, norm: pre", (2, 3), "{pipeline: 5}", 2),  # is passed on twice, tied 2 and 4
    ("tied: all, positions: learned", (2, 2), "{pipeline: 4}", 2),  # on stages 0, 2 and 3
    ("tied: none, positions: learned, embedding_norm: true", (2, 2), "{pipeline: 4, tensor: 2, data: 2, zero: 1}", 2),
    ("tied: none, positions: relative, relative_buckets: 4", (2, 3), "{pipeline: 4, encoder_stages: 2}", 2),
    ("tied: embeddings, checkpointing: full", (2, 2), "{pipeline: 3, encoder_stages: 1, data: 2, zero: 3}", 1),
    ("tied: decoder, attention: flash, fused_norm: true", (3, 2), "{pipeline: 3, schedule: zb-h1, tensor: 2}", 2),
    ("tied: all, positions: learned", (2, 2), "{context: 2}", 0),
    ("tied: decoder, attention: flash", (1, 1), "{context: 2, data: 2, tensor: 2, zero: 3}", 0),
    ("tied: decoder, kv_heads: 2, norm: pre", (1, 2), "{context: 2, pipeline: 3}", 1),
]


@pytest.mark.parametrize("optimizer", [(), ADAM], ids=["sgd", "adamw"])
@pytest.mark.parametrize(("model", "layers", "split", "encoder_stages"), PIPELINES)
def test_stages_of_two_stacks_do_what_one_device_does(tmp_path, model, layers, split, encoder_stages, optimizer):
    """The encoder's output goes along through all stages of the decoder, and its gradients come back summed."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO_STACKS % (*layers, model))
    fields = yaml.safe_load(split)
    data, micro, number = fields.get("data", 1), 2, fields.get("pipeline", 1)

    def graph(*sets):
        return prepare(Request(str(file), assignments=[*optimizer, *sets])).graph

    alone = graph(f"training.micro_batches={micro * data}")
    stages = [graph(f"parallel={split}", f"parallel.stage={stage}") for stage in range(number)]
    own = [{op.layer.partition(".")[0] for op in each.ops if op.gemm and op.layer[-1].isdigit()} for each in stages]
    assert number == 1 or own == [{"encoder"}] * encoder_stages + [{"decoder"}] * (number - encoder_stages)
    assignments = [assign(each, costsim.load_policy("fp32")) for each in stages]
    rng = np.random.default_rng(0)
    weights = draw_weights(alone, rng)
    batches = [draw_batch(alone, rng) for _ in range(micro * data)]
    one = run(alone, weights, batches)
    shared = [batches[i * micro : (i + 1) * micro] for i in range(data)]
    many = run_ranks(stages, weights, shared)
    measured = run_ranks(stages, _in_fp32(weights), [list(map(_in_fp32, of)) for of in shared],
                         assignments=assignments, measure=True)  # fmt: skip
    changed = updated(alone)
    new = {name: one.values[changed[name]] for name in weights}
    for each, formats in zip(stages, assignments, strict=True):
        deriver = Deriver(each, formats, "fused", "product")
        assert not any(differences(deriver.op(op), row) for op, row in each_op(count(each, formats, "fused")))
    seen, digits = set(), {"rtol": 1e-9, "atol": 1e-12} if optimizer else {"rtol": 1e-12, "atol": 1e-14}
    for rank, of in enumerate(many.runs):
        stage = place(stages[0], rank, "pipeline")
        names = updated(stages[stage])
        for name, mine in own_weights(stages[stage], new, rank).items():
            np.testing.assert_allclose(of.values[names[name]], mine, **digits, err_msg=name)
            seen.add(name.removesuffix(".share"))
        counted = {op.name: sum(map(sent_bits, row.messages)) for op, row in each_op(
            count(stages[stage], assignments[stage]))}  # fmt: skip
        assert measured.sent_bits[rank] == {name: bits for name, bits in counted.items() if bits}
    assert seen == set(weights)


def _in_fp32(values):
    return {name: x.astype(np.float32) if x.dtype == np.float64 else x for name, x in values.items()}


# --- rings of attention -----------------------------------------------------------------------------------------------


SLICED = {
    "windows": (f"{LLAMA}, windows: [5, null]", []),
    "padding": (LLAMA, ["batch.padding_mask=true"]),
    "latent": (LATENT, []),
    "causal": (f"{LLAMA}, attention: flash, windows: [5, null]", ["attention_pairs=causal"]),
    "chunked head": ("head: {chunks: 3}", []),
}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SLICED)
def test_slices_of_sequences_do_what_whole_ones_do(tmp_path, name, ranks, monkeypatch):
    """With masks that look at positions, and pairs that meet counted and computed alone."""
    model, more = SLICED[name]
    monkeypatch.setitem(MODELS, name, model)
    stages = stages_of(tmp_path, name, f"{{context: {ranks}}}", 1, more)
    alone = graph_of(tmp_path, name, micro_batches=1, more=more)
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(alone, rng), draw_batch(alone, rng)
    one, many = run(alone, weights, [batch]), run_ranks(stages, weights, [[batch]])
    changed = updated(alone)
    for of in many.runs:
        for weight, new in updated(stages[0]).items():
            np.testing.assert_allclose(of.values[new], one.values[changed[weight]], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_ring_sends_each_slice_to_all_others(checkpointing):
    """Keys and values n - 1 times forward, again for each time that they are read, and their gradients home.

    As Transformer Engine's AttnFuncWithCPAndKVP2P; Liu et al., arXiv:2310.01889, section 3.
    """
    sets = ["parallel={context: 4}", "training.micro_batches=1", f"model.checkpointing={checkpointing}"]
    graph = prepare(Request("llama-2-7b", assignments=sets)).graph
    sent = Counter()
    for op, row in each_op(count(graph, assign(graph, costsim.load_policy("bf16-pure")))):
        if op.layer == "decoder.3" and op.params.get("axis") == "context":
            sent[op.phase, op.kind.name] += sum(map(sent_bits, row.messages))
    once = 2 * 3 * (4096 // 4) * 4096 * 16 * graph.sizes["batch"]
    again = 2 if checkpointing == "full" else 1
    assert sent == {
        ("forward", "ring_gather"): once,
        ("recompute", "ring_gather"): again * once,
        ("backward", "ring_scatter"): once,
    }


def test_ranks_of_context_reduce_as_those_of_data():
    """Weights are the same on all of them, and zero shares states among all."""
    sent, states = [], []
    for split in ("{data: 4, zero: 1}", "{data: 2, context: 2, zero: 1}"):
        graph = prepare(Request("llama-small", assignments=[f"parallel={split}"])).graph
        assignment = assign(graph, costsim.load_policy("bf16-mixed"))
        states.append(memory(graph, assignment, "unfused").components["optimizer_states"])
        totals = sum_rows(count(graph, assignment), "product")
        sent.append(totals.sent_bits["data"])
    assert sent[0] == sent[1]
    assert states[0] == states[1]


def test_of_keys_that_pass_two_slices_lie_in_memory():
    sets = ["parallel={context: 8}", "model.layers=1", "model.attention=flash"]
    graph = prepare(Request("llama-2-7b", assignments=sets)).graph
    held = memory(graph, assign(graph, costsim.load_policy("bf16-pure")), "unfused")
    keys = [place for place in held.stored if place.name in graph.passing and place.copy is None]
    assert len(keys) == 6  # keys and values, forward and backward, and their gradients
    assert {place.size_bytes for place in keys} == {2 * 4096 // 8 * 4096 * 2 * graph.sizes["batch"]}


# --- closed forms -----------------------------------------------------------------------------------------------------


def sent_by(graph, policy):
    """Bits that a rank sends in a step, by layer, phase and collective."""
    sent = Counter()
    for op, row in each_op(count(graph, assign(graph, policy))):
        sent[op.layer, op.phase, op.kind.collective] += sum(map(sent_bits, row.messages))
    return sent


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_layer_exchanges_what_megatron_says(ranks):
    """Korthikanti et al., arXiv:2205.05198, section 4.2: two gathers and two scatters of s b h either way.

    And the gathers of the forward once more, for the gradients of weights (section 4.2.2).
    """
    sets = [f"parallel.tensor={ranks}", "model.vocab=50304", "training.micro_batches=1"]
    graph = prepare(Request("gpt2-small", assignments=sets)).graph
    sent = sent_by(graph, costsim.load_policy("bf16-pure"))
    once = (ranks - 1) * (graph.sizes["batch"] * graph.sizes["tokens"] * graph.sizes["model"] // ranks) * 16
    of_layer = {key[1:]: bits for key, bits in sent.items() if key[0] == "decoder.3" and key[2]}
    norms = {key: bits for key, bits in of_layer.items() if key[1] == "all_reduce"}
    assert {key: bits for key, bits in of_layer.items() if key not in norms} == {
        ("forward", "all_gather"): 2 * once,
        ("forward", "reduce_scatter"): 2 * once,
        ("recompute", "all_gather"): 2 * once,
        ("backward", "all_gather"): 2 * once,
        ("backward", "reduce_scatter"): 2 * once,
    }
    vectors = 6 * graph.sizes["model"]  # two norms and the biases of out and fc2, of which each rank has a part
    assert sum(norms.values()) == 2 * (ranks - 1) * vectors // ranks * 16


def data_parallel(zero, more=()):
    sets = [f"parallel={{data: 8, zero: {zero}}}", "training.micro_batches=1", *more]
    return prepare(Request("llama-small", assignments=sets)).graph


SENT = {  # by policy: the bits in which weights are gathered, and gradients are reduced
    "fp32": (32, 32),
    "bf16-mixed": (16, 32),
    "fp16-mixed": (16, 32),
    "bf16-pure": (16, 16),
}


@pytest.mark.parametrize("policy", SENT)
@pytest.mark.parametrize(("zero", "gathered", "reduced"), [(0, 0, 2), (1, 1, 1), (2, 1, 1), (3, 2, 1)])
def test_ranks_of_data_send_what_zero_says(zero, gathered, reduced, policy):
    """Twice the parameters, three times with zero 3, but for (N-1)/N: arXiv:1910.02054, section 7; all divide by 8."""
    graph = data_parallel(zero)
    whole = data_parallel(0).parameters
    sent = sent_by(graph, costsim.load_policy(policy))
    bits = sum(bits for (layer, _, _), bits in sent.items() if layer != "clip")
    once = graph.elements(graph.tensors["embedding.tokens.weight"].dims) if zero == 3 else 0  # no gradient reads it
    of_weight, of_gradient = SENT[policy]
    assert bits == ((gathered * whole - once) * of_weight + reduced * whole * of_gradient) * 7 // 8


@pytest.mark.parametrize(("zero", "whole", "shared"), [(0, 16, 0), (1, 4, 12), (2, 2, 14), (3, 0, 14)])
def test_states_take_what_zero_says(zero, whole, shared):
    """16 bytes a parameter, of which ranks share a part: arXiv:1910.02054, sections 3.1 and 5.

    With zero 3 two bytes less: a share is cast to bf16 as it is gathered, and not kept in it as well.
    """
    graph = data_parallel(zero, ["training.micro_batches=4"])
    policy = costsim.load_policy("bf16-mixed").with_(role="weight_gradient", format="bf16")
    policy = policy.with_(role="weight", name="*.share", format="fp32", optional=True)
    held = memory(graph, assign(graph, policy), "unfused")
    names = ("weights", "master_weights", "gradients", "optimizer_states")
    bytes_ = sum(held.components[name] for name in names)
    one = data_parallel(0)
    # Norms and the embedding read master weights themselves, and have no copies: with zero they are gathered in bf16.
    uncopied = [tensor for tensor in one.weights if len(tensor.dims) == 1 or tensor.name.startswith("embedding")]
    extra = -8 * 2 * sum(one.elements(tensor.dims) for tensor in uncopied) if zero == 0 else 0
    assert bytes_ * 8 == (8 * whole + shared) * one.parameters + extra


@pytest.mark.parametrize(
    ("workload", "sets", "said"),
    [
        ("gpt2-small", ["tensor=5"], "5 ranks do not divide heads, which is 12; 4 do"),
        (
            "gpt2-small model.vocab=50257",
            ["tensor=2"],
            "vocab, which is 50257; 1 do, or pad it: 50258",
        ),
        ("llama-2-7b", ["tensor=64"], "64 ranks do not divide heads, which is 32; 32 do"),
        ("llama-2-7b", ["expert=2", "data=2"], "the model has no experts to share"),
        ("mixtral-8x7b", ["data=6", "expert=3"], "3 ranks do not divide experts, which is 8; 2 do"),
        ("mixtral-8x7b", ["data=6", "expert=4"], "6 ranks of data do not divide into groups of 4"),
        ("llama-2-7b", ["zero=3"], "shares things among ranks of data, of which there is one"),
        ("llama-2-7b", ["pipeline=64"], "64 stages of 32 layers; 32 do"),
        ("llama-2-7b", ["pipeline=2", "stage=2"], "there are 2 stages, from 0 on"),
        ("llama-2-7b", ["context=24"], "24 ranks have 2 runs each of a sequence, and do not divide 4096 tokens; 16 do"),
        ("wmt14-dsq", ["context=16"], "do not divide 28 tokens of source; 14 do"),
        ("wmt14-dsq model.positions=relative model.relative_buckets=8", ["context=2"], "looks at several positions"),
        ("glue-mrpc-dsq", ["context=2"], "looks at several positions of a sequence"),
        ("gemma-2-2b attention_pairs=window", ["context=2"], "its ranks have not equally many pairs"),
        ("llama-2-7b", ["chunks=2"], "are of stages of a pipeline, of which there is one"),
        ("llama-2-7b", ["pipeline=2", "chunks=2"], "1f1b has one chunk a stage, got 2; interleaved, zb-h1 have"),
        ("llama-2-7b", ["pipeline=2", "schedule=interleaved"], "interleaved wants several runs of layers a stage"),
        ("llama-2-7b", ["pipeline=4", "chunks=9", "schedule=zb-h1"], "4 stages of 9 chunks of 32 layers; 8 do"),
        ("wmt14-dsq", ["pipeline=13"], "13 stages of 12 layers; 12 do"),
        ("wmt14-dsq", ["pipeline=4", "encoder_stages=4"], "4 of 4 stages for 6 layers, the others for 6; 3 do"),
        ("wmt14-dsq", ["pipeline=7", "chunks=2", "schedule=zb-h1"], "an encoder and a decoder has one chunk"),
        ("llama-2-7b", ["pipeline=2", "encoder_stages=1"], "the model has one stack of layers; leave it out"),
        ("llama-2-7b", ["encoder_stages=1"], "are of stages of a pipeline, of which there is one"),
        ("llama-2-7b", ["data=4", "zero=3", "secondary=3"], "do not divide into groups of 3; of 2 they do"),
        ("llama-2-7b training.trainable=['decoder.31.*']", ["pipeline=2"], "stage 0 trains no weight"),
        ("wmt14-dsq training.trainable=['decoder.*']", ["pipeline=2"], "stage 0 trains no weight"),
        ("llama-2-7b training.trainable=['decoder.0.*']", ["pipeline=2", "stage=1"], "stage 1 trains no weight"),
        ("llama-2-7b training.trainable=['decoder.32.*']", ["pipeline=2"], "no weight is named like 'decoder.32.*'"),
        ("llama-2-7b", ["tensro=2"], "unknown key 'tensro'; did you mean 'tensor'?"),
    ],
)
def test_what_ranks_do_not_divide_is_named(workload, sets, said):
    workload, *more = workload.split()
    request = Request(workload, assignments=[*more, *(f"parallel.{text}" for text in sets)])
    with pytest.raises(InputError, match=re.escape(said)) as error:
        prepare(request)
    assert ("--set training." if "trainable" in "".join(more) else "--set parallel.") in str(error.value)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("", "matches nothing in the workload, which is of one device and sends nothing"),
        ("{data: 2}", "matches nothing in the workload: ranks do no all_gather here"),
        ("{tensor: 2}", "all_gather is of activation, gradient here"),
    ],
)
def test_a_rule_of_messages_that_are_not_sent_says_so(tmp_path, split, said):
    policy = costsim.load_policy("bf16-mixed").with_(
        copy="operand", collective=["all_gather"], role=["weight"], format="bf16"
    )
    with pytest.raises(InputError, match=said):
        assign(graph_of(tmp_path, "llama", split), policy)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("micro_batches", [1, 3, 8])
def test_stages_keep_what_their_schedule_has_in_flight(tmp_path, schedule, micro_batches):
    parallel = f"{{pipeline: 2, schedule: {schedule}}}"
    stages = stages_of(tmp_path, "gpt2", parallel, micro_batches)
    ones = [1.0, 1.0]
    played = play(schedule, ones, ones, ones, micro_batches)
    assert [most_in_flight(graph.in_flight) for graph in stages] == list(played.in_flight)
    for graph in stages:
        assignment = assign(graph, costsim.load_policy("bf16-mixed"))
        held = memory(graph, assignment, "unfused")
        alone = memory(dataclasses.replace(graph, in_flight=ALONE), assignment, "unfused")
        kept = sum(place.size_bytes for place in held.activations)
        assert kept > 0
        backward = max(op.position for op in graph.ops if op.phase != "update")
        if held.peak_op.position <= backward and alone.peak_op.position <= backward:
            assert held.peak_bytes - alone.peak_bytes == (most_in_flight(graph.in_flight) - 1) * kept
        assert sum(held.components.values()) == held.peak_bytes


@pytest.mark.parametrize("schedule", ["interleaved", "zb-h1"])
@pytest.mark.parametrize("micro_batches", [2, 6])
def test_chunks_keep_what_as_many_stages_would(tmp_path, schedule, micro_batches):
    """Part k of 2 stages with 2 chunks has the layers of stage k of 4, whose stash says what it keeps."""
    stages = stages_of(tmp_path, "gpt2", f"{{pipeline: 2, chunks: 2, schedule: {schedule}}}", micro_batches)
    parts = stages_of(tmp_path, "gpt2", "{pipeline: 4}", micro_batches, ["model.layers=4"])
    policy = costsim.load_policy("bf16-mixed")

    def held(graph):
        return memory(graph, assign(graph, policy), "unfused")

    def kept(graph):
        return sum(place.size_bytes for place in held(graph).activations)

    for stage, graph in enumerate(stages):
        sizes = [kept(parts[stage]), kept(parts[stage + 2])]
        assert kept(graph) == sum(sizes)
        peak = held(graph)
        chunk = graph.chunk_of[peak.peak_op.position]
        flying, most = [0, 0], 0
        for work in order(schedule, stage, 2, micro_batches, 2):
            flying[work.chunk] += work.what == "forward"
            if work.chunk == chunk:
                most = max(most, sum(n * size for n, size in zip(flying, sizes, strict=True)))
            flying[work.chunk] -= work.what == "wgrad"
        own = sum(place.size_bytes for place in peak.stored if peak.is_alive(place))
        assert peak.peak_bytes - own == most - sum(sizes[: chunk + 1])


def test_chunks_send_as_many_times_more(tmp_path):
    """A stage sends each way v times where it sent once, but for the first and last parts: arXiv:2104.04473, 2.2.2."""
    for stage in range(3):
        sent = []
        for chunks, schedule in ((1, "1f1b"), (2, "interleaved"), (3, "interleaved")):
            parallel = f"{{pipeline: 3, stage: {stage}, chunks: {chunks}, schedule: {schedule}}}"
            graph = graph_of(tmp_path, "gpt2", parallel, 3, ["model.layers=9"])
            sent.append(sum(op.times for op in graph.ops if op.kind.name == "send") // 3)
        ends = stage in (0, 2)  # the first part has no gradient to send, the last no activation
        assert sent == [2 * chunks - ends for chunks in (1, 2, 3)]


def test_rules_see_the_name_of_a_weight_in_its_shares():
    """NF4 by name: shares and messages are as narrow as the weight; they were kept and gathered in bf16."""
    sets = ["parallel={data: 4, zero: 3}", "model.layers=1"]
    graph = prepare(Request("llama-2-7b-lora", assignments=sets)).graph
    assignment = assign(graph, costsim.load_policy("qlora"))
    frozen = [name for name, tensor in graph.tensors.items() if tensor.share_of and not tensor.trainable]
    narrow = {name for name in frozen if ".self_attention." in name or ".ffn." in name}
    assert len(narrow) == 7
    assert {assignment.format(name).name for name in narrow} == {"nf4-double"}
    gathers = {op.inputs[0]: row for op, row in each_op(count(graph, assignment)) if op.kind.name == "all_gather_flat"}
    for name in narrow:
        (message,) = gathers[name].messages
        assert message.shard_bits < 4.2 * graph.elements(graph.tensors[name].dims)


# --- error feedback ---------------------------------------------------------------------------------------------------

STATES = "optimizer_states"
ROUNDED = {"role": ["weight_gradient"], "name": "*.rounded", "format": "mxint8"}


@pytest.mark.parametrize("zero", [0, 1])
def test_what_is_lost_of_a_gradient_is_kept(tmp_path, zero):
    """Of each rank: its gradient less what it sent, which is rounded to the format; a step sends no more for that."""
    split = f"{{data: 2, zero: {zero}, error_feedback: true}}"
    [graph], alone = stages_of(tmp_path, "gpt2", split, 2), graph_of(tmp_path, "gpt2")
    policy = costsim.load_policy("fp32").with_(**ROUNDED)
    rng = np.random.default_rng(0)
    weights = {name: x.astype(np.float32) for name, x in draw_weights(alone, rng).items()}
    batches = [[draw_batch(alone, rng, np.float32) for _ in range(2)] for _ in range(2)]
    many = run_ranks([graph], weights, batches, assignments=[assign(graph, policy)], measure=True)
    for of in many.runs:
        fed = [name for name in of.values if name.endswith(".fed")]
        assert len(fed) == len(alone.weights)
        for name in fed:
            exact, error = of.values[name], of.values[name.replace(".grad.fed", ".error.next")]
            sent = quantize(exact, parse_format("mxint8"))
            np.testing.assert_array_equal(error, exact - sent)
        assert any(np.abs(of.values[name.replace(".grad.fed", ".error.next")]).max() > 0 for name in fed)
    states = [
        sum(of.size_bytes for of in memory(step, assign(step, with_), "unfused").stored if of.component == STATES)
        for step, with_ in ((graph, policy), (alone, costsim.load_policy("fp32")))
    ]
    assert states == [4 * alone.parameters, 0]  # sgd has none


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ("{error_feedback: true}", "with zero 0 or 1; there is one rank of data"),
        ("{data: 2, zero: 2, error_feedback: true}", "with zero 0 or 1; zero is 2"),
        ("{data: 4, zero: 3, secondary: 3}", "4 ranks of data do not divide into groups of 3"),
        ("{data: 4, zero: 1, secondary: 2}", "is about weights that ranks of data share, with zero 3; zero is 1"),
    ],
)
def test_what_data_cannot_share_is_refused(tmp_path, parallel, message):
    with pytest.raises(InputError, match=message):
        graph_of(tmp_path, "gpt2", parallel)
