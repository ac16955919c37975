"""What kernels take on a device: the one place where the phases of a policy meet a device, in time and energy.

Everything that says what a run, a group of ops or a kernel takes asks here. A kernel's time and energy belong to its
first op, so groups add up to the total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from costsim.cost.totals import GROUPINGS
from costsim.devices.links import HIDDEN
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel, Rates, kernels, spend
from costsim.devices.spent import Spent
from costsim.run.counted import CountedPhase, CountedPolicy, buffer_on, buffer_unknown, rows_for
from costsim.run.job import Job

# What a profile lacks whose buffer is not known, under a traffic model that is tiled for one.
LACKS_BUFFER = "on_chip_bytes, for traffic tiled (or say --buffer-bytes)"

_EACH = ("layer", "op")  # groups that tell apart kernels that do the same
# Groupings that take no part of a kernel's time, and why.
UNDIVIDED = {
    "role": "a kernel takes its time as a whole, its tensors have no parts of it",
    "tensor": "a kernel takes its time as a whole, its tensors have no parts of it",
    "assumption": "assumptions are moved for the ratios of arithmetic and DRAM",
}


@lru_cache(maxsize=16)
def _kernels(job: Job, phase: CountedPhase, buffer_bytes: int | None, scope: str, each: bool) -> list[Kernel]:
    return kernels(job.graph, rows_for(job, phase, buffer_bytes), job.convention.traffic, scope, each)


def kernels_on(job: Job, phase: CountedPhase, device: Hardware, scope: str = "", each: bool = False) -> list[Kernel]:
    """The kernels of a phase's step, tiled for the device's buffer: those that do the same once, or `each` by itself.

    `scope` is the job's unless it is given. Raises InputError if the buffer is too small for any tile.
    """
    return _kernels(job, phase, buffer_on(job, device), scope or job.convention.scope, each)


Timed = list[tuple[Kernel, Spent]]


def timed_alone(job: Job, phase: CountedPhase, device: Hardware, scope: str = "", each: bool = False) -> Timed:
    """The kernels of a phase's step as they are by themselves: none of what may hide is in their times.

    Kernels of equal rows take the same, and are worked out once.
    """
    spent_by, known = spender(job, device), dict[tuple[int, ...], Spent]()
    timed = []
    for kernel in kernels_on(job, phase, device, scope, each):
        rows = tuple([id(row) for row in kernel.rows])
        if rows not in known:
            known[rows] = spent_by(kernel)
        timed.append((kernel, known[rows]))
    return timed


def spender(job: Job, device: Hardware) -> Callable[[Kernel], Spent]:
    """What works out the time and energy of a kernel by itself."""
    rates, unknown, hidden = Rates(device), buffer_unknown(job, device), HIDDEN[job.file.parallel.overlap]

    def spent_by(kernel: Kernel) -> Spent:
        spent = spend(kernel, device, job.overlap, rates, hidden)
        return spent.without_traffic(LACKS_BUFFER) if unknown else spent

    return spent_by


def _exposed_share(timed: Timed) -> float:
    hidden_s = sum(kernel.number * spent.hidden_s for kernel, spent in timed)
    others = [(kernel.number, spent.time_s) for kernel, spent in timed]
    if not hidden_s or None in [time_s for _, time_s in others]:
        return 0.0
    return max(0.0, 1 - sum(number * (time_s or 0.0) for number, time_s in others) / hidden_s)


def exposed_share(job: Job, phase: CountedPhase, device: Hardware, scope: str = "") -> float:
    """What part of the messages that may hide does not, for they take longer than the rest of a phase's step.

    0 where nothing hides, or some time is not known.
    """
    return _exposed_share(timed_alone(job, phase, device, scope))


def time_kernels(job: Job, phase: CountedPhase, device: Hardware, each: bool = False) -> Iterator[tuple[Kernel, Spent]]:
    """The kernels of a phase's step, each with what one of it takes over all its runs in the step.

    Where the device's buffer is not known, what depends on traffic is not known either. Messages that may hide do so
    behind the rest of the step; what is left over is shared among them by their length.
    """
    return exposed(timed_alone(job, phase, device, each=each), device)


def exposed(timed: Timed, device: Hardware) -> Iterator[tuple[Kernel, Spent]]:
    """The kernels of a whole step, each with its share of the messages that the step is too short to hide."""
    share = _exposed_share(timed)
    for kernel, spent in timed:
        yield kernel, spent.exposed(share * spent.hidden_s, device.static_w)


def time_step(job: Job, phase: CountedPhase, device: Hardware) -> Spent:
    """Time and energy of one step of a phase."""
    return sum((kernel.number * spent for kernel, spent in time_kernels(job, phase, device)), Spent())


def time_run(job: Job, counted: CountedPolicy, device: Hardware) -> Spent:
    """Time and energy of the whole run under a policy: each phase's step, weighed by its steps."""
    return sum((phase.steps * time_step(job, phase, device) for phase in counted.phases), Spent())


def time_groups(job: Job, counted: CountedPolicy, device: Hardware, by: str) -> dict[str, Spent]:
    """Time and energy of the whole run by group of ops; `by` is one of GROUPINGS, but none of UNDIVIDED.

    A group all of whose ops belong to kernels that another's op begins is left out.
    """
    of_row = GROUPINGS[by][0]
    groups: dict[str, Spent] = {}
    for phase in counted.phases:
        step: dict[str, Spent] = {}
        for kernel, spent in time_kernels(job, phase, device, each=by in _EACH):
            group = of_row(*kernel.first)
            step[group] = step.get(group, Spent()) + kernel.number * spent
        for group, spent in step.items():
            groups[group] = groups.get(group, Spent()) + phase.steps * spent
    return groups


def ridge_op_per_byte(spent: Spent, device: Hardware) -> float | None:
    """Operations (2 a MAC) a byte at which arithmetic and DRAM take equally long, at the rates that are reached.

    The arithmetic is that of the multipliers in use (of several pairs of formats, by the time that each takes), or of
    operations on elements where there are no MACs. None if a pair, a rate or the bandwidth is lacking, or there is no
    arithmetic. Source: Williams et al., Roofline, CACM 2009.
    """
    if spent.unsupported or not device.dram_bytes_per_s:
        return None
    bandwidth = device.dram_bytes_per_s * device.dram_efficiency
    if spent.macs:
        return 2 * spent.macs / spent.mac_s / bandwidth
    return spent.vector_ops / spent.vector_s / bandwidth if spent.vector_ops and spent.vector_s else None
