"""What the sources of recipes state beside what we count, a record a figure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from costsim.inputs import files
from costsim.inputs.schema_policy import Figure
from costsim.policy.load import find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.results.records import Record
from costsim.run.figures import QUANTITIES, fields_of, measured
from costsim.run.job import Job, read_workload


def recipes() -> list[Policy]:
    """The shipped policies whose sources state figures, by name."""
    shipped = (load_policies((path,)) for _, path in sorted(files.list_shipped("policies").items()))
    return [policy for policy in shipped if policy.file.published]


def _record(policy: Policy, figure: Figure, ours: float | None) -> Record:
    of = QUANTITIES[figure.quantity]
    return {
        "recipe": policy.name,
        "quantity": figure.quantity,
        "of": of.words + (f" in {figure.format}" if figure.format else ""),
        "unit": of.unit,
        "workload": figure.workload,
        "set": list(fields_of(policy, figure)),
        "baseline": figure.baseline,
        "stated": figure.stated,
        "ours": ours,
        "difference": None if ours is None else ours / figure.stated - 1,
        "grade": figure.grade,
        "source": figure.source,
        "note": figure.note,
    }


def figure_records(policies: Iterable[Policy]) -> list[Record]:
    """The figures of each policy; `ours` is None where a workload's law is not defined.

    Raises InputError for a recipe that does not fit the workload of a figure.
    """
    return [
        _record(policy, figure, measured(policy, figure)) for policy in policies for figure in policy.file.published
    ]


def all_records() -> list[Record]:
    """The figures of all that is shipped, by recipe: those of policies, and those that workloads have of them."""
    records = figure_records(recipes())
    for name in files.list_shipped("workloads"):
        _, _, file = read_workload(name)
        for stated in file.published:
            said = {field: value for field, value in vars(stated).items() if field != "policy"}
            figure = Figure(workload=name, baseline=file.baseline, **said)
            policy = load_policies(find_policy(stated.policy))
            records.append(_record(policy, figure, measured(policy, figure)))
    return sorted(records, key=lambda record: record["recipe"])


def of_job(job: Job, command: str) -> list[Record]:
    """The figures of a job's policies that a command shows: those stated of its workload, or of any model."""
    where = Path(job.document.path), tuple(job.document.overrides.values())
    return [
        _record(policy, figure, measured(policy, figure, str(where[0]), where[1]))
        for policy in job.policies
        for figure in policy.file.published
        if figure.workload in (None, job.workload) and QUANTITIES[figure.quantity].command == command
    ]
