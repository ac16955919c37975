"""Speed of compiled counts and of searches, beside counting. Run with: python -m pytest tests/benchmarks -n 0"""

from fractions import Fraction

import numpy as np
import pytest

from costsim.cost.compile import compile_step
from costsim.cost.terms import merged
from costsim.policy.groups import groups_of
from costsim.policy.load import find_policy, load_policies
from costsim.policy.space import Space, Variable
from costsim.run.job import Request, prepare
from costsim.run.simulate import count_policy
from costsim.search.front import front
from costsim.search.interactions import interactions
from costsim.search.optimum import Budget, optimum
from costsim.search.problem import problem
from costsim.search.sensitivity import Sensitivity

LEVELS = tuple(Variable(f"q{i}", ("2", "3", "4", "8", "16")) for i in range(4))  # those of dsq
FORMATS = ("bfp2", "bfp4", "bfp8", "bfp16", "fp8-e4m3", "fp16")
MILLION = 1_000_000


@pytest.fixture(scope="module")
def job():
    return prepare(Request("iwslt17-dsq"))


def space(name="dsq", variables=LEVELS):
    return Space(load_policies(find_policy(name)), variables)


def compiled(job, of):
    convention = job.convention
    of_gemms = (convention.gemm_writes, ())
    return compile_step(job.graph, of, convention.traffic, convention.scope, of_gemms, convention.law)


def test_compiled(benchmark, job):
    terms = benchmark.pedantic(lambda: compiled(job, space()), rounds=7, warmup_rounds=1)
    assert len(terms.tables) > 5


def test_compiled_llama_2_7b(benchmark):
    job = prepare(Request("llama-2-7b"))
    terms = benchmark.pedantic(lambda: compiled(job, space()), rounds=5, warmup_rounds=1)
    assert len(terms.tables) > 5


def test_a_million_policies(benchmark, job):
    """Arithmetic, DRAM reads, writes and conversions of each."""
    terms = merged(compiled(job, space()))
    points = np.random.default_rng(0).integers(0, 5, (MILLION, 4))
    counts = benchmark.pedantic(lambda: terms.evaluate(points), rounds=5, warmup_rounds=1)
    assert counts.shape == (MILLION, 5)


def test_a_policy_counted(benchmark, job):
    """The way without tables: a policy that was never seen each time."""
    of = space()
    policies = iter([of.point({0: i % 5, 1: i // 5 % 5, 2: i // 25 % 5, 3: i // 125}) for i in range(60)])
    counted = benchmark.pedantic(lambda: count_policy(job.graph, next(policies), job.convention), rounds=50)
    assert counted.total.priced > 0


@pytest.fixture(scope="module")
def posed(job):
    """102 groups of six formats, with made-up losses."""
    policy, fields = load_policies(find_policy("dsq")), ("role", "layer", "gemm", "operand")
    draw = np.random.default_rng(0)
    losses = {
        (group.name, format): Fraction(int(draw.integers(1, 1000)), 1000) / 4**bits
        for group in groups_of(job.graph, policy, fields, ("operand",))
        for format, bits in zip(FORMATS, (2, 4, 8, 12, 4, 11), strict=True)
    }
    return problem(job, policy, fields, ("operand",), FORMATS, Sensitivity("", losses, {}))


def test_a_front_of_102_groups(benchmark, posed):
    found = benchmark.pedantic(
        lambda: front(posed, interactions(posed.terms), "arithmetic_cost"), rounds=5, warmup_rounds=1
    )
    assert len(found) > 100


def test_an_optimum_of_102_groups(benchmark, posed):
    budget = Budget("arithmetic_cost", posed.baseline[0] // 10, "")
    found = benchmark.pedantic(lambda: optimum(posed, interactions(posed.terms), "loss", [budget]), rounds=3)
    assert found.point.costs[0] <= budget.limit
