"""Assumptions moved one at a time: each case is the run that one would make by hand."""

import json

import pytest
from conftest import POLICIES, one_layer, shipped_policy

from costsim.errors import InputError
from costsim.inputs.files import list_shipped
from costsim.models import resizing
from costsim.results.records import records
from costsim.run import sensitivity
from costsim.run.job import Request, prepare
from costsim.run.sensitivity import AS_SHIPPED, outcomes, subjects
from costsim.run.simulate import execute
from costsim.tables.run import document
from costsim.tables.styles import render

WORKLOADS = list(list_shipped("workloads"))
WITH_ASSUMPTIONS = [name for name in POLICIES if shipped_policy(name).assumptions]
ONE_LAYER = ["model.layers=1"]
OTHER_CONVENTIONS = [
    *(("scope", scope) for scope in ("layer", "step")),
    ("traffic", "fused"),
    *(("law", law) for law in ("magnitude", "bops", "msfp", "energy")),
]


def entries(policy):
    """The assumptions of a policy as its file has them."""
    return [assumption.entry for assumption in policy.assumptions]


def job_of(workload, policies, *assignments, **options):
    """A small job whose subjects are all policies, not those with published figures, under one convention."""
    fields = [*one_layer(workload), "published=[]", "scope=gemm", "traffic=unfused", *assignments]
    return prepare(Request(workload, policies, assignments=fields, **options))


def ratios(job):
    """Both ratios of the first policy, as its row has them."""
    row = records(execute(job), "policy")[0]
    return row["arithmetic_reduction"], row["dram_reduction"]


def floats(outcome):
    both = (outcome.arithmetic_reduction, outcome.dram_reduction)
    return tuple(None if ratio is None else float(ratio) for ratio in both)


def moved(job, assumption):
    """{case: both ratios} of one assumption."""
    return {outcome.case: floats(outcome) for outcome in outcomes(job) if outcome.assumption == assumption}


@pytest.mark.parametrize(
    ("workload", "policies"),
    [*((workload, WITH_ASSUMPTIONS) for workload in WORKLOADS), ("glue-mrpc-dsq", POLICIES)],
)
def test_every_shipped_case_works(workload, policies):
    job = job_of(workload, policies)
    listed = outcomes(job)
    of_workload = [(entry.name, case.name) for entry in job.file.assumptions for case in entry.cases]
    expected = [
        (policy.name, *case)
        for policy in subjects(job)
        for case in [
            (AS_SHIPPED, ""),
            *((entry.name, case.name) for entry in entries(policy) for case in entry.cases),
            *OTHER_CONVENTIONS,
            *of_workload,
        ]
    ]
    assert [(outcome.policy, outcome.assumption, outcome.case) for outcome in listed] == expected
    assert len(set(expected)) == len(expected)
    assert {name for name, *_ in expected} == set(policies) - {job.baseline.name}
    for outcome in listed:
        assert outcome.dram_reduction > 0
        assert outcome.arithmetic_reduction is None or outcome.arithmetic_reduction > 0
        assert (outcome.assumption == AS_SHIPPED) == (outcome.here == outcome.grade == "")


def test_conventions_by_hand():
    job = job_of("glue-mrpc-dsq", ["dsq"])
    assert moved(job, AS_SHIPPED) == {"": ratios(job)}
    for field, value in OTHER_CONVENTIONS:
        assert moved(job, field)[value] == ratios(job_of("glue-mrpc-dsq", ["dsq"], **{field: value}))


def test_an_asked_convention_is_as_shipped():
    job = job_of("glue-mrpc-dsq", ["dsq"], scope="step", law="bops")
    assert moved(job, AS_SHIPPED) == {"": ratios(job)}
    assert list(moved(job, "scope")) == ["gemm", "layer"]
    assert moved(job, "law")["product"] == ratios(job_of("glue-mrpc-dsq", ["dsq"], scope="step"))


@pytest.mark.parametrize("policy", WITH_ASSUMPTIONS)
def test_policy_cases_by_hand(policy, tmp_path):
    """Another policy file: what is composed, the case's rules after it, its numbers and phases in place of its own."""
    job = job_of("glue-mrpc-dsq", [policy], scope="layer")
    path = tmp_path / "by-hand.yaml"
    for assumption in shipped_policy(policy).assumptions:
        _, at = assumption.place
        for case in assumption.document.data["assumptions"][at]["cases"]:
            fields = {name: value for name, value in case.items() if name != "name"}
            path.write_text(json.dumps({"description": "x", "compose": [policy], **fields}))
            by_hand = ratios(job_of("glue-mrpc-dsq", [str(path)], scope="layer"))
            assert moved(job, assumption.entry.name)[case["name"]] == by_hand, case["name"]


# --- own files --------------------------------------------------------------------------------------------------------

BASE = """\
description: a base
levels: [q0]
numbers: {box: 16}
rules: [{format: bfp<q0>-box<box>}]
phases: [{levels: [4]}]
assumptions:
  - {name: box, here: "16", cases: [{name: "32", numbers: {box: 32}}, {name: nothing else, numbers: {box: 16}}]}
  - {name: level, here: "4", cases: [{name: "8", phases: [{levels: [8]}]}]}
"""
TOP = """\
description: x
compose: [base]
assumptions:
  - {name: level, here: four, grade: recalled, cases: [{name: "2", phases: [{levels: [2]}]}]}
  - {name: weights, here: as all, cases: [{name: wide, rules: [{format: fixed16, role: [weight]}]}]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("base", BASE), ("top", TOP), ("beside", "description: x\ncompose: [base]\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def assumed(*policies):
    job = job_of("glue-mrpc-dsq", policies)
    return [(entry.name, entry.here, entry.grade) for policy in job.policies for entry in entries(policy)]


def test_assumptions_are_inherited_and_replaced_by_name(folder):
    assert assumed("beside.yaml") == assumed("base.yaml") == [("box", "16", "ours"), ("level", "4", "ours")]
    replaced = [("level", "four", "recalled"), ("weights", "as all", "ours"), ("box", "16", "ours")]
    assert assumed("top.yaml") == replaced
    assert sorted(assumed("base.yaml+top.yaml")) == sorted(replaced)
    assert sorted(assumed("top.yaml+base.yaml")) == sorted([("level", "4", "ours"), *replaced[1:]])


def test_cases_of_own_files(folder):
    """In fixed16 against 4 bits and an 8-bit exponent per box; formats of everything change, so ratios are round."""
    base, top = (job_of("glue-mrpc-dsq", [f"{name}.yaml"], scope="gemm") for name in ("base", "top"))
    assert moved(base, AS_SHIPPED)[""] == moved(base, "box")["nothing else"] == moved(top, AS_SHIPPED)[""]
    assert moved(base, "level")["8"][0] == 4
    assert moved(top, "level")["2"][0] == 64
    assert moved(top, "weights")["wide"][0] < 16
    assert moved(base, "box") == moved(top, "box")


def test_workload_cases_of_own_files(folder):
    """One that changes nothing, and one that a phase with a last step of its own sees."""
    text = list_shipped("workloads")["glue-mrpc-dsq"].read_text(encoding="utf-8")
    cases = "{name: nothing, set: [batch.tokens=128, training.steps=2296]}, {name: short, set: [training.steps=99]}"
    (folder / "w.yaml").write_text(f"{text}assumptions: [{{name: a, here: b, cases: [{cases}]}}]\n")
    phases = "phases: [{until_step: 50, levels: [4]}, {levels: [8]}]"
    (folder / "rising.yaml").write_text(f"description: x\ncompose: [base]\n{phases}\n")
    job, short = (
        prepare(Request("w.yaml", ["rising.yaml"], assignments=[*ONE_LAYER, *more]))
        for more in ((), ("training.steps=99",))
    )
    assert moved(job, "a") == {"nothing": ratios(job), "short": ratios(short)}
    assert ratios(job) != ratios(short)


# --- the workload with the most cases, and its table ------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return execute(job_of("iwslt17-dsq", ["dsq"]))


def test_workload_cases_by_hand(result):
    """Fields of another workload file, and rules that other files of all policies end with, the baseline's too."""
    cases = [(entry.name, case) for entry in result.job.file.assumptions for case in entry.cases]
    assert len(cases) > 5
    assert {bool(case.rules) for _, case in cases} == {False, True}
    for name, case in cases:
        changes = {"rules": [rule.as_data() for rule in case.rules]}
        policies = [shipped_policy(policy).with_(called=policy, **changes) for policy in ("dsq", "fixed16")]
        by_hand = job_of("iwslt17-dsq", policies, *case.set, baseline=policies[1])
        assert moved(result.job, name)[case.name] == ratios(by_hand), case


def test_a_case_may_name_another_law_and_rules_for_all(folder):
    """Over what was asked for; 4 bits against 16 for all policies alike is no reduction."""
    text = list_shipped("workloads")["glue-mrpc-dsq"].read_text(encoding="utf-8")
    cases = "{name: same, rules: [{format: fixed4}]}, {name: law, set: [law=bops]}, {name: scope, set: [scope=step]}"
    (folder / "w.yaml").write_text(f"{text}assumptions: [{{name: a, here: b, cases: [{cases}]}}]\n")
    job = prepare(Request("w.yaml", ["base.yaml"], assignments=ONE_LAYER, law="energy", scope="gemm"))
    bops, step = (
        ratios(prepare(Request("w.yaml", ["base.yaml"], assignments=ONE_LAYER, **asked)))
        for asked in ({"law": "bops", "scope": "gemm"}, {"law": "energy", "scope": "step"})
    )
    assert moved(job, "a") == {"same": (1.0, 1.0), "law": bops, "scope": step}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("{name: c}", r"w.yaml:\d+:\d+: assumptions.0.cases.0: expected set or rules"),
        ("{name: c, rules: [{format: fixed99}]}", r"w.yaml:\d+:\d+: assumptions.0.cases.0.rules.0.format: .*bits must"),
        ("{name: c, rules: [{role: [weight], accumulator: int32}]}", r"w.yaml:\d+:\d+: .*matches nothing"),
        (
            "{name: c, set: [law=bobs]}",
            r"w.yaml:\d+:\d+: .*cases.0: --set law=bobs: expected one of .*'bops'",
        ),
        (
            "{name: c, set: [gemm_writes=all]}",
            r"cases.0: --set gemm_writes=all: expected one of gemms, none, operands, stashes, stashes-alone, gradients",
        ),
    ],
)
def test_cases_of_a_workload_that_do_not_fit(case, message, folder):
    text = list_shipped("workloads")["glue-mrpc-dsq"].read_text(encoding="utf-8")
    (folder / "w.yaml").write_text(f"{text}assumptions:\n  - {{name: a, here: b, cases: [{case}]}}\n")
    with pytest.raises(InputError, match=message):
        outcomes(prepare(Request("w.yaml", ["base.yaml"], assignments=ONE_LAYER)))


def test_records_say_how_far_each_case_is_from_as_shipped(result):
    rows, moves = records(result, "assumption"), outcomes(result.job)
    for row, outcome in zip(rows, moves, strict=True):
        assert (row["policy"], row["assumption"], row["case"]) == (outcome.policy, outcome.assumption, outcome.case)
        assert (row["arithmetic_reduction"], row["dram_reduction"]) == floats(outcome)
        for name in ("arithmetic", "dram"):
            now, was = row[f"{name}_reduction"], rows[0][f"{name}_reduction"]
            assert row[f"{name}_change"] == (None if now is None else pytest.approx(now / was - 1, abs=1e-12))


def test_the_table_fits_a_terminal(result):
    rows, _, notes = render(document(result, "assumption"), "table").partition("\n\n")
    assert max(map(len, rows.splitlines())) <= 80
    words = " ".join(rows.split())
    assert all(f"{float(outcome.dram_reduction):.2f}" in words for outcome in outcomes(result.job))
    assert "* levels recalled" in notes


def test_only_policies_with_published_figures_are_moved():
    assert [policy.name for policy in subjects(prepare(Request("iwslt17-dsq")))] == ["dsq"]
    assert [policy.name for policy in subjects(prepare(Request("glue-mrpc-dsq", ["fixed16", "bfp16", "dsq"])))] == [
        "bfp16",
        "dsq",
    ]


def test_the_baseline_alone_has_nothing_to_move():
    with pytest.raises(InputError, match="no policy but the baseline fixed16"):
        outcomes(prepare(Request("glue-mrpc-dsq", ["fixed16"], assignments=ONE_LAYER)))


@pytest.mark.parametrize(
    ("assumptions", "message"),
    [
        ("- {name: a, here: b, cases: [{name: c, numbers: {exponnt: 5}}]}", "unknown number 'exponnt'; did you mean"),
        ("- {name: a, here: b, cases: [{name: c}]}\n  - {name: a, here: b, cases: [{name: d}]}", "named twice"),
    ],
)
def test_assumptions_that_say_nothing_are_refused(assumptions, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"description: x\ncompose: [dsq]\nassumptions:\n  {assumptions}\n")
    with pytest.raises(InputError, match=message):
        outcomes(prepare(Request("glue-mrpc-dsq", [str(path)], assignments=ONE_LAYER)))


@pytest.mark.parametrize("workload", ["iwslt17-dsq", "glue-mrpc-dsq"])
def test_classes_in_common_change_no_ratio(workload, monkeypatch):
    """All cases share the classes of ops and tensors, and graphs of other sizes those of the first."""
    job = prepare(Request(workload))
    sensitivity.outcomes.cache_clear()
    together = sensitivity.outcomes(job)
    monkeypatch.setattr(sensitivity, "_told", lambda *_: None)
    monkeypatch.setattr(resizing, "_built", resizing.deque(maxlen=0))
    sensitivity.outcomes.cache_clear()
    assert sensitivity.outcomes(prepare(Request(workload))) == together
    assert len(together) > 15
