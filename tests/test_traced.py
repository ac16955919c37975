"""Traced graphs without PyTorch: the file in tests/data/traced, which tests/pytorch/test_trace.py makes anew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import POLICIES, adamw, decoder_step, miscounts, shipped_policy

from costsim.cli import main
from costsim.cost.memory import memory
from costsim.errors import InputError
from costsim.graph.fusion import COMPARED
from costsim.models import traced, traced_file
from costsim.models.training_step import training_step
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_error, gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

FOLDER = Path(__file__).parent / "data" / "traced"
GPT = FOLDER / "gpt.json"


def step(path=GPT, micro_batches=1, trainable=("*",), **batch):
    model = traced.Model(family="traced", file=str(path))
    return training_step(model, traced.Batch(**batch), adamw(), micro_batches, 0.0, trainable)


def flops(graph):
    """Of products, forward and after it."""
    products = [op for op in graph.ops if op.gemm]
    forward = sum(2 * graph.work(op)[0] for op in products if op.phase == "forward")
    return forward, sum(2 * graph.work(op)[0] for op in products) - forward


def saved_bytes(graph):
    kept = memory(graph, assign(graph, shipped_policy("fp32")), "unfused").activations
    return sum(place.size_bytes for place in kept)


def test_counts_are_those_of_pytorchs_counters_in_the_file():
    counted, graph = json.loads(GPT.read_text())["counted"], step()
    assert flops(graph) == (counted["flops_forward"], counted["flops_backward"])
    assert graph.parameters == counted["parameters"]
    assert saved_bytes(graph) == counted["saved_bytes"]


@pytest.mark.parametrize(("sequences", "tokens"), [(1, 16), (4, 7), (64, 11)])
def test_batch_and_tokens_stay_open(sequences, tokens):
    """A GPT of width d, inner width f, L layers, V words: see the terms."""
    width, inner, layers, words = 16, 64, 2, 50
    rows = sequences * tokens
    linear = layers * (4 * width**2 + 2 * width * inner) + words * width
    attention = layers * 2 * tokens * width  # scores and context, of each token with each
    macs = rows * (linear + attention)
    assert flops(step(sequences=sequences, tokens=tokens)) == (2 * macs, 4 * macs)


@pytest.mark.parametrize("name", POLICIES)
def test_any_policy_counts_it_that_counts_a_small_model_of_costsims_own(name):
    policy = shipped_policy(name)
    try:
        assign(decoder_step(), policy)
    except InputError:
        pytest.skip("wants more than a small model has: states of 4096 elements, projected gradients")
    assert assign(step(), policy).format("decoder.layers.0.fc1.weight").element_bits > 0


@pytest.mark.parametrize("name", ["fp32", "bf16-mixed", "dsq", "fp8-block", "nvfp4", "w8a8+as-coded"])
def test_counts_are_what_the_reference_measures(name):
    assert miscounts(step(micro_batches=2), shipped_policy(name)) == []
    assert set(COMPARED) == {"unfused", "fused"}


def test_policies_leave_attention_and_head_alone_as_in_costsims_own_models():
    graph = step()
    assignment = assign(graph, shipped_policy("fp8-block"))
    multiplied = {op.name: assignment.multiplied(op, 0).name for op in graph.ops if op.gemm == "forward"}
    assert {name: format for name, format in multiplied.items() if format == "bf16"} == {
        "decoder.layers.0.attention.self_attention.scores": "bf16",
        "decoder.layers.0.attention.self_attention.context": "bf16",
        "decoder.layers.1.attention.self_attention.scores": "bf16",
        "decoder.layers.1.attention.self_attention.context": "bf16",
        "head.logits": "bf16",
    }
    assert {multiplied[f"decoder.layers.0.{name}"] for name in ("attention.qkv", "attention.out", "fc1", "fc2")} == {
        "fp8-e4m3-1x128"
    }


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_are_finite_differences(micro_batches):
    graph, rng = step(micro_batches=micro_batches), np.random.default_rng(0)
    weights = draw_weights(graph, rng)
    batches = [draw_batch(graph, rng) for _ in range(micro_batches)]
    assert gradient_error(graph, weights, batches, rng, seed=0) < 1e-6


def test_frozen_weights_take_their_gradients_out():
    whole, part = step(), step(trainable=("decoder.layers.1.fc2.*",))
    assert part.trainable_parameters == 16 * 64 + 16
    backward = [op.name for op in part.ops if op.phase == "backward"]
    assert "decoder.layers.1.fc2.dw" in backward
    assert "decoder.layers.1.fc2.dx" not in backward
    assert len(backward) < sum(op.phase == "backward" for op in whole.ops) / 10
    rng = np.random.default_rng(0)
    weights = draw_weights(whole, rng)
    batch = draw_batch(whole, rng)
    name = "decoder.layers.1.fc2.weight"
    made = [run(graph, weights, [batch]).values[gradient_of(graph, name)] for graph in (whole, part)]
    np.testing.assert_array_equal(*made)


def test_layers_that_are_alike_are_counted_once():
    classes = {"decoder.layers.0.fc1", "decoder.layers.1.fc1"}
    graph = step()
    from costsim.cost.count import count

    rows = count(graph, assign(graph, shipped_policy("fp32")), "fused")
    assert any(classes == {op.name for op in row.ops} for row in rows)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_text_of_a_file_is_read_back():
    made = traced_file.read(GPT)
    assert made.text() == GPT.read_text()


def test_a_file_that_changes_makes_another_step(tmp_path):
    """In one process: the field that names it stays the same."""
    renamed = tmp_path / "model.json"
    for name in ("loss", "cost"):
        renamed.write_text(GPT.read_text().replace('"head.cross_entropy"', f'"head.{name}"'))
        assert f"head.{name}" in step(renamed).tensors


def changed(tmp_path, change):
    data = json.loads(GPT.read_text())
    change(data)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("traced"), "no traced graph; costsim trace writes one"),
        (lambda d: d.update(traced=9), "traced: expected 1, got 9; trace it again"),
        (lambda d: d.pop("loss"), "loss: missing; trace it again"),
        (lambda d: d["ops"][3][2].append(9999), "op embedding.add_bias: a number that is in no table"),
        (lambda d: d["ops"][3].__setitem__(4, "later"), "op embedding.add_bias: no phase later"),
        (lambda d: d["ops"].append([1]), "not as costsim trace writes it"),
        (lambda d: d["dims"].append(["nix"]), "'nix' has no size"),
        (lambda d: d["examples"].update(batch=0), "examples: batch: expected a size, got 0"),
    ],
)
def test_what_is_no_traced_graph_is_refused(change, message, tmp_path):
    path = changed(tmp_path, change)
    with pytest.raises(InputError, match=message) as failure:
        traced_file.read(path)
    assert str(path) in str(failure.value)


WORKLOAD = (FOLDER / "gpt.yaml").read_text()


def refused(tmp_path, *assignments, file=GPT):
    shutil.copy(file, tmp_path / "gpt.json")
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    with pytest.raises(InputError) as failure:
        prepare(Request(str(tmp_path / "w.yaml"), assignments=assignments))
    return str(failure.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.file=nix.json", "nix.json: No such file or directory"),
        ("batch.sizes={model: 3}", "model is fixed in the trace (known: batch, tokens)"),
        ("batch.sizes={tokns: 3}", "tokns is none of the trace; did you mean 'tokens'?"),
        ("batch.tokens=17", "tokens 17: embedding.positions.weight has 16 rows, place 16 is none of them"),
        ("label_smoothing=0.1", "the loss is in the trace"),
        ("attention_pairs=causal", "no attention of this model is causal"),
        ('training.trainable=["nix"]', "no weight is named like 'nix'"),
    ],
)
def test_what_does_not_go_with_a_trace_is_refused(assignment, message, tmp_path):
    assert message in refused(tmp_path, assignment)


def test_a_kind_that_costsim_does_not_know_is_refused(tmp_path):
    path = changed(tmp_path, lambda data: data["kinds"].__setitem__(0, "embedd"))
    assert "unknown op kind 'embedd'; did you mean 'embed'" in refused(tmp_path, file=path)


def test_sizes_are_expressions_of_dynamic_dims(tmp_path):
    def longer(data):
        data["sizes"]["tokens_plus_1"] = "2*(tokens + 1) // 3 - 1"

    made = traced_file.read(changed(tmp_path, longer))
    assert traced_file.sizes_of(made, {"batch": 1, "tokens": 8})["tokens_plus_1"] == 5
    with pytest.raises(ValueError, match="the size of tokens_plus_1 would be 0"):
        traced_file.sizes_of(made, {"batch": 1, "tokens": 1})


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "run gpt.yaml --sweep batch=2,4 --sweep batch.tokens=4,8",
        "run gpt.yaml --by assumption",
        "run gpt.yaml --policy dsq --by gemm --hardware h100-sxm --traffic tiled",
        "memory gpt.yaml --policy fp32 --capacity-bytes 1MiB --activations",
        "memory gpt.yaml --batch 4 --accumulation 2",
        "explain gpt.yaml decoder.layers.0.attention.self_attention.scores --policy dsq",
        "validate gpt.yaml --policy bf16-mixed --steps 2",
        "search gpt.yaml --policy bfp16 --formats bfp8,bfp16 --sensitivity reference",
        "report gpt.yaml --out report.html",
        "plot gpt.yaml memory --out memory.svg",
    ],
)
def test_commands_take_a_traced_model(command, tmp_path, monkeypatch):
    for name in ("gpt.yaml", "gpt.json"):
        shutil.copy(FOLDER / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0, done.output


def test_a_trace_needs_pytorch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    done = CliRunner().invoke(main, ["trace", "module:function"])
    assert done.exit_code == 2
    assert done.output == "costsim: costsim trace: PyTorch is not installed; pip install 'costsim[torch]'\n"


def test_coverage_is_listed_without_pytorch():
    listed = CliRunner().invoke(main, ["list", "ops", "--aten"]).output
    assert "aten.native_layer_norm.default" in listed
    assert "aten.bmm.default" in listed
    assert CliRunner().invoke(main, ["list", "policies", "--aten"]).exit_code == 2
