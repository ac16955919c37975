"""What ranks send each other: messages of collectives, and algorithms as data. Exact integers; no device, no time.

A collective is counted in shards, one rank's share of its tensor, and in steps, sends of which each waits for the one
before. An algorithm says how many of both `ranks` ranks need; `ALGORITHMS` has a row for each.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from costsim.names import Axis, Collective, CollectiveAlgorithm


class Message(NamedTuple):
    """What one op sends to the ranks of its group, over all its runs in a training step; scales are included."""

    collective: Collective
    axis: Axis  # of the mesh
    ranks: int  # of the group
    # Of ONE rank's share of one run, packed in the message's format: of all_gather the operand, of reduce_scatter the
    # result, of all_reduce and all_to_all what each rank packs of its part of the tensor, of send the whole tensor.
    shard_bits: int
    times: int  # runs in a training step
    apart: int = 1  # places of the mesh between neighbours in the group; the innermost axis has neighbours side by side
    algorithm: CollectiveAlgorithm = "ring"
    levels: bool = True  # whether a group that spans nodes works in levels


class Algorithm(NamedTuple):
    """How a collective runs on so many ranks."""

    shards: Callable[[int], int | Fraction]  # that the rank sends which sends most
    steps: Callable[[int], int]  # sends that wait for each other, of a message in one piece
    takes: Callable[[int], bool]  # whether it is defined for so many ranks
    source: str


def _any(_ranks: int) -> bool:
    return True


def _power_of_two(ranks: int) -> bool:
    return ranks & (ranks - 1) == 0


def _others(ranks: int) -> int:
    return ranks - 1


def _twice(ranks: int) -> int:
    return 2 * (ranks - 1)


def _doublings(ranks: int) -> int:
    """Steps in which what a rank knows can double until it knows all: log2, rounded up."""
    return (ranks - 1).bit_length()


def _bruck_blocks(ranks: int) -> int:
    """In step k each rank sends the blocks whose distance to go has bit k set."""
    return sum(distance.bit_count() for distance in range(ranks))


def _both_trees(ranks: int) -> Fraction:
    """Halves of the tensor: up in both trees, and down to the children in the one tree in which it is no leaf.

    The busiest rank has two of them from 4 ranks on; 2 and 3 ranks make chains.
    """
    halves = {1: 0, 2: 2, 3: 3}.get(ranks, 4)
    return Fraction(halves * ranks, 2)


_PATARASUK = "ring: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69, 2009"
_THAKUR = "Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005"
_BRUCK = "Bruck et al., Efficient algorithms for all-to-all communications, IEEE Trans. Parallel Distrib. Syst. 8, 1997"
_TREES = "two trees, each of half the data: Sanders, Speck and Traeff, Parallel Computing 35, 2009; as in NCCL 2.4"
_DIRECT = "each rank to each other at once, as grouped sends of NCCL (2.7 on) and all-to-all of torch.distributed"

# By collective, then by name. The first row is the one that runs if nothing is said.
ALGORITHMS: Mapping[Collective, Mapping[CollectiveAlgorithm, Algorithm]] = {
    "all_gather": {
        "ring": Algorithm(_others, _others, _any, _PATARASUK),
        "recursive": Algorithm(_others, _doublings, _power_of_two, f"recursive doubling: {_THAKUR}, 4.1"),
        "bruck": Algorithm(_others, _doublings, _any, _BRUCK),
        "direct": Algorithm(_others, lambda ranks: min(1, ranks - 1), _any, _DIRECT),
    },
    "reduce_scatter": {
        "ring": Algorithm(_others, _others, _any, _PATARASUK),
        "recursive": Algorithm(_others, _doublings, _power_of_two, f"recursive halving: {_THAKUR}, 4.3"),
        "direct": Algorithm(_others, lambda ranks: min(1, ranks - 1), _any, _DIRECT),
    },
    "all_reduce": {
        "ring": Algorithm(_twice, _twice, _any, _PATARASUK),
        "recursive": Algorithm(
            _twice, lambda ranks: 2 * _doublings(ranks), _power_of_two, f"halving, then doubling: {_THAKUR}, 4.5"
        ),
        "tree": Algorithm(_both_trees, lambda ranks: 2 * _doublings(ranks), _any, _TREES),
    },
    "all_to_all": {
        "direct": Algorithm(_others, lambda ranks: min(1, ranks - 1), _any, _DIRECT),
        "ring": Algorithm(_others, _others, _any, f"pairwise exchange, a partner a step: {_THAKUR}, 4.2"),
        "bruck": Algorithm(_bruck_blocks, _doublings, _any, _BRUCK),
    },
    "send": {"direct": Algorithm(lambda _ranks: 1, lambda _ranks: 1, _any, "point to point")},
}


def algorithm_of(message: Message) -> Algorithm:
    """The row of a message, else the first of the collective's: where that has none, or none for so many ranks."""
    rows = ALGORITHMS[message.collective]
    chosen = rows.get(message.algorithm)
    return chosen if chosen and chosen.takes(message.ranks) else next(iter(rows.values()))


def sent_bits(message: Message) -> int:
    """Bits that the busiest rank of a group sends in a training step; half a bit of a tree's halves counts as one."""
    return message.times * ceil(algorithm_of(message).shards(message.ranks) * message.shard_bits)


def steps(message: Message) -> int:
    """Sends of a training step that wait for each other: so often the latency of a link is paid."""
    return message.times * algorithm_of(message).steps(message.ranks)


def refused(algorithms: Mapping[Collective, CollectiveAlgorithm], collective: Collective, ranks: int) -> str:
    """Why a collective cannot be carried out by so many ranks; "" if it can."""
    name, rows = algorithms.get(collective, "ring"), ALGORITHMS[collective]
    if name not in rows or rows[name].takes(ranks):
        return ""
    return f"{name} is not of {ranks} ranks; {', '.join(name for name, of in rows.items() if of.takes(ranks))} are"
