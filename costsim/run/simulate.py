"""The whole program as one function; read this first.

A workload file names a model, a batch, an optimizer and policies. The model becomes the graph of a training step; a
policy gives its tensors formats, phase by phase; counting gives rows of exact integers; totals weigh each phase by its
steps. Formatting is left to `report`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.cost.count import SCOPES, Row, Total, count, sum_rows, sum_scopes
from costsim.cost.laws import LAWS
from costsim.errors import InputError, nearest, one_line
from costsim.graph.fusion import MODELS, UNTILED
from costsim.graph.graph import Graph
from costsim.inputs import files, schema
from costsim.models.build import build
from costsim.policy.assign import Assignment, assign
from costsim.policy.policy import Policy, find_policy, load_policies, with_widths
from costsim.policy.schedule import schedule

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware  # loaded where there is some
    from costsim.devices.roofline import Spent


@dataclass(frozen=True, slots=True)
class Convention:
    """What every printed number depends on besides the workload and the policy."""

    law: str
    traffic: str
    scope: str
    baseline: str
    steps: int
    micro_batches: int
    buffer_bytes: int | None = None  # on chip, of traffic models that tile for one
    buffer_of: str = ""  # the device whose buffer that is; none if it was said how large it is

    @property
    def tiled(self) -> bool:
        """Whether traffic depends on the buffer."""
        return MODELS[self.traffic].tiled

    @property
    def traffic_said(self) -> str:
        """The traffic model with the buffer, if it has one, as tables name it."""
        of = f" ({self.buffer_of})" if self.buffer_of else ""
        return f"{self.traffic}, buffer {self.buffer_bytes} byte{of}" if self.tiled else self.traffic


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


def _load(name: str | Policy, workload: files.Document, at: files.Where | None) -> Policy:
    """A policy by name; `at` is the field of the workload that names it, None if the command line does."""
    if isinstance(name, Policy):
        return name
    return load_policies(find_policy(name) if at is None else find_policy(name, workload, at))


def _same(policy: Policy, other: Policy) -> bool:
    return (policy.name, policy.file) == (other.name, other.file)


def _where(policy: Policy) -> Path:
    """A policy's file, however its path was spelled."""
    return Path(policy.document.path).resolve()


def _with_widths(policies: list[Policy], path: str, search: bool) -> list[Policy]:
    """The policies with the widths of a file, where they have numbers of these names; `search`: and shipped ones.

    Raises InputError if none has.
    """
    from costsim.inputs.widths import read_widths  # few runs have any

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
    from costsim.devices.profile import load_hardware

    found: dict[str, Hardware] = {}
    for i, name in enumerate(names or file.hardware):
        try:
            device = load_hardware(name)
        except InputError as error:
            raise error if names else document.error(("hardware", i), str(error)) from None
        found.setdefault(device.name, device)
    return tuple(found.values())


def _buffer(
    traffic: str, said: int | None, file: schema.Workload, devices: tuple[Hardware, ...]
) -> tuple[int | None, str]:
    """The bytes on chip that traffic is tiled for, and of which device, "" if they were said. Raises InputError."""
    if not MODELS[traffic].tiled:
        if said is not None:
            raise InputError(f"--buffer-bytes: only traffic tiled has a buffer, this is {traffic}; add --traffic tiled")
        return None, ""
    if said is not None and (not isinstance(said, int) or said < 1):
        raise InputError(f"--buffer-bytes: expected a whole number from 1 on, got {one_line(said)}")
    if said is not None or file.buffer_bytes is not None:
        return said or file.buffer_bytes, ""
    if not devices:
        raise InputError(
            f"traffic {traffic} needs a buffer: say --buffer-bytes N, buffer_bytes in the workload, or --hardware NAME"
        )
    if devices[0].on_chip_bytes is None:
        raise InputError(
            f"traffic {traffic}: the profile {devices[0].name} does not know its on_chip_bytes; say --buffer-bytes N"
        )
    return devices[0].on_chip_bytes, devices[0].name


def read_workload(workload: str, assignments: Sequence[str] = ()) -> tuple[Path, files.Document, schema.Workload]:
    """A workload file by path or shipped name, with `field=value` texts over its fields. Raises InputError."""
    path = files.find(workload, "workloads", "workload")
    document = files.override(files.parse_yaml(files.read_text(path), str(path)), assignments)
    return path, document, schema.validate(schema.Workload, document)


def _check_names(**given: tuple[str | None, Iterable[str]]) -> None:
    """Raise InputError for what is none of the names that there are."""
    for what, (name, known) in given.items():
        if name is not None and name not in known:
            raise InputError(f"unknown {what} {one_line(name)!r}{nearest(name, known)}")


def prepare(
    workload: str,
    policies: Sequence[str | Policy] = (),
    baseline: str | Policy | None = None,
    law: str | None = None,
    traffic: str | None = None,
    scope: str | None = None,
    assignments: Sequence[str] = (),
    bits: str | None = None,
    hardware: Sequence[str] = (),
    overlap: bool = True,
    buffer_bytes: int | None = None,
) -> Job:
    """Read a workload file and its policies (or those given). Arguments override the file's convention.

    `workload` and policies are paths or shipped names, policies also such as Python made; `assignments` are
    `field=value` texts over the file's fields.
    `bits` is a CSV file of widths per layer or tensor; without `policies` it adds the shipped policies that take it.
    `hardware` are profiles on which time and energy are wanted, instead of the file's. `buffer_bytes` are those on chip
    that traffic `tiled` has; if neither it nor the file says so, those of the first device.
    Raises InputError, one line, for anything wrong in the input.
    """
    file_path, document, file = read_workload(workload, assignments)
    _check_names(law=(law, LAWS), traffic=(traffic, MODELS), scope=(scope, SCOPES))
    names = policies or file.policies
    loaded = [_load(name, document, None if policies else ("policies", i)) for i, name in enumerate(names)]
    if bits is not None:
        loaded = _with_widths(loaded, bits, search=not policies)
    base = _load(file.baseline if baseline is None else baseline, document, ("baseline",) if baseline is None else None)
    devices = _devices(hardware, file, document)
    model = file.traffic if traffic is None else traffic
    buffer, buffer_of = _buffer(model, buffer_bytes, file, devices)
    convention = Convention(
        law=file.law if law is None else law,
        traffic=model,
        scope=file.scope if scope is None else scope,
        baseline=base.name,
        steps=file.training.steps,
        micro_batches=file.training.micro_batches,
        buffer_bytes=buffer,
        buffer_of=buffer_of,
    )
    graph = build(file, document)
    different: dict[Path, Policy] = {}
    paths: dict[str, Path] = {}
    for policy in (base, *loaded):
        path = _where(policy)
        if paths.setdefault(policy.name, path) != path:
            raise InputError(f"two policies are named {policy.name!r}: {paths[policy.name]} and {path}")
        if different.get(path, policy).file != policy.file:
            raise InputError(f"two policies are named {policy.name!r}; say called= where they are made")
        different[path] = policy
    asked = tuple(different[path] for path in dict.fromkeys(_where(policy) for policy in loaded))
    of_the_file = baseline is None or _same(base, _load(file.baseline, document, ("baseline",)))
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
