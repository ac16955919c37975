"""The whole program as one function; read this first.

A workload file names a model, a batch, an optimizer and policies. The model becomes the graph of a training step; a
policy gives its tensors formats, phase by phase; counting gives rows of exact integers; totals weigh each phase by its
steps. Formatting is left to `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from costsim import files, schema
from costsim.assign import assign
from costsim.count import Row, Total, count, sum_rows
from costsim.errors import InputError
from costsim.graph import Graph
from costsim.models import build
from costsim.policy import Policy, find_policy, load_policy
from costsim.schedule import schedule


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


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found: policies side by side, under one convention."""

    workload: str
    file: schema.Workload
    graph: Graph
    convention: Convention
    policies: tuple[CountedPolicy, ...]
    baseline: CountedPolicy


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


def _load(name: str, workload: files.Document, at: files.Where | None) -> Policy:
    """A policy by name; `at` is the field of the workload that names it, None if the command line does."""
    path = files.find(name, "policies", "policy") if at is None else find_policy(name, workload, at)
    return load_policy(path)


def _where(policy: Policy) -> Path:
    """A policy's file, however its path was spelled."""
    return Path(policy.document.path).resolve()


def run(
    workload: str,
    policies: Sequence[str] = (),
    baseline: str | None = None,
    law: str | None = None,
    traffic: str | None = None,
    scope: str | None = None,
    assignments: Sequence[str] = (),
) -> Result:
    """Count a workload file under its policies (or those given). Arguments override the file's convention.

    `workload` and policies are paths or shipped names; `assignments` are `field=value` texts over the file's fields.
    Raises InputError, one line, for anything wrong in the input.
    """
    file_path = files.find(workload, "workloads", "workload")
    document = files.parse_yaml(files.read_text(file_path), str(file_path))
    document = files.override(document, assignments)
    file = schema.validate(schema.Workload, document)
    names = policies or file.policies
    loaded = [_load(name, document, None if policies else ("policies", i)) for i, name in enumerate(names)]
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
    counted = {path: count_policy(graph, policy, convention) for path, policy in different.items()}
    return Result(
        file_path.stem,
        file,
        graph,
        convention,
        tuple(counted[path] for path in dict.fromkeys(_where(policy) for policy in loaded)),
        counted[_where(base)],
    )
