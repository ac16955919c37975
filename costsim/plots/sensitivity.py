"""A tornado: how far each assumption moves the ratios."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costsim.plots.style import COLOURS, RECALLED, note
from costsim.run.sensitivity import Outcome, outcomes
from costsim.run.simulate import Result

# --- sensitivity ------------------------------------------------------------------------------------------------------

_PANELS = {"arithmetic_reduction": "arithmetic, times less", "dram_reduction": "DRAM traffic, times less"}


def _by_effect(found: Sequence[Outcome], shipped: Outcome) -> list[Outcome]:
    """Cases grouped by assumption, the assumption that moves anything most on top."""

    def effect(outcome: Outcome) -> float:
        factors = [1.0]
        for name in _PANELS:
            now, was = getattr(outcome, name), getattr(shipped, name)
            if now and was:
                factors.append(float(max(now / was, was / now)))
        return max(factors)

    most: dict[str, float] = {}
    for outcome in found:
        most[outcome.assumption] = max(most.get(outcome.assumption, 1.0), effect(outcome))
    return sorted(found, key=lambda outcome: (-most[outcome.assumption], outcome.assumption, -effect(outcome)))


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


def _bars(axes: Axes, found: Sequence[Outcome], shipped: Outcome, name: str, stated: float | None) -> None:
    centre = getattr(shipped, name)
    for y, outcome in enumerate(found):
        value = getattr(outcome, name)
        if value is None or centre is None:
            place: Any = {"xycoords": axes.get_yaxis_transform(), "fontsize": 7, "color": "0.35", "va": "center"}
            axes.annotate("not defined", (0.01, y), bbox=_WHITE, zorder=4, **place)
            continue
        axes.barh(y, float(value - centre), left=float(centre), color=COLOURS[0 if value > centre else 1], height=0.7)
        if f"{float(value):.2f}" != f"{float(centre):.2f}":
            right = value > centre
            axes.annotate(
                f"{float(value):.2f}",
                (float(value), y),
                xytext=(3 if right else -3, 0),
                textcoords="offset points",
                va="center",
                ha="left" if right else "right",
                fontsize=7,
                bbox=_WHITE,
            )
    if centre is not None:
        axes.axvline(float(centre), color="black", linewidth=1, label=f"as shipped, {float(centre):.2f}")
    if stated is not None:
        axes.axvline(stated, color=COLOURS[3], linewidth=1.2, linestyle="--", label=f"stated, {stated:g}")
    axes.set_xlabel(_PANELS[name])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)


def sensitivity(result: Result) -> Figure:
    """A tornado: where each case of each assumption takes both ratios, the assumption that moves most on top."""
    job, found = result.job, outcomes(result.job)
    names = list(dict.fromkeys(outcome.policy for outcome in found))
    rows = {name: [outcome for outcome in found if outcome.policy == name] for name in names}
    heights = [0.21 * len(cases) + 1.2 for cases in rows.values()]
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    panels: Any = figure.subplots(len(names), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    figures: dict[tuple[str, str], float] = {
        (figure.policy, figure.quantity): figure.stated for figure in job.file.published if job.of_the_file
    }
    stars = {policy.name: "*" for policy in job.policies if policy.recalled}
    every = {
        quantity: [float(value) for outcome in found if (value := getattr(outcome, quantity))]
        + [value for (policy, of), value in figures.items() if of == quantity and policy in rows]
        for quantity in _PANELS
    }
    for (name, (shipped, *cases)), pair in zip(rows.items(), panels, strict=True):
        ordered = _by_effect(cases, shipped)
        for axes, quantity in zip(pair, _PANELS, strict=True):
            _scale(axes, every[quantity] or [1.0])
            _bars(axes, ordered, shipped, quantity, figures.get((name, quantity)))
            axes.set_ylim(len(ordered) - 0.4, -0.6)
            axes.set_yticks([])
        labels = [f"{outcome.assumption}: {outcome.case}" for outcome in ordered]
        pair[0].set_yticks(range(len(ordered)), labels, fontsize=8)
        pair[0].set_title(f"{name}{stars.get(name, '')} against {job.baseline.name}", loc="left", fontsize=9, pad=20)
    figure.suptitle(f"{note(job)} as shipped" + (RECALLED if stars else ""), fontsize=10)
    return figure
