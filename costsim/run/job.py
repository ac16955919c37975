"""What is asked is read and checked: a workload, policies, a convention, devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.cost.collectives import refused
from costsim.cost.laws import LAWS
from costsim.errors import InputError, nearest, one_line, refuse, together
from costsim.graph.fusion import MODELS
from costsim.graph.graph import Graph
from costsim.inputs import files, schema, schema_workload
from costsim.inputs.document import Document, Where
from costsim.inputs.parse import override, parse_yaml
from costsim.inputs.sorts import check_sort
from costsim.models.build import build
from costsim.names import COLLECTIVES, SCOPES, Law, Scope, Traffic, Writes
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy, with_widths

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware  # loaded where there is some


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, in names and texts; nothing is read yet. What is given stands over what the workload says."""

    workload: str  # a path, or a shipped name
    policies: Sequence[str | Policy] = ()  # paths, shipped names, or made in Python; none: those of the workload
    baseline: str | Policy | None = None  # that ratios compare with
    law: Law | None = None
    traffic: Traffic | None = None
    scope: Scope | None = None
    assignments: Sequence[str] = ()  # `field=value` texts over fields of the workload
    bits: str | None = None  # a CSV file of widths per layer or tensor; without policies, the shipped ones that take it
    hardware: Sequence[str | Hardware] = ()  # on which time and energy are wanted: paths, shipped names, or devices
    overlap: bool = True  # whether arithmetic and DRAM traffic take place at the same time
    buffer_bytes: int | None = None  # on chip, for traffic `tiled`; if nothing says so, those of the first device


_WRITES: Mapping[Writes, str] = {
    "gemms": "",
    "none": " (reads only)",
    "operands": " (and what others write for it)",
    "stashes": " (and stashes that others write)",
    "stashes-alone": " (reads, and writes of stashes)",
    "gradients": " (gradients written as they are read)",
}


@dataclass(frozen=True, slots=True)
class Convention:
    """What every printed number depends on besides the workload and the policy."""

    law: Law
    traffic: Traffic
    scope: Scope
    baseline: str
    steps: int
    micro_batches: int
    buffer_bytes: int | None = None  # on chip, of traffic models that tile for one
    buffer_of: str = ""  # the device whose buffer that is; none if its size was given
    gemm_writes: Writes = "gemms"  # that scope gemm counts
    gemms_left_out: tuple[str, ...] = ()  # of scope gemm: globs over names

    @property
    def tiled(self) -> bool:
        """Whether traffic depends on the buffer."""
        return MODELS[self.traffic].tiled

    def summary(self, scope: Scope | None = None) -> str:
        """Law, traffic and scope in a line; `scope` stands for the convention's."""
        return f"law {self.law}, traffic {self.traffic_label}, scope {self.scope_label(scope or self.scope)}"

    def scope_label(self, scope: Scope) -> str:
        """The scope, which writes it counts if those are not its ops', and which GEMMs it leaves out."""
        if scope != "gemm":
            return scope
        without = f" (without {', '.join(self.gemms_left_out)})" if self.gemms_left_out else ""
        return f"{scope}{_WRITES[self.gemm_writes]}{without}"

    @property
    def of_gemms(self) -> tuple[Writes, tuple[str, ...]]:
        """What scope gemm counts, as `count` takes it."""
        return self.gemm_writes, self.gemms_left_out

    @property
    def traffic_label(self) -> str:
        """The traffic model with the buffer, if it has one, as tables name it."""
        of = f" ({self.buffer_of})" if self.buffer_of else ""
        return f"{self.traffic}, buffer {self.buffer_bytes} byte{of}" if self.tiled else self.traffic


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be counted: everything is read and checked."""

    workload: str
    file: schema_workload.Workload
    document: Document
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


def read_workload(workload: str, assignments: Sequence[str] = ()) -> tuple[Path, Document, schema_workload.Workload]:
    """Read a workload file by path or shipped name, with `field=value` texts over its fields. Raises InputError."""
    path, document, file, errors = _read(workload, assignments)
    if errors:  # what else is wrong is told, too
        together(_checks(Request(workload), file, document), errors)
    return path, document, file


def _read(
    workload: str, assignments: Sequence[str]
) -> tuple[Path, Document, schema_workload.Workload, list[InputError]]:
    """A workload file, which has only those of its fields that are right, and what is wrong with the others."""
    path = files.find(workload, "workloads", "workload")
    written = parse_yaml(files.read_text(path), str(path))
    check_sort("workload", str(path), written.data)
    document = override(written, assignments, schema_workload.ABSENT)
    return path, document, *schema.read(schema_workload.Workload, document)


def _checks(request: Request, file: schema_workload.Workload, document: Document) -> list[Callable[[], Any]]:
    """The parts of a job: the graph, policies, the baseline, devices with the buffer; none needs another."""
    parts: tuple[Callable[..., Any], ...] = (_policies, _baseline, _devices)
    return [partial(_graph, file, document), *(partial(part, request, file, document) for part in parts)]


def _graph(file: schema_workload.Workload, document: Document) -> Graph:
    """The graph of a step. Raises InputError, also for algorithms that are not of as many ranks as there are."""
    graph = build(file, document)
    done = {(op.kind.collective, op.params["axis"]) for op in graph.ops if op.kind.collective}
    for collective, axis in [(of, axis) for of in COLLECTIVES for axis in graph.mesh if (of, axis) in done]:
        if why := refused(graph.exchange.algorithms, collective, graph.mesh[axis].ranks):
            raise document.error(("parallel", "algorithms", collective), f"{why} (of {axis})")
    return graph


def prepare(request: Request) -> Job:
    """Read and check what is asked for: the workload, its policies, the convention, devices; build the graph.

    Raises InputError for all that is wrong in the input.
    """
    _check_names(law=(request.law, LAWS), traffic=(request.traffic, MODELS), scope=(request.scope, SCOPES))
    path, document, file, errors = _read(request.workload, request.assignments)
    parts = together(_checks(request, file, document), errors)
    return _job(path.stem, request, (file, document), parts)


def prepare_from(job: Job, request: Request, assignments: Sequence[str]) -> Job:
    """What `prepare` makes of a request with more assignments, where `job` is what it made of one without.

    Nothing is read again: policies and devices are those of the job; a baseline that is named in an assignment is the
    request's. Raises InputError for all that is wrong.
    """
    _check_names(law=(request.law, LAWS), traffic=(request.traffic, MODELS), scope=(request.scope, SCOPES))
    document = override(job.document, assignments, schema_workload.ABSENT)
    file, errors = schema.read(schema_workload.Workload, document)
    own = not any(text.partition("=")[0].strip() == "baseline" for text in assignments)
    checks: list[Callable[[], Any]] = [
        partial(_graph, file, document),
        lambda: list(job.policies),
        lambda: (job.baseline, job.of_the_file) if own else _baseline(request, file, document),
        lambda: (job.hardware, _buffer(_traffic(request, file), request.buffer_bytes, file, job.hardware)),
    ]
    return _job(job.workload, request, (file, document), together(checks, errors))


def _job(workload: str, request: Request, read: tuple[schema_workload.Workload, Document], parts: Sequence[Any]) -> Job:
    """The job of the parts that `_checks` lists. Raises InputError if two policies have one name."""
    (file, document), (graph, policies, (baseline, of_the_file), (devices, buffer)) = read, parts
    convention = _convention(request, file, baseline, buffer)
    distinct = _distinct([baseline, *policies])
    return Job(
        workload=workload,
        file=file,
        document=document,
        graph=graph,
        convention=convention,
        policies=tuple(distinct[place] for place in dict.fromkeys(_place(policy) for policy in policies)),
        baseline=distinct[_place(baseline)],
        of_the_file=of_the_file,
        hardware=devices,
        overlap=request.overlap,
    )


def with_fields(job: Job, assignments: Sequence[str], own: bool = False) -> Job:
    """The job with other fields of the workload, `field=value` each. Raises InputError if they do not fit.

    A law or a scope among them stands over what was asked for. `own` as `override` has it.
    """
    document = override(job.document, assignments, schema_workload.ABSENT, own)
    file = schema.validate(schema_workload.Workload, document)
    training, fields = file.training, {text.partition("=")[0].strip() for text in assignments}
    convention = replace(
        job.convention,
        law=file.law if "law" in fields else job.convention.law,
        scope=file.scope if "scope" in fields else job.convention.scope,
        steps=training.steps,
        micro_batches=training.micro_batches,
        gemm_writes=file.gemm_writes,
        gemms_left_out=file.gemms_left_out,
    )
    return replace(job, file=file, document=document, graph=_graph(file, document), convention=convention)


# --- policies ---------------------------------------------------------------------------------------------------------


def _load(name: str | Policy, workload: Document, where: Where | None) -> Policy:
    """Load a policy; `where` is the field of the workload that names it, None if the command line does."""
    if isinstance(name, Policy):
        return name
    return load_policies(find_policy(name) if where is None else find_policy(name, workload, where))


def _policies(request: Request, file: schema_workload.Workload, document: Document) -> list[Policy]:
    """The policies asked for, else those of the workload, with the widths of a file if one is given."""
    if request.policies:
        policies = together(partial(_load, name, document, None) for name in request.policies)
    else:
        policies = together(partial(_load, name, document, ("policies", i)) for i, name in enumerate(file.policies))
    return policies if request.bits is None else _with_widths(policies, request.bits, search=not request.policies)


def _baseline(request: Request, file: schema_workload.Workload, document: Document) -> tuple[Policy, bool]:
    """The policy that ratios compare with, and whether it is the file's own."""
    if request.baseline is None:
        return _load(file.baseline, document, ("baseline",)), True
    baseline = _load(request.baseline, document, None)
    return baseline, _same(baseline, _load(file.baseline, document, ("baseline",)))


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


def _same(policy: Policy, other: Policy) -> bool:
    return (policy.name, policy.file) == (other.name, other.file)


def _place(policy: Policy) -> Path:
    """A policy's file, however its path was spelled."""
    return Path(policy.document.path).resolve()


def _distinct(policies: Sequence[Policy]) -> dict[Path, Policy]:
    """The policies by their files. Raises InputError if two that differ have one name."""
    distinct: dict[Path, Policy] = {}
    paths: dict[str, Path] = {}
    for policy in policies:
        path = _place(policy)
        if paths.setdefault(policy.name, path) != path:
            raise InputError(f"two policies are named {policy.name!r}: {paths[policy.name]} and {path}")
        if distinct.get(path, policy).file != policy.file:
            raise InputError(f"two policies are named {policy.name!r}; say called= where they are made")
        distinct[path] = policy
    return distinct


# --- convention and devices -------------------------------------------------------------------------------------------


def _check_names(**given: tuple[str | None, Iterable[str]]) -> None:
    """Raise InputError for names that are none of those known."""
    refuse(
        InputError(f"unknown {kind} {one_line(name)!r}{nearest(name, known)}")
        for kind, (name, known) in given.items()
        if name is not None and name not in known
    )


Buffer = tuple[int | None, str]  # bytes on chip that traffic is tiled for, and of which device, "" if they were given


def _convention(request: Request, file: schema_workload.Workload, baseline: Policy, buffer: Buffer) -> Convention:
    return Convention(
        law=file.law if request.law is None else request.law,
        traffic=_traffic(request, file),
        scope=file.scope if request.scope is None else request.scope,
        baseline=baseline.name,
        steps=file.training.steps,
        micro_batches=file.training.micro_batches,
        buffer_bytes=buffer[0],
        buffer_of=buffer[1],
        gemm_writes=file.gemm_writes,
        gemms_left_out=file.gemms_left_out,
    )


def _traffic(request: Request, file: schema_workload.Workload) -> Traffic:
    return file.traffic if request.traffic is None else request.traffic


def _devices(
    request: Request, file: schema_workload.Workload, document: Document
) -> tuple[tuple[Hardware, ...], Buffer]:
    """The devices asked for, or those of the workload, and the buffer. Raises InputError for profiles that are none."""
    devices: dict[str, Hardware] = {}
    if request.hardware or file.hardware:
        from costsim.devices.profile import Hardware, load_hardware

        def device_of(named: str | Hardware) -> Hardware:
            return named if isinstance(named, Hardware) else load_hardware(named)

        if request.hardware:
            loads = [partial(device_of, named) for named in request.hardware]
        else:
            loads = [partial(load_hardware, name, document, ("hardware", i)) for i, name in enumerate(file.hardware)]
        for device in together(loads):
            devices.setdefault(device.name, device)
    distinct = tuple(devices.values())
    return distinct, _buffer(_traffic(request, file), request.buffer_bytes, file, distinct)


def _buffer(
    traffic: Traffic, given: int | None, file: schema_workload.Workload, devices: tuple[Hardware, ...]
) -> Buffer:
    """The buffer that traffic is tiled for. Raises InputError."""
    if not MODELS[traffic].tiled:
        if given is not None:
            raise InputError(f"--buffer-bytes: only traffic tiled has a buffer, this is {traffic}; add --traffic tiled")
        return None, ""
    if given is not None and (not isinstance(given, int) or given < 1):
        raise InputError(f"--buffer-bytes: expected a whole number from 1 on, got {one_line(given)}")
    if given is not None or file.buffer_bytes is not None:
        return given or file.buffer_bytes, ""
    if not devices:
        raise InputError(
            f"traffic {traffic} needs a buffer: say --buffer-bytes N, buffer_bytes in the workload, or --hardware NAME"
        )
    if devices[0].on_chip_bytes is None:
        raise InputError(
            f"traffic {traffic}: the profile {devices[0].name} does not know its on_chip_bytes; say --buffer-bytes N"
        )
    return devices[0].on_chip_bytes, devices[0].name
