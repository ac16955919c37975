"""The whole program as one function; read this first.

A workload file names a model, a batch, an optimizer and policies. The model becomes the graph of a training step; a
policy gives its tensors formats, phase by phase; counting gives rows of exact integers; totals weigh each phase by its
steps. Formatting is left to `report`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from costsim.cost.count import count
from costsim.cost.row import Row
from costsim.cost.totals import Total, sum_rows, sum_scopes
from costsim.graph.fusion import MODELS, UNTILED
from costsim.graph.graph import Graph
from costsim.policy.assign import Assignment, assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.run.job import Convention, Job, prepare

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware  # loaded where there is some
    from costsim.devices.roofline import Spent


@dataclass(frozen=True, slots=True)
class CountedPhase:
    """One phase of a policy: so many steps, each of which costs these rows."""

    steps: int
    rows: list[Row]
    compulsory: list[Row]  # what they are if a buffer holds everything: the same, if the traffic model has no buffer


@dataclass(frozen=True, slots=True)
class CountedPolicy:
    """A policy's phases and their total over the run."""

    policy: Policy
    phases: tuple[CountedPhase, ...]
    total: Total

    def weighted_rows(self) -> list[tuple[int, list[Row]]]:
        """The rows of each phase with the number of steps that they stand for."""
        return [(phase.steps, phase.rows) for phase in self.phases]


@dataclass(frozen=True, eq=False)
class Result:
    """What a run found: policies side by side, under one convention."""

    job: Job
    policies: tuple[CountedPolicy, ...]
    baseline: CountedPolicy

    @cached_property
    def spent(self) -> dict[tuple[str, str], Spent]:
        """Time and energy of the whole run, by policy and device: each phase's step, weighed by its steps."""
        if not self.job.hardware:
            return {}
        from costsim.devices.roofline import Spent, kernels, spend_all  # a run without devices does without

        job, said = self.job, self.job.convention
        found: dict[tuple[str, str], Spent] = {}
        for counted in {its.policy.name: its for its in (*self.policies, self.baseline)}.values():
            for phase in counted.phases:
                steps = {}  # by buffer; None: one that is not known
                for device in job.hardware:
                    buffer = buffer_on(job, device) if said.tiled else 0
                    if buffer not in steps:
                        steps[buffer] = kernels(job.graph, rows_on(job, phase, device), said.traffic, said.scope)
                    its = spend_all(steps[buffer], device, job.overlap)
                    if buffer is None:
                        its.forget_traffic("on_chip_bytes, for traffic tiled (or say --buffer-bytes)")
                    found.setdefault((counted.policy.name, device.name), Spent()).add(its, phase.steps)
        return found

    @cached_property
    def everywhere(self) -> dict[str, dict[tuple[str, str], Total]]:
        """Totals in every (scope, traffic model), of the policies with published figures and of the baseline.

        Empty if there are none, or if the baseline is not the one that the figures are relative to.
        """
        job = self.job
        if not job.published_policies or not job.of_the_file:
            return {}
        different = {policy.name: policy for policy in (job.baseline, *job.published_policies)}
        return {name: totals_everywhere(job.graph, its, job.convention) for name, its in different.items()}


def buffer_on(job: Job, device: Hardware) -> int | None:
    """The bytes on chip that a device's kernels are tiled for: its own, unless a size was said. None: not known."""
    return device.on_chip_bytes if job.convention.buffer_of else job.convention.buffer_bytes


def buffer_unknown(job: Job, device: Hardware) -> bool:
    """Whether traffic depends on a buffer of which the device's profile does not say how large it is."""
    return job.convention.tiled and buffer_on(job, device) is None


def rows_on(job: Job, phase: CountedPhase, device: Hardware) -> list[Row]:
    """The rows of a phase's step on a device, tiled for its buffer; with compulsory traffic if that is not known."""
    buffer = buffer_on(job, device)
    if not job.convention.tiled or buffer == job.convention.buffer_bytes:
        return phase.rows
    return _tiled(job.graph, phase.compulsory, buffer)


def _tiled(graph: Graph, rows: list[Row], buffer_bytes: int | None) -> list[Row]:
    """Rows tiled for so many bytes on chip; as they are for None. Raises InputError if that is too small."""
    if buffer_bytes is None:
        return rows
    from costsim.cost.tiling import tile_rows  # most runs tile nothing

    return tile_rows(graph, rows, 8 * buffer_bytes)


def count_step(graph: Graph, assignment: Assignment, convention: Convention) -> CountedPhase:
    """One step under a convention. Raises InputError if a buffer is too small for any tile."""
    rows = count(graph, assignment, convention.traffic, convention.scope)
    return CountedPhase(1, _tiled(graph, rows, convention.buffer_bytes if convention.tiled else None), rows)


def count_policy(graph: Graph, policy: Policy, convention: Convention) -> CountedPolicy:
    """Count each phase of a policy once and weigh it by its steps. Raises InputError if the policy does not fit."""
    phases = []
    total = Total()
    for index, steps in enumerate(schedule(policy, convention.steps)):
        step = count_step(graph, assign(graph, policy, index), convention)
        phases.append(replace(step, steps=steps))
        total.add(steps, sum_rows(step.rows, convention.law))
    return CountedPolicy(policy, tuple(phases), total)


def totals_everywhere(graph: Graph, policy: Policy, convention: Convention) -> dict[tuple[str, str], Total]:
    """The totals of a run in every (scope, traffic model); of those that tile, only in that of the convention.

    In scope `gemm` nothing fuses, so models without a buffer are one there.
    """
    found: dict[tuple[str, str], Total] = {}
    models = UNTILED + ((convention.traffic,) if convention.tiled else ())
    for index, steps in enumerate(schedule(policy, convention.steps)):
        assignment = assign(graph, policy, index)
        rows = {traffic: count(graph, assignment, traffic) for traffic in models}
        alone = [row for row in rows["unfused"] if row.gemm is not None]
        for traffic in models:
            buffer = convention.buffer_bytes if MODELS[traffic].tiled else None
            gemms = sum_rows(_tiled(graph, alone, buffer), convention.law)
            totals = sum_scopes(_tiled(graph, rows[traffic], buffer), convention.law) | {"gemm": gemms}
            for scope, total in totals.items():
                found.setdefault((scope, traffic), Total()).add(steps, total)
    return found


def execute(job: Job) -> Result:
    """Count all policies of a job. Raises InputError if a policy does not fit the workload."""
    different = {policy.name: policy for policy in (job.baseline, *job.policies)}
    counted = {name: count_policy(job.graph, policy, job.convention) for name, policy in different.items()}
    return Result(job, tuple(counted[policy.name] for policy in job.policies), counted[job.baseline.name])


def run(workload: str, *arguments: Any, **options: Any) -> Result:
    """Count a workload file: `execute(prepare(...))`."""
    return execute(prepare(workload, *arguments, **options))
