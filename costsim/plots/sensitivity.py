"""A tornado: how far each assumption moves the ratios."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import COLOURS, grid, label, letters, note, recalled_mark, room
from costsim.run.sensitivity import Outcome, outcomes
from costsim.run.simulate import Result
from costsim.tables.table import printable, wrap

_PANELS = {"arithmetic_reduction": "arithmetic, times less", "dram_reduction": "DRAM traffic, times less"}


def _effect(outcome: Outcome, shipped: Outcome) -> float:
    """The largest factor by which a case moves a ratio, in either direction."""
    factors = [1.0]
    for name in _PANELS:
        now, was = getattr(outcome, name), getattr(shipped, name)
        if now and was:
            factors.append(float(max(now / was, was / now)))
    return max(factors)


def _by_effect(cases: Sequence[Outcome], shipped: Outcome) -> list[Outcome]:
    """Cases grouped by assumption, the assumption that moves anything most on top."""
    most: dict[str, float] = {}
    for case in cases:
        most[case.assumption] = max(most.get(case.assumption, 1.0), _effect(case, shipped))
    return sorted(cases, key=lambda case: (-most[case.assumption], case.assumption, -_effect(case, shipped)))


_TICKS = [m * 10**k for k in range(-3, 4) for m in (1, 2, 3, 5)]
_WHITE = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}


def _scale(axes: Axes, values: Sequence[float], width: float) -> None:
    """A logarithmic axis, so many inches wide, that has room for all of these and for the numbers beside them."""
    text = (letters("100.00") + 0.1) / width
    low, high = (
        math.exp(end)
        for end in room([(math.log(min(values) / 1.02), text, 0), (math.log(max(values) * 1.02), 0, text)])
    )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in _TICKS if low < tick < high])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")


def _bar(axes: Axes, y: float, value: Fraction, centre: Fraction) -> None:
    """A bar from the ratio as shipped to that of a case, with the number beside it unless both read the same."""
    right, text = value > centre, f"{float(value):.2f}"
    axes.barh(y, float(value - centre), left=float(centre), color=COLOURS[0 if right else 1], height=0.7)
    if text != f"{float(centre):.2f}":
        label(axes, text, (float(value), y), (3 if right else -3, 0), ha="left" if right else "right", bbox=_WHITE)


Placed = Mapping[Outcome, float]  # cases with their heights, from the top down


def _bars(axes: Axes, cases: Placed, shipped: Outcome, name: str, stated: float | None) -> None:
    """A bar for each case; lines at the ratio as shipped and at the one that a paper states."""
    centre = getattr(shipped, name)
    for case, y in cases.items():
        value = getattr(case, name)
        if value is None or centre is None:
            place: Any = {"xycoords": axes.get_yaxis_transform(), "fontsize": pt(7), "color": "0.35", "va": "center"}
            axes.annotate("not defined", (0.01, y), bbox=_WHITE, zorder=4, **place)
        else:
            _bar(axes, y, value, centre)
    if centre is not None:
        axes.axvline(float(centre), color="black", linewidth=1, label=f"as shipped, {float(centre):.2f}")
    if stated is not None:
        axes.axvline(stated, color=COLOURS[3], linewidth=1.2, linestyle="--", label=f"stated, {stated:g}")
    axes.set_xlabel(_PANELS[name])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), handlelength=1.4, frameon=False, fontsize=pt(8))
    grid(axes, "x")


_NATURAL = 10.0  # inches
_WIDE = 6.0  # inches from which labels are left of the bars
_LABELS = 0.36  # of the figure's width, for assumptions and cases


def _labels(cases: Sequence[Outcome], inches: float) -> list[str]:
    """Assumptions with their cases, in lines of at most so many inches."""
    most = max(12, int(inches / letters("x", 8)))
    return [wrap(printable(f"{case.assumption}: {case.case}"), most) for case in cases]


class Rows(NamedTuple):
    """A policy's cases from the top down: what stands at each, and where; `end`: where the last one's place ends."""

    cases: Sequence[Outcome]
    labels: Sequence[str]
    places: Sequence[float]
    end: float
    above: bool  # labels are above the bars, not left of them


def _rows(cases: Sequence[Outcome], width: float) -> Rows:
    """Labels left of the bars where so many inches have room for them, else above; each bar has its label's height."""
    above = width < _WIDE
    labels = _labels(cases, width - 0.2 if above else _LABELS * width)
    lines = [label.count("\n") + 1 for label in labels]
    heights = [0.75 * n + 0.75 if above else max(1.0, 0.75 * n + 0.25) for n in lines]
    ends = list(accumulate(heights))
    places = [end - (0.5 if above else height / 2) - 0.5 for end, height in zip(ends, heights, strict=True)]
    return Rows(cases, labels, places, ends[-1] if ends else 1.0, above)


_MOVES = 1.005  # the least factor that counts as an effect, in a narrow figure


def _shown(cases: Sequence[Outcome], shipped: Outcome, width: float) -> list[Outcome]:
    """The cases by their effects; in a narrow figure, which is long, without those that move nothing."""
    ordered = _by_effect(cases, shipped)
    moving = [case for case in ordered if _effect(case, shipped) > _MOVES or case.arithmetic_reduction is None]
    return moving if width < _WIDE else ordered


def _write_labels(axes: Axes, rows: Rows) -> None:
    """Labels on the axis, or above the bars, from the panel's left end on."""
    if not rows.above:
        axes.set_yticks(rows.places, rows.labels, fontsize=pt(8))
        return
    axes.spines["left"].set_visible(False)
    axes.set_zorder(1)  # labels go on over the next panel
    axes.patch.set_visible(False)
    for y, text in zip(rows.places, rows.labels, strict=True):
        place: Any = {"xycoords": axes.get_yaxis_transform(), "bbox": _WHITE, "fontsize": pt(7.5)}
        label(axes, text, (0, y - 0.4), (0, 0), va="bottom", **place).set_in_layout(False)  # wider than the panel


def sensitivity(result: Result, look: Look = SCREEN) -> Figure:
    """A tornado: where each case of each assumption takes both ratios, the assumption that moves most on top."""
    job, moved = result.job, outcomes(result.job)
    names = list(dict.fromkeys(outcome.policy for outcome in moved))
    rows = {name: [outcome for outcome in moved if outcome.policy == name] for name in names}
    width = look.room(_NATURAL)
    of = {name: _rows(_shown(cases, shipped, width), width) for name, (shipped, *cases) in rows.items()}
    heights = [0.21 * each.end + 1.4 for each in of.values()]
    figure = look.figure(_NATURAL, sum(heights) + 0.5)
    panels: Any = figure.subplots(len(names), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    stated: dict[tuple[str, str], float] = {
        (entry.policy, entry.quantity): entry.stated for entry in job.file.published if job.of_the_file
    }
    every = _every(moved, {at: value for at, value in stated.items() if at[0] in rows})
    policies = {policy.name: policy for policy in job.policies}
    panel = (width if width < _WIDE else (1 - _LABELS) * width) / 2 - 0.1
    for (name, drawn), pair in zip(of.items(), panels, strict=True):
        placed = dict(zip(drawn.cases, drawn.places, strict=True))
        for axes, quantity in zip(pair, _PANELS, strict=True):
            _scale(axes, every[quantity] or [1.0], panel)
            _bars(axes, placed, rows[name][0], quantity, stated.get((name, quantity)))
            axes.set_ylim(drawn.end - 0.4, -0.6)
            axes.set_yticks([])
        _write_labels(pair[0], drawn)
        title = f"{policies[name].label}{'*' if policies[name].recalled else ''} against {job.baseline.label}"
        pair[0].set_title(title, loc="left", fontsize=pt(9), pad=pt(32))
    recalled = [policy for policy in job.policies if policy.recalled]
    left_out = len(moved) - len(rows) - sum(len(each.cases) for each in of.values())
    more = f"; not shown: {left_out} cases that move neither by 0.5 %" if left_out else ""
    look.head(figure, f"{note(job)} as shipped{recalled_mark(recalled)}{more}")
    return figure


def _every(moved: Sequence[Outcome], stated: Mapping[tuple[str, str], float]) -> dict[str, list[float]]:
    """All ratios of a quantity, with those that are stated."""
    return {
        quantity: [float(value) for outcome in moved if (value := getattr(outcome, quantity))]
        + [value for (_, name), value in stated.items() if name == quantity]
        for quantity in _PANELS
    }
