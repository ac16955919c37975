"""Gemma, Gemma 2 and Gemma 3: losses and gradients of imported configs against transformers, and single parts.

Counts against PyTorch's own are in test_torch_counts_llama, other twins in PyTorch in tests/pytorch.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import GEMMA, STEPS, decoder_step, gemma_step
from data import gemma_losses as given

from costsim.errors import InputError
from costsim.huggingface.importer import workload_of
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

STORED = json.loads((Path(__file__).parent / "data" / "gemma_losses.json").read_text())["models"]


def rotary(tokens, head, theta):
    """Cosines and sines as LlamaRotaryEmbedding makes them."""
    angles = np.outer(np.arange(tokens), theta ** (-np.arange(0, head, 2) / head))
    return np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)


def batch_of(graph, model_type):
    ids = given.tokens()
    labels = np.concatenate([ids[:, 1:], np.full((len(ids), 1), -1)], axis=1)
    batch = {"embedding.tokens.ids": ids, "head.labels": labels}
    for prefix, theta in {"": 1e6 if model_type == "gemma3_text" else 1e4, "local_": 1e4}.items():
        if f"embedding.{prefix}cos" in graph.tensors:
            tables = rotary(given.TOKENS, given.SIZES["head_dim"], theta)
            batch |= {f"embedding.{prefix}cos": tables[0], f"embedding.{prefix}sin": tables[1]}
    return batch


@pytest.mark.parametrize("way", ["flash", "eager"])
@pytest.mark.parametrize("name", STORED)
def test_losses_and_gradients_are_those_of_transformers(name, way, tmp_path):
    stored = STORED[name]
    config, path = tmp_path / "config.json", tmp_path / "model.yaml"
    config.write_text(json.dumps(stored["config"]))
    path.write_text(workload_of(config).text)
    batch = (f"batch.sequences={given.SEQUENCES}", f"batch.tokens={given.TOKENS}")
    graph = prepare(Request(str(path), assignments=(*batch, f"model.attention={way}"))).graph
    weights = {
        tensor.name: given.weight(tensor.name, graph.elements(tensor.dims)).reshape(graph.shape(tensor.name))
        for tensor in graph.weights
    }
    assert set(weights) == set(stored["gradients"])
    ran = run(graph, weights, [batch_of(graph, name)])
    assert ran.losses == [pytest.approx(stored["loss"], rel=1e-8)]
    for weight, kept in stored["gradients"].items():
        gradient = ran.values[gradient_of(graph, weight)].reshape(-1)
        norm, projection = given.described(weight, gradient)
        assert norm == pytest.approx(kept[0], rel=1e-6), weight
        assert projection == pytest.approx(kept[1], abs=1e-6 * kept[0]), weight


def test_the_shipped_workload_is_the_imported_config(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(workload_of(Path(__file__).parent / "data" / "configs" / "gemma-2-2b.json").text)
    shipped, imported = (prepare(Request(name)).file for name in ("gemma-2-2b", str(path)))
    assert shipped.model.items() <= imported.model.items()
    assert shipped.attention_pairs == imported.attention_pairs == "window"
    assert prepare(Request("gemma-2-2b")).graph.parameters == 2_614_341_888


# --- parts ------------------------------------------------------------------------------------------------------------

WAYS = {
    "norms by steps": {"fused_norm": False, "upcast": True},
    "activation by steps": {"fused_activation": False},
    "flash": {"attention": "flash"},
    "selective": {"checkpointing": "selective"},
    "full": {"checkpointing": "full", "fused_norm": False, "upcast": True},
}


def ran(graph):
    weights = draw_weights(graph, np.random.default_rng(1))
    return run(graph, weights, [draw_batch(graph, np.random.default_rng(2))]), weights


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_to_write_it_are_the_same_function(way):
    """Losses and gradients; and the same products, but for what is made again."""
    graph, other = gemma_step(), gemma_step(**WAYS[way])
    (one, weights), (two, _) = ran(graph), ran(other)
    assert one.losses == pytest.approx(two.losses, rel=1e-12)
    for name in weights:
        expected = one.values[gradient_of(graph, name)]
        np.testing.assert_allclose(two.values[gradient_of(other, name)], expected, rtol=1e-8, atol=1e-11, err_msg=name)
    macs = [sum(g.work(op)[0] for op in g.ops if op.phase in ("forward", "backward")) for g in (graph, other)]
    assert macs[0] == macs[1]


def test_geglu_is_one_kernel_that_keeps_its_operands():
    kinds = {fused: [op.kind.name for op in gemma_step(fused_activation=fused).ops] for fused in (True, False)}
    assert kinds[True].count("geglu_new") == kinds[True].count("geglu_new_grad") == 2
    assert kinds[False].count("gelu_new") == 2  # PyTorch's kernel, not the steps of GPT-2
    assert "cube" not in kinds[False]


@pytest.mark.parametrize("family", STEPS)
def test_sandwich_norms_are_one_more_for_each_part(family):
    def norms(norm):
        names = [tensor.name for tensor in STEPS[family](norm=norm).weights if tensor.name.endswith("norm.weight")]
        return {name for name in names if ".self_attention." not in name}

    more = norms("sandwich") - norms("pre")
    assert norms("pre") < norms("sandwich")
    assert more == {name for name in norms("sandwich") if name.endswith("_post_norm.weight")}
    assert len(more) == len({name for name in norms("pre") if "final" not in name and name.count(".") == 3})


def test_caps_hold():
    graph = gemma_step(attention_softcap=0.01, logits_softcap=0.02)
    values = ran(graph)[0].values
    for name, cap in (("decoder.1.self_attention.softcap", 0.01), ("head.softcap", 0.02)):
        before = values[name.replace("softcap", "scores" if "decoder" in name else "logits")]
        np.testing.assert_allclose(values[name], cap * np.tanh(before / cap), rtol=1e-12)
        assert cap / 2 < np.max(abs(values[name])) <= cap


@pytest.mark.parametrize(
    ("windows", "prefixes"), [((2, None), {"", "local_"}), ((2,), {"local_"}), ((None,), {""}), (None, {""})]
)
def test_tables_of_windows(windows, prefixes):
    """Layers without any window, or all with one, need one pair of tables."""
    graph = gemma_step(windows=windows)
    tables = {name for name in graph.tensors if name.startswith("embedding.") and name.endswith(("cos", "sin"))}
    assert tables == {f"embedding.{prefix}{table}" for prefix in prefixes for table in ("cos", "sin")}
    assert tables <= set(graph.readers)


def test_scores_are_scaled_by_what_is_said():
    for graph, expected in ((gemma_step(), 3.0), (decoder_step(), 4)):
        factors = {op.params["factor"] for op in graph.ops if op.name.endswith("self_attention.scale")}
        assert factors == {1 / expected**0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_centered_norm": True}, "zero_centered_norm is of RMS norms: say norm_kind: rms"),
        (
            {**GEMMA, "fused_norm": False},
            "zero_centered_norm op by op is float32, as transformers has it: say upcast: tr",
        ),
        ({"local_rotary": True}, "local_rotary is of rotary positions: say positions: rotary"),
        ({"attention_softcap": 0}, "attention_softcap: expected more than 0.0, got 0"),
        ({"norm": "both"}, "norm: expected one of post, pre, sandwich, branch, got 'both'"),
    ],
)
def test_choices_that_do_not_go_together(changes, message):
    with pytest.raises(InputError, match=message):
        decoder_step(**changes)
