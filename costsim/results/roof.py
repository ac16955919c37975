"""Kernels under the roofline of a device: intensities, rates and shares of time, before they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import NamedTuple

from costsim.cost.row import Row
from costsim.devices.profile import Hardware, Rate
from costsim.devices.roofline import Kernel, Rates
from costsim.devices.spent import Spent
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result
from costsim.run.timing import time_kernels

MOST_POLICIES = 8  # panels of a device that a page has room for


class Point(NamedTuple):
    """Kernels of a run that are alike: their kind, their place under the roof, their share of the run's time."""

    kind: str  # one of KINDS
    op_per_byte: float
    op_per_s: float
    share: float
    by_roofline: float | None = None  # op/s that a roofline alone predicts, of a device whose kernels were measured

    @property
    def measured(self) -> bool:
        """Whether the time is what was measured of such kernels, not a roofline's."""
        return self.by_roofline is not None and self.op_per_s != self.by_roofline


@dataclass(slots=True)
class Roof:
    """The points of a policy's run under the roof of a device."""

    points: list[Point] = field(default_factory=list)
    rates: dict[Rate, set[str]] = field(default_factory=dict)  # that the run uses, and the pairs upcast to each
    bound: str = ""
    lacks: str = ""  # why there is no time; "" if there is
    moving: float = 0.0  # the share of time in kernels that compute nothing


def _kind(kernel: Kernel) -> str:
    """The product of a layer that a kernel computes: of several, that with most MACs."""
    gemms = [row for row in kernel.rows if row.gemm is not None]
    if gemms:
        return max(gemms, key=lambda row: row.macs).gemm_name
    return "update" if kernel.first[0].phase == "update" else "other"


def _lacks(result: Result, counted: CountedPolicy, device: Hardware) -> str:
    spent = result.spent[counted.policy.name, device.name]
    if spent.unsupported:
        return "unsupported:\n" + "\n".join(sorted(spent.unsupported))
    if device.dram_bytes_per_s is None:
        return "the profile has no DRAM bandwidth"
    if spent.lacks:
        return "the profile has no\n" + ", ".join(sorted(spent.lacks)).replace(" (", "\n(")
    return "" if spent.time_s else "the profile has no vector rate" if spent.time_s is None else "nothing to time"


def _use(rates: dict[Rate, set[str]], rows: Sequence[Row], known: Rates) -> None:
    for name, pair in {row.pair_name: row.pair for row in rows if row.pair is not None and row.macs}.items():
        chosen = known[pair]
        if chosen is not None:
            rate, upcast = chosen
            rates.setdefault(rate, set()).add(name if upcast else "")


def _op_per_s(spent: Spent) -> float:
    """Operations a second, 0 where no time is known."""
    return (2 * spent.macs + spent.vector_ops) / spent.time_s if spent.time_s else 0.0


def roof(result: Result, counted: CountedPolicy, device: Hardware) -> Roof:
    """Where the kernels of a policy's run lie on a device; phases weigh as many steps as they last."""
    job, view, known = result.job, Roof(), Rates(device)
    times: dict[tuple[str, float, float, float | None], float] = {}
    view.lacks = _lacks(result, counted, device)
    for phase in counted.phases:
        if not phase.steps:
            continue
        _use(view.rates, phase.rows, known)
        if view.lacks:
            continue
        roofs = [spent for _, spent in time_kernels(job, phase, replace(device, kernels=()))] if device.kernels else []
        for (kernel, spent), bare in zip_longest(time_kernels(job, phase, device), roofs):
            seconds = (spent.time_s or 0.0) * kernel.number * phase.steps
            where = (spent.op_per_byte or 0.0, _op_per_s(spent), _op_per_s(bare) if bare else None)
            times[_kind(kernel), *where] = times.get((_kind(kernel), *where), 0.0) + seconds
    whole = sum(times.values())
    view.bound = result.spent[counted.policy.name, device.name].bound
    view.points = [
        Point(kind, op_per_byte, op_per_s, seconds / whole, by_roofline)
        for (kind, op_per_byte, op_per_s, by_roofline), seconds in times.items()
        if op_per_byte and op_per_s and whole
    ]
    view.moving = 1 - sum(point.share for point in view.points) if whole else 0.0
    return view
