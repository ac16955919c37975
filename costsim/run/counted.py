"""What counting gives: a policy's phases with their rows, and the rows of a step for the buffer of a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costsim.cost.row import Row
from costsim.cost.totals import Total, sum_rows
from costsim.graph.graph import Graph
from costsim.names import Law
from costsim.policy.policy import Policy
from costsim.run.job import Job

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware  # loaded where there is some


@dataclass(frozen=True, slots=True, eq=False)
class CountedPhase:
    """One phase of a policy: so many steps, each of which costs these rows."""

    steps: int
    rows: Sequence[Row]
    compulsory: Sequence[
        Row
    ]  # what they are if a buffer holds everything: the same, if the traffic model has no buffer
    total: Total | None = None  # of a step that was not counted row by row (`run/tables.py`)
    peak_bytes: int | None = None  # of that


@dataclass(frozen=True, slots=True)
class CountedPolicy:
    """A policy's phases and their total over the run."""

    policy: Policy
    phases: tuple[CountedPhase, ...]
    total: Total

    def weighted_rows(self) -> list[tuple[int, Sequence[Row]]]:
        """The rows of each phase with the number of steps that they stand for."""
        return [(phase.steps, phase.rows) for phase in self.phases]


def summed(policy: Policy, phases: Sequence[CountedPhase], law: Law) -> CountedPolicy:
    """The policy of these phases, with the total of the run under a law: each phase's step, weighed by its steps."""
    total = Total()
    for phase in phases:
        total += phase.steps * (sum_rows(phase.rows, law) if phase.total is None else phase.total)
    return CountedPolicy(policy, tuple(phases), total)


def peak_bytes(job: Job, counted: CountedPolicy, index: int) -> int:
    """The peak of memory in the phase of a policy with that index: as it was counted, else worked out now."""
    known = counted.phases[index].peak_bytes
    if known is not None:
        return known
    from costsim.cost.memory import of_phase  # few tables have it

    return of_phase(job.graph, counted.policy, index, job.convention.traffic).peak_bytes


def buffer_on(job: Job, device: Hardware) -> int | None:
    """The bytes on chip that a device's kernels are tiled for: its own, unless a size was given. None: not known."""
    return device.on_chip_bytes if job.convention.buffer_of else job.convention.buffer_bytes


def buffer_unknown(job: Job, device: Hardware) -> bool:
    """Whether traffic depends on a buffer of which the device's profile does not say how large it is."""
    return job.convention.tiled and buffer_on(job, device) is None


def rows_for(job: Job, phase: CountedPhase, buffer_bytes: int | None) -> Sequence[Row]:
    """The rows of a phase's step, tiled for a buffer; with compulsory traffic for None, where its size is not known."""
    if not job.convention.tiled or buffer_bytes == job.convention.buffer_bytes:
        return phase.rows
    return tiled(job.graph, phase.compulsory, buffer_bytes)


def tiled(graph: Graph, rows: Sequence[Row], buffer_bytes: int | None) -> Sequence[Row]:
    """Rows tiled for so many bytes on chip; as they are for None. Raises InputError if that is too small."""
    if buffer_bytes is None:
        return rows
    from costsim.cost.tiling import tile_rows  # most runs tile nothing

    return tile_rows(graph, rows, 8 * buffer_bytes)
