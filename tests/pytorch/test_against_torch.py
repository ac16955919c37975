"""All families in PyTorch, trained on the same numbers. Run with: python -m pytest tests/pytorch (extra `torch`).

The same weights and batches go through the reference and through modules of torch.nn: losses, gradients of all weights,
clipping and updates must agree.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import EXPERTS, GEMMA, LLAMA, SMALL_CLASSIFIER, SMALL_DECODER, SMALL_ENCODER_DECODER, adamw
from torch import nn
from torch.nn import functional as F
from torch_models import Experts, Table, make_model

from costsim.graph.graph import Graph
from costsim.models import decoder, encoder_classifier, encoder_decoder
from costsim.models.families import family
from costsim.models.sections import Transformer
from costsim.models.training_step import training_step
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.shrink import shrink
from costsim.run.job import Request, prepare

torch.set_num_threads(1)  # the tensors are tiny

# --- the same numbers on both sides -----------------------------------------------------------------------------------


class Case(NamedTuple):
    config: Transformer
    graph: Graph
    smoothing: float
    optimizer: object


WIDER = {"d_model": 16}  # heads of 4: of 2, any way to pair them for turning is the same
DROPLESS = {"capacity_factor": EXPERTS["experts"]["number"] / EXPERTS["experts"]["chosen"]}
SMALL = {
    "encoder-decoder": (encoder_decoder, SMALL_ENCODER_DECODER, {"source_tokens": 5, "target_tokens": 4}),
    "encoder-classifier": (encoder_classifier, SMALL_CLASSIFIER, {"tokens": 5}),
    "decoder": (decoder, SMALL_DECODER, {"tokens": 5}),
    "llama": (decoder, SMALL_DECODER | LLAMA | WIDER, {"tokens": 5}),
    "gemma": (decoder, SMALL_DECODER | GEMMA | WIDER, {"tokens": 5}),
    # As many slots as there are tokens: nothing is left out.
    "experts": (decoder, SMALL_DECODER | LLAMA | WIDER | {"experts": EXPERTS["experts"] | DROPLESS}, {"tokens": 5}),
}


def small(
    family, micro_batches=1, smoothing=0.1, padding_mask=True, optimizer=None, trainable=("*",), experts=None, **changes
):
    module, model, tokens = SMALL[family]
    if experts is not None:
        changes["experts"] = model["experts"] | experts
    config = module.Model(**{**model, **changes})
    batch = module.Batch(sequences=3, padding_mask=padding_mask, **tokens)
    optimizer = optimizer or adamw()
    graph = training_step(config, batch, optimizer, micro_batches, smoothing, trainable)
    return Case(config, graph, smoothing, optimizer)


SHIPPED = {  # what is set besides: the depth here, not by `shrink`, so that the config has it too
    "iwslt17-dsq": ("model.encoder_layers=2", "model.decoder_layers=2"),
    "glue-mrpc-dsq": ("model.layers=2", "model.head_dropout=0"),
    "gpt2-small": ("model.layers=2", "model.max_positions=1025"),  # `shrink` keeps the order of sizes: not below tokens
    "llama-small": ("model.layers=2",),
    "mixtral-8x7b": ("model.layers=2",),
}


def shipped(workload, *assignments):
    """A shipped workload of shrunken dims, without dropout."""
    rates = [f"model.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout")]
    job = prepare(Request(workload, assignments=[*rates, *SHIPPED[workload], *assignments]))
    config = family(job.file.model["family"]).Model(**job.file.model)
    graph = shrink(job)
    if "embedding.cos" in graph.tensors:  # halves are turned against each other
        graph = replace(graph, sizes={**graph.sizes, "head": 6})
    return Case(config, graph, job.file.label_smoothing, job.file.optimizer)


def rotary_tables(length, width, dtype, theta=10000.0):
    """As transformers' LlamaRotaryEmbedding makes them."""
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    angles = np.outer(np.arange(length), frequencies)
    return {name: np.tile(f(angles), 2).astype(dtype) for name, f in (("cos", np.cos), ("sin", np.sin))}


def draw_batches(case, dtype, step=1):
    """Batches with positions as they are in use, and some labels to ignore, never the first."""
    rng, graph = np.random.default_rng(step), case.graph
    batches = [draw_batch(graph, rng, dtype) for _ in range(graph.micro_batches)]
    for batch in batches:
        labels = batch["head.labels"]
        ignored = rng.random(labels.shape) < 0.3
        ignored.flat[0] = False
        labels[ignored] = -1
        for name in ("embedding.source_positions", "embedding.target_positions"):
            if name in batch:
                batch[name][:] = np.arange(batch[name].shape[-1]) + case.config.position_offset
        if case.config.family == "decoder" and case.config.positions == "learned":
            batch["embedding.positions.ids"] = np.arange(graph.sizes["tokens"])
        elif case.config.family == "decoder":
            tables = rotary_tables(graph.sizes["tokens"], graph.sizes["head"], dtype)
            batch |= {f"embedding.{name}": table for name, table in tables.items()}
            if "embedding.local_cos" in batch:
                tables = rotary_tables(graph.sizes["tokens"], graph.sizes["head"], dtype, theta=100.0)
                batch |= {f"embedding.local_{name}": table for name, table in tables.items()}
    return batches


def as_torch(weights_or_batch):
    return {name: torch.tensor(x) for name, x in weights_or_batch.items()}


class Twin:
    """The PyTorch model of a case with given weights."""

    def __init__(self, case, weights, eager=False):
        self.model = make_model(case.config, case.graph.sizes, eager)
        self.model.to(torch.tensor(next(iter(weights.values()))).dtype)
        # Linear layers hold [out, in], the graph [in, out].
        modules = self.model.named_modules()
        self.turned = {f"{name}.weight" for name, m in modules if isinstance(m, nn.Linear) and not isinstance(m, Table)}
        self.parameters = {self.name_of(name): parameter for name, parameter in self.model.named_parameters()}
        assert set(self.parameters) == set(weights)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.like(name, weights[name]))
            parameter.requires_grad_(case.graph.tensors[name].trainable)
        self.trained = {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    @staticmethod
    def name_of(parameter):
        """What the graph calls a parameter."""
        return parameter.replace("_final_norm", ".final.norm").replace("_table.weight", "_table")

    def like(self, name, x):
        """A weight, gradient or state of the graph in the shape and order of the parameter."""
        shape = self.parameters[name].shape
        x = torch.tensor(x)
        return x.reshape(shape[::-1]).T if name in self.turned else x.reshape(shape)

    def losses(self, batches, smoothing):
        """The loss of each micro-batch, its share of the mean; gradients are summed."""
        losses = []
        for batch in map(as_torch, batches):
            logits, labels = self.model(batch).flatten(0, -2), batch["head.labels"].flatten()
            loss = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing) / len(batches)
            loss.backward()
            losses.append(loss.item())
        return losses

    @property
    def dropped(self):
        """How many choices of experts were left out because these were full."""
        return sum(module.dropped for module in self.model.modules() if isinstance(module, Experts))


def distance(ours, theirs, least=0.0):
    """The norm of the difference, relative to the norm of theirs or to `least`, the larger."""
    return float((ours - theirs).norm()) / max(float(theirs.norm()), least, np.finfo(np.float64).tiny)


# --- losses and gradients ---------------------------------------------------------------------------------------------


MASKED_LM = {"task_head": "masked-lm", "classes": None}
BART = {
    "tied": "all",
    "source_vocab": 13,
    "positions": "learned",
    "max_positions": 11,
    "position_offset": 2,
    "embedding_norm": True,
    "scale_embedding": False,
    "logits_bias": True,
    "activation": "gelu",
}
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
    "bert": ("encoder-classifier", {"task_head": "bert", "token_types": 2, "activation": "gelu", "smoothing": 0.0}),
    "masked-lm": ("encoder-classifier", MASKED_LM | {"activation": "gelu", "smoothing": 0.0}),
    "masked-lm-pre": ("encoder-classifier", MASKED_LM | {"norm": "pre", "activation": "gelu_new", "micro_batches": 3}),
    "masked-lm-by-steps": ("encoder-classifier", MASKED_LM | {"activation": "gelu_new", "fused_activation": False}),
    "masked-lm-rms": (
        "encoder-classifier",
        MASKED_LM | {"norm_kind": "rms", "activation": "silu", "gated": True, "kv_heads": 1, "qk_norm": True},
    ),
    "bart": ("encoder-decoder", BART),
    "bart-untied": ("encoder-decoder", BART | {"tied": "none", "source_vocab": 11, "norm": "pre", "final_norm": True}),
    "marian": (
        "encoder-decoder",
        {"tied": "all", "source_vocab": 13, "logits_bias": True, "activation": "silu", "micro_batches": 3},
    ),
    "translation-like-llama": (
        "encoder-decoder",
        {name: choice for name, choice in LLAMA.items() if name not in ("positions", "tied")}
        | {"norm": "pre", "final_norm": True, "qk_norm": True, "head_dim": 6, "embedding_norm": True},
    ),
    "gpt2": ("decoder", {}),
    "gpt2-no-padding": ("decoder", {"padding_mask": False, "micro_batches": 3, "smoothing": 0.0}),
    "gpt2-by-steps": ("decoder", {"fused_activation": False}),
    "gpt2-untied": ("decoder", {"tied": False, "norm_eps": 0.1, "qkv_bias": False}),
    "gpt2-wide-heads": ("decoder", {"head_dim": 7, "qk_norm": True, "out_bias": False, "micro_batches": 3}),
    "gpt1": ("decoder", {"norm": "post", "final_norm": False, "smoothing": 0.0}),
    "opt": ("decoder", {"activation": "relu", "ffn_bias": False}),
    "multi-query": ("decoder", {"kv_heads": 1, "activation": "gelu"}),
    "llama": ("llama", {}),
    "llama-no-padding": ("llama", {"padding_mask": False, "micro_batches": 3, "smoothing": 0.0}),
    "llama-by-steps": ("llama", {"fused_activation": False}),
    "llama-norms-by-steps": ("llama", {"fused_norm": False, "upcast": True, "qk_norm": True, "norm_eps": 0.1}),
    "llama-all-heads": ("llama", {"kv_heads": None, "norm_eps": 0.1}),
    "llama-tied": ("llama", {"tied": True, "micro_batches": 3}),
    "llama-gelu": ("llama", {"activation": "gelu", "ffn_bias": True, "norm": "post"}),
    "llama-gelu-new": ("llama", {"activation": "gelu_new", "final_norm": False}),
    "qwen2": ("llama", {"qkv_bias": True, "norm_eps": 1e-6}),
    "qwen3": ("llama", {"qk_norm": True, "head_dim": 6, "norm_eps": 1e-6}),
    "qwen3-layer-norm": ("llama", {"qk_norm": True, "head_dim": 6, "norm_kind": "layer", "heads": 6, "kv_heads": 3}),
    "gemma": ("llama", {name: GEMMA[name] for name in ("zero_centered_norm", "activation", "scale_embedding", "tied")}),
    "gemma2": ("gemma", {"qk_norm": False, "local_rotary": False, "padding_mask": False, "micro_batches": 3}),
    "gemma3": ("gemma", {"attention_softcap": None, "logits_softcap": None, "query_pre_attn_scalar": None}),
    "gemma-all": ("gemma", {"padding_mask": False, "smoothing": 0.0, "windows": (2, 3, None), "layers": 3}),
    "gemma-by-steps": ("gemma", {"fused_norm": False, "upcast": True, "fused_activation": False}),
    "gemma-experts": ("experts", {"norm": "sandwich", "zero_centered_norm": True, "activation": "gelu_new"}),
    "translation-sandwich": ("encoder-decoder", {"norm": "sandwich", "attention_softcap": 1.0, "final_norm": True}),
    "classifier-sandwich": ("encoder-classifier", {"norm": "sandwich", "query_pre_attn_scalar": 2.0}),
    "mixtral": ("experts", {}),
    "mixtral-no-padding": ("experts", {"padding_mask": False, "micro_batches": 3, "smoothing": 0.0}),
    "mixtral-by-steps": ("experts", {"fused_activation": False}),
    "mixtral-as-they-are": ("experts", {"experts": {"renormalize": False}}),
    "mixtral-one": ("experts", {"experts": {"chosen": 1, "renormalize": False, "capacity_factor": 3}}),
    "mixtral-all": ("experts", {"experts": {"chosen": 3, "capacity_factor": 1}}),
    "mixtral-of-many": ("experts", {"experts": {"number": 40, "capacity_factor": 20}}),  # some experts get no token
    "experts-of-gpt2": ("experts", {"gated": False, "activation": "gelu_new", "norm_kind": "layer", "norm": "post"}),
}

# What differences are relative to: the gradient's norm, or this part of the norm of all if that is larger, as a key
# bias's true gradient is 0. float32 rounds at 6e-8 of all, so a limit of 1e-5 needs no less than a hundredth.
DTYPES = pytest.mark.parametrize(
    ("dtype", "limit", "part"), [(np.float32, 1e-5, 1e-2), (np.float64, 1e-12, 1e-3)], ids=["float32", "float64"]
)


def compare_gradients(case, dtype, limit, part, smoothing=None, eager=False):
    graph = case.graph
    weights = draw_weights(graph, np.random.default_rng(1), dtype)
    batches = draw_batches(case, dtype)
    done = run(graph, weights, batches)
    twin = Twin(case, weights, eager)
    losses = twin.losses(batches, case.smoothing if smoothing is None else smoothing)
    assert done.losses == pytest.approx(losses, rel=limit)
    assert math.fsum(done.losses) == pytest.approx(math.fsum(losses), rel=limit)
    assert set(twin.trained) == {name for name in weights if gradient_of(graph, name) in graph.tensors}
    theirs = {name: parameter.grad for name, parameter in twin.trained.items()}
    least = part * math.hypot(*(float(gradient.norm()) for gradient in theirs.values()))
    assert least > 0
    for name, gradient in theirs.items():
        ours = twin.like(name, done.values[gradient_of(graph, name)])
        assert distance(ours, gradient, least) <= limit, name
    return twin


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name, dtype, limit, part):
    family, changes = CASES[name]
    twin = compare_gradients(small(family, **changes), dtype, limit, part)
    assert twin.dropped == 0


@DTYPES
@pytest.mark.parametrize("name", ["bart", "gpt2", "llama", "qwen3", "multi-query"])
def test_keys_of_groups_repeated_and_scores_by_hand(name, dtype, limit, part):
    family, changes = CASES[name]
    compare_gradients(small(family, **changes), dtype, limit, part, eager=True)


WAYS = {
    "flash": {"attention": "flash"},
    "selective": {"checkpointing": "selective"},
    "full": {"checkpointing": "full"},
    "full-flash": {"checkpointing": "full", "attention": "flash"},
}


@DTYPES
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "gpt2-by-steps",
        "llama-norms-by-steps",
        "qwen3",
        "mixtral",
        "gpt1",
        "bart",
        "masked-lm",
        "gemma-by-steps",
    ],
)
def test_made_again_for_the_backward(name, way, dtype, limit, part):
    family, changes = CASES[name]
    compare_gradients(small(family, **changes, **WAYS[way]), dtype, limit, part)


@DTYPES
def test_tokens_beyond_the_capacity_are_left_out(dtype, limit, part):
    experts = {"capacity_factor": 0.6}
    twin = compare_gradients(small("experts", experts=experts, micro_batches=3), dtype, limit, part)
    assert twin.dropped > 0


LORA = {"lora": {"rank": 2, "alpha": 4, "targets": ("*.q", "*.v")}}
EVERYWHERE = {"lora": {"rank": 3, "alpha": 4, "targets": ("*",)}}
ADAPTERS = ("*.lora_*",)
TRAINABLE = {
    "lora": ("llama", LORA | {"trainable": ADAPTERS}),
    "lora-gpt2": ("decoder", LORA | {"trainable": ADAPTERS, "micro_batches": 3}),
    "lora-everywhere": ("llama", EVERYWHERE | {"trainable": ADAPTERS, "micro_batches": 3}),
    "lora-of-experts": ("experts", EVERYWHERE | {"trainable": ADAPTERS}),
    "lora-bert": ("encoder-classifier", EVERYWHERE | {"trainable": (*ADAPTERS, "head.*")}),
    "lora-bart": ("encoder-decoder", LORA | BART | {"trainable": ADAPTERS}),
    "lora-and-all": ("llama", EVERYWHERE),
    "biases": ("decoder", {"trainable": ("*.bias",), "micro_batches": 3}),
    "last-layer": ("llama", {"trainable": ("decoder.1.*",)}),
    "norms": ("llama", {"trainable": ("*norm.weight",), "qk_norm": True}),
    "values": ("decoder", {"trainable": ("decoder.*.v.weight",)}),
    "keys": ("llama", {"trainable": ("decoder.1.*.k.weight",)}),
    "gate": ("llama", {"trainable": ("decoder.0.ffn.fc1.weight",)}),
    "gated": ("llama", {"trainable": ("decoder.0.ffn.fc3.weight",), "fused_activation": False}),
    "routers": ("experts", {"trainable": ("*.router.weight",)}),
    "last-expert-gate": ("experts", {"trainable": ("decoder.1.experts.fc3.weight",)}),
    "head": ("llama", {"trainable": ("head.*",), "micro_batches": 3}),
    "embedding": ("llama", {"trainable": ("embedding.*",)}),
    "tied-table": ("decoder", {"trainable": ("embedding.tokens.weight",)}),
    "positions": ("decoder", {"trainable": ("embedding.positions.weight",)}),
    "cross-attention": ("encoder-decoder", {"trainable": ("decoder.*.cross_attention.*",)}),
    "encoder": ("encoder-decoder", {"trainable": ("encoder.0.*.k.weight",), "tied": "all", "source_vocab": 13}),
}


@DTYPES
@pytest.mark.parametrize("way", ["plain", *WAYS])
@pytest.mark.parametrize("name", TRAINABLE)
def test_only_what_is_trained_has_a_gradient(name, way, dtype, limit, part):
    family, changes = TRAINABLE[name]
    case = small(family, **changes, **WAYS.get(way, {}))
    twin = compare_gradients(case, dtype, limit, part)
    graph = case.graph
    assert {op.inputs[0] for op in graph.ops if op.phase == "update"} == set(twin.trained)
    for tensor in graph.tensors.values():
        if tensor.role == "weight_gradient" and tensor.name.partition(".grad")[0] not in twin.trained:
            # One kernel makes both gradients of a layer norm.
            assert graph.producer[tensor.name].kind.name == "layer_norm_grad_weights", tensor.name


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
        twin.trained.values(),
        lr=hyper.lr,
        betas=(hyper.beta1, hyper.beta2),
        eps=hyper.eps,
        weight_decay=hyper.weight_decay,
    )
    for step in range(1, STEPS + 1):
        values = run(graph, held, draw_batches(case, dtype, step), step=step).values
        for name, parameter in twin.trained.items():
            parameter.grad = twin.like(name, values[gradient_of(graph, name)])
        if hyper.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(twin.trained.values(), hyper.clip_norm)
            assert (norm > hyper.clip_norm) == (values["clip.factor"] < 1)
            for name, parameter in twin.trained.items():
                ours = twin.like(name, values[f"{gradient_of(graph, name)}.clipped"])
                assert distance(ours, parameter.grad) <= limit, name
        optimizer.step()
        for name, parameter in twin.trained.items():
            state = optimizer.state[parameter]
            theirs = {"": parameter.data, ".m": state["exp_avg"], ".v": state["exp_avg_sq"]}
            for part, x in theirs.items():
                assert distance(twin.like(name, values[f"{name}{part}.next"]), x) <= limit, f"{name}{part}, step {step}"
        updated = {f"{name}{part}": values[f"{name}{part}.next"] for name in twin.trained for part in ("", ".m", ".v")}
        held = weights | updated
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
