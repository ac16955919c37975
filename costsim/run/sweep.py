"""Sweeps: the same run at every combination of values of some fields of a workload."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import partial
from itertools import product
from typing import Any, TypeVar, overload

from costsim.errors import InputError, one_line
from costsim.graph.fusion import UNTILED
from costsim.policy.numbers import check_names, checked, is_number
from costsim.run.job import Job, Request, prepare, prepare_from
from costsim.run.simulate import Result, execute

T = TypeVar("T")
Point = Mapping[str, str]  # fields of the workload, and levels and numbers of policies, each with its value as text
Fields = tuple[tuple[str, str], ...]

NOWHERE: Point = {}  # the workload as it is

MOST_POINTS = 2000  # each of which may have a graph of its own
MOST_OF_NUMBERS = 20_000  # with levels and numbers of policies

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
    fields = in_order(fields)
    check_number(fields)
    return [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]


def in_order(fields: Mapping[str, T]) -> dict[str, T]:
    """What is swept by name, levels and numbers of policies last, so that they change fastest: fields change graphs."""
    return dict(sorted(fields.items(), key=lambda item: is_number(item[0])))


def check_number(fields: Mapping[str, Sequence[object]]) -> None:
    """Raise InputError, before any point is made, if there are too many."""
    of_workloads = {name: values for name, values in fields.items() if not is_number(name)}
    for swept, most in ((of_workloads, MOST_POINTS), (fields, MOST_OF_NUMBERS)):
        number = math.prod(map(len, swept.values()))
        if number > most:
            sizes = " x ".join(str(len(values)) for values in swept.values())
            raise InputError(f"--sweep: {sizes} values are {number} runs; at most {most} are made at once")


_CONVENTION = ("law", "traffic", "scope", "baseline")  # arguments of `prepare`, which stand over the file's fields
_SEVERAL = ("policies", "hardware")


def _at(point: Point, request: Request, before: Job | None = None) -> Job:
    """The job of a request at a point. Raises InputError, naming the field.

    What is swept stands over options that say the same; a buffer is for those traffic models that have one. `before` is
    the job at another point of the sweep: what it has read is not read again. Levels and numbers are left out.
    """
    point = {name: text for name, text in point.items() if not is_number(name)}
    for name in point:
        if name.partition(".")[0] in _SEVERAL:
            raise InputError(f"--sweep {name}: not a field to sweep; name several policies or devices instead")
    swept: dict[str, Any] = {name: text for name, text in point.items() if name in _CONVENTION}
    if "buffer_bytes" in point or ("traffic" in point and point["traffic"] in UNTILED):
        swept["buffer_bytes"] = None  # the field says it, or there is none
    sets = [f"{name}={text}" for name, text in point.items()]
    asked = replace(request, **swept)
    try:
        if before is not None:
            return prepare_from(before, asked, sets)
        return prepare(replace(asked, assignments=(*asked.assignments, *sets)))
    except InputError as error:
        faults = error.faults
        for assignment in sets:
            faults = [fault._replace(text=fault.text.replace(f"--set {assignment}", f"--sweep {assignment}"))
                      for fault in faults]  # fmt: skip
        raise InputError(*faults) from None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Points, what is asked for at each of them, and the job at the first."""

    where: Sequence[Point]
    request: Request
    first: Job
    _last: dict[Fields, Job] = dataclass_field(default_factory=dict, compare=False, repr=False)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The levels and numbers of policies that are swept, as points name them."""
        return tuple(filter(is_number, self.where[0])) if self.where else ()

    @property
    def levels(self) -> bool:
        """Whether levels of policies are swept."""
        return any(name.startswith("levels.") for name in self.numbers)

    @staticmethod
    def fields(point: Point) -> Fields:
        """What a point has besides levels and numbers of policies."""
        return tuple([item for item in point.items() if not is_number(item[0])])

    def at(self, point: Point) -> Job:
        """The job at a point. Raises InputError, naming the field."""
        key = self.fields(point)
        if key not in self._last:
            job = _at(point, self.request, self.first)
            self._last.clear()
            self._last[key] = job
        return _numbered(self._last[key], point)


def prepared(where: Sequence[Point], **options: Any) -> Sweep:
    """A sweep over some points, of a Request with these options; all points are checked at once. Raises InputError."""
    request = Request(**options)
    job = _at(where[0], request)
    check_names(filter(is_number, where[0]), job.policies)
    sweep = Sweep(where, request, _numbered(job, where[0]))
    for point in where[1:]:
        sweep.at(point)
    return sweep


def _numbered(job: Job, point: Point) -> Job:
    """The job whose policies have the levels and numbers of a point; the baseline too, if it is one of them."""
    texts = {name: text for name, text in point.items() if is_number(name)}
    if not texts:
        return job
    policies = tuple([checked(policy, texts) for policy in job.policies])
    same = {policy.name: policy for policy in policies}
    return replace(job, policies=policies, baseline=same.get(job.baseline.name, job.baseline))


KEPT = 16  # items of a lazy sequence


class Lazy(Sequence[T]):
    """A sequence whose items are made whenever they are asked for; only the first few are kept.

    A result takes megabytes, so whoever goes through a long sweep takes what is needed of each point and lets it go.
    What goes through it twice makes it twice.
    """

    def __init__(self, make: Callable[[int], T], length: int) -> None:
        self._make, self._length = make, length
        self._first: dict[int, T] = {}

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._length)[index]]
        i = range(self._length)[index]
        item = self._first[i] if i in self._first else self._make(i)
        if i < KEPT:
            self._first[i] = item
        return item

    def __len__(self) -> int:
        return self._length


Places = Sequence[tuple[Point, Job]]
Swept = Sequence[tuple[Point, Result]]


def places(sweep: Sweep) -> Places:
    """The points of a sweep with their jobs."""
    return Lazy(partial(_place, sweep), len(sweep.where))


def _place(sweep: Sweep, i: int) -> tuple[Point, Job]:
    return sweep.where[i], sweep.at(sweep.where[i])


def results(sweep: Sweep) -> Swept:
    """The results at the points of a sweep, each counted when it is asked for."""
    return Lazy(partial(_result, sweep), len(sweep.where))


def _result(sweep: Sweep, i: int) -> tuple[Point, Result]:
    point, job = _place(sweep, i)
    return point, execute(job)


def run(where: Sequence[Point], **options: Any) -> Swept:
    """The results at some points. All points are checked before the first is counted. Raises InputError."""
    return results(prepared(where, **options))


def without_points(swept: Swept) -> Sequence[Result]:
    """The results alone."""
    return Lazy(partial(_alone, swept), len(swept))


def _alone(swept: Swept, i: int) -> Result:
    return swept[i][1]


def convention(sweep: Sweep) -> str:
    """The convention that all points share, in a line; what is swept reads `as swept`."""
    swept, shared = sweep.where[0], sweep.first.convention
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
