"""Traced modules against PyTorch: its own counters, gradients of autograd, the ops of AOTAutograd's joint graph."""

from collections import Counter
from pathlib import Path

import beside_families
import numpy as np
import pytest
import torch
import traced_models
from architectures import ARCHITECTURES, EXPLAINED, config, counted, graph_of, row
from click.testing import CliRunner
from torch._functorch.aot_autograd import aot_export_module
from torch.utils.flop_counter import FlopCounterMode

from costsim.cli import main
from costsim.errors import InputError
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch
from costsim.reference.execute import run
from costsim.trace.fake import Fake
from costsim.trace.record import record
from costsim.trace.subject import Subject
from costsim.trace.trace import trace

torch.set_num_threads(1)  # the tensors are tiny

TABLE = (Path(__file__).parent.parent.parent / "docs" / "traced.md").read_text().splitlines()
SPECS = ["gpt", "checkpointed"]
MORE = ["qwen3", "gemma3_text", "olmo2", "opt", "falcon", "modernbert", "bart"]  # counted by CI, their gradients not
# That CI traces, with gradients; all: python architectures.py.
SOME = [
    "gpt2",
    "llama",
    "gemma2",
    "bert",
    "t5",
    "deberta-v2",
    "vit",
    "whisper",
    "mixtral",
    "gpt_oss",
    "deepseek_v2",
    "electra",
]


def named(graph, name):
    """The name of a parameter in the graph."""
    path, _, last = name.rpartition(".")
    there = {weight.name for weight in graph.weights}
    names = [f"{stack}{each}" for stack in ("", "decoder.") for each in (name, f"{path}.norm.{last}")]
    return next(found for found in (f"embedding.{name}", *names) if found in there)


def compare(graph, module, inputs, micro_batches=1, **tolerance):
    """Hold loss and gradients of the reference against autograd's."""
    parameters = dict(module.named_parameters())
    ours = {name: named(graph, name) for name in parameters}
    weights = {ours[n]: x.detach().numpy().reshape(graph.shape(ours[n])) for n, x in parameters.items()}
    given = {name: x.numpy() for name, x in (*inputs.items(), *module.named_buffers()) if name in graph.tensors}
    batch = {name: x.reshape(graph.shape(name)) for name, x in given.items()}
    done = run(graph, weights, [batch] * micro_batches)
    made = module(**inputs)
    loss = made if isinstance(made, torch.Tensor) else made.loss
    loss.backward()
    assert done.losses == pytest.approx([loss.item() / micro_batches] * micro_batches, rel=tolerance.get("rtol", 1e-9))
    trained = {name: x for name, x in parameters.items() if x.requires_grad}
    largest = max(float(x.grad.abs().max()) for x in trained.values())
    for name, x in trained.items():
        gradient = done.values[gradient_of(graph, ours[name])].reshape(x.shape)
        scale = max(float(x.grad.abs().max()), 1e-3 * largest)  # that of a key's bias is 0 but for rounding
        np.testing.assert_allclose(
            gradient / scale, x.grad.numpy() / scale, **{"atol": 1e-9, **tolerance}, err_msg=name
        )


# --- modules that people write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_counts_are_those_of_pytorchs_own_counters(spec, tmp_path):
    made = trace(f"traced_models:{spec}")
    assert counted(graph_of(made, tmp_path)) == made.counted
    assert min(made.counted.values()) > 0


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_gradients_are_those_of_autograd(spec, micro_batches, tmp_path):
    graph = graph_of(trace(f"traced_models:{spec}"), tmp_path, micro_batches=micro_batches)
    module, (ids, labels) = getattr(traced_models, spec)()
    compare(graph, module.double(), {"ids": ids, "labels": labels}, micro_batches)


def test_what_is_recomputed_is_the_forward_once_more(tmp_path):
    plain, again = (graph_of(trace(f"traced_models:{spec}"), tmp_path) for spec in SPECS)
    recomputed = [op for op in again.ops if op.phase == "recompute"]
    assert {op.layer for op in recomputed} == {"decoder.layers.0", "decoder.layers.1"}
    forward = {op.name for op in again.ops if op.phase == "forward"}
    assert {op.recomputes for op in recomputed} <= forward
    assert forward == {op.name for op in plain.ops if op.phase == "forward"}


class Tuple(torch.nn.Module):
    """The loss in a tuple, as AOTAutograd wants it; the head has a weight of its own, for it takes no tied ones."""

    def __init__(self):
        super().__init__()
        self.inner = traced_models.GPT()
        self.inner.head = torch.nn.Linear(16, 50, bias=False)

    def forward(self, ids, labels):
        return (self.inner(ids, labels),)


def test_calls_are_those_of_aotautograds_joint_graph():
    """But for calls that only hand a tensor on."""
    joint, _ = aot_export_module(Tuple(), traced_models.ids(), trace_joint=True, output_loss_index=0)
    theirs = Counter(str(node.target) for node in joint.graph.nodes if node.op == "call_function")
    fake = Fake()
    with fake.mode:
        module = Tuple()
    inputs = dict(zip(("ids", "labels"), traced_models.ids(), strict=True))
    examples, inputs = fake.inputs(Subject(module, inputs, {}))
    with fake.mode:
        made = record(module, inputs, fake.symbols, "gpt", examples, {})
    ours = Counter(call.op for call in made.calls)
    views = {f"aten.{name}.default" for name in ("detach", "view", "_unsafe_view", "alias")}
    free = {"<built-in function getitem>", *views}
    assert {name: ours[name] for name in ours.keys() - free} == {name: theirs[name] for name in theirs.keys() - free}
    assert sum(ours.values()) > 200


def test_the_stored_file_is_what_is_traced(tmp_path):
    made = trace("traced_models:gpt").text()
    assert made == (Path(__file__).parent.parent / "data" / "traced" / "gpt.json").read_text()


def test_the_command_writes_a_workload_that_runs(tmp_path, monkeypatch):
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(main, ["trace", "traced_models:gpt", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [str(tmp_path / "mine.json"), str(out)]
    done = CliRunner().invoke(main, ["run", str(out), "--policy", "fp8-block"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nix:make", "No module named 'nix'"),
        ("traced_models:nix", "module traced_models has no function nix"),
        ("traced_models", "expected module:function"),
        ("traced_models:branch", "depends on the numbers in a tensor"),
        ("traced_models:spectrum", "aten._fft_r2c.default has no mapping"),
        ("traced_models:no_loss", "gives back no loss"),
        ("traced_models:stale", "reads a part of a tensor that was overwritten after the part was taken"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_place(spec, message, tmp_path):
    with pytest.raises(InputError) as failure:
        trace(spec)
    assert message in str(failure.value)
    done = CliRunner().invoke(main, ["trace", spec, "--out", str(tmp_path / "x.json")])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_parts_of_tensors_that_are_written(tmp_path):
    """Of memory in which nothing is yet, and of a tensor that is there, forward and backward."""
    made = trace("traced_models:parts")
    graph = graph_of(made, tmp_path)
    assert counted(graph) == made.counted
    assert {"put", "concat"} <= {op.kind.name.split()[0] for op in graph.ops}
    module, (x,) = traced_models.parts()
    compare(graph, module.double(), {"x": torch.sin(torch.arange(x.numel()).double()).reshape(x.shape)})


def beyond_groups(module, images):
    """FLOPs that FlopCounterMode has too many: weights' gradients of grouped convolutions as of ones without groups.

    A weight's gradient has as many products as the forward has, whose FLOPs are right.
    """
    grouped = {name: layer.groups for name, layer in module.named_children() if layer.groups > 1}
    with FlopCounterMode(display=False) as flops:
        module(images)
    by_layer = {name.rpartition(".")[2]: sum(of.values()) for name, of in flops.get_flop_counts().items()}
    return sum((groups - 1) * by_layer[name] for name, groups in grouped.items())


@pytest.mark.parametrize("spec", ["stem", "apart", "steps", "upwards"])
def test_convolutions(spec, tmp_path):
    """In one dim and in two, padded and spread, in groups and transposed, of inputs that need a gradient or do not."""
    made = trace(f"traced_models:{spec}")
    graph = graph_of(made, tmp_path)
    module, (images,) = getattr(traced_models, spec)()
    ours = counted(graph)
    ours["flops_backward"] += beyond_groups(module, images)
    assert ours == made.counted
    assert {op.kind.name.split()[0] for op in graph.ops} >= {"unfold", "fold"}
    assert {op.gemm for op in graph.ops if op.gemm} == {"forward", "dgrad", "wgrad"}
    images = torch.sin(torch.arange(images.numel()).double()).reshape(images.shape)
    compare(graph, module.double(), {"images": images})


# --- models of transformers -------------------------------------------------------------------------------------------

NO_DROPOUT = dict.fromkeys(
    (
        *("dropout", "attention_dropout", "activation_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate"),
    ),
    0.0,
)


@pytest.mark.parametrize("model_type", [*SOME, *MORE])
def test_the_table_of_the_docs_is_what_pytorchs_counters_and_ours_say(model_type, tmp_path):
    pytest.importorskip("transformers")
    made = row(model_type, tmp_path)
    assert made in TABLE
    assert made.endswith("| 0 |") or model_type in EXPLAINED


@pytest.mark.parametrize("model_type", SOME)
def test_gradients_of_transformers_are_those_of_autograd(model_type, tmp_path, monkeypatch):
    """In double precision, but for what transformers converts to float32."""
    pytest.importorskip("transformers")
    from costsim.trace.hugging_face import from_config

    monkeypatch.setitem(ARCHITECTURES, model_type, ARCHITECTURES[model_type] | NO_DROPOUT)
    path = config(model_type, tmp_path)
    made = trace(f"hf:{path}")
    small = {"batch": 3, "tokens": 5, "target_tokens": 4}
    graph = graph_of(made, tmp_path, sizes={dim: small[dim] for dim in made.examples})
    subject = from_config(str(path))
    module = subject.module.double()
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.dim() > 1 else 1.0, 0.3)
    drawn = draw_batch(graph, np.random.default_rng(0))
    buffers = dict(module.named_buffers())
    inputs = {name: torch.tensor(x) for name, x in drawn.items() if name not in buffers}
    for name, x in inputs.items():
        if x.dim() > subject.inputs[name].dim():  # axes that are cut into patches
            inputs[name] = x.reshape(-1, *subject.inputs[name].shape[1:])
    compare(graph, module, inputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", beside_families.DIFFERENCES)
def test_traced_models_are_costsims_own_but_for_what_is_named(model_type, tmp_path):
    """Each weight, each product and each kept tensor has one like it on the other side, or its name in the docs."""
    pytest.importorskip("transformers")
    traced, own = map(beside_families.parts, beside_families.graphs(model_type, tmp_path))
    for what, whys in {
        **dict.fromkeys(beside_families.COMPARED, ()),
        **beside_families.DIFFERENCES[model_type],
    }.items():
        only = beside_families.unpaired(traced[what], own[what], whys)
        assert not any(only.values()), (what, only)
    for what in ("weights", "products"):
        assert beside_families.total(traced[what]) == beside_families.total(own[what])
    assert set(beside_families.rows(model_type, traced, own)) <= set(TABLE)
