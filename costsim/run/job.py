"""What is asked is read and checked: a workload, policies, a convention, devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.cost.laws import LAWS
from costsim.errors import InputError, nearest, one_line
from costsim.graph.fusion import MODELS
from costsim.graph.graph import Graph
from costsim.inputs import files, schema, schema_workload
from costsim.models.build import build
from costsim.names import SCOPES, Traffic
from costsim.policy.policy import Policy, find_policy, load_policies, with_widths

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware  # loaded where there is some


@dataclass(frozen=True, slots=True)
class Convention:
    """What every printed number depends on besides the workload and the policy."""

    law: str
    traffic: Traffic
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


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be counted: everything is read and checked."""

    workload: str
    file: schema_workload.Workload
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


def _devices(names: Sequence[str], file: schema_workload.Workload, document: files.Document) -> tuple[Hardware, ...]:
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
    traffic: Traffic, said: int | None, file: schema_workload.Workload, devices: tuple[Hardware, ...]
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


def read_workload(
    workload: str, assignments: Sequence[str] = ()
) -> tuple[Path, files.Document, schema_workload.Workload]:
    """A workload file by path or shipped name, with `field=value` texts over its fields. Raises InputError."""
    path = files.find(workload, "workloads", "workload")
    document = files.override(files.parse_yaml(files.read_text(path), str(path)), assignments)
    return path, document, schema.validate(schema_workload.Workload, document)


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
    traffic: Traffic | None = None,
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
    file = schema.validate(schema_workload.Workload, document)
    training = file.training
    convention = replace(job.convention, steps=training.steps, micro_batches=training.micro_batches)
    return replace(job, file=file, document=document, graph=build(file, document), convention=convention)
