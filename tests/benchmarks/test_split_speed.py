"""How fast splits are counted: one of 405 billion parameters, and all over 64 devices of Llama-2 70B.

Run with: python -m pytest tests/benchmarks/test_split_speed.py -n 0
"""

from costsim.policy.assign import assign
from costsim.run.job import Request, prepare
from costsim.run.simulate import count_step
from costsim.search.splits import splits

# Llama 3.1 405B: Grattafiori et al. 2024, arXiv:2407.21783, table 3.
LARGEST = ["model.d_model=16384", "model.ffn_dim=53248", "model.layers=126", "model.heads=128", "model.vocab=128256"]


def test_one_split_of_405_billion_parameters(benchmark):
    """Each round another split, of other tensors and ops: nothing is known of it."""
    ranks = iter((1, 2, 4, 8))

    def split():
        sets = [*LARGEST, f"parallel.tensor={next(ranks)}", "parallel.data=64", "parallel.zero=1"]
        return (prepare(Request("llama-2-70b", ["bf16-mixed"], assignments=sets)),), {}

    def counted(job):
        return count_step(job.graph, assign(job.graph, job.policies[0]), job.convention)

    assert benchmark.pedantic(counted, setup=split, rounds=3, warmup_rounds=1).rows


def test_all_splits_over_64_devices(benchmark):
    job = prepare(
        Request("llama-2-70b", ["bf16-mixed"], assignments=["training.micro_batches=64"], hardware=["h100-node"])
    )

    def found():
        return splits(job, job.policies, job.hardware[0], 64)

    best = benchmark.pedantic(found, rounds=1)[0]
    assert best.fits
