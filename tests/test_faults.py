"""All that is wrong with a file is told at once; what would take for ever is refused before it starts."""

import json
import time

import pytest
import yaml
from click.testing import CliRunner

from costsim.cli import main
from costsim.errors import MAX_FAULTS, InputError, together
from costsim.formats.named import parse_format
from costsim.inputs.files import list_shipped
from costsim.policy.load import find_policy, load_policy, make_policy
from costsim.run.job import Request, prepare
from costsim.run.sweep import MOST_POINTS, points

WORKLOAD = list_shipped("workloads")["translation-small"].read_text()


def refusal(tmp_path, name, text, *command):
    path = tmp_path / name
    path.write_text(text)
    result = CliRunner().invoke(main, ["run", *command, str(path)])
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert all(line.startswith(f"costsim: {path}:") for line in lines)
    return [line.removeprefix(f"costsim: {path}:").partition(" ")[2] for line in lines]


def test_all_faults_of_a_workload(tmp_path):
    """Of the file's own sections, of the model, of the batch; each at its place, in file order."""
    text = WORKLOAD
    for right, wrong in {
        "d_model: 64": "d_modl: 64",
        "dropout: 0.1\n": "dropout: 1.5\n",
        "sequences: 32": "sequences: many",
        "kind: adam": "kind: adan",
    }.items():
        assert right in text
        text = text.replace(right, wrong, 1)
    faults = refusal(tmp_path, "w.yaml", text)
    fields = [fault.partition(":")[0] for fault in faults]
    assert fields == ["model.d_modl", "model.dropout", "batch.sequences", "optimizer.kind"]


def test_all_faults_of_the_rules_of_a_policy(tmp_path):
    text = """description: x
rules:
  - {format: bf17}
  - {format: bf16}
  - {format: bf16, placement: on_chip}
  - {role: [state]}
"""
    faults = refusal(tmp_path, "p.yaml", text, "translation-small", "--policy")
    assert [fault.partition(":")[0] for fault in faults] == ["rules.0.format", "rules.2.placement", "rules.3"]


def test_all_faults_of_a_profile(tmp_path):
    text = list_shipped("hardware_profiles")["h100-sxm"].read_text()
    faults = refusal(tmp_path, "d.yaml", text + "speed: 1\nvector_ops: 2\n", "translation-small", "--hardware")
    assert [fault.partition(":")[0] for fault in faults] == ["speed", "vector_ops"]


def test_a_misspelled_field_is_told_once(tmp_path):
    faults = refusal(tmp_path, "w.yaml", WORKLOAD.replace("steps:", "stesp:"))
    assert [fault.partition(":")[0] for fault in faults] == ["training.stesp"]


def test_more_faults_than_anybody_reads(tmp_path):
    rules = "".join(f"  - {{format: none{i}}}\n" for i in range(MAX_FAULTS + 5))
    path = tmp_path / "p.yaml"
    path.write_text(f"description: x\nrules:\n{rules}")
    with pytest.raises(InputError) as caught:
        load_policy(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == MAX_FAULTS + 1
    assert lines[-1] == "and 5 more"


def test_together_gives_results_or_all_faults():
    def refuse(text):
        raise InputError(text)

    assert together([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(InputError) as caught:
        together([lambda: refuse("a"), lambda: 1, lambda: refuse("b\x1b"), lambda: refuse("a")])
    assert str(caught.value) == "a\nb\\x1b"


# --- what would take for ever -----------------------------------------------------------------------------------------


def chain(tmp_path, number, compose):
    for i in range(number):
        (tmp_path / f"p{i}.yaml").write_text(f"description: x\ncompose: {compose(i + 1)}\n")
    (tmp_path / f"p{number}.yaml").write_text("description: x\nrules: [{format: bf16}]\n")
    return tmp_path / "p0.yaml"


def test_each_file_of_a_composition_is_read_once(tmp_path):
    """25 files each of which composes the next twice: 2^25 readings, and so minutes, otherwise."""
    start = time.monotonic()
    composed = load_policy(chain(tmp_path, 25, lambda i: f"[p{i}, p{i}]"))
    assert len(composed.file.rules) == 1
    assert time.monotonic() - start < 30


def test_a_long_chain_of_policies_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"p\d+.yaml:2:11: compose.0: policies compose each other more than 32 deep"):
        load_policy(chain(tmp_path, 601, lambda i: f"[p{i}]"))


def test_a_policy_may_be_composed_twice_where_it_does_not_compose_itself(tmp_path):
    for name, compose in {"a": "[b, c]", "b": "[d]", "c": "[d]"}.items():
        (tmp_path / f"{name}.yaml").write_text(f"description: x\ncompose: {compose}\n")
    (tmp_path / "d.yaml").write_text("description: x\nrules: [{format: bf16}]\n")
    assert [rule.format for rule in load_policy(tmp_path / "a.yaml").file.rules] == ["bf16"]
    (tmp_path / "d.yaml").write_text("description: x\ncompose: [a]\nrules: [{format: bf16}]\n")
    with pytest.raises(InputError, match="composes this policy in turn"):
        load_policy(tmp_path / "a.yaml")


LONG = {  # by what is refused: a field of a workload or of a policy, its items, and what the refusal says
    "policies": ("workload", ["fp32"] * 101, "expected at most 100 items"),
    "policies, by the thousand": ("workload", ["fp32"] * 20_000, "expected at most 1000 items, got 20000"),
    "hardware": ("workload", ["t4"] * 101, "expected at most 100 items"),
    "compose": ("policy", ["fp32"] * 101, "expected at most 100 items"),
    "rules": ("policy", [{"format": "fp32"}] * 1001, "expected at most 1000 items, got 1001"),
    "phases": ("policy", [{"levels": [4]}] * 201, "expected at most 200 items"),
    "assumptions": (
        "policy",
        [{"name": "a", "here": "b", "cases": [{"name": "c"}]}] * 101,
        "expected at most 100 items",
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_what_is_too_long_is_refused(name, tmp_path):
    sort, items, said = LONG[name]
    field = name.partition(",")[0]
    if sort == "workload":
        data = {**yaml.safe_load(WORKLOAD), field: items}
    else:
        data = {"description": "x", "levels": ["a"], field: items}
    path = tmp_path / "long.yaml"
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in data.items()))
    with pytest.raises(InputError) as caught:
        prepare(Request(str(path))) if sort == "workload" else load_policy(path)
    assert any(f" {field}: {said}" in fault for fault in str(caught.value).split("\n"))


def test_a_composition_has_an_end(tmp_path):
    """Of files at any depth, of rules in all, and of policies named together."""
    for i in range(6):
        inner = [f"p{i}-{j}" for j in range(50)] if i else [f"p{j}-0" for j in range(1, 6)]
        (tmp_path / f"p{i}.yaml").write_text(f"description: x\ncompose: {json.dumps(inner)}\n")
        for name in inner:
            (tmp_path / f"{name}.yaml").write_text("description: x\nrules: [{format: fp32}]\n")
    (tmp_path / "files.yaml").write_text("description: x\ncompose: [p1, p2, p3, p4, p5]\n")
    with pytest.raises(InputError, match="composed of more than 200 files"):
        load_policy(tmp_path / "files.yaml")
    rules = json.dumps([{"format": "fp32"}] * 600)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"description: x\nrules: {rules}\n")
    (tmp_path / "rules.yaml").write_text("description: x\ncompose: [a, b]\n")
    with pytest.raises(InputError, match="compose: with those of the policies that it composes, 1200 rules"):
        load_policy(tmp_path / "rules.yaml")
    with pytest.raises(InputError, match="more than 32 policies"):
        find_policy("+".join(["fp32"] * 33))


def test_only_faults_that_are_told_get_hints():
    """Tens of thousands of unknown keys: looking for what each may have meant would take minutes."""
    keys = {f"colour{i}": 1 for i in range(900)}
    with pytest.raises(InputError) as caught:
        make_policy("x", {"description": "x", "rules": [{"format": "fp32", **keys}]})
    hints = ["(known:" in fault.text for fault in caught.value.faults]
    assert hints == [True] * MAX_FAULTS + [False] * (900 - MAX_FAULTS)


def test_a_name_of_a_format_has_an_end():
    with pytest.raises(InputError, match="at most 100 characters"):
        parse_format("int8" + "-in-bf16" * 3000)


def test_a_sweep_is_measured_before_its_points_are_made():
    values = ",".join(map(str, range(1, 1001)))
    with pytest.raises(InputError, match="1000 x 1000 x 1000 x 1000 values are 1000000000000 runs; at most"):
        points([f"{name}={values}" for name in ("a", "b", "c", "d")])
    assert len(points([f"a={','.join(map(str, range(MOST_POINTS)))}"])) == MOST_POINTS


def test_an_index_of_thousands_of_digits_is_no_index():
    result = CliRunner().invoke(main, ["run", "translation-small", "--set", f"policies.{'9' * 5000}=1"])
    assert result.exit_code == 2
    assert result.stderr.endswith("expected an index below 5\n")
