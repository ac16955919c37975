"""What PyTorch gives to collectives on 2 and 4 ranks (DDP, FSDP2, tensor parallel), against what we count.

Processes over the loopback, which talk by gloo. What a rank gives each collective is counted where PyTorch calls it,
and sent as on a ring, like ours: how gloo itself cuts messages is not looked at. Where PyTorch does something else, the
difference is named, and is a closed form.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from fractions import Fraction
from math import prod

import pytest
import torch
import torch.distributed as dist

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("this PyTorch has no torch.distributed with gloo", allow_module_level=True)

import gloo_ranks
from gloo_ranks import SPLITS, Twin, drawn, graph_of

import costsim
from costsim.cost.collectives import sent_bits
from costsim.cost.count import count
from costsim.cost.row import each_op
from costsim.policy.assign import assign
from costsim.reference.accuracy import gradient_of
from costsim.reference.execute import run

LIMIT_S = 240  # of a machine with other work; alone they take some seconds
LAYERS, TOKENS = 2, 2 * 8  # of all models; of a micro-batch


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def ran(request, tmp_path_factory):
    """How many ranks, and by rank and split what it noted."""
    ranks, folder = request.param, tmp_path_factory.mktemp("ranks")
    command = [sys.executable, gloo_ranks.__file__, str(ranks), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, said[-5000:]
    return ranks, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


# --- bytes ------------------------------------------------------------------------------------------------------------


def theirs(given, ranks):
    """Bytes that a rank sends on a ring of so many, by collective, of what PyTorch gives them."""
    ring = {
        "all_reduce": Fraction(2 * (ranks - 1), ranks),
        "all_gather": ranks - 1,
        "reduce_scatter": Fraction(ranks - 1, ranks),
    }
    sent = Counter()
    for collective, size_bytes in given:
        sent[collective] += ring[collective] * size_bytes
    return sent


POLICIES = {  # with what FSDP is told besides of formats
    "fp32": costsim.load_policy("fp32"),
    "bf16": costsim.load_policy("bf16-mixed"),
    "bf16 reduced": costsim.load_policy("bf16-mixed").with_(
        copy="operand", collective=["reduce_scatter"], role="weight_gradient", format="bf16"
    ),
}


def ours(folder, split, ranks):
    """The same, as it is counted."""
    graph, _ = graph_of(folder, split, ranks)
    sent = Counter()
    for _, row in each_op(count(graph, assign(graph, POLICIES[split.formats]))):
        for message in row.messages:
            sent[message.collective] += Fraction(sent_bits(message), 8)
    return sent


def shapes(folder, split, ranks):
    """The shape that PyTorch gives each weight."""
    case, weights, _ = drawn(folder, split, ranks)
    return {name: tuple(parameter.shape) for name, parameter in Twin(case, weights).parameters.items()}


def read_in_no_backward(name, tied):
    """Biases and tables: gradients need them nowhere; a head that is a table is read."""
    return name.endswith(".bias") or (name.startswith("embedding.") and not (tied and "tokens" in name))


def own(shape, ranks):
    """Elements of a rank's share as we have it: a flattened weight is cut, and the last share filled up."""
    return -(-prod(shape) // ranks)


def own_rows(shape, ranks):
    """The same as FSDP2 has it: rows are cut, and the last share filled up."""
    return -(-shape[0] // ranks) * prod(shape[1:])


def ddp_more(split, ranks, shape):
    """DDP sums all gradients as one tensor, so nothing is filled up between them; we sum one by one."""
    elements = sum(Fraction(prod(of), ranks) - own(of, ranks) for of in shape.values())
    return {"all_reduce": 4 * 2 * (ranks - 1) * elements}


def fsdp_more(split, ranks, shape):
    """FSDP2 gathers all of a unit in its backward, too, and fills up rows."""
    sent_bytes, reduced_bytes = {"fp32": (4, 4), "bf16": (2, 4)}[split.formats]
    tied = split.model == "gpt2"
    rows, once = (sum(share(of, ranks) for of in shape.values()) for share in (own_rows, own))
    again = sum(own(of, ranks) for name, of in shape.items() if not read_in_no_backward(name, tied))
    return {
        "all_gather": sent_bytes * (ranks - 1) * split.micro_batches * (2 * rows - once - again),
        "reduce_scatter": reduced_bytes * (ranks - 1) * split.micro_batches * (rows - once),
    }


def each_time_more(split, ranks, shape):
    """And if it shares weights again after each micro-batch, it gathers them in each; we once a step."""
    elements = sum(map(prod, shape.values())) // ranks
    return {"all_gather": 4 * (ranks - 1) * (split.micro_batches - 1) * elements}


def sequence_more(split, ranks, shape):
    """PyTorch keeps what it has gathered of a sequence; we gather it again (Korthikanti et al., section 4.2.2)."""
    gathers = 2 * LAYERS + 1  # of attention and feed forward each, and of the head
    width = shape["decoder.final.norm.weight"][0]
    return {"all_gather": -4 * (ranks - 1) * split.micro_batches * gathers * TOKENS * width // ranks}


def apart_more(split, ranks, shape):
    """The gradient of a norm's result is summed for each of q, k, v, fc1 and fc3, which read it; we sum one."""
    width = shape["decoder.final.norm.weight"][0]
    return {"all_reduce": 4 * 2 * (ranks - 1) * LAYERS * (2 + 1) * TOKENS * width // ranks}


def both_more(split, ranks, shape):
    """FSDP2 gathers a rank's half of the table in its backward, too; logits of 16 bits have largest and sum in 32."""
    narrow = split.formats == "bf16"
    table = split.micro_batches * prod(shape["embedding.tokens.weight"]) // ranks
    return {"all_gather": (2 if narrow else 4) * table, "all_reduce": 2 * (4 - 2) * TOKENS if narrow else 0}


def nothing_more(split, ranks, shape):
    """The same bytes."""
    return {}


MORE = {
    "ddp": ddp_more,
    "fsdp": fsdp_more,
    "fsdp kept": nothing_more,
    "fsdp each time": each_time_more,
    "tensor": nothing_more,
    "tensor apart": apart_more,
    "sequence": sequence_more,
    "fsdp and tensor": both_more,
}


def fitting(name, ran):
    """The split of that name, which fits."""
    if not SPLITS[name].fits(ran[0]):
        pytest.skip("two axes of two ranks each are four")
    return SPLITS[name]


@pytest.mark.parametrize("name", SPLITS)
def test_bytes_given_to_collectives_are_bytes_counted(ran, name, tmp_path):
    (ranks, results), split = ran, fitting(name, ran)
    more = MORE[split.way](split, ranks, shapes(tmp_path, split, ranks))
    counted = ours(tmp_path, split, ranks)
    expected = {collective: counted[collective] + more.get(collective, 0) for collective in counted}
    for rank in results:
        assert theirs(rank[name]["given"], split.group(ranks)) == expected


def test_odd_sizes_are_filled_up(ran, tmp_path):
    """Of sizes that ranks do not divide there is something to fill up, or else those cases would show nothing."""
    ranks, _ = ran
    of = shapes(tmp_path, SPLITS["fsdp odd"], ranks)
    assert fsdp_more(SPLITS["fsdp odd"], ranks, of)["reduce_scatter"] > 0
    assert ranks == 2 or ddp_more(SPLITS["ddp odd"], ranks, of)["all_reduce"] < 0


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPLITS)
def test_gradients_are_those_of_one_device(ran, name, tmp_path):
    """Of the reference in float64, which sees all micro-batches; to what fp32 keeps, or bf16, of the largest."""
    (ranks, results), split = ran, fitting(name, ran)
    case, weights, batches = drawn(tmp_path, split, ranks)
    wide = [{key: x.astype(float) if x.dtype.kind == "f" else x for key, x in batch.items()} for batch in batches]
    one = run(case.graph, {key: x.astype(float) for key, x in weights.items()}, wide)
    twin = Twin(case, weights)
    right = {key: twin.like(key, one.values[gradient_of(case.graph, key)]) for key in weights}
    largest = max(float(x.abs().max()) for x in right.values())
    for rank in results:
        assert set(rank[name]["gradients"]) == set(right)
        for key, gradient in rank[name]["gradients"].items():
            error = float((gradient.double() - right[key]).abs().max()) / largest
            assert error < (1e-5 if split.formats == "fp32" else 0.1), key
