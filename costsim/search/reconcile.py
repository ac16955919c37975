"""Which combinations of assumptions give all published figures of a workload, within a tolerance.

A combination that does is an explanation that could be, no evidence: of many that are tried, some do by chance. So how
many were tried, and how many would be expected by chance, belong to the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from itertools import combinations as pairs_of
from math import log, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from costsim.errors import InputError
from costsim.inputs.schema_workload import Published
from costsim.run.job import Job
from costsim.run.sensitivity import outcomes
from costsim.search.combinations import Axis, Combinations, Ratios, Setting, axes_of
from costsim.search.density import Density

MOST = 10**8  # combinations
LEAST = Fraction(1, 200)  # of a figure; cases that alone move none by so much are not varied unless their name is given
_PAIRS = 4  # interactions listed for each figure
# How far it is from what is known to depart from an assumption: one step of a grade weighs more than any number of the
# next. Nobody knows what is ours or recalled better than the cases do.
GRADES = ("stated", "inferred", "fitted", "ours")


class Departure(NamedTuple):
    """A case that holds instead of what the files assume."""

    assumption: str
    of: str
    here: str
    grade: str
    case: str


class Hit(NamedTuple):
    """A combination that gives all figures within the tolerance."""

    departures: tuple[Departure, ...]
    ratios: tuple[float, ...]  # by figure
    error: float  # the largest relative difference from a stated figure


class Interaction(NamedTuple):
    """Two departures that together change a figure's ratio by other than the product of what each alone does."""

    figure: int
    departures: tuple[Departure, Departure]
    alone: tuple[float, float]  # by what factor each alone changes the ratio
    together: float

    @property
    def factor(self) -> float:
        """What they change together over the product of what each does."""
        return self.together / (self.alone[0] * self.alone[1])


@dataclass(frozen=True, eq=False)
class Reconciliation:
    """What came out."""

    job: Job
    axes: tuple[Axis, ...]
    left_out: tuple[str, ...]  # cases that were not varied, as they hardly move a figure
    figures: tuple[Published, ...]
    shipped: tuple[float, ...]  # by figure: the ratio with everything as shipped
    within: Fraction
    combinations: int  # all
    tried: int  # those that are possible, in which all figures are defined
    hits: int
    needed: int  # hits of which each departure changes a figure
    listed: tuple[Hit, ...]  # the first of those
    nearest: Hit | None  # the combination with the least error, if any is possible
    alone: tuple[int, ...]  # by figure: combinations that give it, whatever the others
    ranges: tuple[tuple[float, float], ...]  # by figure: the least and the largest ratio
    interactions: tuple[Interaction, ...]
    density: Density  # of all that were tried

    @property
    def by_rates(self) -> float:
        """Hits expected by chance if figures were independent, each given as often as it is given alone."""
        return self.tried * prod(count / self.tried for count in self.alone) if self.tried else 0.0

    @property
    def by_ranges(self) -> float:
        """Hits expected by chance if ratios were independent, and log-uniform over the range that they span."""
        return self.tried * prod(
            _part(figure.stated, float(self.within), span)
            for figure, span in zip(self.figures, self.ranges, strict=True)
        )


def _part(stated: float, within: float, span: tuple[float, float]) -> float:
    """The part of a range, by logarithms, that lies within the tolerance of what is stated."""
    low, high = max(span[0], stated * (1 - within)), min(span[1], stated * (1 + within))
    if span[0] >= span[1]:
        return 1.0 if low <= high else 0.0
    return max(0.0, log(high / low) / log(span[1] / span[0])) if 0 < low < high else 0.0


class _Batch(NamedTuple):
    """Hits of one setting: places in the arrays of inner axes, departures weighed by grade, errors, what is idle."""

    setting: int
    places: NDArray[Any]  # [hits, inner axes]
    weights: NDArray[Any]
    errors: NDArray[Any]
    needed: NDArray[np.bool_]


class _Search:
    """Goes through all settings of the outer axes; the inner ones are the axes of arrays."""

    def __init__(self, of: Combinations, figures: Sequence[Published], within: float) -> None:
        self.of, self.figures, self.within = of, figures, within
        self.settings = list(of.settings())
        self.place = {setting.chosen: n for n, setting in enumerate(self.settings) if setting}
        self.tried = self.hits = self.needed = 0
        self.alone = [0] * len(figures)
        self.spans = [(float("inf"), 0.0)] * len(figures)
        self.density = Density(len(figures))
        base = len(of.axes) + 1
        weight = {grade: base ** (len(GRADES) - 1 - i) for i, grade in enumerate(GRADES)}
        self.weights = [weight.get(axis.grade, 1) for axis in of.axes]
        self.batches: list[_Batch] = []
        self.nearest: tuple[float, int, NDArray[Any]] = (float("inf"), 0, np.zeros(0))  # error, setting, places

    @cached_property
    def fixed(self) -> dict[int, int]:
        """By place among the inner axes, of those that are outer too: the place among the outer axes."""
        of = self.of
        return {n: of.outer.index(i) for n, i in enumerate(of.inner) if i in of.outer}

    def cut(self, array: NDArray[Any], setting: Setting) -> NDArray[Any]:
        """An array with those of its axes at their case that the setting decides."""
        for n, o in self.fixed.items():
            if array.shape[n] > 1:
                array = array.take([setting.chosen[o]], axis=n)
        return array

    def ratios(self, setting: Setting) -> list[Ratios]:
        """By figure: the ratios of a setting."""
        return [self.cut(self.of.ratios(setting, each.quantity, each.policy), setting) for each in self.figures]

    def fits(self, setting: Setting | None) -> NDArray[np.bool_] | None:
        """Which combinations of a setting are possible; None if none is."""
        shape = self.of.shape(setting.shape) if setting else None
        return self.cut(shape.fits, setting) if shape and setting else None

    def sizes(self) -> tuple[int, ...]:
        """Of the arrays of a setting."""
        of = self.of
        return tuple(1 if n in self.fixed else len(of.axes[i].cases) for n, i in enumerate(of.inner))

    def run(self, tick: Callable[[int], object]) -> None:
        """Go through all settings; `tick` is told of each percent of them."""
        sizes, every = self.sizes(), len(self.settings)
        for number, setting in enumerate(self.settings):
            tick(100 * (number + 1) // every - 100 * number // every)
            fits = self.fits(setting)
            if setting is None or fits is None:
                continue
            ratios = self.ratios(setting)
            defined = fits
            for each in ratios:
                defined = defined & ~np.isnan(each)
            self.tried += _count(defined, sizes)
            self.density.add(ratios, defined, sizes)
            errors = [np.abs(r / f.stated - 1) for r, f in zip(ratios, self.figures, strict=True)]
            hit = defined
            for i, (error, ratio) in enumerate(zip(errors, ratios, strict=True)):
                own = error <= self.within
                self.alone[i] += _count(own & defined, sizes)
                hit = hit & own
                self.span(i, ratio, defined)
            self.approach(number, np.where(defined, reduce(np.maximum, errors), np.inf))
            if hit.any():
                self.add(number, setting, np.argwhere(np.broadcast_to(hit, sizes)), ratios)

    def approach(self, number: int, errors: NDArray[np.float64]) -> None:
        """Take the least error of a setting into account, of those alike the first."""
        least = int(errors.argmin())
        if (error := float(errors.flat[least])) < self.nearest[0]:
            self.nearest = error, number, np.array(np.unravel_index(least, errors.shape))

    def span(self, i: int, ratios: Ratios, defined: NDArray[np.bool_]) -> None:
        """Take the range of a figure's ratios into account."""
        shape = np.broadcast_shapes(ratios.shape, defined.shape)
        known = np.broadcast_to(ratios, shape)[np.broadcast_to(defined, shape)]
        if known.size:
            low, high = self.spans[i]
            self.spans[i] = (min(low, float(known.min())), max(high, float(known.max())))

    def add(self, number: int, setting: Setting, places: NDArray[Any], ratios: list[Ratios]) -> None:
        """Add the hits of a setting."""
        of = self.of
        own = sum(self.weights[i] for i, case in zip(of.outer, setting.chosen, strict=True) if case)
        inner = np.array([self.weights[i] for i in of.inner], np.float64)
        values = [_at(each, places) for each in ratios]
        errors = np.max([np.abs(v / f.stated - 1) for v, f in zip(values, self.figures, strict=True)], axis=0)
        needed = self.all_needed(setting, places, ratios, values)
        self.hits += len(places)
        self.needed += int(needed.sum())
        self.batches.append(_Batch(number, places, own + (places > 0) @ inner, errors, needed))

    def all_needed(
        self, setting: Setting, places: NDArray[Any], ratios: list[Ratios], values: list[Ratios]
    ) -> NDArray[np.bool_]:
        """By hit: whether each of its departures changes a figure, or is what makes it possible."""
        needed = np.ones(len(places), bool)
        here = self.fits(setting)
        for n in range(places.shape[1]):
            without = places.copy()
            without[:, n] = 0
            needed &= ~((places[:, n] > 0) & self._same(here, ratios, without, values))
        for o, case in enumerate(setting.chosen):
            if case:
                other = self.of.setting((*setting.chosen[:o], 0, *setting.chosen[o + 1 :]))
                there = self.fits(other)
                if other is not None and there is not None:
                    needed &= ~self._same(there, self.ratios(other), places, values)
        return needed

    def _same(
        self, fits: NDArray[np.bool_] | None, ratios: list[Ratios], places: NDArray[Any], values: list[Ratios]
    ) -> NDArray[np.bool_]:
        """By hit: whether the combinations at these places are possible and give the same."""
        same = np.ones(len(places), bool) if fits is None else _at(fits, places)
        for array, value in zip(ratios, values, strict=True):
            same = same & (_at(array, places) == value)
        return same

    def first(self, most: int) -> Iterator[Hit]:
        """The first hits, by grades of their departures and then by error, of which each departure is needed."""
        keys = [
            (float(weight), float(error), batch.setting, i)
            for batch in self.batches
            for i in np.flatnonzero(batch.needed).tolist()
            for weight, error in ((batch.weights[i], batch.errors[i]),)
        ]
        by_number = {batch.setting: batch for batch in self.batches}
        for _, error, number, i in sorted(keys)[:most]:
            yield self.hit(number, by_number[number].places[i], error)

    def hit(self, number: int, places: NDArray[Any], error: float) -> Hit:
        """A combination of that setting."""
        setting = self.settings[number]
        assert setting is not None
        ratios = tuple(float(_at(each, places[None])[0]) for each in self.ratios(setting))
        return Hit(self.departures(setting, places), ratios, error)

    def departures(self, setting: Setting, places: NDArray[Any]) -> tuple[Departure, ...]:
        """What a combination departs from."""
        of = self.of
        chosen = dict(zip(of.inner, places.tolist(), strict=True)) | dict(zip(of.outer, setting.chosen, strict=True))
        return tuple(_departure(of.axes[i], chosen[i]) for i in sorted(chosen) if chosen[i])

    # --- two departures ---

    def ratio(self, i: int, chosen: dict[int, int]) -> float | None:
        """A figure's ratio under some cases, by axis; None if they are not possible."""
        of = self.of
        setting = of.setting(tuple(chosen.get(axis, 0) for axis in of.outer))
        fits = self.fits(setting)
        if setting is None or fits is None:
            return None
        places = np.array([[0 if n in self.fixed else chosen.get(axis, 0) for n, axis in enumerate(of.inner)]], int)
        figure = self.figures[i]
        value = float(_at(self.cut(of.ratios(setting, figure.quantity, figure.policy), setting), places)[0])
        return value if bool(_at(fits, places)[0]) and value == value else None

    def interactions(self, i: int, most: int) -> list[Interaction]:
        """The pairs of assumptions that interact most in a figure, by those of their cases that do."""
        moves = [(axis, case) for axis, of in enumerate(self.of.axes) for case in range(1, len(of.cases))]
        shipped, alone = self.ratio(i, {}), {move: self.ratio(i, dict([move])) for move in moves}
        strongest: dict[tuple[int, int], Interaction] = {}
        for a, b in pairs_of([move for move in moves if alone[move]], 2):
            both = self.ratio(i, dict([a, b])) if a[0] != b[0] else None
            one, other = alone[a], alone[b]
            if both and shipped and one and other:
                named = (_departure(self.of.axes[a[0]], a[1]), _departure(self.of.axes[b[0]], b[1]))
                pair = Interaction(i, named, (one / shipped, other / shipped), both / shipped)
                known = strongest.setdefault((a[0], b[0]), pair)
                if abs(log(pair.factor)) > abs(log(known.factor)):
                    strongest[a[0], b[0]] = pair
        ordered = sorted(strongest.values(), key=lambda each: -abs(log(each.factor)))
        return [each for each in ordered[:most] if abs(log(each.factor)) > 1e-9]


def _departure(axis: Axis, case: int) -> Departure:
    return Departure(axis.name, axis.of, axis.here, axis.grade, axis.cases[case].name)


def _at(array: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """Entries of an array, some of whose axes are 1 long, at [places, axes]."""
    entries = array[tuple(places[:, n] if size > 1 else 0 for n, size in enumerate(array.shape))]
    return np.broadcast_to(entries, len(places))


def _count(truths: NDArray[np.bool_], sizes: tuple[int, ...]) -> int:
    """How many combinations are true, of an array some of whose axes stand for all their cases."""
    return int(np.count_nonzero(truths)) * prod(s for s, own in zip(sizes, truths.shape, strict=True) if own == 1)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _figures(job: Job) -> tuple[Published, ...]:
    """The published figures of the job's policies. Raises InputError if there are none."""
    if not job.file.published:
        raise InputError(f"{job.workload}: no published figures; list them in the workload, under published")
    names = {policy.name for policy in job.policies}
    figures = tuple(figure for figure in job.file.published if figure.policy in names)
    if not figures:
        known = ", ".join(dict.fromkeys(figure.policy for figure in job.file.published))
        raise InputError(f"{job.workload}: published figures are of {known}, none of {', '.join(sorted(names))}")
    if job.convention.tiled:
        raise InputError("reconcile: traffic tiled is not varied; choose unfused or fused")
    return figures


def _moving(job: Job, axes: Sequence[Axis]) -> tuple[list[Axis], list[str]]:
    """The axes without cases that alone move no figure by LEAST, and the names of those cases."""
    base: dict[str, tuple[Fraction | None, ...]] = {}
    moved: set[tuple[str, str]] = set()
    for outcome in outcomes(job):
        ratios = (outcome.arithmetic_reduction, outcome.dram_reduction)
        shipped = base.setdefault(outcome.policy, ratios)
        if any(a is None or not b or abs(a / b - 1) >= LEAST for a, b in zip(ratios, shipped, strict=True)):
            moved.add((outcome.assumption, outcome.case))
    left, kept = [], []
    for axis in axes:
        places = [i for i, case in enumerate(axis.cases) if i == 0 or (axis.name, case.name) in moved]
        left += [f"{axis.name}: {case.name}" for i, case in enumerate(axis.cases) if i not in places]
        if len(places) > 1:
            sets, cases = tuple(axis.sets[i] for i in places), tuple(axis.cases[i] for i in places)
            kept.append(axis._replace(sets=sets, cases=cases))
    return kept, left


def reconcile(
    job: Job,
    within: Fraction,
    named: Sequence[str] = (),
    most: int = 10,
    tick: Callable[[int], object] = lambda _: None,
) -> Reconciliation:
    """Try all combinations of the assumptions of a job and of its policies with published figures.

    `named`: only these assumptions; without, all of them, but no case that alone moves no figure by LEAST. `most` hits
    are listed, and `tick` is told of each percent that is done. Raises InputError.
    """
    figures = _figures(job)
    policies = tuple(job.published_policies)
    axes, left = axes_of(job, policies, named), list[str]()
    if not named:
        axes, left = _moving(job, axes)
    of = Combinations(job, policies, tuple(axes))
    if of.number > MOST:
        sizes = " x ".join(f"{len(axis.cases)} {axis.name}" for axis in axes)
        raise InputError(
            f"{of.number} combinations ({sizes}), of at most {MOST}: choose some with --assumption NAME, repeatable"
        )
    search = _Search(of, figures, float(within))
    search.run(tick)
    return Reconciliation(
        job=job,
        axes=tuple(axes),
        left_out=tuple(left),
        figures=figures,
        shipped=tuple(search.ratio(i, {}) or float("nan") for i in range(len(figures))),
        within=within,
        combinations=of.number,
        tried=search.tried,
        hits=search.hits,
        needed=search.needed,
        listed=tuple(search.first(most)),
        alone=tuple(search.alone),
        ranges=tuple(search.spans),
        nearest=search.hit(search.nearest[1], search.nearest[2], search.nearest[0]) if search.tried else None,
        interactions=tuple(pair for i in range(len(figures)) for pair in search.interactions(i, _PAIRS)),
        density=search.density,
    )
