"""A microcontroller's training step: peak memory to the byte against an allocator that replays the ops."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shipped_policy

from costsim.cli import main
from costsim.cost.memory import memory
from costsim.formats.pack import pack
from costsim.policy.assign import assign
from costsim.run.job import Request, prepare


def allocated_peak(graph, assignment):
    """Allocate what an op makes, free what no later op touches: the most bytes there are at once.

    A size is that of the bits that zeros really take. What an op writes in place, and a view, has the memory that is
    there already. Weights and states are never freed, nor is what nobody reads, unless it is
    made again: it is a result.
    """
    owner = {name: name for name in graph.tensors}
    for op in graph.ops:
        for name in op.outputs:
            alias = graph.tensors[name].alias
            owner[name] = owner[alias] if alias else owner[op.inputs[0]] if op.kind.view else name

    def size(name):
        dtype = {"index": np.int64, "mask": bool}.get(graph.tensors[name].values, np.float32)
        return -(-pack(np.zeros(graph.shape(name), dtype), assignment.format(name)).bits // 8)

    again = {(t.name, t.recomputes) for t in graph.tensors.values() if t.recomputes}
    read = {owner[name] for op in graph.ops for name in op.inputs}.union(*again)
    made = {name for op in graph.ops for name in op.outputs}
    last = {owner[n]: i for i, op in enumerate(graph.ops) if not op.kind.view for n in (*op.inputs, *op.outputs)}
    stays = {name for name, tensor in graph.tensors.items() if tensor.role in ("weight", "state")}
    live = {n: size(n) for n in graph.tensors if owner[n] == n and n not in made and (n in last or n in stays)}
    peak = 0
    for i, op in enumerate(graph.ops):
        live |= {owner[name]: size(owner[name]) for name in op.outputs if owner[name] == name}
        peak = max(peak, sum(live.values()))
        for name in [n for n in live if last.get(n) == i and n in read and n not in stays]:
            del live[name]
    return peak


@pytest.mark.parametrize("policy", ["sparse-update", "fp32", "tinytl"])
@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("optimizer.in_backward=false",),
        ("training.trainable=['*']", "optimizer.kind=adam"),
        ("training.trainable=['*']", "optimizer.kind=adam", "optimizer.in_backward=false"),
        ("training.trainable=['*.bias', {weights: '*.fc2.weight', share: 0.5}]", "model.checkpointing=full"),
    ],
    ids=str,
)
def test_peak_memory_is_what_an_allocator_needs(policy, sets):
    job = prepare(Request("micro-keywords", ["fp32"], assignments=sets))
    assignment = assign(job.graph, shipped_policy(policy))
    assert memory(job.graph, assignment, "unfused").peak_bytes == allocated_peak(job.graph, assignment)


def test_a_sparse_update_fits_a_microcontroller():
    """256 KiB, as the source has them; all of it in fp32 does not."""

    def fits(*more):
        return CliRunner().invoke(main, ["memory", "micro-keywords", "--fits", "256KiB", "--format", "json", *more])

    assert fits("--policy", "sparse-update").exit_code == 0
    done = fits("--policy", "fp32")
    assert done.exit_code == 1
    assert int(json.loads(done.stdout)["rows"][0]["excess_bytes"]) > 0
