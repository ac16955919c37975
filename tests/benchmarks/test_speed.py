"""Speed of whole commands and of large graphs. Run with: python -m pytest tests/benchmarks -n 0

Whole commands are timed as processes, `python -c pass` beside them, so that ratios can be read off one table. Modules
are compiled beforehand, as pip leaves them: to compile those of costsim takes as long as half a run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import HOSTILE, run, write

from costsim.cost.memory import of_policy
from costsim.inputs import files
from costsim.models import resizing
from costsim.policy.load import load_policy
from costsim.run import simulate
from costsim.run.job import Request, prepare

COSTSIM = str(Path(sys.executable).with_name("costsim"))
COMMANDS = {
    "empty-python": [sys.executable, "-c", "pass"],
    "help": [COSTSIM, "--help"],
    "run-iwslt17": [COSTSIM, "run", "iwslt17-dsq.yaml"],
    "run-iwslt17-by-op-json": [COSTSIM, "run", "iwslt17-dsq.yaml", "--by", "op", "--format", "json"],
    "run-mnli": [COSTSIM, "run", "glue-mnli-dsq.yaml"],
    "memory-gpt2-small": [COSTSIM, "memory", "gpt2-small", "--policy", "bf16-mixed", "--batch", "4,8,16,32,64"],
    "run-iwslt17-by-assumption": [COSTSIM, "run", "iwslt17-dsq.yaml", "--by", "assumption"],
}


COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(benchmark, name):
    command = COMMANDS[name]
    benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, env=COMPILED), rounds=11, warmup_rounds=1
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


# Llama 2 7B as shipped, and the shape of Llama 3 405B (Grattafiori et al. 2024, table 3).
SHAPES = {
    "7B": [],
    "405B": [
        "model.layers=126",
        "model.d_model=16384",
        "model.ffn_dim=53248",
        "model.heads=128",
        "model.kv_heads=8",
        "model.vocab=128256",
    ],
}


@pytest.mark.parametrize(("shape", "policy"), [("7B", "bf16-mixed"), ("7B", "dsq"), ("405B", "bf16-mixed")])
def test_training_step_built_counted_and_its_memory(benchmark, shape, policy):
    """Graph, count of all ops, and peak memory; in-process, nothing remembered from the round before."""

    def step():
        resizing.forget()  # all else is remembered by graph
        job = prepare(Request("llama-2-7b", policies=[policy], baseline=policy, assignments=SHAPES[shape]))
        result = simulate.execute(job)
        return result, of_policy(job.graph, job.policies[0], job.convention.traffic)

    result, (_, peak) = benchmark.pedantic(step, rounds=11, warmup_rounds=1)
    assert result.baseline.total.macs > 10**20
    assert peak.peak_bytes > 10**10
