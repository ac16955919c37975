"""Updates that run inside the backward: the same numbers as after it, with one gradient of a weight at a time."""

import numpy as np
import pytest
from conftest import STEPS, adamw, miscounts, shipped_policy

from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.policy.assign import assign
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

CHUNKS = {"head": {"chunks": 2, "backward": "at_once"}}


def steps(family, **changes):
    """The same step with updates after the backward, and in it."""
    return (STEPS[family](optimizer=adamw(in_backward=now), **changes) for now in (False, True))


def values(graph):
    rng = np.random.default_rng(0)
    return run(graph, draw_weights(graph, rng), [draw_batch(graph, rng)]).weights(graph)


@pytest.mark.parametrize("way", [{}, {"attention": "flash"}, {"checkpointing": "full"}, CHUNKS], ids=str)
@pytest.mark.parametrize("family", STEPS)
def test_weights_become_the_same(family, way):
    if "head" in way and family not in ("decoder", "llama", "experts"):
        pytest.skip("a head in chunks of its own")
    after, within = (values(graph) for graph in steps(family, dropout=0.1, **way))
    assert after.keys() == within.keys()
    for name in after:
        np.testing.assert_array_equal(after[name], within[name])


@pytest.mark.parametrize("family", STEPS)
def test_no_op_reads_a_weight_after_its_update(family):
    _, graph = steps(family, checkpointing="full")
    updated = set()
    for op in graph.ops:
        assert updated.isdisjoint(op.inputs), op.name
        updated |= {graph.root[name] for name in op.outputs if graph.tensors[name].role == "weight"}
    assert updated == {weight.name for weight in graph.weights if weight.trainable}


@pytest.mark.parametrize("family", STEPS)
def test_gradients_of_weights_do_not_pile_up(family):
    """All are there at the end of a backward; here each is gone once the gradients of its op are used."""
    most = []
    for graph in steps(family):
        its = memory(graph, assign(graph, shipped_policy("fp32")), "unfused")
        held = [place for place in its.stored if place.component == "gradients"]
        most.append(max(sum(p.size_bytes for p in held if p.first <= k <= p.last) for k in range(len(graph.ops))))
    assert most[0] >= sum(4 * graph.elements(weight.dims) for weight in graph.weights if weight.trainable)
    assert most[1] < most[0]
    assert max(p.last - p.first for p in held if ".grad.part" not in p.name and ".grad.sum" not in p.name) <= 4


@pytest.mark.parametrize("policy", ["fp32", "bf16-mixed", "coat", "dsq"])
def test_counts_are_what_a_run_measures(policy):
    for family in ("decoder", "encoder-decoder"):
        graph = STEPS[family](optimizer=adamw(in_backward=True), dropout=0.1)
        assert not miscounts(graph, shipped_policy(policy))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["optimizer.clip_norm=1.0"], "clip_norm needs all gradients"),
        (["optimizer.clip_norm=null", "training.micro_batches=2"], "micro-batches sum their gradients"),
        (["optimizer.clip_norm=null", "training.micro_batches=1", "parallel.data=2"], "ranks reduce their gradients"),
    ],
)
def test_what_needs_all_gradients_is_refused(sets, message):
    with pytest.raises(InputError, match=message):
        prepare(Request("gpt2-small", ["fp32"], assignments=("optimizer.in_backward=true", *sets)))
