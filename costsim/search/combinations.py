"""The assumptions of a job as axes, and what all combinations of their cases give.

An assumption of a workload sets fields: it makes another graph, or another convention. One of a policy adds rules,
numbers or phases. The convention (scope, traffic model, law) is an assumption of every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from operator import truediv
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costsim.errors import InputError, nearest, one_line
from costsim.inputs.document import Where
from costsim.policy.assign import assign
from costsim.policy.cases import Case, Cases, cases_of
from costsim.policy.policy import Place, Policy
from costsim.run.job import Convention, Job, with_fields
from costsim.run.sensitivity import CONVENTION
from costsim.search.grid import Grids, Truths

Ratios = NDArray[np.float64]  # NaN where a law is not defined
_OF_CONVENTION = ("law", "scope", "traffic", "gemm_writes", "gemms_left_out")
_AS_SHIPPED = Case("as shipped")


class Axis(NamedTuple):
    """An assumption: its cases, the first as shipped; which fields of the workload each sets, and what policies get."""

    name: str
    of: str  # whose it is: the convention's, the workload's, or that of policies
    here: str
    grade: str
    sets: tuple[tuple[str, ...], ...]
    cases: tuple[Case, ...]
    policies: frozenset[str] | None = None  # that get the cases' rules; None: all, the baseline too

    @property
    def outer(self) -> bool:
        """Whether a case sets a field."""
        return any(self.sets)

    @property
    def inner(self) -> bool:
        """Whether a case changes policies."""
        return any(case.rules or case.numbers or case.phases for case in self.cases)


def _case(case: Any, document: Any, at: Where) -> Case:
    """A case of a file."""
    places: tuple[Place, ...] = tuple((document, (*at, "rules", i)) for i in range(len(case.rules)))
    return Case(case.name, case.rules, places, getattr(case, "numbers", {}), getattr(case, "phases", None))


def _of_convention(job: Job) -> Iterator[Axis]:
    for field, values in CONVENTION.items():
        here = getattr(job.convention, field)
        others = [value for value in values if value != here]
        sets = ((), *((f"{field}={value}",) for value in others))
        yield Axis(field, "convention", here, "ours", sets, (_AS_SHIPPED, *map(Case, others)))


def _of_workload(job: Job) -> Iterator[Axis]:
    for a, entry in enumerate(job.file.assumptions):
        at = ("assumptions", a, "cases")
        cases = [_case(case, job.document, (*at, i)) for i, case in enumerate(entry.cases)]
        sets = ((), *(case.set for case in entry.cases))
        yield Axis(entry.name, job.workload, entry.here, entry.grade, sets, (_AS_SHIPPED, *cases))


def _of_policies(policies: Iterable[Policy]) -> Iterator[Axis]:
    """The assumptions of policies: one that several have from the same file is one."""
    places: dict[tuple[str, Where], list[tuple[Policy, Any]]] = {}
    for policy in policies:
        for assumption in policy.assumptions:
            places.setdefault((assumption.document.path, assumption.place), []).append((policy, assumption))
    for (_, at), having in places.items():
        entry, document = having[0][1].entry, having[0][1].document
        cases = (_AS_SHIPPED, *(_case(case, document, (*at, "cases", i)) for i, case in enumerate(entry.cases)))
        names = [policy.name for policy, _ in having]
        sets = ((),) * len(cases)
        yield Axis(entry.name, ", ".join(names), entry.here, entry.grade, sets, cases, frozenset(names))


def axes_of(job: Job, policies: Sequence[Policy], named: Sequence[str] = ()) -> list[Axis]:
    """The assumptions of a job and of some of its policies; only those named, if any are. Raises InputError."""
    axes = [*_of_convention(job), *_of_workload(job), *_of_policies(policies)]
    known = [axis.name for axis in axes]
    for name in named:
        if name not in known:
            raise InputError(f"--assumption: no assumption {one_line(name)!r}{nearest(name, known)}")
    return [axis for axis in axes if not named or axis.name in named]


def _field(text: str) -> str:
    return text.partition("=")[0].strip()


class Setting(NamedTuple):
    """Which case of each outer axis holds, and what that makes."""

    chosen: tuple[int, ...]
    shape: tuple[str, ...]  # the fields that it sets beside the convention's
    convention: Mapping[str, str]


class _Shape(NamedTuple):
    """A workload with other fields, and the counts of each policy on its graph."""

    job: Job
    grids: Mapping[str, Grids]
    fits: Truths  # by combination of the inner axes


@dataclass(frozen=True, eq=False)
class Combinations:
    """All combinations of the cases of some assumptions of a job, for some of its policies.

    Arrays have an axis for each of `inner`, 1 long where nothing hangs on it.
    """

    job: Job
    policies: tuple[Policy, ...]
    axes: tuple[Axis, ...]

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """The places of the axes of arrays."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.inner)

    @cached_property
    def outer(self) -> tuple[int, ...]:
        """The places of the axes that set fields."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.outer)

    @property
    def number(self) -> int:
        """How many there are, possible or not."""
        return prod(len(axis.cases) for axis in self.axes)

    def settings(self) -> Iterator[Setting | None]:
        """The combinations of the outer axes; None for one in which two cases set the same field."""
        for chosen in product(*(range(len(self.axes[i].cases)) for i in self.outer)):
            yield self.setting(chosen)

    def setting(self, chosen: tuple[int, ...]) -> Setting | None:
        """One combination of the outer axes."""
        texts = [text for i, case in zip(self.outer, chosen, strict=True) for text in self.axes[i].sets[case]]
        fields = [{_field(text) for text in self.axes[i].sets[n]} for i, n in zip(self.outer, chosen, strict=True)]
        if sum(map(len, fields)) > len(set().union(*fields)):
            return None
        convention = {_field(t): t.partition("=")[2].strip() for t in texts if _field(t) in _OF_CONVENTION}
        return Setting(chosen, tuple([t for t in texts if _field(t) not in _OF_CONVENTION]), convention)

    # --- what they give ---

    @cached_property
    def _spaces(self) -> dict[str, tuple[Cases, tuple[int, ...]]]:
        """By policy, "" the baseline: its space, and the places of its variables among the inner axes."""
        spaces = {}
        for key, policy in (("", self.job.baseline), *((policy.name, policy) for policy in self.policies)):
            places = [
                (n, self.axes[i])
                for n, i in enumerate(self.inner)
                if (of := self.axes[i].policies) is None or key in of
            ]
            spaces[key] = cases_of(policy, [(a.name, a.cases) for _, a in places]), tuple(n for n, _ in places)
        return spaces

    def _lift(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        """An array over the variables of a policy as one over the inner axes."""
        shape = [1] * len(self.inner)
        for place, size in zip(self._spaces[key][1], values.shape, strict=True):
            shape[place] = size
        return values.reshape(shape)

    @cached_property
    def _shapes(self) -> dict[tuple[str, ...], _Shape | None]:
        return {}

    def shape(self, fields: tuple[str, ...]) -> _Shape | None:
        """The workload with these fields; None if they do not fit, or a policy does not fit the model then."""
        if fields not in self._shapes:
            self._shapes[fields] = self._shape(fields)
        return self._shapes[fields]

    def _shape(self, fields: tuple[str, ...]) -> _Shape | None:
        try:
            job = with_fields(self.job, fields) if fields else self.job
            for policy in (job.baseline, *self.policies):
                assign(job.graph, policy)
        except InputError:
            if not fields:
                raise
            return None
        grids = {key: Grids(job.graph, space, job.convention.steps) for key, (space, _) in self._spaces.items()}
        fits = np.ones([1] * len(self.inner), bool)
        for key, grid in grids.items():
            fits = fits & self._lift(key, grid.fits())
        return _Shape(job, grids, fits)

    @cached_property
    def _ratios(self) -> dict[object, Ratios]:
        return {}

    def ratios(self, setting: Setting, quantity: str, policy: str) -> Ratios:
        """How many times less than the baseline a policy takes, by combination of the inner axes; NaN if undefined."""
        shape = self.shape(setting.shape)
        assert shape is not None
        convention = self._convention(shape, setting)
        gemm = convention.scope == "gemm"  # in which nothing fuses, and which alone asks what it has of GEMMs
        if quantity == "arithmetic_reduction":
            left_out = convention.gemms_left_out if gemm else ()
            key: tuple[object, ...] = (quantity, policy, setting.shape, convention.law, left_out)
        else:
            traffic, of_gemms = ("unfused", convention.of_gemms) if gemm else (convention.traffic, ("gemms", ()))
            key = (quantity, policy, setting.shape, traffic, convention.scope, of_gemms)
        if key not in self._ratios:
            base, own = (self._counted(shape, of, quantity, key[3:]) for of in ("", policy))
            self._ratios[key] = _divided(base, own)
        return self._ratios[key]

    def _counted(self, shape: _Shape, key: str, quantity: str, how: tuple[Any, ...]) -> NDArray[Any]:
        """A total by combination; as Python's integers, and None where it is not defined, if some are not."""
        grids = shape.grids[key]
        if quantity != "arithmetic_reduction":
            return self._lift(key, grids.moved(*how))
        priced, unpriced = grids.arithmetic(*how)
        if unpriced.any():
            priced = np.where(unpriced > 0, None, priced.astype(object))  # type: ignore[call-overload]
        return self._lift(key, priced)

    def _convention(self, shape: _Shape, setting: Setting) -> Convention:
        fields: dict[str, Any] = dict(setting.convention)
        if "gemms_left_out" in fields:
            text = fields["gemms_left_out"]
            if text not in self._globs:
                self._globs[text] = with_fields(self.job, (f"gemms_left_out={text}",)).file.gemms_left_out
            fields["gemms_left_out"] = self._globs[text]
        return replace(shape.job.convention, **fields)

    @cached_property
    def _globs(self) -> dict[str, tuple[str, ...]]:
        return {}


def _divided(base: NDArray[Any], own: NDArray[Any]) -> Ratios:
    """Ratios of totals, each as near to the exact one as a float can be."""
    if base.dtype == own.dtype == np.int64 and max(base.max(), own.max()) < 2**53 and own.min() > 0:
        return np.asarray(base / own)
    divide = np.frompyfunc(lambda a, b: truediv(a, b) if a is not None and b else np.nan, 2, 1)
    return np.asarray(divide(base.astype(object), own.astype(object)), np.float64)
