"""Families with parts of their own (patches, convolutions, distances, windows to both sides): gradients and counts."""

import numpy as np
import pytest
from conftest import (
    MODERNBERT,
    MORE_STEPS,
    SMALL_CLASSIFIER,
    SMALL_SPEECH,
    adamw,
    deberta_step,
    miscounts,
    modernbert_step,
    section,
    shipped_policy,
    speech_step,
)
from test_explain import all_differences
from test_ranks import updated
from test_training_step import gradient_names, loss_of

from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.graph.pairs import Pairs
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Parallel
from costsim.models import encoder_classifier, speech_recognizer
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.ranks import own_weights, run_ranks

CASES = {name: (step, {}) for name, step in MORE_STEPS.items()} | {
    "dropout": (deberta_step, {"dropout": 0.3, "attention_dropout": 0.2}),
    "keys alone": (deberta_step, {"disentangled": {"rows": 5, "content_to_position": False}, "micro_batches": 2}),
    "own weights": (deberta_step, {"disentangled": {"rows": 5}, "scaled": "scores", "checkpointing": "selective"}),
    "no padding": (deberta_step, {"batch": {"padding_mask": False}}),
    "words": (modernbert_step, {"task_head": "masked-lm", "classes": None, "head_bias": False, "logits_bias": False}),
    "op by op": (modernbert_step, {"fused_activation": False, "batch": {"padding_mask": False}}),
    "flash": (speech_step, {"attention": "flash", "checkpointing": "full", "kernel": 5, "dropout": 0.1}),
}


def made(name, **changes):
    step, fixed = CASES[name]
    return step(**fixed, **changes)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_finite_differences(name):
    graph, rng = made(name), np.random.default_rng(0)
    weights = draw_weights(graph, rng)
    weights = {weight: x + 0.2 * rng.normal(size=x.shape) for weight, x in weights.items()}
    batches = [draw_batch(graph, rng) for _ in range(graph.micro_batches)]
    values, gradients = run(graph, weights, batches, seed=5).values, gradient_names(graph)
    assert set(gradients) == set(weights)
    for weight, x in weights.items():
        along = rng.normal(size=x.shape) * 1e-6
        up, down = (loss_of(graph, weights | {weight: x + sign * along}, batches) for sign in (1, -1))
        expected = np.sum(values[gradients[weight]] * along) * 2
        assert up - down == pytest.approx(expected, rel=1e-5, abs=2e-14), weight


@pytest.mark.parametrize("policy", ["fp32", "dsq", "bf16-mixed", "nvfp4"])
@pytest.mark.parametrize("name", CASES)
def test_counts_are_what_is_measured_and_derived(name, policy):
    graph = made(name)
    assert miscounts(graph, shipped_policy(policy)) == []
    assert all_differences(graph, shipped_policy(policy), [0]) == []


WAYS = ({"scaled": "scores"}, {"checkpointing": "selective"}, {"checkpointing": "full"}, {"attention": "flash"})


@pytest.mark.parametrize("name", MORE_STEPS)
def test_all_ways_to_write_it_are_the_same_function(name):
    results = []
    for way in ({}, *WAYS[: 3 if name == "deberta" else 4]):
        graph = made(name, **way)
        weights = draw_weights(graph, np.random.default_rng(1))
        ran = run(graph, weights, [draw_batch(graph, np.random.default_rng(2))])
        results.append((ran.losses, {weight: ran.values[gradient_of(graph, weight)] for weight in weights}))
    for losses, gradients in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-12)
        for weight, gradient in gradients.items():
            np.testing.assert_allclose(gradient, results[0][1][weight], rtol=1e-8, atol=1e-11, err_msg=weight)


# --- on many devices --------------------------------------------------------------------------------------------------

ON_RANKS = {
    "roberta": (encoder_classifier, SMALL_CLASSIFIER),
    "modernbert": (encoder_classifier, SMALL_CLASSIFIER | MODERNBERT),
    "speech": (speech_recognizer, SMALL_SPEECH),
}


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("name", ON_RANKS)
def test_ranks_of_tensor_do_what_one_device_does(name, sequence):
    """What is whole on all ranks, and not divided into shares of a sequence: first tokens, pooled ones, patches."""
    module, fields = ON_RANKS[name]
    tokens = {"target_tokens": 4} if name == "speech" else {"tokens": 4}
    model = section(module.Model, {**fields, "vocab": 12})
    batch = section(module.Batch, {"sequences": 2, **tokens})
    alone, ranks = (
        training_step(model, batch, adamw(kind="sgd", lr=1.0, weight_decay=0.0), 2, parallel=parallel)
        for parallel in (Parallel(), Parallel(tensor=2, sequence=sequence))
    )
    rng = np.random.default_rng(0)
    weights, batches = draw_weights(alone, rng), [draw_batch(alone, rng) for _ in range(2)]
    one, many = run(alone, weights, batches), run_ranks([ranks], weights, [batches])
    made, names = updated(alone), updated(ranks)
    new = {weight: one.values[made[weight]] for weight in weights}
    for rank, of in enumerate(many.runs):
        assert of.losses == pytest.approx(one.losses)
        for weight, mine in own_weights(ranks, new, rank).items():
            np.testing.assert_allclose(of.values[names[weight]], mine, rtol=1e-10, atol=1e-12, err_msg=weight)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_convolution_is_written_out_place_by_place():
    """Of each output: the sum over places of a patch, of rows that are there."""
    graph = speech_step()
    rng = np.random.default_rng(3)
    weights, batch = draw_weights(graph, rng), draw_batch(graph, rng)
    values = run(graph, weights, [batch]).values
    x = values["embedding.conv1.gelu"]
    w, bias = weights["embedding.conv2.weight"], weights["embedding.conv2.bias"]
    expected = np.zeros((x.shape[0], 4, w.shape[2])) + bias
    for patch in range(4):
        for place in range(3):
            row = 2 * patch + place - 1
            if 0 <= row < x.shape[1]:
                expected[:, patch] += x[:, row] @ w[place]
    np.testing.assert_allclose(values["embedding.conv2.add_bias"], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
def test_a_convolution_keeps_its_input_and_moves_no_patches(traffic):
    """One kernel each way: x, weight and bias in, y out; x, weight and dy in, three gradients out."""
    graph = speech_step(optimizer=adamw(), source_positions=8)
    assignment = assign(graph, shipped_policy("fp32"))
    kept = {place.tensor for place in memory(graph, assignment, traffic).activations}
    assert {"embedding.spectrograms", "embedding.conv1.gelu"} <= kept
    assert not any("patches" in name for name in kept)
    everywhere = {place.tensor for place in memory(graph, assignment, traffic).stored}
    assert not any(name.endswith((".patches", ".patches.recompute")) for name in everywhere)


def test_each_query_is_left_a_key():
    """However narrow the window, and whatever is padding: a softmax over nothing would be no number."""
    graph = modernbert_step(windows=(1, 2), batch={"sequences": 9, "tokens": 6})
    assert "embedding.keep" in graph.tensors
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert np.isfinite(run(graph, draw_weights(graph, rng), [draw_batch(graph, rng)]).losses).all()


def test_windows_to_both_sides_are_counted():
    graph = modernbert_step(batch={"sequences": 1, "tokens": 7}, task_head="masked-lm", classes=None)
    assert graph.pairs == {"around2": Pairs("tokens", 7, False, 2)}
    graph = modernbert_step(windows=(9,))  # all meet
    assert not graph.pairs


@pytest.mark.parametrize(
    ("step", "changes", "message"),
    [
        (deberta_step, {"attention": "flash"}, "say attention: eager"),
        (
            deberta_step,
            {"disentangled": {"rows": 4, "content_to_position": False, "position_to_content": False}},
            "both",
        ),
        (deberta_step, {"positions": "rotary"}, "no rotary positions"),
        (deberta_step, {"convolution": {"kernel": 4}}, "expected an odd number"),
        (modernbert_step, {"positions": "learned"}, "say positions: rotary"),
        (speech_step, {"kernel": 4}, "expected an odd number"),
        (speech_step, {"batch": {"target_tokens": 7}}, "less than the sentences' 7 tokens"),
    ],
)
def test_what_is_refused(step, changes, message):
    with pytest.raises((InputError, FieldError, ValueError), match=message):
        step(**changes)
