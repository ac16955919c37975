"""Policies composed of policies."""

import pytest
from conftest import classifier_step, formats_of

from costsim.assign import assign
from costsim.errors import InputError
from costsim.policy import load_policy
from costsim.schedule import schedule

BASE = """\
description: a base
levels: [q0]
accumulator: fp16
rules:
  - {format: fixed<q0>}
  - {format: fp32, role: [state]}
phases:
  - {until_fraction: 0.5, levels: [8]}
  - {levels: [16]}
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return load_policy(tmp_path / "top.yaml")

    return write_and_load


def test_rules_of_the_bases_come_first_and_own_ones_win(load):
    policy = load(base=BASE, top="description: x\ncompose: [base]\nrules:\n  - {format: bf16, role: [weight]}\n")
    graph = classifier_step()
    formats = formats_of(graph, policy, 1)
    assert {formats[n].name for n, t in graph.tensors.items() if t.role == "weight"} == {"bf16"}
    assert {formats[n].name for n, t in graph.tensors.items() if t.role == "state"} == {"fp32"}
    assert {formats[n].name for n, t in graph.tensors.items() if t.role == "gradient"} == {"fixed16"}
    assert assign(graph, policy).accumulator.name == "fp16"
    assert schedule(policy, 10) == [5, 5]


def test_own_phases_replace_those_of_the_base(load):
    policy = load(base=BASE, top="description: x\ncompose: [base]\nphases:\n  - {levels: [4]}\n")
    assert schedule(policy, 10) == [10]
    formats = formats_of(classifier_step(), policy)
    assert formats["encoder.0.ffn.fc1"].name == "fixed4"


def test_several_bases_and_bases_of_bases(load):
    policy = load(
        base=BASE,
        grads="description: y\nrules:\n  - {format: fp16, role: [gradient]}\n",
        middle="description: z\ncompose: [base, grads]\n",
        top="description: x\ncompose: [middle]\nrules:\n  - {format: bf16, role: [activation]}\n",
    )
    graph = classifier_step()
    formats = formats_of(graph, policy)
    by_role = {graph.tensors[n].role: f.name for n, f in formats.items() if graph.tensors[n].values == "float"}
    assert by_role == {
        "weight": "fixed8",
        "weight_gradient": "fixed8",
        "gradient": "fp16",
        "activation": "bf16",
        "state": "fp32",
    }


TOP = "description: x\ncompose: [base]\n"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"top": "description: x\ncompose: [bse]\n", "base": BASE}, r"top.yaml:2:11: compose.0: policy 'bse': no such"),
        ({"top": "description: x\ncompose: [top]\n"}, r"top.yaml:2:11: compose.0: top composes this policy in turn"),
        (
            {"top": TOP, "base": "description: y\ncompose: [top]\n"},
            r"base.yaml:2:11: compose.0: top composes this policy in turn",
        ),
        ({"top": "description: x\n"}, r"top.yaml:1:1: rules: expected at least one rule"),
        ({"top": TOP, "base": BASE.replace("fixed<", "fxd<")}, r"base.yaml:5:6: rules.0.format: unknown format 'fxd8'"),
        ({"top": TOP + "rules:\n  - {format: fxd}\n", "base": BASE}, r"top.yaml:4:6: rules.0.format: unknown format"),
        ({"top": TOP + "phases:\n  - {levels: [4, 4]}\n", "base": BASE}, r"top.yaml:4:6: phases.0.levels: expected 1"),
    ],
)
def test_errors_name_the_file_that_is_wrong(load, texts, message):
    with pytest.raises(InputError, match=message):
        load(**texts)


def test_a_rule_of_a_base_that_matches_nothing_is_named_in_its_file(load):
    policy = load(top=TOP, base=BASE.replace("role: [state]", "layer: nowhere"))
    with pytest.raises(InputError, match=r"base.yaml:6:5: rules.1: this rule matches nothing"):
        assign(classifier_step(), policy)
