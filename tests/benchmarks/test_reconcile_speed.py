"""How fast assumptions are combined, 10^5 in at most 5 seconds. Run with: python -m pytest tests/benchmarks -n 0"""

from fractions import Fraction

from costsim.run.job import Request, prepare
from costsim.search.reconcile import reconcile

OF_POLICY = [
    "reading of the levels",
    "ends of the phases",
    "placement of copies",
    "dy is moved at",
    "dx is written at",
    "weights are moved at",
    "dw is written at",
    "attention's backward",
    "shared exponent",
    "output head",
]


def test_a_hundred_thousand_combinations(benchmark):
    job = prepare(Request("iwslt17-dsq", ["dsq"]))
    found = benchmark.pedantic(lambda: reconcile(job, Fraction(1, 100), [*OF_POLICY, "law", "writes in scope gemm"]))
    assert found.combinations > 100_000
