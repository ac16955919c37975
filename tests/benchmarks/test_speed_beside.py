"""Estimates of llm-flops 0.0.1 and counts of costsim, side by side. Run with: python -m pytest tests/benchmarks -n 0

llm-flops (PyPI) has closed forms of a forward, twice that as the backward, and one precision for all. Skipped where it
is not installed: `pip install llm-flops==0.0.1`. Calculon (Isaev et al., SC 2023) is on no registry: the package of
that name on PyPI is another.
"""

import numpy as np
import pytest

from costsim.cost.compile import compile_step
from costsim.cost.terms import merged
from costsim.policy.load import find_policy, load_policies
from costsim.policy.space import Space, Variable
from costsim.run.job import Request, prepare

LEVELS = tuple(Variable(f"q{i}", ("2", "4", "8", "16")) for i in range(4))  # those of dsq
POINTS = 10_000
PRECISIONS = ("fp32", "bf16", "fp8", "int4")


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("llmflops")


@pytest.fixture(scope="module")
def config(theirs):
    """Llama 2 7B, as costsim ships it."""
    return theirs.ModelConfig("llama-2-7b", 4096, 32, 32, 32000, 11008)


def estimated(theirs, config, precision):
    return theirs.estimate(config, 1, 4096, precision, None, training=True, allow_hf_fetch=False)


def test_theirs_estimate(benchmark, theirs, config):
    """A call for each precision: what a policy can be there."""
    made = benchmark(lambda: [estimated(theirs, config, precision) for precision in PRECISIONS])
    assert len(made) == len(PRECISIONS)


def test_ours_compiled(benchmark):
    """So many policies in one call: arithmetic, DRAM reads, writes and conversions of each."""
    job = prepare(Request("llama-2-7b"))
    convention, of = job.convention, Space(load_policies(find_policy("dsq")), LEVELS)
    of_gemms = (convention.gemm_writes, ())
    terms = merged(compile_step(job.graph, of, convention.traffic, convention.scope, of_gemms, convention.law))
    points = np.random.default_rng(0).integers(0, 4, (POINTS, len(LEVELS)))
    assert len(benchmark(lambda: terms.evaluate(points))) == POINTS


def test_both_count_the_same_products(theirs, config):
    """MACs of the linear layers, the head and attention in a forward of Llama 2 7B, to the last one.

    Theirs has operations of softmax, RoPE, norms and SiLU beside them, which are left out here.
    """
    job = prepare(Request("llama-2-7b"))
    macs = sum(job.graph.work(op)[0] for op in job.graph.ops if op.phase == "forward") // job.graph.micro_batches
    details = estimated(theirs, config, "bf16")["details"]
    forward, silu = details["flops"]["forward"], details["backward"]["mlp"]["activation_grad"]
    attention = sum(n for name, n in forward["attention_detail"].items() if name not in ("softmax", "rope"))
    assert attention + forward["mlp"] - silu + forward["output_head"] == 2 * macs
