"""A tornado: how far each assumption moves the ratios."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.plots.style import COLOURS, grid, label, note, recalled_mark
from costsim.run.sensitivity import Outcome, outcomes
from costsim.run.simulate import Result

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


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis that has room for all of these and for the numbers beside them."""
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in _TICKS if low < tick < high])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")


def _bar(axes: Axes, y: int, value: Fraction, centre: Fraction) -> None:
    """A bar from the ratio as shipped to that of a case, with the number beside it unless both read the same."""
    right, text = value > centre, f"{float(value):.2f}"
    axes.barh(y, float(value - centre), left=float(centre), color=COLOURS[0 if right else 1], height=0.7)
    if text != f"{float(centre):.2f}":
        label(axes, text, (float(value), y), (3 if right else -3, 0), ha="left" if right else "right", bbox=_WHITE)


def _bars(axes: Axes, cases: Sequence[Outcome], shipped: Outcome, name: str, stated: float | None) -> None:
    """A bar for each case, from the top down; lines at the ratio as shipped and at the one that a paper states."""
    centre = getattr(shipped, name)
    for y, case in enumerate(cases):
        value = getattr(case, name)
        if value is None or centre is None:
            place: Any = {"xycoords": axes.get_yaxis_transform(), "fontsize": 7, "color": "0.35", "va": "center"}
            axes.annotate("not defined", (0.01, y), bbox=_WHITE, zorder=4, **place)
        else:
            _bar(axes, y, value, centre)
    if centre is not None:
        axes.axvline(float(centre), color="black", linewidth=1, label=f"as shipped, {float(centre):.2f}")
    if stated is not None:
        axes.axvline(stated, color=COLOURS[3], linewidth=1.2, linestyle="--", label=f"stated, {stated:g}")
    axes.set_xlabel(_PANELS[name])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    grid(axes, "x")


def sensitivity(result: Result) -> Figure:
    """A tornado: where each case of each assumption takes both ratios, the assumption that moves most on top."""
    job, moved = result.job, outcomes(result.job)
    names = list(dict.fromkeys(outcome.policy for outcome in moved))
    rows = {name: [outcome for outcome in moved if outcome.policy == name] for name in names}
    heights = [0.21 * len(cases) + 1.2 for cases in rows.values()]
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    panels: Any = figure.subplots(len(names), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    stated: dict[tuple[str, str], float] = {
        (entry.policy, entry.quantity): entry.stated for entry in job.file.published if job.of_the_file
    }
    every = {
        quantity: [float(value) for outcome in moved if (value := getattr(outcome, quantity))]
        + [value for (policy, name), value in stated.items() if name == quantity and policy in rows]
        for quantity in _PANELS
    }
    recalled = [policy for policy in job.policies if policy.recalled]
    stars = {policy.name: "*" for policy in recalled}
    for (name, (shipped, *cases)), pair in zip(rows.items(), panels, strict=True):
        ordered = _by_effect(cases, shipped)
        for axes, quantity in zip(pair, _PANELS, strict=True):
            _scale(axes, every[quantity] or [1.0])
            _bars(axes, ordered, shipped, quantity, stated.get((name, quantity)))
            axes.set_ylim(len(ordered) - 0.4, -0.6)
            axes.set_yticks([])
        labels = [f"{case.assumption}: {case.case}" for case in ordered]
        pair[0].set_yticks(range(len(ordered)), labels, fontsize=8)
        pair[0].set_title(f"{name}{stars.get(name, '')} against {job.baseline.name}", loc="left", fontsize=9, pad=20)
    figure.suptitle(f"{note(job)} as shipped{recalled_mark(recalled)}", fontsize=10)
    return figure
