"""A microcontroller's training step: peak memory to the byte against an allocator that replays the ops."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shipped_policy

from costsim.cli import main
from costsim.cost.count import count
from costsim.cost.memory import memory
from costsim.cost.peak import peak_memory
from costsim.cost.read_only import flash_read_bits, size_in_flash
from costsim.formats.pack import pack
from costsim.graph.fusion import group_ops
from costsim.policy.assign import assign
from costsim.policy.groups import groups_of, space_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
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


# --- flash ------------------------------------------------------------------------------------------------------------

IN_FLASH = "training.frozen_in=flash"
TRAINED = {
    "shares": (),
    "biases": ("training.trainable=['*.bias', 'head.*']",),
    "all": ("training.trainable=['*']",),
    "halves": (
        "training.trainable=['*.bias', {weights: '*.fc2.weight', share: 0.5}]",
        "model.checkpointing=full",
    ),
}


def frozen_parts(graph, assignment):
    """{weight: bytes in memory, bytes in flash}: what zeros of its trained and of its frozen channels really take."""
    found = {}
    for weight in graph.weights:
        whole, format = graph.shape(weight.name), assignment.format(weight.name)
        part = graph.parts.get(weight.name)
        trained = graph.shape(part) if part else whole if weight.trainable else None
        kept = [a - b or a for a, b in zip(whole, trained, strict=True)] if part else whole
        sizes = [-(-pack(np.zeros(shape, np.float32), format).bits // 8) if shape else 0 for shape in (
            trained, kept if part or not weight.trainable else None)]  # fmt: skip
        found[weight.name] = tuple(sizes)
    return found


@pytest.mark.parametrize("policy", ["sparse-update", "fp32", "tinytl"])
@pytest.mark.parametrize("trained", TRAINED)
def test_memory_without_flash_is_that_of_the_allocator_less_what_is_frozen(policy, trained):
    """Weights are there all the time, so the peak moves by what lies in flash, to the byte."""
    job = prepare(Request("micro-keywords", ["fp32"], assignments=(*TRAINED[trained], IN_FLASH)))
    assignment = assign(job.graph, shipped_policy(policy))
    sizes = frozen_parts(job.graph, assignment)
    whole = allocated_peak(job.graph, assignment)
    less = sum(stored_bytes(job.graph, assignment, name) - kept for name, (kept, _) in sizes.items())
    assert memory(job.graph, assignment, "unfused").peak_bytes == whole - less
    assert size_in_flash(job.graph, assignment) == sum(flash for _, flash in sizes.values())
    assert (less > 0) == (trained != "all")


def stored_bytes(graph, assignment, name):
    return -(-pack(np.zeros(graph.shape(name), np.float32), assignment.format(name)).bits // 8)


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
@pytest.mark.parametrize("policy", ["sparse-update", "tinytl"])
def test_what_is_read_of_flash_is_what_the_reference_reads_of_frozen_weights(policy, traffic):
    """Each read of a frozen weight in a run in NumPy; of a weight trained in part, of its frozen channels."""
    job = prepare(Request("micro-keywords", ["fp32"], assignments=(IN_FLASH,)))
    graph, assignment = job.graph, assign(job.graph, shipped_policy(policy))
    rng = np.random.default_rng(0)
    weights = {name: x.astype(np.float32) for name, x in draw_weights(graph, rng).items()}
    batches = [draw_batch(graph, rng, np.float32)]
    ran = run(graph, weights, batches, assignment=assignment, group=group_ops(graph, traffic), measure=True)
    read = 0
    for weight in graph.weights:
        of_weight = sum(record.read_bits.get(weight.name, 0) for record in ran.measured.values())
        if part := graph.parts.get(weight.name):
            whole, trained = graph.shape(weight.name), graph.shape(part)
            rest = [a - b or a for a, b in zip(whole, trained, strict=True)]
            bits = [pack(np.zeros(shape, np.float32), assignment.format(weight.name)).bits for shape in (whole, rest)]
            of_weight = of_weight // bits[0] * bits[1]
        read += of_weight if part or not weight.trainable else 0
    assert flash_read_bits(graph, assignment, count(graph, assignment, traffic)) == read > 0
    alone = prepare(Request("micro-keywords", ["fp32"])).graph
    assert flash_read_bits(alone, assign(alone, shipped_policy(policy)), count(alone, assignment, traffic)) == 0


def test_a_search_knows_what_lies_in_flash():
    """Compiled peaks are those of memory."""
    job = prepare(Request("micro-keywords", ["sparse-update"], assignments=(IN_FLASH,)))
    groups = groups_of(job.graph, job.policies[0], ("role",), ("stored",))
    space = space_of(job.policies[0], groups, ("int8", "int4"))
    measure = peak_memory(job.graph, space, "unfused", (0,))
    for choice in (0, 1):
        point = space.point(dict.fromkeys(range(len(groups)), choice))
        assert measure.one((choice,) * len(groups)) == memory(job.graph, assign(job.graph, point), "unfused").peak_bytes


def test_the_command_line_says_what_lies_in_flash():
    def data(*args):
        return json.loads(CliRunner().invoke(main, [*args, "--format", "json"]).stdout)["rows"][0]

    asked = ("micro-keywords", "--policy", "sparse-update", "--set")
    there, here = (data("memory", *asked, f"training.frozen_in={place}") for place in ("flash", "dram"))
    assert int(here["peak_memory_bytes"]) > int(there["peak_memory_bytes"])
    assert int(there["flash_bytes"]) > 0
    assert "flash_bytes" not in here
    ran = data("run", *asked, IN_FLASH)
    assert 0 < int(ran["flash_read_bits"]) < int(ran["dram_read_bits"])
    text = CliRunner().invoke(main, ["run", *asked, IN_FLASH]).stdout
    assert "% of the bits read are of frozen weights, from flash" in text
