"""The memory of a job's policies: of each at every batch and point of a sweep, in the phase of its highest peak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from costsim.cost.memory import Memory, of_policy
from costsim.errors import InputError
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.run.batch import largest_batch, with_batch
from costsim.run.job import Job
from costsim.run.sweep import NOWHERE, Places, Point

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """The memory of a policy at a batch size."""

    policy: Policy
    phase: int  # of the policy, from 0: where its peak is highest
    job: Job  # at that batch
    memory: Memory
    largest_batch: int | None  # that fits, if a capacity is given
    point: Point = field(default_factory=dict)  # of a sweep

    @property
    def sequences(self) -> int:
        """The batch size."""
        return self.job.graph.sizes.get("batch", 1)

    @property
    def name(self) -> str:
        """The policy, and the point of a sweep."""
        return ", ".join([self.policy.name, *(f"{name}={text}" for name, text in self.point.items())])

    @property
    def mask_bits(self) -> int:
        """Bits of an element of a dropout mask; 0 if there are none."""
        graph = self.job.graph
        drawn = next((op.outputs[0] for op in graph.ops if op.kind.name == "bernoulli"), None)
        return 0 if drawn is None else assign(graph, self.policy, self.phase).format(drawn).element_bits


@dataclass(frozen=True, slots=True)
class Asked:
    """What to list. `capacity_bytes` is what a device has, `reserve_bytes` is for what the model leaves out."""

    batches: Sequence[int | None] = (None,)  # None: as in the file
    accumulation: int | None = None
    capacity_bytes: int | None = None
    reserve_bytes: int = 0
    places: Places = ()  # of a sweep, instead of the one job
    lists: Sequence[str] = ()  # of `tables.kept.LISTS`: what is listed tensor by tensor
    must_fit: bool = False  # whether it is an error if a row does not fit; the largest batch is not looked for

    def excess_bytes(self, memory: Memory) -> int:
        """By how much a step exceeds what there is; 0 if it fits."""
        return max(0, memory.peak_bytes + self.reserve_bytes - (self.capacity_bytes or 0))


def capacity(capacity_bytes: int | None, device: str | None, fits_bytes: int | None = None) -> int | None:
    """Bytes to fit into: as given, or the DRAM of a device. Raises InputError for several, or none known."""
    said = {"--capacity-bytes": capacity_bytes, "--hardware": device, "--fits": fits_bytes}
    names = [name for name, value in said.items() if value is not None]
    if len(names) > 1:
        raise InputError(
            f"{' and '.join(names)} {'both' if len(names) == 2 else 'all'} say what there is; leave one out"
        )
    if device is None:
        return capacity_bytes if fits_bytes is None else fits_bytes
    from costsim.devices.profile import load_hardware

    dram_bytes = load_hardware(device).dram_bytes
    if dram_bytes is None:
        raise InputError(f"--hardware {device}: the profile does not know its DRAM; say --capacity-bytes")
    return dram_bytes


def rows(job: Job, asked: Asked, line: Callable[[Row], T]) -> list[T]:
    """What a table needs of each policy, point of a sweep and batch size, in this order; a row itself takes megabytes.

    Raises InputError for what does not fit the workload.
    """
    made: list[list[T]] = [[] for _ in job.policies]
    for point, there in asked.places or [(NOWHERE, job)]:
        jobs = [with_batch(there, sequences, asked.accumulation) for sequences in asked.batches]
        for policy, lines in zip(there.policies, made, strict=True):
            largest = None
            if asked.capacity_bytes is not None and not asked.must_fit:
                room = asked.capacity_bytes - asked.reserve_bytes
                largest = largest_batch(there, policy, room, asked.accumulation or 1)
            for batch in jobs:
                phase, memory = of_policy(batch.graph, policy, batch.convention.traffic)
                lines.append(line(Row(policy, phase, batch, memory, largest, point)))
    return [line for lines in made for line in lines]
