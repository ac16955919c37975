"""Decoder-only models: closed forms of parameters and FLOPs, experts, adapters, frozen weights, padded batches."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import LLAMA, decoder_step, experts_step, llama_step, section

from costsim.errors import InputError
from costsim.graph.ops.experts import combine, dispatch, dispatch_grad
from costsim.inputs import files
from costsim.models import decoder
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run import simulate
from costsim.run.job import Request, prepare
from costsim.tables.run import document
from costsim.tables.styles import render


def macs(graph, *phases):
    return sum(graph.work(op)[0] for op in graph.ops if op.phase in phases)


GPT2 = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}


@pytest.mark.parametrize("size", GPT2)
def test_gpt2_has_its_closed_forms(size):
    """Parameters and forward MACs of Radford et al.'s four sizes, from d, L, V and the context alone."""
    d, layers, _ = GPT2[size]
    graph = prepare(Request(f"gpt2-{size}")).graph
    v, context, sequences = 50264, 1024, 8
    assert graph.parameters == v * d + context * d + layers * (12 * d * d + 13 * d) + 2 * d
    tokens = sequences * context
    forward = layers * (12 * d * d * tokens + 2 * tokens * context * d) + tokens * d * v
    assert macs(graph, "forward") == forward * graph.micro_batches
    assert macs(graph, "backward") == 2 * macs(graph, "forward")


def test_llama_2_7b_has_its_parameters():
    assert prepare(Request("llama-2-7b")).graph.parameters == 6_738_415_616  # Llama-2-7b-hf's own count
    assert prepare(Request("llama-2-70b")).graph.parameters == 68_976_648_192  # Llama-2-70b-hf, as above


def test_mixtral_has_its_parameters():
    assert prepare(Request("mixtral-8x7b")).graph.parameters == 46_702_792_704  # Mixtral-8x7B-v0.1's own count


# --- experts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 2.0])
def test_experts_take_their_capacity(factor):
    """ceil(capacity_factor x tokens x chosen / number) rows an expert, whatever the router does."""
    graph = experts_step(experts={"number": 3, "chosen": 2, "capacity_factor": factor})
    tokens = 3 * 5
    capacity = math.ceil(factor * tokens * 2 / 3)
    assert graph.sizes["capacity"] == capacity
    of_experts = [op for op in graph.ops if op.phase == "forward" and ".experts.fc" in op.name]
    assert all(graph.work(op)[0] == 3 * capacity * 8 * 12 for op in of_experts)
    assert len(of_experts) == 2 * 3


def test_tokens_beyond_the_capacity_are_left_out():
    x = np.arange(8.0).reshape(1, 4, 2)
    index = np.array([[[0], [0], [0], [1]]])
    y = dispatch(x, index, (2, 2, 2))
    np.testing.assert_array_equal(y, [[[0, 1], [2, 3]], [[6, 7], [0, 0]]])
    back = combine(y, np.ones((1, 4, 1)), index)
    np.testing.assert_array_equal(back, [[[0, 1], [2, 3], [0, 0], [6, 7]]])
    np.testing.assert_array_equal(dispatch_grad(y, index), back)


def test_one_expert_with_room_for_all_is_a_dense_layer():
    """With one expert that every token goes to, its gate is 1: the loss is that of the dense model."""
    dense = decoder_step(**LLAMA)
    sparse = decoder_step(**LLAMA, experts={"number": 1, "chosen": 1})
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(dense, rng), draw_batch(dense, rng)
    moved = {name: x for name, x in weights.items() if ".ffn." not in name}
    for name, x in weights.items():
        if ".ffn." in name:
            moved[name.replace(".ffn.", ".experts.")] = x[None]
    for name in sparse.tensors:
        if name.endswith("router.weight"):
            moved[name] = rng.normal(size=sparse.shape(name))
    losses = [run(dense, weights, [batch]).losses, run(sparse, moved, [batch]).losses]
    np.testing.assert_allclose(*losses, rtol=1e-13)


def test_more_experts_chosen_than_there_are_is_refused():
    with pytest.raises(InputError, match="3 experts chosen of 2"):
        section(decoder.Experts, {"number": 2, "chosen": 3})


# --- what is trained --------------------------------------------------------------------------------------------------

LORA = {"lora": {"rank": 2, "alpha": 4.0, "targets": ("*.q", "*.v")}}


def trained(graph):
    return {op.inputs[0] for op in graph.ops if op.kind.name == "adamw"}


def test_adapters_alone_are_trained():
    graph = llama_step(**LORA, trainable=("*.lora_*",))
    names = {f"decoder.{i}.self_attention.{x}.lora_{ab}.weight" for i in range(2) for x in "qv" for ab in "ab"}
    assert trained(graph) == names
    assert graph.trainable_parameters == sum(graph.elements(graph.tensors[name].dims) for name in names)
    assert graph.parameters == llama_step().parameters + graph.trainable_parameters
    assert {t.name for t in graph.tensors.values() if t.role == "weight_gradient"} == {f"{name}.grad" for name in names}
    states = {t.name.rpartition(".")[0] for t in graph.tensors.values() if t.role == "state" and t.alias is None}
    assert states == names


def test_adapters_that_no_layer_takes_are_refused():
    with pytest.raises(ValueError, match="no linear layer is named like the adapters' target 'nothing'"):
        llama_step(lora={"rank": 2, "targets": ("*.q", "nothing")})


def test_below_the_lowest_trained_layer_there_is_no_backward():
    graph = decoder_step(trainable=("decoder.1.ffn.*", "head.*", "decoder.final.*"), tied=False)
    backward = {op.layer for op in graph.ops if op.phase == "backward"}
    assert backward == {"decoder.1", "decoder.final", "head"}
    assert not [op for op in graph.ops if op.phase == "backward" and ".self_attention." in op.name]
    assert macs(graph, "backward") < 2 * macs(graph, "forward")


def test_biases_alone_need_no_wgrad():
    graph = decoder_step(trainable=("*.bias",))
    assert not [op for op in graph.ops if op.gemm == "wgrad" and graph.tensors[op.inputs[1]].role == "gradient"
                and op.outputs[0].endswith("weight.grad")]  # fmt: skip
    assert all(name.endswith(".bias") for name in trained(graph))


def test_gradients_of_what_is_trained_are_those_of_training_all():
    every, some = decoder_step(), decoder_step(trainable=("decoder.0.ffn.*",))
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(every, rng), draw_batch(every, rng)
    expected, partly = run(every, weights, [batch]).values, run(some, weights, [batch]).values
    for name in trained(some):
        np.testing.assert_array_equal(partly[f"{name}.grad"], expected[f"{name}.grad"])


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no weight is named like 'decoder\.9\.\*'"):
        decoder_step(trainable=("decoder.9.*",))


def test_errors_about_what_is_trained_are_told_at_their_field(tmp_path):
    text = Path(files.find("llama-2-7b-lora", "workloads", "workload")).read_text()
    path = tmp_path / "mine.yaml"
    for old, new, at in (
        ('["*.lora_*"]', '["*.loar_*"]', "training.trainable: no weight is named like '*.loar_*'"),
        ('"*.fc3"]', '"*.fc4"]', "model.lora.targets: no linear layer is named like the adapters' target '*.fc4'"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError) as error:
            prepare(Request(str(path)))
        assert at in str(error.value)
        assert str(error.value).startswith(f"{path}:")


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_grouped_queries_share_keys_and_values():
    grouped, full = llama_step(), llama_step(kv_heads=4)
    head = 4
    assert full.parameters - grouped.parameters == 2 * 2 * 8 * (4 - 2) * head
    of_scores = [macs(graph, "forward") for graph in (grouped, full)]
    assert of_scores[1] - of_scores[0] == 2 * 2 * 15 * 8 * (4 - 2) * head  # k and v of two layers: no more products


def test_a_head_may_be_wider_than_the_model_divides():
    graph = llama_step(head_dim=6)
    assert graph.shape("decoder.0.self_attention.q") == (3, 5, 2, 2, 6)
    assert graph.shape("decoder.0.self_attention.out") == (3, 5, 8)


def test_a_histogram_of_lengths_is_padded_to_the_longest():
    batch = decoder.Batch(lengths=({"tokens": 2, "sequences": 3}, {"tokens": 5, "sequences": 1}))
    assert (batch.rows, batch.columns, batch.real_tokens) == (4, 5, 11)
    with pytest.raises(InputError, match="expected sequences and tokens, or lengths"):
        section(decoder.Batch, {"sequences": 1, "tokens": 2, "lengths": [{"tokens": 2, "sequences": 3}]})
    with pytest.raises(InputError, match="expected sequences and tokens, or lengths"):
        section(decoder.Batch, {"sequences": 1})


def test_the_waste_of_padding_is_shown(tmp_path):
    text = Path(files.find("gpt2-small", "workloads", "workload")).read_text()
    lengths = "lengths: [{tokens: 1024, sequences: 1}, {tokens: 512, sequences: 6}, {tokens: 128, sequences: 1}]"
    text = text.replace("tokens: 1024 # recipe", "").replace("sequences: 8 ", f"{lengths} ")
    path = tmp_path / "padded.yaml"
    path.write_text(text)
    result = simulate.run(str(path), policies=["bf16-mixed"])
    assert result.job.graph.sizes["tokens"] == 1024
    assert "padding: 3968 of 8192 tokens (48.4 %), counted as all others" in render(document(result), "table")
    convention = json.loads(render(document(result), "json"))["convention"]
    assert (convention["real_tokens"], convention["padded_tokens"]) == (4224, 8192)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "d_model 8 does not divide into 3 heads"),
        ({"heads": 4, "kv_heads": 3}, "4 heads do not divide into 3 kv_heads"),
        ({"positions": "rotary", "head_dim": 5}, "rotary positions turn pairs, but a head has 5 elements"),
        ({"experts": {"number": 2, "chosen": 1}}, "experts have no biases: say ffn_bias: false"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        decoder_step(**changes)
