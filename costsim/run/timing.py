"""Time and energy by group of ops: a kernel's belong to the group of its first op, so groups add up to the total."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from costsim.cost.row import Row
from costsim.cost.totals import GROUPINGS
from costsim.devices.profile import Hardware
from costsim.devices.roofline import Kernel, Rates, Spent, kernels, spend
from costsim.graph.graph import Op
from costsim.run.simulate import CountedPolicy, Result, rows_on

_EACH = ("layer", "op")  # groups that tell apart kernels that do the same
# Groupings that take no part of a kernel's time, and why.
UNDIVIDED = {
    "role": "a kernel takes its time as a whole, its tensors have no parts of it",
    "tensor": "a kernel takes its time as a whole, its tensors have no parts of it",
    "assumption": "assumptions are moved for the ratios of arithmetic and DRAM",
}


def spent_by(result: Result, counted: CountedPolicy, by: str) -> dict[str, dict[str, Spent]]:
    """{device: {group: time and energy of the whole run}}; `by` is one of GROUPINGS, but none of UNDIVIDED.

    A group all of whose ops belong to kernels that another's op begins is left out.
    """
    job, of_row = result.job, GROUPINGS[by][0]
    found: dict[str, dict[str, Spent]] = {}
    for device in job.hardware:
        its = found[device.name] = {}
        for phase in counted.phases:
            rows = rows_on(job, phase, device)
            step = kernels(job.graph, rows, job.convention.traffic, job.convention.scope, by in _EACH)
            for group, spent in _step(step, device, job.overlap, of_row).items():
                its.setdefault(group, Spent()).add(spent, phase.steps)
        for lacking in result.spent[counted.policy.name, device.name].lacks:
            for spent in its.values():
                spent.forget_traffic(lacking)
    return found


def _step(
    step: Sequence[Kernel], device: Hardware, overlap: bool, of_row: Callable[[Row, Op], str]
) -> dict[str, Spent]:
    """The groups of one step. Kernels of equal rows do the same, and are worked out once."""
    rates = Rates(device)
    known: dict[tuple[int, ...], Spent] = {}
    found: dict[str, Spent] = {}
    for kernel in step:
        row, op = kernel.first
        key = tuple([id(its) for its in kernel.rows])
        if key not in known:
            known[key] = spend(kernel, device, overlap, rates)
        found.setdefault(of_row(row, op), Spent()).add(known[key], kernel.number)
    return found


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
