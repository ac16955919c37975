"""Norms op by op and upcast: what is kept, against PyTorch's own counts. Origin: data/torch_counts_llama.py."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import LLAMA, SMALL_DECODER, STEPS, adamw, miscounts, shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.memory import memory
from costsim.cost.totals import sum_rows
from costsim.huggingface.importer import workload_of
from costsim.inputs.parse import parse_yaml
from costsim.models import decoder
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run

DATA = Path(__file__).parent / "data"
TORCH = json.loads((DATA / "torch_counts_llama.json").read_text())
TRANSFORMERS = {"norm_kind": "rms", "fused_norm": False, "upcast": True, "fused_activation": False}
PLAIN = {"qkv_bias": False, "out_bias": False, "ffn_bias": False, "activation": "silu", "gated": True}
GEMMA = {"activation": "gelu_new", "zero_centered_norm": True, "scale_embedding": True}
GEMMA |= {"d_model": 256, "ffn_dim": 1024, "heads": 8, "head_dim": 64, "layers": 2, "vocab": 1000}
GEMMA2 = GEMMA | {"norm": "sandwich", "query_pre_attn_scalar": 256.0, "windows": (512, None)}


def imported(name):
    """The model that `import` makes of a real config."""
    model = dict(parse_yaml(workload_of(DATA / "configs" / f"{name}.json").text, name).data["model"])
    return {field: value for field, value in model.items() if field not in ("family", "max_positions", "positions")}


SIZES = {
    "llama-2-7b": {"d_model": 4096, "ffn_dim": 11008, "heads": 32, "layers": 32, "vocab": 32000, "tied": False},
    "qwen3-small": {"d_model": 256, "ffn_dim": 1024, "heads": 8, "head_dim": 64, "layers": 2, "vocab": 1000}
    | {"qk_norm": True},
    "llama-grouped": {"d_model": 256, "ffn_dim": 1024, "heads": 8, "kv_heads": 2, "layers": 2, "vocab": 1000},
    "gemma-small": GEMMA,
    "gemma2-small": GEMMA2 | {"attention_softcap": 50.0, "logits_softcap": 30.0},
    "gemma3-small": GEMMA2 | {"qk_norm": True, "local_rotary": True},
    **{name: imported(name) | {"fused_activation": False} for name in ("gemma-2b", "gemma-2-2b", "gemma-3-1b-it")},
}
RUNS = [(name, run) for name, runs in TORCH["models"].items() for run in runs]
POLICY = {"float32": "fp32", "bfloat16": "bf16-eager"}
DTYPE = {"fp32": "float32", "bf16": "bfloat16", "index64": "int64"}
TOKENS = TORCH["tokens"]


def step(name, **changes):
    model = decoder.Model(
        family="decoder", max_positions=8192, positions="rotary", **{**TRANSFORMERS, **PLAIN, **SIZES[name], **changes}
    )
    return training_step(model, decoder.Batch(sequences=TORCH["batch"], tokens=TOKENS), adamw())


def kept(graph, policy, with_loss=True, traffic="unfused"):
    """What is kept for the backward when the forward ends: {(bytes, dtype): how many}."""
    places = memory(graph, assign(graph, shipped_policy(policy)), traffic).activations
    return Counter(
        (place.size_bytes, DTYPE[place.format.name])
        for place in places
        if with_loss or not place.tensor.startswith(("head.cross_entropy", "head.labels"))
    )


def grouped_heads(name):
    """The widths of all queries, and of all keys, where keys are repeated; None where none are.

    One head of keys is not copied: PyTorch's view of it has a stride of 0.
    """
    sizes = SIZES[name]
    heads, keys = sizes["heads"], sizes.get("kv_heads") or sizes["heads"]
    head = sizes.get("head_dim") or sizes["d_model"] // heads
    return None if keys in (1, heads) else (heads * head, keys * head)


def total(storages):
    return sum(size * number for (size, _), number in storages.items())


def run_id(entry):
    name, run = entry
    return "-".join([name, run["attention"], run["dtype"], *(["loss"] if run["with_loss"] else [])])


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
@pytest.mark.parametrize("entry", RUNS, ids=run_id)
def test_saved_bytes_are_those_of_pytorch_tensor_by_tensor(entry, traffic):
    """All but the loss's sum of class weights, labels that are a view of one more, the state of random numbers.

    And transformers repeats keys and values for each head of their group, where we read them as they are.
    """
    name, torch = entry
    graph = step(name, attention=torch["attention"])
    theirs = Counter()
    for storage, number in torch["saved_storages"].items():
        size, dtype = storage.split()
        theirs[int(size), dtype] = number
    assert total(theirs) == torch["saved_bytes"]
    ours = kept(graph, POLICY[torch["dtype"]], torch["with_loss"], traffic)
    only_theirs, only_ours = Counter(), Counter()
    if torch["with_loss"]:
        only_theirs = Counter({(4, "float32"): 1, (8 * TOKENS + 8, "int64"): 1})
        only_ours = Counter({(8 * TOKENS, "int64"): 1})
    if torch["attention"] == "flash":
        layers = SIZES[name]["layers"]
        only_theirs += Counter({(16, "uint64"): layers, (8, "uint64"): layers})
    if groups := grouped_heads(name):
        repeated, single = (TOKENS * width * (4 if torch["dtype"] == "float32" else 2) for width in groups)
        only_theirs[repeated, torch["dtype"]] = only_ours[single, torch["dtype"]] = 2 * SIZES[name]["layers"]
    assert theirs - ours == only_theirs
    assert ours - theirs == only_ours


@pytest.mark.parametrize("entry", RUNS, ids=run_id)
def test_parameters_and_flops(entry):
    name, torch = entry
    graph = step(name, attention=torch["attention"])
    assert graph.parameters == torch["parameters"]
    forward, backward = (
        sum(2 * graph.work(op)[0] for op in graph.ops if op.phase in phases)
        for phases in (("forward",), ("recompute", "backward"))
    )
    assert (forward, backward) == (torch["flops_forward"], torch["flops_backward"])


@pytest.mark.parametrize(
    ("policy", "upcast", "bytes_more"),
    [("fp32", False, 4), ("fp32", True, 4), ("bf16-eager", False, 2), ("bf16-eager", True, 4)],
)
def test_a_norm_op_by_op_keeps_a_tensor_more(policy, upcast, bytes_more):
    """x and its normed values, not x alone; upcast, x in float32 in place of x. In fp32: 33,554,432 B each."""
    fused = kept(step("llama-2-7b", attention="flash", fused_norm=True, upcast=False), policy)
    steps = kept(step("llama-2-7b", attention="flash", upcast=upcast), policy)
    assert total(steps) - total(fused) == 65 * TOKENS * 4096 * bytes_more


def test_softmax_in_float32_is_kept_beside_what_the_product_reads():
    layers, scores = 32, 32 * TOKENS**2
    for policy, more in (("fp32", 0), ("bf16-eager", 4)):
        plain, wide = (kept(step("llama-2-7b", fused_norm=True, upcast=upcast), policy) for upcast in (False, True))
        assert total(wide) - total(plain) == layers * scores * more


@pytest.mark.parametrize("policy", ["fp32", "bf16-eager"])
def test_checkpoints_of_whole_layers_are_what_they_were(policy):
    """Only the layers' inputs stay, as the residual stream is; float32 is made again. The last norm is in no layer."""
    ways = {"attention": "flash", "checkpointing": "full"}
    fused = kept(step("llama-2-7b", **ways, fused_norm=True, upcast=False), policy)
    steps = kept(step("llama-2-7b", **ways), policy)
    assert total(steps) - total(fused) == TOKENS * 4096 * 4


def test_under_fp32_the_conversion_of_a_norm_is_one_more_pass():
    """Known difference: PyTorch's .to(float32) of float32 is nothing; upcast: false leaves it out."""
    graphs = [step("qwen3-small", upcast=upcast) for upcast in (True, False)]
    rows = [count(graph, assign(graph, shipped_policy("fp32"))) for graph in graphs]
    dram = [sum_rows(r, "product").read_bits + sum_rows(r, "product").written_bits for r in rows]
    elements = TOKENS * (5 * 256 + 4 * 512)  # 2 norms a layer and the last, 2 a layer of queries and keys
    assert dram[0] - dram[1] == 2 * 2 * 32 * elements  # there, and the gradient back: each read and written


@pytest.mark.parametrize("changes", [{}, {"upcast": False}, {"qk_norm": True}, {"checkpointing": "full"}], ids=str)
def test_op_by_op_is_the_same_function(changes):
    """Losses and gradients of the reference, against the norm as one kernel."""
    results = []
    for ways in ({"fused_norm": True, "upcast": False}, {"fused_norm": False, "upcast": True}):
        model = decoder.Model(**{**SMALL_DECODER, **LLAMA, **changes, **ways})
        graph = training_step(model, decoder.Batch(sequences=3, tokens=5), adamw())
        weights = draw_weights(graph, np.random.default_rng(1), np.float64)
        batch = draw_batch(graph, np.random.default_rng(2), np.float64)
        done = run(graph, weights, [batch])
        results.append((done.losses, {name: done.values[f"{name}.grad"] for name in weights}))
    (loss, grads), (other_loss, other_grads) = results
    assert loss == pytest.approx(other_loss, rel=1e-12)
    for name, gradient in grads.items():
        np.testing.assert_allclose(other_grads[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "policy", ["fp32", "bf16-mixed", "bf16-eager", "fp16-mixed", "fp8-tensor", "bf16-autocast", "dsq"]
)
@pytest.mark.parametrize("changes", [{}, {"attention": "flash", "qk_norm": True}], ids=["eager", "flash"])
def test_counts_are_what_is_measured(policy, changes):
    graph = STEPS["llama"](fused_norm=False, upcast=True, **changes)
    assert miscounts(graph, shipped_policy(policy)) == []


def test_the_shipped_workload_keeps_what_pytorch_saves():
    torch = next(run for name, run in RUNS if run["attention"] == "flash" and run["dtype"] == "bfloat16")
    sets = ["batch.tokens=2048", "model.fused_activation=false", "training.micro_batches=1"]
    arguments = ["memory", "llama-2-7b", "--policy", "bf16-eager", "--activations", "--format", "json"]
    result = CliRunner().invoke(main, [*arguments, *(part for text in sets for part in ("--set", text))])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)["rows"][0]
    assert int(row["activations_bytes"]) == torch["saved_bytes"] - 12 - 32 * 24


def test_a_layer_norm_comes_as_one_kernel(tmp_path):
    result = CliRunner().invoke(main, ["run", "gpt2-small", "--set", "model.fused_norm=false"])
    assert result.exit_code == 2
    assert "a layer norm comes as one kernel only: fused_norm must be true" in result.output
