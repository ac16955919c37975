"""Fields that a workload leaves out, and what is in force instead."""

from typing import Any

from costsim.models.build import sections
from costsim.results.records import Record
from costsim.run.job import Job


def defaults(job: Job) -> list[Record]:
    """A record each: the field, what is in force (None: nothing, the option is absent), and what the field says."""
    model, batch = sections(job.file, job.document)
    listed = [*model.defaults("model."), *batch.defaults("batch."), *job.file.defaults()]
    asked = {"hardware": tuple(device.name for device in job.hardware)}  # of the command line, too
    return [
        {
            "field": name,
            "value": _plain(asked.get(name, getattr(job.convention, name, value))),
            "says": field.description,
        }
        for name, value, field in listed
    ]


def _plain(value: Any) -> Any:
    """A value as JSON has it; None for what is empty."""
    if isinstance(value, tuple):
        return list(value) or None
    return None if value in ("", {}) else value


def absent(listed: list[Record]) -> list[str]:
    """The fields of options that are absent."""
    return [record["field"] for record in listed if record["value"] is None]
