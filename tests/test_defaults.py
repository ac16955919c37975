"""Defaults in force, as `run --verbose` and the report list them."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from costsim.cli import main
from costsim.inputs.files import list_shipped

WORKLOADS = list_shipped("workloads")
OWN = """\
description: as little as may be said
model:
  {family: encoder-classifier, d_model: 64, ffn_dim: 128, heads: 4, layers: 2, vocab: 99, max_positions: 32, classes: 2}
batch: {sequences: 2, tokens: 8}
training: {steps: 10}
optimizer: {kind: adamw, lr: 1.0e-3}
policies: [fp32]
baseline: fp32
"""


def run(*arguments):
    done = CliRunner().invoke(main, ["run", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def listed(workload, *arguments):
    found = json.loads(run(str(workload), *arguments, "--verbose", "--format", "json"))
    return {record["field"]: record["value"] for record in found["defaults"]}


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_what_nobody_would_guess(own):
    found = listed(own)
    assert found["model.activation"] == "relu"
    assert found["model.attention"] == "eager"
    assert found["model.norm"] == "post"
    assert found["model.head_dim"] == 64 // 4
    assert found["model.kv_heads"] == 4
    assert found["model.head.chunks"] == 1
    assert found["training.micro_batches"] == 1
    assert found["traffic"] == "fused"
    assert found["model.lora"] is None
    assert not found.keys() & {"model.d_model", "optimizer.kind", "batch.tokens"}


def test_what_the_command_line_asks_for_is_in_force(own):
    found = listed(own, "--law", "bops", "--traffic", "tiled", "--buffer-bytes", "1000000", "--hardware", "t4")
    assert [found[name] for name in ("law", "traffic", "buffer_bytes", "hardware", "scope")] == [
        "bops",
        "tiled",
        1_000_000,
        ["t4"],
        "step",
    ]


def test_the_table_and_the_page(own, tmp_path):
    text = run(str(own), "--verbose")
    assert re.search(r"(?m)^model\.activation +relu ", text)
    assert re.search(r"(?m)^model\.head_dim +16 +d_model / heads", text)
    assert re.search(r"(?s)without: .*model\.lora", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "model.activation" not in run(str(own))
    page = tmp_path / "report.html"
    assert CliRunner().invoke(main, ["report", str(own), "--out", str(page)]).exit_code == 0
    assert re.search(r"model\.activation</th>\s*<td[^>]*>relu</td>", page.read_text())


@pytest.mark.parametrize("name", ["iwslt17-dsq", "gpt2-small", "glue-mrpc-dsq"])
def test_to_say_a_default_changes_only_the_list(name, tmp_path):
    """So what is listed is what is in force: counts are the same when the file says it."""
    data = yaml.safe_load(WORKLOADS[name].read_text(encoding="utf-8"))
    found = listed(name, "--policy", "fp32")
    said = {field: value for field, value in found.items() if value is not None}
    assert "model.head_dim" in said
    for field, value in said.items():
        *at, key = field.split(".")
        section = data
        for part in at:
            section = section.setdefault(part, {})
        section[key] = value
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    rows = [json.loads(run(str(w), "--policy", "fp32", "--format", "json"))["rows"] for w in (name, path)]
    assert rows[0] == rows[1]
    assert {field for field, value in listed(path, "--policy", "fp32").items() if value is not None} == set()


def test_not_of_sweeps():
    done = CliRunner().invoke(main, ["run", "iwslt17-dsq", "--verbose", "--sweep", "batch=1,2"])
    assert done.exit_code == 2
    assert "--verbose is of one run" in done.stderr
