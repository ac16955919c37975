"""The whole program as one function; read this first.

A workload file names a model, a batch, an optimizer and policies. The model becomes the graph of a training step; a
policy gives its tensors formats, phase by phase; counting gives rows of exact integers; totals weigh each phase by its
steps. Formatting is left to `report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim import files, schema
from costsim.assign import assign
from costsim.count import TRAFFIC_MODELS, Row, Total, count, sum_rows, sum_scopes
from costsim.errors import InputError, one_line
from costsim.graph import Graph
from costsim.models import build
from costsim.policy import Policy, find_policy, load_policies, with_widths
from costsim.schedule import schedule

if TYPE_CHECKING:
    from costsim.hardware import Hardware  # loaded where there is some
    from costsim.roofline import Spent


@dataclass(frozen=True, slots=True)
class Convention:
    """What every printed number depends on besides the workload and the policy."""

    law: str
    traffic: str
    scope: str
    baseline: str
    steps: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class CountedPhase:
    """One phase of a policy: so many steps, each of which costs these rows."""

    steps: int
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class CountedPolicy:
    """A policy's phases and their total over the run."""

    policy: Policy
    phases: tuple[CountedPhase, ...]
    total: Total

    def weighted_rows(self) -> list[tuple[int, list[Row]]]:
        """The rows of each phase with the number of steps that they stand for."""
        return [(phase.steps, phase.rows) for phase in self.phases]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be counted: everything is read and checked."""

    workload: str
    file: schema.Workload
    document: files.Document
    graph: Graph
    convention: Convention
    policies: tuple[Policy, ...]
    baseline: Policy
    of_the_file: bool  # whether the baseline is the file's own
    hardware: tuple[Hardware, ...] = ()
    overlap: bool = True  # whether arithmetic and DRAM traffic take place at the same time

    @property
    def published_policies(self) -> list[Policy]:
        """The policies of which a paper states figures."""
        figures = {figure.policy for figure in self.file.published}
        return [policy for policy in self.policies if policy.name in figures]


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
        from costsim.roofline import Spent, kernels, spend_all  # a run without devices does without

        said = self.job.convention
        found: dict[tuple[str, str], Spent] = {}
        for counted in {its.policy.name: its for its in (*self.policies, self.baseline)}.values():
            for phase in counted.phases:
                step = kernels(self.job.graph, phase.rows, said.traffic, said.scope)
                for device in self.job.hardware:
                    total = found.setdefault((counted.policy.name, device.name), Spent())
                    total.add(spend_all(step, device, self.job.overlap), phase.steps)
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


def count_policy(graph: Graph, policy: Policy, convention: Convention) -> CountedPolicy:
    """Count each phase of a policy once and weigh it by its steps. Raises InputError if the policy does not fit."""
    phases = []
    total = Total()
    for index, steps in enumerate(schedule(policy, convention.steps)):
        assignment = assign(graph, policy, index)
        rows = count(graph, assignment, convention.traffic, convention.scope)
        phases.append(CountedPhase(steps, rows))
        total.add(steps, sum_rows(rows, convention.law))
    return CountedPolicy(policy, tuple(phases), total)


def totals_everywhere(graph: Graph, policy: Policy, convention: Convention) -> dict[tuple[str, str], Total]:
    """The totals of a run in every (scope, traffic model). In scope `gemm` nothing fuses, so both models are one."""
    found: dict[tuple[str, str], Total] = {}
    for index, steps in enumerate(schedule(policy, convention.steps)):
        assignment = assign(graph, policy, index)
        for traffic in TRAFFIC_MODELS:
            for scope, total in sum_scopes(count(graph, assignment, traffic), convention.law).items():
                if (scope, traffic) != ("gemm", "fused"):
                    found.setdefault((scope, traffic), Total()).add(steps, total)
    return {**found, ("gemm", "fused"): found["gemm", "unfused"]}


def _load(name: str, workload: files.Document, at: files.Where | None) -> Policy:
    """A policy by name; `at` is the field of the workload that names it, None if the command line does."""
    return load_policies(find_policy(name) if at is None else find_policy(name, workload, at))


def _where(policy: Policy) -> Path:
    """A policy's file, however its path was spelled."""
    return Path(policy.document.path).resolve()


def _with_widths(policies: list[Policy], path: str, search: bool) -> list[Policy]:
    """The policies with the widths of a file, where they have numbers of these names; `search`: and shipped ones.

    Raises InputError if none has.
    """
    from costsim.widths import read_widths  # few runs have any

    widths = read_widths(Path(path))
    if search:
        shipped = [load_policies((file,)) for file in files.list_shipped("policies").values()]
        policies = policies + [policy for policy in shipped if set(widths.columns) <= set(policy.file.numbers)]
    taking = [set(widths.columns) <= set(policy.file.numbers) for policy in policies]
    if not any(taking):
        numbers, first = ", ".join(f"{name}: 16" for name in widths.columns), widths.columns[0]
        raise InputError(
            f"--bits {one_line(path)}: no policy takes {', '.join(widths.columns)}; say numbers: {{{numbers}}} and a "
            f"format such as fixed<{first}> in a policy, or name the column bits for the shipped fixed-bits"
        )
    return [with_widths(policy, widths) if takes else policy for policy, takes in zip(policies, taking, strict=True)]


def _devices(names: Sequence[str], file: schema.Workload, document: files.Document) -> tuple[Hardware, ...]:
    """The devices asked for, or those of the workload. Raises InputError for a profile that is none."""
    if not names and not file.hardware:
        return ()
    from costsim.hardware import load_hardware

    found: dict[str, Hardware] = {}
    for i, name in enumerate(names or file.hardware):
        try:
            device = load_hardware(name)
        except InputError as error:
            raise error if names else document.error(("hardware", i), str(error)) from None
        found.setdefault(device.name, device)
    return tuple(found.values())


def prepare(
    workload: str,
    policies: Sequence[str] = (),
    baseline: str | None = None,
    law: str | None = None,
    traffic: str | None = None,
    scope: str | None = None,
    assignments: Sequence[str] = (),
    bits: str | None = None,
    hardware: Sequence[str] = (),
    overlap: bool = True,
) -> Job:
    """Read a workload file and its policies (or those given). Arguments override the file's convention.

    `workload` and policies are paths or shipped names; `assignments` are `field=value` texts over the file's fields.
    `bits` is a CSV file of widths per layer or tensor; without `policies` it adds the shipped policies that take it.
    `hardware` are profiles on which time and energy are wanted, instead of the file's.
    Raises InputError, one line, for anything wrong in the input.
    """
    file_path = files.find(workload, "workloads", "workload")
    document = files.parse_yaml(files.read_text(file_path), str(file_path))
    document = files.override(document, assignments)
    file = schema.validate(schema.Workload, document)
    names = policies or file.policies
    loaded = [_load(name, document, None if policies else ("policies", i)) for i, name in enumerate(names)]
    if bits is not None:
        loaded = _with_widths(loaded, bits, search=not policies)
    base = _load(file.baseline if baseline is None else baseline, document, ("baseline",) if baseline is None else None)
    convention = Convention(
        law=file.law if law is None else law,
        traffic=file.traffic if traffic is None else traffic,
        scope=file.scope if scope is None else scope,
        baseline=base.name,
        steps=file.training.steps,
        micro_batches=file.training.micro_batches,
    )
    graph = build(file, document)
    different = {_where(policy): policy for policy in (base, *loaded)}
    paths: dict[str, Path] = {}
    for path, policy in different.items():
        if paths.setdefault(policy.name, path) != path:
            raise InputError(f"two policies are named {policy.name!r}: {paths[policy.name]} and {path}")
    asked = tuple(different[path] for path in dict.fromkeys(_where(policy) for policy in loaded))
    of_the_file = baseline is None or base.name == Path(file.baseline).stem
    devices = _devices(hardware, file, document)
    base_policy = different[_where(base)]
    return Job(file_path.stem, file, document, graph, convention, asked, base_policy, of_the_file, devices, overlap)


def with_fields(job: Job, assignments: Sequence[str]) -> Job:
    """The job with other fields of the workload, `field=value` each. Raises InputError if they do not fit."""
    document = files.override(job.document, assignments)
    file = schema.validate(schema.Workload, document)
    training = file.training
    convention = replace(job.convention, steps=training.steps, micro_batches=training.micro_batches)
    return replace(job, file=file, document=document, graph=build(file, document), convention=convention)


def execute(job: Job) -> Result:
    """Count all policies of a job. Raises InputError if a policy does not fit the workload."""
    different = {policy.name: policy for policy in (job.baseline, *job.policies)}
    counted = {name: count_policy(job.graph, policy, job.convention) for name, policy in different.items()}
    return Result(job, tuple(counted[policy.name] for policy in job.policies), counted[job.baseline.name])


def run(workload: str, *arguments: Any, **options: Any) -> Result:
    """Count a workload file: `execute(prepare(...))`."""
    return execute(prepare(workload, *arguments, **options))
