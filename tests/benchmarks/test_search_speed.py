"""Speed of compiled counts and of searches, beside counting. Run with: python -m pytest tests/benchmarks -n 0"""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from costsim.cost.compile import compile_step
from costsim.cost.terms import merged
from costsim.policy.groups import groups_of, space_of
from costsim.policy.load import find_policy, load_policies
from costsim.policy.space import Space, Variable
from costsim.run.job import Request, prepare
from costsim.run.simulate import count_policy
from costsim.search.front import front
from costsim.search.interactions import interactions
from costsim.search.measures import Compiled
from costsim.search.optimum import Budget, optimum
from costsim.search.phases import stretches
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


STREAM = """
import re
from pathlib import Path
import numpy as np
from test_search_speed import Request, compiled, merged, prepare, space

terms = merged(compiled(prepare(Request("iwslt17-dsq")), space()))
draw, least = np.random.default_rng(0), None
for _ in range(10):
    counts = terms.evaluate(draw.integers(0, 5, (1_000_000, 4), np.uint8))
    least = min(int(counts[:, 0].min()), least or int(counts[0, 0]))
print(least, re.search(r"VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


def test_ten_million_policies_streamed(benchmark):
    """In a Python of their own, with all imports and the graph: what it holds at most.

    ru_maxrss would count what the process was forked from.
    """

    def stream():
        done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, cwd=Path(__file__).parent)
        assert done.returncode == 0, done.stderr
        return list(map(int, done.stdout.split()))

    least, kilobytes = benchmark.pedantic(stream, rounds=1)
    assert least > 0
    assert kilobytes < 300_000


def test_a_policy_counted(benchmark, job):
    """The way without tables: a policy that was never seen each time."""
    of = space()
    policies = iter([of.point({0: i % 5, 1: i // 5 % 5, 2: i // 25 % 5, 3: i // 125}) for i in range(60)])
    counted = benchmark.pedantic(lambda: count_policy(job.graph, next(policies), job.convention), rounds=50)
    assert counted.total.priced > 0


FIELDS = ("role", "layer", "gemm", "operand")


@pytest.fixture(scope="module")
def losses(job):
    """Made-up losses of 102 groups of six formats."""
    draw = np.random.default_rng(0)
    return {
        (group.name, format): Fraction(int(draw.integers(1, 1000)), 1000) / 4**bits
        for group in groups_of(job.graph, load_policies(find_policy("dsq")), FIELDS, ("operand",))
        for format, bits in zip(FORMATS, (2, 4, 8, 12, 4, 11), strict=True)
    }


@pytest.fixture(scope="module")
def posed(job, losses):
    """The problem of 102 groups of six formats."""
    return problem(job, load_policies(find_policy("dsq")), FIELDS, ("operand",), FORMATS, Sensitivity("", losses, {}))


def test_a_front_of_102_groups(benchmark, posed):
    found = benchmark.pedantic(
        lambda: front(posed, interactions(posed.terms), "arithmetic_cost"), rounds=5, warmup_rounds=1
    )
    assert len(found) > 100


def test_an_optimum_of_102_groups(benchmark, posed):
    budget = Budget("arithmetic_cost", posed.baseline[0] // 10, "")
    found = benchmark.pedantic(lambda: optimum(posed, interactions(posed.terms), "loss", [budget]), rounds=3)
    assert found.point.costs[0] <= budget.limit


@pytest.mark.parametrize("field", ["time_s", "energy_j", "peak_memory_bytes"])
def test_a_measure_compiled(benchmark, field):
    """102 groups of six formats."""
    job = prepare(Request("iwslt17-dsq", hardware=["h100-sxm"]))
    policy = load_policies(find_policy("dsq"))
    of = space_of(policy, groups_of(job.graph, policy, FIELDS, ("operand",)), FORMATS)
    found = benchmark.pedantic(
        lambda: Compiled(job, of, FORMATS, stretches(policy, 1, 1)).named({field: True}), rounds=2
    )
    assert found[field].baseline


@pytest.mark.parametrize("field", ["time_s", "energy_j", "peak_memory_bytes"])
def test_an_optimum_of_a_measure(benchmark, losses, field):
    """The least loss of 102 groups of six formats with a budget half-way between the extremes."""
    job = prepare(Request("iwslt17-dsq", hardware=["h100-sxm"]))
    policy = load_policies(find_policy("dsq"))
    posed = problem(job, policy, FIELDS, ("operand",), FORMATS, Sensitivity("", losses, {}), {field: True})
    parts, sizes = interactions(posed.terms), posed.space.sizes
    ends = posed.points([(0,) * len(sizes), (3,) * len(sizes)])
    budget = Budget(field, sum(point.costs[-1] for point in ends) / 2, "")
    found = benchmark.pedantic(lambda: optimum(posed, parts, "loss", [budget]), rounds=2)
    assert found.point.costs[-1] <= budget.limit
