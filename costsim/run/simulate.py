"""The whole program; read this first, from `run` at the end upwards.

A workload file names a model, a batch, an optimizer and policies. `prepare` reads it and builds the graph of a
training step. A policy gives tensors their formats, phase by phase (`assign`); `count` gives rows of exact integers;
totals weigh each phase by its steps. Devices turn rows into time and energy (`timing`). Tables, plots and pages are
made of a Result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from costsim.cost.count import count
from costsim.cost.totals import Total, sum_rows, sum_scopes
from costsim.graph.fusion import COMPARED, MODELS
from costsim.graph.graph import Graph
from costsim.policy.assign import Assignment, assign
from costsim.policy.classes import Selectors
from costsim.policy.policy import Policy
from costsim.policy.schedule import schedule
from costsim.run.counted import CountedPhase, CountedPolicy, summed, tiled
from costsim.run.job import Convention, Job, Request, prepare

if TYPE_CHECKING:
    from costsim.devices.spent import Spent


@dataclass(frozen=True, eq=False)
class Result:
    """The results of a run: policies side by side, under one convention."""

    job: Job
    policies: tuple[CountedPolicy, ...]
    baseline: CountedPolicy

    @cached_property
    def spent(self) -> dict[tuple[str, str], Spent]:
        """Time and energy of the whole run, by policy and device: each phase's step, weighed by its steps."""
        if not self.job.hardware:
            return {}
        from costsim.run.timing import time_run  # a run without devices does without

        job = self.job
        distinct = {counted.policy.name: counted for counted in (*self.policies, self.baseline)}
        return {
            (name, device.name): time_run(job, counted, device)
            for name, counted in distinct.items()
            for device in job.hardware
        }

    @cached_property
    def everywhere(self) -> dict[str, dict[tuple[str, str], Total]]:
        """Totals in every (scope, traffic model), of the policies with published figures and of the baseline.

        Empty if there are none, or if the baseline is not the one that the figures are relative to.
        """
        job = self.job
        if not job.published_policies or not job.of_the_file:
            return {}
        distinct = {policy.name: policy for policy in (job.baseline, *job.published_policies)}
        return {name: totals_everywhere(job.graph, policy, job.convention) for name, policy in distinct.items()}


def count_step(graph: Graph, assignment: Assignment, convention: Convention) -> CountedPhase:
    """One step under a convention. Raises InputError if a buffer is too small for any tile."""
    rows = count(graph, assignment, convention.traffic, convention.scope, *convention.of_gemms)
    return CountedPhase(1, tiled(graph, rows, convention.buffer_bytes if convention.tiled else None), rows)


def count_policy(
    graph: Graph, policy: Policy, convention: Convention, selectors: Selectors | None = None
) -> CountedPolicy:
    """Count each phase of a policy once and weigh it by its steps; `selectors` as `assign` has them.

    Raises InputError if the policy does not fit.
    """
    phases = [
        replace(count_step(graph, assign(graph, policy, index, selectors), convention), steps=steps)
        for index, steps in enumerate(schedule(policy, convention.steps))
    ]
    return summed(policy, phases, convention.law)


def totals_everywhere(graph: Graph, policy: Policy, convention: Convention) -> dict[tuple[str, str], Total]:
    """The totals of a run in every (scope, traffic model); of those that tile, only in that of the convention.

    In scope `gemm` nothing fuses, so models without a buffer are one there.
    """
    everywhere: dict[tuple[str, str], Total] = {}
    models = tuple(dict.fromkeys((*COMPARED, convention.traffic)))
    for index, steps in enumerate(schedule(policy, convention.steps)):
        assignment = assign(graph, policy, index)
        rows = {traffic: count(graph, assignment, traffic) for traffic in models}
        alone = count(graph, assignment, "unfused", "gemm", *convention.of_gemms)
        for traffic in models:
            buffer = convention.buffer_bytes if MODELS[traffic].tiled else None
            gemms = sum_rows(tiled(graph, alone, buffer), convention.law)
            totals = sum_scopes(tiled(graph, rows[traffic], buffer), convention.law) | {"gemm": gemms}
            for scope, total in totals.items():
                everywhere[scope, traffic] = everywhere.get((scope, traffic), Total()) + steps * total
    return everywhere


def execute(job: Job) -> Result:
    """Count all policies of a job. Raises InputError if a policy does not fit the workload."""
    distinct = {policy.name: policy for policy in (job.baseline, *job.policies)}
    counted = {name: count_policy(job.graph, policy, job.convention) for name, policy in distinct.items()}
    return Result(job, tuple(counted[policy.name] for policy in job.policies), counted[job.baseline.name])


def run(workload: str, *arguments: Any, **options: Any) -> Result:
    """Count a workload file; arguments and options are those of `Request`."""
    return execute(prepare(Request(workload, *arguments, **options)))
