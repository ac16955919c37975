"""Weights of which a share of the output channels is trained: numbers, counts and memory."""

import numpy as np
import pytest
from conftest import STEPS, adamw, miscounts, shipped_policy

from costsim.errors import InputError
from costsim.inputs.schema_workload import Trained
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

FC1 = Trained(weights="decoder.1.ffn.fc1.weight", share=0.25)  # 3 of 12
Q = Trained(weights="decoder.0.self_attention.q.weight", share=0.5)  # 1 of 2 heads, or 2 of 4
ENTRIES = ("*norm.*", FC1, Q)


def stepped(trainable, family="decoder", **changes):
    graph = STEPS[family](optimizer=adamw(**changes), trainable=trainable)
    rng = np.random.default_rng(0)
    weights = draw_weights(graph, rng)
    return graph, weights, run(graph, weights, [draw_batch(graph, rng)]).weights(graph)


@pytest.mark.parametrize("family", ["decoder", "llama"])
@pytest.mark.parametrize("changes", [{}, {"in_backward": True}, {"clip_norm": 1e9}, {"kind": "adafactor"}], ids=str)
def test_the_first_channels_become_what_training_them_all_makes_of_them(family, changes):
    """But adafactor, whose step size is that of a whole matrix."""
    whole = stepped(("*norm.*", FC1.weights, Q.weights), family, **changes)[2]
    _, before, part = stepped(ENTRIES, family, **changes)
    for entry in (FC1, Q):
        was, all_of_it, some = before[entry.weights], whole[entry.weights], part[entry.weights]
        channels = round(entry.share * was.shape[1])
        np.testing.assert_array_equal(some[:, channels:], was[:, channels:])
        assert not np.any(some[:, :channels] == was[:, :channels])
        if changes.get("kind") != "adafactor":
            np.testing.assert_allclose(some[:, :channels], all_of_it[:, :channels], rtol=1e-12)


def test_only_the_channels_have_products_states_and_gradients():
    graph, *_ = stepped(ENTRIES)
    sizes = graph.sizes
    tokens = sizes["batch"] * sizes["tokens"]
    work = {op.name: graph.work(op)[0] for op in graph.ops}
    assert work["decoder.1.ffn.fc1.dw"] == tokens * 8 * 3
    assert graph.shape("decoder.1.ffn.fc1.weight.grad") == (8, 3)
    assert graph.shape("decoder.1.ffn.fc1.weight.channels.m") == (8, 3)
    norms = sum(graph.elements(w.dims) for w in graph.weights if "norm" in w.name)
    assert graph.trainable_parameters == norms + 8 * 3 + 8 * 4


@pytest.mark.parametrize("policy", ["fp32", "bf16-mixed", "coat", "w8a8g8", "jetfire"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_counts_are_what_a_run_measures(policy, in_backward):
    graph, *_ = stepped(ENTRIES, in_backward=in_backward)
    assert not miscounts(graph, shipped_policy(policy))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{weights: '*.fc1.weight', share: 0.3}", "3072 output channels, of which a share of 0.3 is not whole"),
        ("{weights: '*.fc1.*', share: 0.25}", "fc1.bias has no output channels"),
        ("{weights: '*.fc1.weight', share: 1.5}", "share"),
        ("{weights: nix, share: 0.5}", "no weight is named like 'nix'"),
    ],
)
def test_what_has_no_such_share_is_told(entry, message):
    with pytest.raises(InputError, match=message):
        prepare(Request("gpt2-small", ["fp32"], assignments=(f"training.trainable=[{entry}]",)))
