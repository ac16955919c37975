"""Small graphs and the shipped files, for all tests."""

import hypothesis
import pytest

from costsim import files
from costsim.assign import assign
from costsim.models import encoder_classifier, encoder_decoder, training_step
from costsim.policy import load_policy
from costsim.schema import Optimizer

# The same examples every time: a change alone can make a test fail.
hypothesis.settings.register_profile("deterministic", derandomize=True)
hypothesis.settings.load_profile("deterministic")

SMALL = {"d_model": 8, "ffn_dim": 12, "heads": 2}
SMALL_ENCODER_DECODER = {
    **SMALL,
    "family": "encoder-decoder",
    "encoder_layers": 1,
    "decoder_layers": 2,
    "source_vocab": 11,
    "target_vocab": 13,
    "max_positions": 9,
}
SMALL_CLASSIFIER = {
    **SMALL,
    "family": "encoder-classifier",
    "layers": 2,
    "vocab": 11,
    "max_positions": 7,
    "classes": 3,
}


def adamw(**changes):
    return Optimizer(**{"kind": "adamw", "lr": 0.01, "weight_decay": 0.1, **changes})


def translation_step(optimizer=None, micro_batches=1, label_smoothing=0.1, batch=None, **changes):
    model = encoder_decoder.Model(**{**SMALL_ENCODER_DECODER, **changes})
    given = {"sequences": 3, "source_tokens": 5, "target_tokens": 4, **(batch or {})}
    return training_step(model, encoder_decoder.Batch(**given), optimizer or adamw(), micro_batches, label_smoothing)


def classifier_step(optimizer=None, micro_batches=1, label_smoothing=0.0, batch=None, **changes):
    model = encoder_classifier.Model(**{**SMALL_CLASSIFIER, **changes})
    given = {"sequences": 3, "tokens": 5, **(batch or {})}
    return training_step(model, encoder_classifier.Batch(**given), optimizer or adamw(), micro_batches, label_smoothing)


STEPS = {"encoder-decoder": translation_step, "encoder-classifier": classifier_step}


def shipped_policy(name):
    return load_policy(files.find(name, "policies", "policy"))


POLICIES = [name for name in sorted(files.list_shipped("policies")) if shipped_policy(name).complete]


def copies_of(graph, policy, phase=0):
    """{(op, operand): chain of copies}, where there are any."""
    assignment = assign(graph, policy, phase)
    chains = {(op.name, i): assignment.chain(op, i) for op in graph.ops for i in range(len(op.inputs))}
    return {read: chain for read, chain in chains.items() if chain}


def formats_of(graph, policy, phase=0):
    """{tensor: format as stored}"""
    assignment = assign(graph, policy, phase)
    return {name: assignment.format(name) for name in graph.tensors}


@pytest.fixture(params=sorted(STEPS))
def step(request):
    """A maker of small training steps, one per family."""
    return STEPS[request.param]
