"""What ops are called in words: the projections of attention, its products, the head; and where words are shown."""

import json

import pytest
from click.testing import CliRunner
from conftest import one_layer

from costsim.cli import main
from costsim.graph.words import word, words
from costsim.inputs.files import list_shipped
from costsim.plots import draw
from costsim.run.job import Request, prepare
from costsim.run.simulate import run


@pytest.fixture(scope="module")
def graph():
    return prepare(Request("gpt2-small", assignments=("model.layers=1",))).graph


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("decoder.0.self_attention.q", "q_proj"),
        ("decoder.0.self_attention.v.dw", "v_proj: wgrad"),
        ("decoder.0.self_attention.scores", "attention scores"),
        ("decoder.0.self_attention.scores.recompute", "attention scores: recompute"),
        ("decoder.0.self_attention.context.dx", "attention context: dgrad"),
        ("decoder.0.ffn.fc1", "fc1"),
        ("head.logits.dw", "lm_head: wgrad"),
        ("decoder.0.self_attention_norm", "layer norm"),
    ],
)
def test_words_of_an_op(graph, name, said):
    assert words([next(op for op in graph.ops if op.name == name)]) == said


def test_words_of_several(graph):
    ops = [op for op in graph.ops if op.kind.name == "abc,cde->abde"]
    assert words(ops) == "q_proj, k_proj, v_proj"


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_every_product_has_a_word_of_its_own(workload):
    """No einsum, no number of a layer; and products of the forward with one word have one shape."""
    ops = prepare(Request(workload, assignments=one_layer(workload))).graph.ops
    shapes = {}
    for op in ops:
        if op.gemm is None:
            continue
        said = word(op)
        assert said
        assert "->" not in said
        assert not any(part.isdecimal() for part in said.split("."))
        if op.gemm == "forward" and op.phase == "forward" and "cross" not in op.name:
            shapes.setdefault((op.layer, said), set()).add(op.kind.name)
    assert all(len(kinds) == 1 for kinds in shapes.values())


def test_tables_and_figures_say_both():
    arguments = ["run", "gpt2-small", "--set", "model.layers=1", "--policy", "bf16-mixed", "--by", "kind", "--format"]
    rows = json.loads(CliRunner().invoke(main, [*arguments, "json"]).stdout)["rows"]
    said = {row["kind"]: row["words"] for row in rows}
    assert said["btd,vd->btv"] == "lm_head"
    assert said["layer_norm"] == "layer norm"
    text = CliRunner().invoke(main, [*arguments, "markdown"]).stdout
    assert "| lm_head" in text
    assert "btd,vd-\\>btv" in text
    result = run("gpt2-small", ["bf16-mixed"], assignments=["model.layers=1"])
    labels = {text.get_text() for text in draw(result, "breakdown", by="kind").legends[0].get_texts()}
    assert "lm_head: wgrad (btd,btv->vd)" in labels
