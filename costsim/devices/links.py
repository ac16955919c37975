"""Links between devices: which of them a message crosses, what a rank sends over each, and how long that takes.

Ranks lie side by side in the order of the mesh, its first axis innermost, and fill a node before the next begins. So
neighbours in a group lie as far apart as its axis says, and a group has as many ranks in a node as fit. A group that
spans several nodes works in levels, as hierarchical collectives do: within nodes over the inner link, and between nodes
over the outer one only among ranks that have the same place in their nodes, each with its own share.
"""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import NamedTuple

from costsim.cost.collectives import Message, sent_bits, steps
from costsim.names import AXES, Axis, LinkOverlap

# Messages of which axes hide behind the rest of a step: those of ranks of data are not waited for by what comes next.
HIDDEN: Mapping[LinkOverlap, frozenset[Axis]] = {
    "none": frozenset(),
    "data": frozenset({"data", "secondary", "expert_data"}),
    "full": frozenset(AXES),
}


class Link(NamedTuple):
    """What devices send each other through; the peak as printed, and the part of it that is reached."""

    name: str
    devices: int | None  # that it joins; None: any number
    bytes_per_s: int  # of a device in one direction
    latency_s: float
    efficiency: float


class Sent(NamedTuple):
    """What a rank sends over a link in a training step, and how many sends wait for each other."""

    link: Link
    bits: int
    steps: int

    @property
    def moving_s(self) -> float:
        """Seconds at the bandwidth that is reached."""
        return self.bits / 8 / (self.link.bytes_per_s * self.link.efficiency)

    @property
    def waiting_s(self) -> float:
        """Seconds of latency."""
        return self.steps * self.link.latency_s


Levels = tuple[tuple[Link, int], ...]  # from the innermost on: a link, and how many ranks or groups of ranks it joins


def levels(ranks: int, apart: int, links: Sequence[Link]) -> Levels | None:
    """The links that join a group of ranks which lie so far apart; their numbers multiply to `ranks`.

    A group that fits into a node lies in one. One that does not has as many ranks in each node as fit and divide it
    evenly. None where some ranks are joined by no link.
    """
    found, inside, left = [], 1, ranks
    for link in links:
        fits = link.devices is None or ranks * apart <= link.devices
        room = 1 if link.devices is None else link.devices // (apart * inside)
        here = left if fits else gcd(left, room) if room else 1
        if here > 1:
            found.append((link, here))
        inside, left = inside * here, left // here
    return tuple(found) if left == 1 else None


def _parts(message: Message, over: Levels) -> list[tuple[Link, Message]]:
    """A message as messages over one link each: the outer ones carry a rank's own share, the inner ones those of all.

    Source of the hierarchical forms: Thakur and Gropp, Improving the performance of collective operations in MPICH,
    2003; as in ZeRO++ (arXiv:2306.10209). An all-to-all sends straight to each rank, a point-to-point message crosses
    the outermost link that its group spans: the stage that waits longest waits for that. So does a ring in one level:
    in each of its steps some rank at the edge of a node sends over that link.
    """
    link, ranks = over[0]
    if len(over) == 1:
        return [(link, message)]
    if message.collective == "send" or (not message.levels and message.collective != "all_to_all"):
        return [(over[-1][0], message)]
    groups = message.ranks // ranks
    outer = message._replace(ranks=groups)
    if message.collective == "all_to_all":
        outer = outer._replace(shard_bits=ranks * message.shard_bits)
        return [(link, message._replace(ranks=ranks)), *_parts(outer, over[1:])]
    inner = message._replace(ranks=ranks, shard_bits=groups * message.shard_bits)
    halves = ("reduce_scatter", "all_gather") if message.collective == "all_reduce" else (message.collective,)
    within = [(link, inner._replace(collective=half)) for half in halves]  # type: ignore[arg-type]
    return [*within, *_parts(outer, over[1:])]


def sent_over(message: Message, links: Sequence[Link]) -> tuple[Sent, ...] | None:
    """What the busiest rank sends over each link in a training step, exactly, from the innermost link on.

    None where the links do not join all ranks of the group; nothing for a group of one.
    """
    over = levels(message.ranks, message.apart, links)
    if over is None:
        return None
    parts = _parts(message, over) if over else []
    return tuple(
        Sent(link, sum(map(sent_bits, here)), sum(map(steps, here)))
        for link, _ in over
        if (here := [part for of, part in parts if of == link])
    )


def time_of(message: Message, links: Sequence[Link]) -> float | None:
    """Seconds that a message takes in a training step: steps times latency, and bytes at the bandwidth that is reached.

    The links of one message work at once, for it goes in chunks: the latencies of all add up, and the slowest link's
    bandwidth counts, as in NCCL's model (src/graph/tuning.cc). None where the links do not join all ranks.
    """
    over = sent_over(message, links)
    if over is None:
        return None
    return max([sent.moving_s for sent in over], default=0.0) + sum(sent.waiting_s for sent in over)
