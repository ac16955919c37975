"""Small graphs and the shipped files, for all tests."""

import gc

import hypothesis
import numpy as np
import pytest

from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.devices.roofline import spend
from costsim.devices.spent import Spent
from costsim.graph.builder import GraphBuilder
from costsim.graph.fusion import COMPARED, group_ops
from costsim.inputs import files, schema_policy
from costsim.inputs.document import Document, tuples
from costsim.inputs.parse import parse_yaml
from costsim.inputs.schema import validate
from costsim.inputs.schema_workload import Optimizer
from costsim.models import decoder, encoder_classifier, encoder_decoder, image_classifier, resizing, speech_recognizer
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.reference import engines, kernel_bench
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.validate import compare

# The same examples every time: a change alone can make a test fail.
hypothesis.settings.register_profile("deterministic", derandomize=True)
hypothesis.settings.load_profile("deterministic")


def pytest_collection_finish():
    """Rest Python's collector, which takes a fifth of the tests' time: graphs live on, and the tests themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


@pytest.fixture
def nothing_known():
    """For a test that plants a fault in what graphs are made of, or counted by: it is in no other's graph."""
    resizing.forget()
    yield
    resizing.forget()


@pytest.fixture(autouse=True, scope="module")
def _own_graphs():
    """The tests of a file share the graphs of its steps, with all that was worked out of them."""
    resizing.forget()


# Dims of the steps that benches of kernels stop in, of few numbers.
FEW = (
    {"batch": 1, "tokens": 4, "model": 8, "ffn": 12, "heads": 2, "head": 4, "vocab": 11},
    {"batch": 2, "tokens": 6, "model": 12, "ffn": 20, "heads": 2, "head": 6, "vocab": 17},
)


@pytest.fixture
def few(monkeypatch):
    """Benches of kernels are small."""
    monkeypatch.setattr(kernel_bench, "SIZES", FEW)
    monkeypatch.setattr(kernel_bench, "QUANTIZED", ((2, 16), (4, 32), (8, 64)))
    monkeypatch.setattr(engines, "FILLING_BYTES", 64)


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


def section(kind, fields):
    """A section of these fields, checked as those of a file are."""
    return validate(kind, Document("test.yaml", tuples(fields)))


def translation_step(optimizer=None, micro_batches=1, label_smoothing=0.1, batch=None, **changes):
    model = section(encoder_decoder.Model, {**SMALL_ENCODER_DECODER, **changes})
    given = {"sequences": 3, "source_tokens": 5, "target_tokens": 4, **(batch or {})}
    sizes = section(encoder_decoder.Batch, given)
    return training_step(model, sizes, optimizer or adamw(), micro_batches, label_smoothing)


def classifier_step(optimizer=None, micro_batches=1, label_smoothing=0.0, batch=None, **changes):
    model = section(encoder_classifier.Model, {**SMALL_CLASSIFIER, **changes})
    given = {"sequences": 3, "tokens": 5, **(batch or {})}
    sizes = section(encoder_classifier.Batch, given)
    return training_step(model, sizes, optimizer or adamw(), micro_batches, label_smoothing)


SMALL_DECODER = {**SMALL, "family": "decoder", "layers": 2, "vocab": 11, "max_positions": 9, "activation": "gelu_new"}
LLAMA = {
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "positions": "rotary",
    "norm_kind": "rms",
    "activation": "silu",
    "gated": True,
    "qkv_bias": False,
    "out_bias": False,
    "ffn_bias": False,
    "tied": False,
}
GEMMA = LLAMA | {
    "norm": "sandwich",
    "zero_centered_norm": True,
    "qk_norm": True,
    "activation": "gelu_new",
    "scale_embedding": True,
    "query_pre_attn_scalar": 3.0,
    "attention_softcap": 2.0,
    "logits_softcap": 1.5,
    "windows": (2, None),
    "local_rotary": True,
    "tied": True,
}
NEOX = {  # GPT-NeoX's layers, with a few choices of others that go with them
    "positions": "rotary",
    "rotary_dim": 2,
    "rotated": (True, False),
    "norm_bias": False,
    "embedding_dim": 6,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_divisor": 2.0,
}
EXPERTS = {"experts": {"number": 3, "chosen": 2}}


def decoder_step(optimizer=None, micro_batches=1, label_smoothing=0.0, batch=None, trainable=("*",), **changes):
    model = section(decoder.Model, {**SMALL_DECODER, **changes})
    given = {"sequences": 3, "tokens": 5, **(batch or {})}
    sizes = section(decoder.Batch, given)
    return training_step(model, sizes, optimizer or adamw(), micro_batches, label_smoothing, trainable)


def llama_step(**changes):
    return decoder_step(**{**LLAMA, **changes})


def gemma_step(**changes):
    return decoder_step(**{**GEMMA, **changes})


def experts_step(**changes):
    return decoder_step(**{**LLAMA, **EXPERTS, **changes})


def neox_step(**changes):
    """Attention and feed forward beside each other, unless norms are elsewhere than before them."""
    return decoder_step(**{**NEOX, "parallel": None if "norm" in changes else "two_norms", **changes})


def chunked_step(**changes):
    return decoder_step(**{"head": {"chunks": 3, "backward": "at_once"}, **changes})


def image_step(optimizer=None, micro_batches=1, label_smoothing=0.0, batch=None, **changes):
    sizes = {"family": "image-classifier", "layers": 2, "image_size": 6, "patch_size": 2, "classes": 3}
    model = image_classifier.Model(**{**SMALL, **sizes, **changes})
    given = image_classifier.Batch(sequences=(batch or {}).get("sequences", 3))
    return training_step(model, given, optimizer or adamw(), micro_batches, label_smoothing)


SMALL_SPEECH = {
    **SMALL,
    "family": "speech-recognizer",
    "encoder_layers": 1,
    "decoder_layers": 1,
    "mel_bins": 5,
    "source_positions": 4,
    "vocab": 11,
    "max_positions": 6,
    "k_bias": False,
}


def speech_step(optimizer=None, micro_batches=1, label_smoothing=0.0, batch=None, trainable=("*",), **changes):
    model = section(speech_recognizer.Model, {**SMALL_SPEECH, **changes})
    sizes = section(speech_recognizer.Batch, {"sequences": 3, "target_tokens": 5, **(batch or {})})
    return training_step(model, sizes, optimizer or adamw(), micro_batches, label_smoothing, trainable)


MODERNBERT = {
    "positions": "rotary",
    "windows": (2, None),
    "local_rotary": True,
    "norm": "pre",
    "first_norm": False,
    "activation": "gelu",
    "gated": True,
    "norm_bias": False,
    "task_head": "modernbert",
    "pooling": "mean",
}
DEBERTA = {
    "positions": "none",
    "token_types": 0,
    "disentangled": {"rows": 6, "shared": True, "norm": True},
    "convolution": {"kernel": 3, "activation": "gelu"},
    "mask_embedding": True,
    "task_head": "deberta",
}


def modernbert_step(**changes):
    return classifier_step(**{**MODERNBERT, **changes})


def deberta_step(**changes):
    return classifier_step(**{**DEBERTA, **changes})


STEPS = {
    "encoder-decoder": translation_step,
    "encoder-classifier": classifier_step,
    "decoder": decoder_step,
    "llama": llama_step,
    "experts": experts_step,
    "gemma": gemma_step,
    "chunked": chunked_step,
    "neox": neox_step,
}
MORE_STEPS = {  # with parts that no other has: tests/test_more_families.py
    "image-classifier": image_step,
    "speech-recognizer": speech_step,
    "modernbert": modernbert_step,
    "deberta": deberta_step,
}


def shipped_policy(name):
    """A shipped policy, or several composed: a+b."""
    return load_policies(find_policy(name))


def one_layer(workload):
    """Assignments that make a shipped workload small; none for one that trains layers by number, and is small."""
    data = parse_yaml(files.list_shipped("workloads")[workload].read_text(encoding="utf-8"), workload).data
    model, trained = data["model"], str(data["training"].get("trainable", ""))
    if any(part.isdigit() for part in trained.split(".")):
        return []
    return [f"model.{name}=1" for name in ("layers", "encoder_layers", "decoder_layers") if name in model]


def _transforms(name):
    return any(rule.transform for rule in shipped_policy(name).file.rules)


COMPLETE = [name for name in sorted(files.list_shipped("policies")) if shipped_policy(name).complete]
TRANSFORMING = [name for name in COMPLETE if _transforms(name)]  # small dims have no whole blocks: in test_transform
POLICIES = [name for name in COMPLETE if name not in TRANSFORMING]
ENCODERS = ["encoder-classifier", "encoder-decoder"]
_EVERYWHERE = ("fp32", "bf16-mixed", "dsq", "fp8-block", "mxfp8", "nvfp4", "w8a8+as-coded")


def pairs(names=POLICIES):
    """(family, policy): some policies on every family, each on one at least. All pairs would take many minutes."""
    families = sorted(STEPS)
    everywhere = [(family, name) for family in families for name in names if name in _EVERYWHERE]
    others = [name for name in names if name not in _EVERYWHERE]
    return everywhere + [(families[i % len(families)], name) for i, name in enumerate(others)]


def in_turn(cases, *others):
    """Each case, a tuple, with one of each of some other things, in turn: all products would take many minutes."""
    turns = []
    for i, case in enumerate(cases):
        for other in map(list, others):
            i, at = divmod(i, len(other))
            case = (*case, other[at])
        turns.append(case)
    return turns


def miscounts(graph, policy):
    """Where counts differ from what a run in float32 measures, under traffic models that it runs; nowhere, if right."""
    assignment = assign(graph, policy)
    rng = np.random.default_rng(0)
    weights = {name: x.astype(np.float32) for name, x in draw_weights(graph, rng).items()}
    batches = [draw_batch(graph, rng, np.float32) for _ in range(graph.micro_batches)]
    found = []
    for traffic in COMPARED:
        ran = run(graph, weights, batches, assignment=assignment, group=group_ops(graph, traffic), measure=True)
        found += compare(count(graph, assignment, traffic), ran.measured)
    return found


def copies_of(graph, policy, phase=0):
    """{(op, operand): chain of copies}, where there are any."""
    assignment = assign(graph, policy, phase)
    chains = {(op.name, i): assignment.chain(op, i) for op in graph.ops for i in range(len(op.inputs))}
    return {read: chain for read, chain in chains.items() if chain}


def formats_of(graph, policy, phase=0):
    """{tensor: format as stored}"""
    assignment = assign(graph, policy, phase)
    return {name: assignment.format(name) for name in graph.tensors}


def policy(*rules, levels=(), phases=({},), **more):
    """A policy from rules as in a file."""
    fields = {"description": "test", "levels": levels, "rules": rules, "phases": tuple(phases), **more}
    return Policy("test", section(schema_policy.Policy, fields), Document("test.yaml", fields))


def counted(graph, policy, traffic="unfused", scope="step", phase=0):
    return count(graph, assign(graph, policy, phase), traffic, scope)


def moves(rows):
    """{op: {moved thing: (bits read, bits written)}}"""
    found = {}
    for op, row in each_op(rows):
        for move in row.moves:
            moved = found.setdefault(row.name(op), {})
            read, written = moved.get(move.tensor(op), (0, 0))
            moved[move.tensor(op)] = (read + move.read_bits, written + move.written_bits)
    return found


def of_each_op(rows):
    """What each op (or the quantize kernel before it) computes and moves, in the order of the graph."""
    return [
        (row.name(op), [(move.tensor(op), *move[2:]) for move in row.moves], row[2:-1]) for op, row in each_op(rows)
    ]


def live_bytes(memory):
    """The bytes in memory while each kernel runs, by its number."""
    last = max(place.last for place in memory.stored)
    return [sum(p.size_bytes for p in memory.stored if p.first <= kernel <= p.last) for kernel in range(last + 1)]


def spend_all(kernels, hardware, overlap=True):
    """Time and energy of a step, kernel by kernel."""
    return sum((kernel.number * spend(kernel, hardware, overlap) for kernel in kernels), Spent())


@pytest.fixture
def linear():
    """y = relu(x w) of x[4, 20], w[20, 3], and a second GEMM z = y u with u[3, 5]."""
    b = GraphBuilder({"batch": 4, "in": 20, "hidden": 3, "out": 5})
    with b.scope("layer", layer=True):
        x = b.given("x", ("batch", "in"), role="activation")
        y = b.linear(x, "first", ("hidden",), bias=False)
        y = b.op("relu", y, name="relu")
        b.linear(y, "second", ("out",), bias=False)
    return b.build()


@pytest.fixture(params=sorted(STEPS))
def step(request):
    """A maker of small training steps, one per family."""
    return STEPS[request.param]
