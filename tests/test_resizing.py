"""A training step that is known with other sizes is the step that would be built."""

import itertools

import pytest
from conftest import (
    GEMMA,
    LLAMA,
    POLICIES,
    SMALL_CLASSIFIER,
    SMALL_DECODER,
    SMALL_ENCODER_DECODER,
    STEPS,
    adamw,
    section,
    shipped_policy,
)

from costsim.cost.count import count
from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.models import resizing
from costsim.models.families import family
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.policy.classes import Selectors, classify

MODELS = {
    "encoder-decoder": SMALL_ENCODER_DECODER,
    "encoder-classifier": SMALL_CLASSIFIER,
    "decoder": {**SMALL_DECODER, "attention_dropout": 0.1},
    "llama": {**SMALL_DECODER, **LLAMA},
    "experts": {**SMALL_DECODER, **LLAMA, "experts": {"number": 3, "chosen": 2}},
    "gemma": {**SMALL_DECODER, **GEMMA},
    "chunked": {**SMALL_DECODER, "head": {"chunks": 3, "backward": "at_once"}},
    "flash": {**SMALL_DECODER, **LLAMA, "attention": "flash", "checkpointing": "full"},
    "adapters": {**SMALL_DECODER, **LLAMA, "lora": {"targets": ["*"], "rank": 2, "alpha": 4}},
}
BATCH = {"sequences": 3, "tokens": 5}
TRANSLATIONS = {"sequences": 3, "source_tokens": 5, "target_tokens": 4}
OTHERS = (1, 2, 3, 4, 7, 8)


def step_of(model, batch, pairs="square"):
    module = family(model["family"])
    return training_step(section(module.Model, model), section(module.Batch, batch), adamw(), attention_pairs=pairs)


def numbers(fields, at=()):
    """The places of all integers of a section."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from numbers(value, (*at, name))
        elif type(value) is int:
            yield (*at, name)


def changed(fields, at, value):
    name, *rest = at
    return {**fields, name: changed(fields[name], rest, value) if rest else value}


def variants(model, batch):
    """The sections with one integer of theirs changed, as far as they are possible then."""
    for sections in (0, 1):
        for at, value in itertools.product(numbers((model, batch)[sections]), OTHERS):
            both = [model, batch]
            both[sections] = changed(both[sections], at, value)
            yield both


def parts(graph):
    """All that a graph is; kinds and environments are the same objects whoever makes the graph."""
    return graph.sizes, graph.tensors, graph.ops, graph.micro_batches, graph.pairs, graph.loss


def outcome(*arguments):
    try:
        return step_of(*arguments)
    except (InputError, ValueError) as error:  # FieldError is such
        return str(error)


@pytest.mark.parametrize("pairs", ["square", "causal", "window"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_other_sizes_is_the_one_that_would_be_built(name, pairs):
    model = MODELS[name]
    batch = TRANSLATIONS if name == "encoder-decoder" else BATCH
    if isinstance(outcome(model, batch, pairs), str):
        pytest.skip("no such pairs in this model")
    resized = 0
    for both in variants(model, batch):
        resizing.forget()
        fresh = outcome(*both, pairs)
        resizing.forget()
        base = step_of(model, batch, pairs)
        known = outcome(*both, pairs)
        if isinstance(fresh, str):
            assert known == fresh
        else:
            assert parts(known) == parts(fresh), both
            resized += known is not base and known.structure is base
    assert resized >= 8, "sequences and vocabulary, at least, are sizes alone"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["encoder-decoder", "gemma"])
def test_what_is_known_of_a_structure_counts_other_sizes(name, policy):
    """Classes of ops and tensors are shared, and everything that was worked out of the base before."""
    policy, batch = shipped_policy(policy), TRANSLATIONS if name == "encoder-decoder" else BATCH
    resizing.forget()
    base = step_of(MODELS[name], batch)
    assert count(base, assign(base, policy))
    resized = step_of(MODELS[name], {**batch, "sequences": 7})
    resizing.forget()
    fresh = step_of(MODELS[name], {**batch, "sequences": 7})
    assert resized.structure is base
    assert fresh.structure is fresh
    for traffic in ("unfused", "fused"):
        rows = [count(graph, assign(graph, policy), traffic) for graph in (resized, fresh)]
        assert rows[0] == rows[1] != count(base, assign(base, policy), traffic)
        peaks = [memory(graph, assign(graph, policy), traffic).peak_bytes for graph in (resized, fresh)]
        assert peaks[0] == peaks[1]


def test_rules_of_sizes_see_the_sizes():
    resizing.forget()
    base = step_of(MODELS["decoder"], BATCH)
    resized = step_of(MODELS["decoder"], {**BATCH, "sequences": 8})
    bound = Selectors(elements=(8 * 5 * 8,))
    assert resized.structure is base
    reached = [{c.elements_at_least for c in classify(graph, bound).stored} for graph in (base, resized)]
    assert reached[0] != reached[1]
    assert classify(base, Selectors()) is classify(resized, Selectors())


@pytest.mark.parametrize("name", STEPS)
def test_the_same_step_is_one_graph(name):
    assert STEPS[name]() is STEPS[name]()
