"""Speed of whole commands and of large graphs. Run with: python -m pytest tests/benchmarks

Whole commands are timed as processes, `python -c pass` beside them, so that ratios can be read off one table.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import HOSTILE, run, write

from costsim import files, simulate
from costsim.assign import assign
from costsim.count import count, sum_rows
from costsim.models import encoder_classifier, training_step
from costsim.policy import load_policy
from costsim.schema import Optimizer

COSTSIM = str(Path(sys.executable).with_name("costsim"))
COMMANDS = {
    "empty-python": [sys.executable, "-c", "pass"],
    "help": [COSTSIM, "--help"],
    "run-iwslt17": [COSTSIM, "run", "iwslt17-dsq.yaml"],
    "run-iwslt17-by-op-json": [COSTSIM, "run", "iwslt17-dsq.yaml", "--by", "op", "--format", "json"],
    "run-mnli": [COSTSIM, "run", "glue-mnli-dsq.yaml"],
    "run-iwslt17-by-assumption": [COSTSIM, "run", "iwslt17-dsq.yaml", "--by", "assumption"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(benchmark, name):
    benchmark.pedantic(
        lambda: subprocess.run(COMMANDS[name], check=True, capture_output=True), rounds=11, warmup_rounds=1
    )


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_file_is_refused(benchmark, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(case, tmp_path)
    result = benchmark.pedantic(lambda: run(case), rounds=3)
    assert result.exit_code == 2


def test_all_policies_in_process(benchmark):
    names = [name for name, path in files.list_shipped("policies").items() if load_policy(path).complete]
    result = benchmark.pedantic(lambda: simulate.run("wmt14-dsq", names), rounds=7, warmup_rounds=1)
    assert len(result.policies) == len(names)


# d_model, ffn_dim, heads, layers of Llama 2 7B (Touvron et al. 2023) and Llama 3 405B (Grattafiori et al. 2024); their
# gated FFN has three matrices, so ffn_dim is 3/2 of theirs here.
SHAPES = {"7B": (4096, 16512, 32, 32), "405B": (16384, 79872, 128, 126)}


@pytest.mark.parametrize(("shape", "policy"), [("7B", "fixed16"), ("7B", "dsq"), ("405B", "fixed16"), ("405B", "dsq")])
def test_training_step_built_and_counted(benchmark, shape, policy):
    d_model, ffn_dim, heads, layers = SHAPES[shape]
    model = encoder_classifier.Model(
        family="encoder-classifier",
        d_model=d_model,
        ffn_dim=ffn_dim,
        heads=heads,
        layers=layers,
        vocab=32000,
        max_positions=4096,
        classes=2,
    )
    batch = encoder_classifier.Batch(sequences=1, tokens=4096)
    optimizer = Optimizer(kind="adamw", lr=1e-4)
    formats = load_policy(files.find(policy, "policies", "policy"))

    def step():
        assign.cache_clear()
        graph = training_step(model, batch, optimizer)
        return sum_rows(count(graph, assign(graph, formats)), "product")

    total = benchmark.pedantic(step, rounds=11, warmup_rounds=1)
    assert total.macs > 10**13
