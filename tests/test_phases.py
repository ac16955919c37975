"""Rules that hold from one moment to another, and of layers by number or share."""

import pytest
from conftest import STEPS, copies_of, counted, decoder_step, formats_of, policy

from costsim.errors import InputError
from costsim.inputs.spans import layers_in
from costsim.policy.assign import assign
from costsim.policy.load import make_policy
from costsim.policy.schedule import schedule
from costsim.run.job import Request, prepare
from costsim.run.simulate import count_policy

STORED = {"format": "bf16"}
LATE = {"role": ["activation"], "format": "fp32"}


def made(*rules, **more):
    return make_policy("p", {"description": "d", "rules": [STORED, *rules], **more})


def formats(policy, graph):
    """The format of the activations in each phase."""
    return [formats_of(graph, policy, i)["decoder.0.ffn.fc1"].name for i in range(len(policy.file.phases))]


# --- moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "lengths", "expected"),
    [
        ({"from": "90%"}, [900, 100], ["bf16", "fp32"]),
        ({"until": "12.5%"}, [125, 875], ["fp32", "bf16"]),
        ({"from": 10, "until": 30}, [10, 20, 970], ["bf16", "fp32", "bf16"]),
        ({"from": "0%"}, [1000], ["fp32"]),
        ({"until": "100%"}, [1000], ["fp32"]),
        ({"from": 2000}, [1000, 0], ["bf16", "fp32"]),
    ],
)
def test_a_rule_holds_between_its_moments(fields, lengths, expected):
    timed = made({**LATE, **fields})
    assert schedule(timed, 1000) == lengths
    assert formats(timed, decoder_step()) == expected


def test_several_rules_cut_the_run_at_all_their_moments():
    timed = made({**LATE, "from": "50%"}, {**LATE, "format": "fp16", "from": "90%"}, {**LATE, "until": "10%"})
    assert schedule(timed, 1000) == [100, 400, 400, 100]
    assert formats(timed, decoder_step()) == ["fp32", "bf16", "fp32", "fp16"]
    assert timed.setup == ("p", "p from 10%", "p from 50%", "p from 90%")


def test_levels_rise_beside_them():
    timed = made(
        {"copy": "operand", "format": "bfp<m>", "until": "75%"},
        {"copy": "operand", "format": "fp16", "from": "75%"},
        levels=["m"],
        phases=[{"until_fraction": 0.5, "levels": [4]}, {"levels": [6]}],
    )
    assert schedule(timed, 1000) == [500, 250, 250]
    assert timed.setup == ("[4]", "[6]", "[6] from 75%")
    operands = [
        {c.format.name for chain in copies_of(decoder_step(), timed, i).values() for c in chain} for i in (0, 1, 2)
    ]
    assert operands == [{"bfp4"}, {"bfp6"}, {"fp16"}]


def test_a_run_is_the_sum_of_its_parts():
    """Steps of either format, by hand: 246,000 and 54,000 of 300,000."""
    job = prepare(Request("gpt2-small", assignments=("model.layers=1",)))
    forward = {"copy": "operand", "gemm": ["forward"], "format": "fp8-e4m3"}
    total = count_policy(job.graph, made({**forward, "until": "82%"}), job.convention).total
    narrow, wide = (count_policy(job.graph, made(*rules), job.convention).total for rules in ([forward], []))
    assert job.convention.steps == 300_000
    assert 300_000 * total.arithmetic_cost == 246_000 * narrow.arithmetic_cost + 54_000 * wide.arithmetic_cost
    assert 300_000 * total.dram_bits == 246_000 * narrow.dram_bits + 54_000 * wide.dram_bits


def test_composed_changed_and_named_anew_they_hold():
    timed = made({**LATE, "from": "90%"})
    changed = timed.with_(role=["gradient"], format="fp32", until="10%")
    assert schedule(changed, 1000) == [100, 800, 100]
    graph = decoder_step()
    gradient = next(tensor.name for tensor in graph.tensors.values() if tensor.role == "gradient")
    assert [formats_of(graph, changed, i)[gradient].name for i in (0, 1, 2)] == ["fp32", "bf16", "bf16"]
    assert formats(changed, graph) == ["bf16", "bf16", "fp32"]


def test_a_rule_that_matches_nothing_is_told_where_it_holds():
    timed = made({"name": "nothing", "format": "fp32", "from": "90%"})
    assign(decoder_step(), timed, 0)
    with pytest.raises(InputError, match=r"rules\.1: this rule matches nothing"):
        assign(decoder_step(), timed, 1)


PHASES = {"levels": ["m"], "phases": [{"until_step": 10, "levels": [4]}, {"levels": [6]}]}
OPERAND = {"copy": "operand", "format": "bfp<m>"}


@pytest.mark.parametrize(
    ("rules", "more", "message"),
    [
        ([{**LATE, "from": "90"}, {**LATE, "until": "20%"}], {}, "rules.2.until: .*have no order before a run"),
        ([OPERAND, {**LATE, "from": "90%"}], PHASES, "rules.2.from: 90%: shares, steps and plateaus have no order"),
        ([{**LATE, "from": "90%", "until": "20%"}], {}, "rules.1.until: 20% is not after 90%"),
        ([{**LATE, "from": "90%", "until": 20}], {}, "rules.1.until: a share and a step have no order"),
        (
            [{**LATE, "from": "late"}],
            {},
            r"rules.1.from: expected a share of the run \(90%\) or a step \(5000\), got 'l",
        ),
        ([{**LATE, "from": "101%"}], {}, "rules.1.from: expected a share"),
        ([{**LATE, "layers": ["last"]}], {}, "rules.1.layers.0: expected a layer's number"),
        ([{**LATE, "layers": ["last 0%"]}], {}, "rules.1.layers.0: expected a layer's number"),
    ],
)
def test_what_is_refused(rules, more, message):
    with pytest.raises(InputError, match=message):
        made(*rules, **more)


def test_a_plateau_has_no_order():
    plateau = [{"until_plateau": {"patience": 1}, "levels": [4]}, {"levels": [6]}]
    with pytest.raises(InputError, match=r"rules.2.from: 90%: shares, steps and plateaus have no order"):
        made(OPERAND, {**LATE, "from": "90%"}, levels=["m"], phases=plateau, loss_log="x.csv")


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "number", "expected"),
    [
        ("0", 3, [0]),
        ("-1", 3, [2]),
        ("3", 3, []),
        ("-4", 3, []),
        ("first 2", 3, [0, 1]),
        ("last 2", 3, [1, 2]),
        ("last 5", 3, [0, 1, 2]),
        ("last 15%", 12, [10, 11]),
        ("first 50%", 5, [0, 1, 2]),
        ("last 100%", 2, [0, 1]),
    ],
)
def test_spans(span, number, expected):
    assert list(layers_in(span, number)) == expected


@pytest.mark.parametrize("family", STEPS)
@pytest.mark.parametrize(
    ("spans", "expected"), [([-1], [1]), ([0], [0]), (["last 50%"], [1]), (["first 1", -1], [0, 1])]
)
def test_layers_of_every_family(family, spans, expected):
    """Of the stack of two layers that all have."""
    graph = STEPS[family](layers=2) if family != "encoder-decoder" else STEPS[family](encoder_layers=2)
    chosen = policy({"format": "bf16"}, {"layers": tuple(map(str, spans)), "format": "fp16"})
    found = {t.layer for name, t in graph.tensors.items() if formats_of(graph, chosen)[name].name == "fp16"}
    stacks = {layer.rpartition(".")[0] for layer in found}
    assert found == {f"{stack}.{layer}" for stack in stacks for layer in expected}
    assert stacks == set(graph.stacks)


def test_a_stage_of_a_pipeline_knows_the_number_of_layers():
    """The last of 12 layers is on the last of two stages, and no layer of the first is."""
    rules = ({"format": "bf16"}, {"layers": ("last 2",), "format": "fp16", "optional": True})
    found = []
    for stage in (0, 1):
        job = prepare(Request("gpt2-small", assignments=("parallel.pipeline=2", f"parallel.stage={stage}")))
        formats = formats_of(job.graph, policy(*rules))
        found.append({t.layer for name, t in job.graph.tensors.items() if formats[name].name == "fp16"})
    assert found == [set(), {"decoder.10", "decoder.11"}]


def test_counts_of_layers_are_those_of_globs():
    graph = decoder_step()
    by_number, by_glob = (
        counted(graph, policy({"format": "bf16"}, {"copy": "operand", **field, "format": "fp8-e4m3"}))
        for field in ({"layers": ("-1",)}, {"layer": "decoder.1"})
    )
    assert sum(len(r.ops) * r.vector.get("quantize", 0) for r in by_number) > 0
    assert [r._replace(ops=[]) for r in by_number] == [r._replace(ops=[]) for r in by_glob]
