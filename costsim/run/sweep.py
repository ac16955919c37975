"""Sweeps: the same run at every combination of values of some fields of a workload."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from costsim.errors import InputError, one_line
from costsim.graph.fusion import UNTILED
from costsim.run.job import Job, Request, prepare
from costsim.run.simulate import Result, execute

Point = Mapping[str, str]  # fields of the workload, each with its value as text

NOWHERE: Point = {}  # the workload as it is

MOST_POINTS = 2000

_MEANT = {"batch": "batch.sequences"}  # the field that a section's name stands for


def field(name: str) -> str:
    """The field that a name means."""
    return _MEANT.get(name, name)


def points(sweeps: Sequence[str]) -> list[Point]:
    """All combinations of `field=value,value,...` texts, the last field fastest. `batch` stands for batch.sequences.

    Raises InputError.
    """
    fields: dict[str, list[str]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        name = field(name.strip())
        parts = [part.strip() for part in values.split(",")]
        if not equals or not name or not all(parts) or set(values) & set("[]{}\"'"):
            raise InputError(f"--sweep {one_line(text)}: expected FIELD=VALUE,VALUE,..., such as batch=1,2,4,8")
        if name in fields:
            raise InputError(f"--sweep {one_line(text)}: {one_line(name)} is swept twice")
        fields[name] = list(dict.fromkeys(parts))
    check_number(fields)
    return [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]


def check_number(fields: Mapping[str, Sequence[object]]) -> None:
    """Raise InputError, before any point is made, if there are too many: the result of each is kept."""
    number = math.prod(map(len, fields.values()))
    if number > MOST_POINTS:
        sizes = " x ".join(str(len(values)) for values in fields.values())
        raise InputError(f"--sweep: {sizes} values are {number} runs; at most {MOST_POINTS} are made at once")


_CONVENTION = ("law", "traffic", "scope", "baseline")  # arguments of `prepare`, which stand over the file's fields
_SEVERAL = ("policies", "hardware")


def at(point: Point, **options: Any) -> Job:
    """The job that `prepare` makes of the options of a Request, at a point. Raises InputError, naming the field.

    What is swept stands over options that say the same; a buffer is for those traffic models that have one.
    """
    for name in point:
        if name.partition(".")[0] in _SEVERAL:
            raise InputError(f"--sweep {name}: not a field to sweep; name several policies or devices instead")
    swept = {name: text for name, text in point.items() if name in _CONVENTION}
    sets = [f"{name}={text}" for name, text in point.items()]
    changed = {**options, **swept, "assignments": (*options.get("assignments", ()), *sets)}
    if "buffer_bytes" in point or ("traffic" in point and point["traffic"] in UNTILED):
        changed["buffer_bytes"] = None  # the field says it, or there is none
    try:
        return prepare(Request(**changed))
    except InputError as error:
        message = str(error)
        for assignment in sets:
            message = message.replace(f"--set {assignment}", f"--sweep {assignment}")
        raise InputError(message) from None


def places(where: Sequence[Point], **options: Any) -> list[tuple[Point, Job]]:
    """The jobs at some points, all checked. Raises InputError."""
    return [(point, at(point, **options)) for point in where]


def run(where: Sequence[Point], **options: Any) -> list[tuple[Point, Result]]:
    """The results at some points. All points are checked before the first is counted. Raises InputError."""
    return [(point, execute(job)) for point, job in places(where, **options)]


def convention(results: Sequence[tuple[Point, Result]]) -> str:
    """The convention that all points share, in a line; what is swept reads `as swept`."""
    (swept, first), *_ = results
    shared = first.job.convention
    traffic = shared.traffic if "buffer_bytes" in swept else shared.traffic_label
    fields = {"law": shared.law, "traffic": traffic, "scope": shared.scope}
    parts = [f"{name} {'as swept' if name in swept else text}" for name, text in fields.items()]
    return f"{', '.join(parts)}; x less than {'the baseline' if 'baseline' in swept else shared.baseline}"


def value(text: str) -> int | float | str:
    """A field's value as exports have it: a finite number, else text; a column is numeric if all its values are."""
    for number in (int, float):
        try:
            parsed = number(text)
        except ValueError:
            continue
        if math.isfinite(parsed):
            return parsed
    return text
