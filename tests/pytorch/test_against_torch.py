"""Both families in PyTorch, trained on the same numbers. Run with: python -m pytest tests/pytorch (extra `torch`).

The same weights and batches go through the reference and through modules of torch.nn: losses, gradients of all weights,
clipping and updates must agree. Modules are named as the graph names its weights.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import SMALL_CLASSIFIER, SMALL_ENCODER_DECODER, adamw
from torch import nn
from torch.nn import functional as F

from costsim.graph import Graph
from costsim.models import encoder_classifier, encoder_decoder, family, training_step
from costsim.models.blocks import Transformer
from costsim.reference import run
from costsim.simulate import prepare
from costsim.validate import draw_batch, draw_weights, gradient_of, shrink

torch.set_num_threads(1)  # the tensors are tiny

# --- the models -------------------------------------------------------------------------------------------------------


def attention_mask(keep, causal_length=None):
    """True where a query may look: [batch or 1, heads (1), queries or 1, keys]; None if it may everywhere."""
    mask = None if keep is None else keep[:, None, None, :]
    if causal_length is not None:
        past = torch.ones(causal_length, causal_length, dtype=torch.bool).tril()
        mask = past if mask is None else mask & past
    return mask


class Attention(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.split = sizes["heads"], sizes["head"]
        self.scale = 1 / math.sqrt(config.d_model // config.heads)  # of the real sizes, where these are shrunk
        inner = math.prod(self.split)
        self.q, self.k, self.v = (nn.Linear(sizes["model"], inner) for _ in range(3))
        self.out = nn.Linear(inner, sizes["model"])

    def forward(self, query, memory, mask):
        projected = self.q(query), self.k(memory), self.v(memory)
        q, k, v = (x.unflatten(-1, self.split).transpose(1, 2) for x in projected)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.out(context.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.fc1 = nn.Linear(sizes["model"], sizes["ffn"])
        self.activation = {"relu": nn.ReLU, "gelu": nn.GELU}[config.activation]()
        self.fc2 = nn.Linear(sizes["ffn"], sizes["model"])

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Of an encoder, or of a decoder if it is given memory."""

    def __init__(self, config, sizes, decoder=False):
        super().__init__()
        self.pre = config.norm == "pre"
        self.self_attention = Attention(config, sizes)
        self.self_attention_norm = nn.LayerNorm(sizes["model"], config.norm_eps)
        if decoder:
            self.cross_attention = Attention(config, sizes)
            self.cross_attention_norm = nn.LayerNorm(sizes["model"], config.norm_eps)
        self.ffn = FeedForward(config, sizes)
        self.ffn_norm = nn.LayerNorm(sizes["model"], config.norm_eps)

    def residual(self, x, norm, part):
        return x + part(norm(x)) if self.pre else norm(x + part(x))

    def forward(self, x, mask, memory=None, memory_mask=None):
        x = self.residual(x, self.self_attention_norm, lambda y: self.self_attention(y, y, mask))
        if memory is not None:
            x = self.residual(x, self.cross_attention_norm, lambda y: self.cross_attention(y, memory, memory_mask))
        return self.residual(x, self.ffn_norm, self.ffn)


class EncoderDecoder(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        d = sizes["model"]
        self.embedding = nn.ModuleDict({"target": nn.Embedding(sizes["target_vocab"], d)})
        target = self.embedding["target"]
        self.embedding["source"] = target if config.tied == "all" else nn.Embedding(sizes["source_vocab"], d)
        if config.positions == "learned":
            for side in ("source", "target"):
                self.embedding[f"{side}_position_table"] = nn.Embedding(sizes["positions"], d)
        self.encoder = nn.ModuleList(Layer(config, sizes) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(Layer(config, sizes, decoder=True) for _ in range(config.decoder_layers))
        self.encoder_final_norm, self.decoder_final_norm = (
            nn.LayerNorm(d, config.norm_eps) if config.final_norm else nn.Identity() for _ in range(2)
        )
        self.head = nn.ModuleDict({"logits": nn.Linear(d, sizes["target_vocab"], bias=False)})
        if config.tied != "none":
            self.head["logits"].weight = target.weight

    def embed(self, side, batch):
        at, name = batch[f"embedding.{side}_positions"], f"{side}_position_table"
        positions = self.embedding[name](at) if name in self.embedding else batch[f"embedding.{name}"][at]
        return self.embedding[side](batch[f"embedding.{side}_ids"]) * self.scale + positions

    def forward(self, batch):
        x, y = self.embed("source", batch), self.embed("target", batch)
        mask = attention_mask(batch.get("embedding.source_keep"))
        target_mask = attention_mask(batch.get("embedding.target_keep"), y.shape[1])
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_final_norm(x)
        for layer in self.decoder:
            y = layer(y, target_mask, x, mask)
        return self.head["logits"](self.decoder_final_norm(y))


class EncoderClassifier(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        d = sizes["model"]
        rows = {"tokens": "vocab", "positions": "positions"} | ({"types": "types"} if config.token_types else {})
        self.tables = tuple(rows)
        self.embedding = nn.ModuleDict({table: nn.Embedding(sizes[dim], d) for table, dim in rows.items()})
        self.embedding["norm"] = nn.LayerNorm(d, config.norm_eps)
        self.encoder = nn.ModuleList(Layer(config, sizes) for _ in range(config.layers))
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(d, config.norm_eps) if config.norm == "pre" else nn.Identity()})
        self.head["dense"] = nn.Linear(d, sizes["pooled"])
        self.head["logits"] = nn.Linear(sizes["pooled"], sizes["classes"])

    def forward(self, batch):
        x = sum(self.embedding[table](batch[f"embedding.{table}.ids"]) for table in self.tables)
        x = self.embedding["norm"](x)
        for layer in self.encoder:
            x = layer(x, attention_mask(batch.get("embedding.keep")))
        x = self.head["norm"](x)[:, 0]
        return self.head["logits"](torch.tanh(self.head["dense"](x)))


MODELS = {"encoder-decoder": EncoderDecoder, "encoder-classifier": EncoderClassifier}


# --- the same numbers on both sides -----------------------------------------------------------------------------------


class Case(NamedTuple):
    config: Transformer
    graph: Graph
    smoothing: float
    optimizer: object


SMALL = {
    "encoder-decoder": (encoder_decoder, SMALL_ENCODER_DECODER, {"source_tokens": 5, "target_tokens": 4}),
    "encoder-classifier": (encoder_classifier, SMALL_CLASSIFIER, {"tokens": 5}),
}


def small(family, micro_batches=1, smoothing=0.1, padding_mask=True, optimizer=None, **changes):
    module, model, tokens = SMALL[family]
    config = module.Model(**{**model, **changes})
    batch = module.Batch(sequences=3, padding_mask=padding_mask, **tokens)
    optimizer = optimizer or adamw()
    graph = training_step(config, batch, optimizer, micro_batches, smoothing)
    return Case(config, graph, smoothing, optimizer)


SHIPPED = {  # what is set besides: the depth here, not by `shrink`, so that the config has it too
    "iwslt17-dsq": ("model.encoder_layers=2", "model.decoder_layers=2"),
    "glue-mrpc-dsq": ("model.layers=2", "model.head_dropout=0"),
}


def shipped(workload, *assignments):
    """A shipped workload of shrunken dims, without dropout."""
    rates = [f"model.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout")]
    job = prepare(workload, assignments=[*rates, *SHIPPED[workload], *assignments])
    config = family(job.file.model["family"]).Model(**job.file.model)
    return Case(config, shrink(job), job.file.label_smoothing, job.file.optimizer)


def draw_batches(graph, dtype, step=1):
    """Batches with some labels to ignore, never the first."""
    rng = np.random.default_rng(step)
    batches = [draw_batch(graph, rng, dtype) for _ in range(graph.micro_batches)]
    for batch in batches:
        labels = batch["head.labels"]
        ignored = rng.random(labels.shape) < 0.3
        ignored.flat[0] = False
        labels[ignored] = -1
    return batches


def as_torch(weights_or_batch):
    return {name: torch.tensor(x) for name, x in weights_or_batch.items()}


class Twin:
    """The PyTorch model of a case with given weights."""

    def __init__(self, case, weights):
        self.model = MODELS[case.config.family](case.config, case.graph.sizes)
        self.model.to(torch.tensor(next(iter(weights.values()))).dtype)
        # Linear layers hold [out, in], the graph [in, out]; without a bias it is the head, a table on both sides.
        modules = self.model.named_modules()
        self.turned = {f"{name}.weight" for name, m in modules if isinstance(m, nn.Linear) and m.bias is not None}
        self.parameters = {
            name.replace("_final_norm", ".final.norm").replace("_table.weight", "_table"): parameter
            for name, parameter in self.model.named_parameters()
        }
        assert set(self.parameters) == set(weights)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.like(name, weights[name]))

    def like(self, name, x):
        """A weight, gradient or state of the graph in the shape and order of the parameter."""
        shape = self.parameters[name].shape
        x = torch.tensor(x)
        return x.reshape(shape[::-1]).T if name in self.turned else x.reshape(shape)

    def losses(self, batches, smoothing):
        """The loss of each micro-batch, its share of the mean; gradients are summed."""
        found = []
        for batch in map(as_torch, batches):
            logits, labels = self.model(batch).flatten(0, -2), batch["head.labels"].flatten()
            loss = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing) / len(batches)
            loss.backward()
            found.append(loss.item())
        return found


def distance(ours, theirs, least=0.0):
    """The norm of the difference, relative to the norm of theirs or to `least`, the larger."""
    return float((ours - theirs).norm()) / max(float(theirs.norm()), least, np.finfo(np.float64).tiny)


# --- losses and gradients ---------------------------------------------------------------------------------------------


CASES = {
    "translation": ("encoder-decoder", {}),
    "translation-pre": ("encoder-decoder", {"norm": "pre", "heads": 4, "padding_mask": False}),
    "translation-untied": (
        "encoder-decoder",
        {"norm": "pre", "tied": "none", "final_norm": True, "activation": "gelu", "micro_batches": 3},
    ),
    "translation-all-tied": (
        "encoder-decoder",
        {"tied": "all", "source_vocab": 13, "positions": "learned", "micro_batches": 3, "smoothing": 0.2},
    ),
    "translation-learned": (
        "encoder-decoder",
        {"tied": "none", "final_norm": True, "positions": "learned", "scale_embedding": False, "smoothing": 0.0},
    ),
    "translation-no-padding": (
        "encoder-decoder",
        {"tied": "all", "source_vocab": 13, "padding_mask": False, "norm_eps": 0.1, "micro_batches": 3},
    ),
    "classifier": ("encoder-classifier", {"smoothing": 0.0}),
    "classifier-pre": ("encoder-classifier", {"norm": "pre", "activation": "gelu", "micro_batches": 3}),
    "classifier-no-types": ("encoder-classifier", {"token_types": 0, "padding_mask": False, "norm_eps": 0.1}),
    "classifier-types": ("encoder-classifier", {"token_types": 2, "activation": "gelu", "micro_batches": 3}),
}

# What differences are relative to: the gradient's norm, or this part of the norm of all if that is larger, as a key
# bias's true gradient is 0. float32 rounds at 6e-8 of all, so a limit of 1e-5 needs no less than a hundredth.
DTYPES = pytest.mark.parametrize(
    ("dtype", "limit", "part"), [(np.float32, 1e-5, 1e-2), (np.float64, 1e-12, 1e-3)], ids=["float32", "float64"]
)


def compare_gradients(case, dtype, limit, part, smoothing=None):
    graph = case.graph
    weights = draw_weights(graph, np.random.default_rng(1), dtype)
    batches = draw_batches(graph, dtype)
    done = run(graph, weights, batches)
    twin = Twin(case, weights)
    losses = twin.losses(batches, case.smoothing if smoothing is None else smoothing)
    assert done.losses == pytest.approx(losses, rel=limit)
    assert math.fsum(done.losses) == pytest.approx(math.fsum(losses), rel=limit)
    theirs = {name: parameter.grad for name, parameter in twin.parameters.items()}
    least = part * math.hypot(*(float(gradient.norm()) for gradient in theirs.values()))
    for name, gradient in theirs.items():
        ours = twin.like(name, done.values[gradient_of(graph, name)])
        assert distance(ours, gradient, least) <= limit, name


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name, dtype, limit, part):
    family, changes = CASES[name]
    compare_gradients(small(family, **changes), dtype, limit, part)


@DTYPES
@pytest.mark.parametrize("workload", SHIPPED)
def test_losses_and_gradients_of_shipped_workloads(workload, dtype, limit, part):
    compare_gradients(shipped(workload), dtype, limit, part)


def test_a_wrong_label_smoothing_is_noticed():
    with pytest.raises(AssertionError):
        compare_gradients(small("encoder-decoder", smoothing=0.1), np.float32, 1e-5, 1e-2, smoothing=0.101)


# --- clipping and updates ---------------------------------------------------------------------------------------------

STEPS = 4
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def compare_updates(case, dtype, limit):
    """Both sides keep their own weights and states over all steps; the gradients are the reference's."""
    graph, hyper = case.graph, case.optimizer
    held = weights = draw_weights(graph, np.random.default_rng(0), dtype)
    twin = Twin(case, weights)
    optimizer = OPTIMIZERS[hyper.kind](
        twin.parameters.values(),
        lr=hyper.lr,
        betas=(hyper.beta1, hyper.beta2),
        eps=hyper.eps,
        weight_decay=hyper.weight_decay,
    )
    for step in range(1, STEPS + 1):
        values = run(graph, held, draw_batches(graph, dtype, step), step=step).values
        for name, parameter in twin.parameters.items():
            parameter.grad = twin.like(name, values[gradient_of(graph, name)])
        if hyper.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(twin.parameters.values(), hyper.clip_norm)
            assert (norm > hyper.clip_norm) == (values["clip.factor"] < 1)
            for name, parameter in twin.parameters.items():
                ours = twin.like(name, values[f"{gradient_of(graph, name)}.clipped"])
                assert distance(ours, parameter.grad) <= limit, name
        optimizer.step()
        for name, parameter in twin.parameters.items():
            state = optimizer.state[parameter]
            theirs = {"": parameter.data, ".m": state["exp_avg"], ".v": state["exp_avg_sq"]}
            for of, x in theirs.items():
                assert distance(twin.like(name, values[f"{name}{of}.next"]), x) <= limit, f"{name}{of}, step {step}"
        held = {f"{name}{of}": values[f"{name}{of}.next"] for name in weights for of in ("", ".m", ".v")}
    return values


UPDATE_DTYPES = pytest.mark.parametrize(
    ("dtype", "limit"), [(np.float32, 1e-6), (np.float64, 1e-14)], ids=["float32", "float64"]
)


@UPDATE_DTYPES
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_updates(kind, clip_norm, dtype, limit):
    optimizer = adamw(kind=kind, clip_norm=clip_norm, beta1=0.8, beta2=0.95, eps=1e-3)
    values = compare_updates(small("encoder-decoder", optimizer=optimizer, micro_batches=3), dtype, limit)
    assert clip_norm is None or values["clip.factor"] < 1


@UPDATE_DTYPES
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("workload", SHIPPED)
def test_updates_of_shipped_workloads(workload, kind, dtype, limit):
    compare_updates(shipped(workload, f"optimizer.kind={kind}"), dtype, limit)
