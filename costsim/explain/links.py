"""What a message sends over each link and how long it takes, by formulas of levels: a second way to devices/links."""

from math import prod

from costsim.cost.collectives import Message
from costsim.devices.links import Link, levels
from costsim.explain.formula import Number, Part
from costsim.explain.messages import shares, waits
from costsim.explain.steps import Steps

_NCCL = "latencies add up, the slowest link's bandwidth counts"


def link_time(steps: Steps, message: Message) -> Number | None:
    """Seconds of a message over all its runs in a step; adds the steps to it. None where no link joins its ranks."""
    over = levels(message.ranks, message.apart, steps.device.links)
    if over is None:
        why = f"no links join {message.ranks} ranks of {message.axis}"
        return steps.add_unknown("link time", "bits / 8 / (byte/s) + steps * latency", "s", why)
    if message.collective == "send":  # to one rank, over the outermost link that some of them are apart
        over = tuple((link, 2) for link, _ in over[-1:])
    elif not message.levels and message.collective != "all_to_all":  # round all ranks, and over that link in each step
        over = tuple((link, message.ranks) for link, _ in over[-1:])
    moving: dict[str, Number | None] = {}
    waiting: dict[str, Number | None] = {}
    for i, (link, ranks) in enumerate(over):
        groups = prod(each for _, each in over[i + 1 :])
        within = prod(each for _, each in over[:i])
        algorithm = _algorithm(message, ranks, i == len(over) - 1)
        moving[f"time on {link.name}"] = _moving(steps, message, (link, ranks), algorithm, (groups, within))
        waiting[f"latency of {link.name}"] = _waiting(steps, message, link, waits(message.collective, algorithm, ranks))
    if len(over) == 1:
        return steps.add_sum("link time", moving | waiting, "s", _NCCL)
    slowest = {"time on the slowest": steps.add_sum("time on the slowest", moving, "s", "links work at once", True)}
    return steps.add_sum("link time", slowest | waiting, "s", _NCCL)


def _algorithm(message: Message, ranks: int, outermost: bool) -> str:
    """By which algorithm a level works: as a ring where there is none of that name for it."""
    if (
        message.algorithm == "tree" and not outermost
    ):  # within nodes an all-reduce is a reduce-scatter and an all-gather
        return "ring"
    return "ring" if message.algorithm == "recursive" and ranks & (ranks - 1) else message.algorithm


def _moving(steps: Steps, message: Message, level: tuple[Link, int], algorithm: str, others: tuple[int, int]) -> Number:
    """Seconds at the link's bandwidth: of its ranks, in each of so many groups, or with so many within each of them."""
    (link, ranks), (groups, within) = level, others
    factors, _ = shares(message.collective, algorithm, ranks, f"ranks on {link.name}")
    each = [Part("bits of a share", message.shard_bits)]
    if message.collective == "all_to_all":
        many = [Part("ranks within each", within)] if within != 1 else []
    else:
        many = [Part("groups of them", groups)] if groups != 1 else []
    runs = [Part("runs", message.times)] if message.times != 1 else []
    term = [*runs, *factors, *many, *each]
    why = "each link carries what its level of a hierarchical collective sends"
    bits = steps.add(f"sent over {link.name}", [term], "bit", why)
    part = [Part("part reached", link.efficiency, under=True)] if link.efficiency != 1 else []
    seconds = [Part("bits", bits), Part("bit/byte", 8, under=True), Part("byte/s", link.bytes_per_s, under=True), *part]
    return steps.add(f"time on {link.name}", [seconds], "s", _source(steps, link))


def _waiting(steps: Steps, message: Message, link: Link, waits: int) -> Number:
    """Seconds of latency: of each send that waits for the one before."""
    runs = [Part("runs", message.times)] if message.times != 1 else []
    term = [*runs, Part("steps", waits), Part("s a step", link.latency_s)]
    return steps.add(f"latency of {link.name}", [term], "s", _source(steps, link, ".latency_s"))


def _source(steps: Steps, link: Link, figure: str = "") -> str:
    return steps.source(f"links.{steps.device.links.index(link)}{figure}")
