"""Policies composed of policies, in files and as a+b."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import classifier_step, counted, formats_of, shipped_policy

from costsim.cli import main
from costsim.errors import InputError
from costsim.inputs.files import find
from costsim.policy.assign import assign
from costsim.policy.load import load_policy, make_policy
from costsim.policy.policy import with_case
from costsim.policy.schedule import schedule
from costsim.results.records import records
from costsim.run.simulate import run

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
    assert {assign(graph, policy).accumulator(op).name for op in graph.ops if op.gemm} == {"fp16"}
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


NUMBERS = """description: y
numbers: {wide: 16}
rules:
  - {format: fixed8}
"""
USES = "rules:\n  - {format: fixed<wide>, role: [activation]}\n"
CASE = """assumptions:
  - name: width
    here: 8 bits
    cases:
      - {name: wide, rules: [{format: fixed<wide>}]}
"""


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"top": TOP, "base": NUMBERS}, r"base.yaml:2:11: numbers.wide: no format has the number wide; write <wide>"),
        ({"top": TOP, "base": BASE.replace("fixed<q0>", "fp32")}, r"base.yaml:2:10: levels.0: no format has the level"),
        ({"top": TOP + "numbers: {wide: 8}\n", "base": NUMBERS}, r"top.yaml:3:11: numbers.wide: no format has"),
        ({"top": TOP + "numbers: {wde: 8}\n" + USES, "base": NUMBERS}, r"top.yaml:3:11: numbers.wde: no format has"),
        ({"top": TOP + USES, "base": NUMBERS.replace("16", "0")}, r"base.yaml:2:11: numbers.wide: format 'fixed0'"),
        (
            {"top": "description: x\ncompose: [base+base2]\n", "base": NUMBERS, "base2": NUMBERS},
            r"base2.yaml:2:11: num",
        ),
    ],
)
def test_what_nothing_uses_is_named_in_the_file_that_says_it(load, texts, message):
    with pytest.raises(InputError, match=message):
        load(**texts)


@pytest.mark.parametrize(
    "texts",
    [
        {"top": TOP + USES, "base": NUMBERS},  # the base leaves it to others
        {"top": TOP, "base": NUMBERS + CASE},  # a case of an assumption uses it
        {"top": TOP + CASE, "base": NUMBERS},
        {"top": TOP + "accumulator: fp16\n", "base": NUMBERS + "accumulator: fixed<wide>\n"},  # of a base, not in force
        {"top": TOP + USES.replace("wide", "q0"), "base": BASE.replace("fixed<q0>", "fp32")},
    ],
)
def test_what_another_file_uses_is_used(load, texts):
    assert load(**texts).name == "top"


def test_a_number_that_a_change_in_python_brings_along_must_be_used():
    policy = load_policy(find("stash-bfp", "policies", "policy"))
    assert policy.with_(numbers={"box": 32}).file.numbers["box"] == 32
    with pytest.raises(InputError, match=r"\(Python\): numbers.bx: no format has the number bx"):
        policy.with_(numbers={"bx": 32})
    made = policy.with_(numbers={"bits": 8}, copy="stash", format="fixed<bits>")
    assert made.with_(role="state", format="fp32").file.numbers["bits"] == 8
    with pytest.raises(InputError, match=r"numbers.bits: no format has the number bits"):
        make_policy("mine", {"description": "x", "rules": [{"format": "fp32"}], "numbers": {"bits": 8}})


def test_a_case_that_changes_no_phase_is_named_at_the_case(load):
    case = CASE.replace("rules: [{format: fixed<wide>}]", "phases: [{until_step: 5, levels: [8]}, {levels: [8]}]")
    policy = load(top=TOP + case, base=BASE)
    with pytest.raises(InputError, match=r"top.yaml:7:62: assumptions.0.cases.0.phases.1.levels: changes nothing"):
        with_case(policy, policy.assumptions[0], 0)


def test_a_rule_of_a_base_that_matches_nothing_is_named_in_its_file(load):
    policy = load(top=TOP, base=BASE.replace("role: [state]", "layer: nowhere"))
    with pytest.raises(InputError, match=r"base.yaml:6:5: rules.1: this rule matches nothing"):
        assign(classifier_step(), policy)


def test_the_shipped_dsq_is_what_is_written_by_hand_in_one_file(step):
    graph = step(dropout=0.1, micro_batches=2)
    by_hand = load_policy(Path(__file__).parent / "data" / "dsq-by-hand.yaml")
    for phase in range(3):
        assert counted(graph, shipped_policy("dsq"), phase=phase) == counted(graph, by_hand, phase=phase)
    assert schedule(shipped_policy("dsq"), 9100) == schedule(by_hand, 9100)


# --- a+b --------------------------------------------------------------------------------------------------------------

ONE_LAYER = ["model.layers=1"]
POLICY = "description: x\nrules:\n  - {{format: {}{}}}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, change in (("eight", ("fixed8", "")), ("w4", ("fixed4", ", role: [weight]"))):
        (tmp_path / f"{name}.yaml").write_text(POLICY.format(*change))
    return tmp_path


def rows(*policies, **options):
    """The counts of policies, by the names that tables print."""
    result = run("glue-mrpc-dsq", policies, assignments=ONE_LAYER, scope="step", **options)
    return {
        row.pop("policy"): {name: value for name, value in row.items() if name != "setup"}
        for row in records(result, "policy")
    }


def test_rules_of_a_plus_b_come_in_that_order(folder):
    counts = rows("eight.yaml+w4.yaml", "w4.yaml+eight.yaml", "eight.yaml")
    assert list(counts) == ["eight+w4", "w4+eight", "eight"]
    assert counts["w4+eight"] == counts["eight"] != counts["eight+w4"]
    (folder / "composed.yaml").write_text("description: x\ncompose: [eight, w4]\n")
    (folder / "within.yaml").write_text("description: x\ncompose: [eight+w4]\n")
    assert rows("composed.yaml")["composed"] == rows("within.yaml")["within"] == counts["eight+w4"]


def test_shipped_and_own_policies_compose(folder):
    names = ("w8a8+deployed", "w8a8+as-coded", "w8a8+as-coded+deployed", "w8a8+deployed+as-coded", "w8a8+./w4.yaml")
    counts = {name: {**row, "grade": ""} for name, row in rows(*names).items()}
    assert list(counts) == [*names[:4], "w8a8+w4"]
    assert counts["w8a8+as-coded+deployed"] == counts["w8a8+deployed"] != counts["w8a8+as-coded"]
    assert counts["w8a8+deployed+as-coded"] == counts["w8a8+as-coded"]


def test_a_file_named_with_a_plus_is_that_file(folder):
    (folder / "eight+w4.yaml").write_text(POLICY.format("fixed2", ""))
    assert rows("eight+w4.yaml", "eight.yaml")["eight+w4"]["arithmetic_reduction"] == 64


def test_a_plus_b_in_tables_in_the_workload_and_as_the_baseline(folder):
    arguments = ["run", "glue-mrpc-dsq", "--set", *ONE_LAYER, "--set", "policies=[w8a8+deployed]", "--baseline"]
    done = CliRunner().invoke(main, [*arguments, "eight.yaml+w4.yaml"])
    assert done.output.splitlines()[3].startswith("w8a8+deployed ")
    assert "x less than eight+w4\n" in done.output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w8a8+deployd", "policy 'deployd': no such file, nor a shipped policy; did you mean 'deployed'?"),
        ("w8a9+deployed", "policy 'w8a9': no such file, nor a shipped policy; did you mean 'w8a8'?"),
        ("w8a8+", "policy '': no such file, nor a shipped policy (known: "),
        ("as-coded+deployed", "no rule gives tensor 'embedding.tokens.weight' (role weight) a format"),
        ("dsq+as-coded", "as-coded.yaml:8:21: rules.0.container: bf16 does not hold the values of bfp16"),
    ],
)
def test_what_cannot_be_composed(name, message):
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", name])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{copy: operand, op: heads.*, format: fp32}",
         "no op is 'heads.*' (did you mean 'head'? costsim run WORKLOAD --by op lists them)"),
        ("{name: '*.wieght', format: fp32}", "no tensor is '*.wieght' (did you mean 'weight'?"),
        ("{layer: middle.*, format: fp32}", "no layer is 'middle.*' (costsim run WORKLOAD --by layer"),
        ("{copy: operand, name: embedding.positions*, format: fp32}", "no GEMM reads 'embedding.positions*'; what"),
        ("{name: embedding.tokens.weight, role: [state], format: fp32}", "matches nothing in the workload; say"),
    ],
)  # fmt: skip
def test_a_rule_that_matches_nothing_says_which_name_is_not_there(rule, says, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"description: x\ncompose: [bf16-mixed]\nrules:\n  - {rule}\n")
    with pytest.raises(InputError, match=r"mine.yaml:4:5: rules.0: this rule matches nothing") as error:
        run("gpt2-small", [str(path)], assignments=["model.layers=1"])
    assert says in str(error.value)
