"""Figures of results, drawn with Matplotlib (imported here only): the same bytes for the same input."""

import io
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.cost.count import Total, sum_rows
from costsim.devices.profile import Hardware
from costsim.errors import InputError, nearest
from costsim.inputs import files
from costsim.plots.breakdown import breakdown, comparison
from costsim.plots.roofline import Bar, memory, roofline, stacked
from costsim.plots.style import COLOURS, RECALLED, drawable, marks, note, starred
from costsim.plots.timeline import timeline
from costsim.reference.training import Spent
from costsim.run.pretraining import Peak, Share
from costsim.run.sensitivity import Outcome, outcomes
from costsim.run.simulate import CountedPolicy, Result
from costsim.tables.table import wrap

_STYLE: Any = {
    "svg.hashsalt": "costsim",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # names are names, whatever signs they hold
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


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


# --- schedule ---------------------------------------------------------------------------------------------------------


def _ends(counted: CountedPolicy) -> list[int]:
    """The steps at which phases end, after 0."""
    return [0, *accumulate(phase.steps for phase in counted.phases)]


def _levels(axes: Axes, counted: CountedPolicy) -> None:
    policy = counted.policy
    ends = _ends(counted)
    count = len(policy.file.levels)
    for i, level in enumerate(policy.file.levels):
        numbers = [phase.levels[i] for phase in policy.file.phases]
        width = 2 + 2.5 * (count - 1 - i)  # equal levels are seen inside each other
        axes.step(ends, [numbers[0], *numbers], color=COLOURS[i % len(COLOURS)], linewidth=width, label=level)
    highest = max(number for phase in policy.file.phases for number in phase.levels)
    axes.set_ylim(0, highest * 1.25)
    axes.set_yticks(sorted({number for phase in policy.file.phases for number in phase.levels}))
    axes.grid(axis="y", linewidth=0.3)


_MARKERS = ("", "o", "s", "^", "D", "v")  # where colours come round again
_LINES: dict[str, Any] = {"arithmetic": "-", "DRAM": "--"}


def _policy_line(i: int) -> dict[str, Any]:
    """How the lines of the i-th policy look, besides their dashes."""
    marker = _MARKERS[i // len(COLOURS) % len(_MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markersize": 4, "markevery": [-1]}


def _cumulative(axes: Axes, result: Result, shown: Sequence[CountedPolicy]) -> None:
    law, base = result.job.convention.law, result.baseline.total
    quantities: dict[str, Callable[[Total], int | None]] = {
        "arithmetic": lambda total: total.arithmetic_cost,
        "DRAM": lambda total: total.dram_bits,
    }
    for i, counted in enumerate(shown):
        for name, amount in quantities.items():
            whole = amount(base)
            costs = [amount(sum_rows(phase.rows, law)) for phase in counted.phases]
            if not whole or None in costs:
                continue
            spent = accumulate(phase.steps * (cost or 0) for phase, cost in zip(counted.phases, costs, strict=True))
            shares = [0.0, *(float(Fraction(part, whole)) for part in spent)]
            label = f"{starred(counted)}, {name}"
            axes.plot(_ends(counted), shares, linestyle=_LINES[name], label=label, **_policy_line(i))
    axes.grid(linewidth=0.3)


def schedule(result: Result) -> Figure:
    """Bits per level over the steps, and what has been spent by then; short phases are drawn once more, larger."""
    job = result.job
    changing = [counted for counted in result.policies if counted.policy.file.levels and len(counted.phases) > 1]
    shown = changing or [counted for counted in result.policies if counted.policy.file.levels]
    steps = job.convention.steps
    starts = [
        _ends(counted)[i] for counted in shown for i, phase in enumerate(counted.phases) if phase.steps < 0.05 * steps
    ]
    zoom = min(starts, default=None)
    columns = 1 if zoom is None else 2
    size = (5.5 * columns + 2.5, 1.8 * len(shown) + 3.6 + 0.1 * len(result.policies) / columns)
    figure = Figure(figsize=size, layout="constrained")
    ratios = [1.8] * len(shown) + [3.6]
    panels: Any = figure.subplots(
        len(ratios), columns, squeeze=False, sharex="col", gridspec_kw={"height_ratios": ratios}
    )
    for counted, row in zip(shown, panels, strict=False):
        for axes in row:
            _levels(axes, counted)
        row[0].set_ylabel(f"{starred(counted)}\nbits per level")
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    everyone = (*shown, *(counted for counted in result.policies if counted not in shown))
    _cumulative(panels[-1][0], result, everyone)
    panels[-1][0].set_ylabel(f"spent so far, share of all\nthat {job.baseline.name} spends")
    panels[-1][0].set_xlim(0, steps)
    handles = [Line2D([], [], color="0.35", linestyle=line, label=name) for name, line in _LINES.items()]
    handles += [Line2D([], [], label=starred(its), **_policy_line(i)) for i, its in enumerate(everyone)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 + 2 * columns, frameon=False, fontsize=8)
    if zoom is not None:
        _cumulative(panels[-1][1], result, shown)
        panels[-1][1].set_xlim(zoom - 0.25 * (steps - zoom), steps)
        panels[0][1].set_title(f"steps from {zoom} on", fontsize=9)
    figure.suptitle(note(job) + marks(result.policies), fontsize=10)
    return figure


# --- training ---------------------------------------------------------------------------------------------------------


def training(curves: Mapping[str, Sequence[Spent]], unigram_entropy: float) -> Figure:
    """Validation losses over the steps, and over the arithmetic and the DRAM traffic spent by then."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels: Any = figure.subplots(1, 3, sharey=True)
    along: dict[str, Callable[[Spent], float]] = {
        "training step": lambda its: its.step,
        "arithmetic spent, share of the baseline's run": lambda its: its.arithmetic,
        "DRAM traffic spent, share of the baseline's run": lambda its: its.dram,
    }
    for axes, (label, amount) in zip(panels, along.items(), strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            points = [amount(its) for its in curve], [its.validation_loss for its in curve]
            axes.plot(*points, marker=".", color=COLOURS[i % len(COLOURS)], label=name)
        axes.axhline(unigram_entropy, color="grey", linestyle="--", linewidth=1, label="unigram entropy")
        axes.set_xlabel(label)
        axes.grid(linewidth=0.3)
        if label != "training step":
            axes.set_xscale("log")
    lowest = min(its.validation_loss for curve in curves.values() for its in curve)
    panels[0].set_ylim(0.9 * lowest, 1.4 * unigram_entropy)  # a run that diverges leaves the figure
    panels[0].set_ylabel("validation loss, nats per word")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


# --- pre-training -----------------------------------------------------------------------------------------------------


def peaks(found: Sequence[Peak], device: Hardware) -> Figure:
    """Peak memory by component, for each workload and micro-batch size, and where a device's DRAM ends."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    stacked(axes, [Bar(its.workload, str(its.sequences), its.components) for its in found], [device])
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    axes.set_title(f"{', '.join(dict.fromkeys(its.policy for its in found))}, by sequences of a micro-batch")
    return figure


def linear_shares(found: Sequence[Share]) -> Figure:
    """The linear layers' share of a block's time over the length of sequences, a line per workload."""
    attentions = list(dict.fromkeys(its.attention for its in found))
    workloads = list(dict.fromkeys(its.workload for its in found))
    figure = Figure(figsize=(4.6 * len(attentions) + 0.4, 4), layout="constrained")
    panels: Any = figure.subplots(1, len(attentions), squeeze=False, sharey=True)
    for axes, attention in zip(panels[0], attentions, strict=True):
        for i, workload in enumerate(workloads):
            its = [share for share in found if (share.workload, share.attention) == (workload, attention)]
            points = [share.tokens for share in its], [share.share for share in its]
            axes.plot(*points, marker="osD^v"[i % 5], color=COLOURS[i % len(COLOURS)], label=workload)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({share.tokens for share in found}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"attention {attention}")
        axes.set_xlabel("tokens of a sequence")
        axes.grid(linewidth=0.3)
    panels[0][0].set_ylim(0, 1)
    panels[0][0].set_ylabel("linear layers, share of a block's time")
    panels[0][0].legend(frameon=False)
    return figure


PLOTS: dict[str, Callable[..., Figure]] = {
    "breakdown": breakdown,
    "comparison": comparison,
    "sensitivity": sensitivity,
    "schedule": schedule,
    "roofline": roofline,
    "memory": memory,
    "timeline": timeline,
}


def draw(result: Result, kind: str, **options: Any) -> Figure:
    """One of PLOTS, which takes the options. Raises InputError for another, or what it cannot be drawn of."""
    if kind not in PLOTS:
        raise InputError(f"unknown figure {kind!r}{nearest(kind, PLOTS)}")
    with mpl.rc_context(_STYLE):
        return PLOTS[kind](drawable(result), **options)


def save(result: Result, kind: str, path: Path, **options: Any) -> Path:
    """Draw one of PLOTS, which takes the options, into a file as `write`. Raises InputError."""
    return write(lambda: PLOTS[kind](result, **options), path)


def write(make: Callable[[], Figure], path: Path) -> Path:
    """Draw a figure into an .svg, .pdf or .png file, whole or not at all.

    Raises InputError for another ending, or what the figure cannot be drawn of.
    """
    style = path.suffix.removeprefix(".").lower()
    if style not in _NO_DATE:
        told = " (.json is what plot trace writes)" if style == "json" else ""
        raise InputError(f"--out {path}: expected a name that ends in .svg, .pdf or .png{told}")
    with mpl.rc_context(_STYLE):
        figure = make()
        data = io.BytesIO()
        figure.savefig(data, format=style, dpi=150, metadata=_NO_DATE[style])
    return files.write(path, data.getvalue())


def svg(result: Result, kind: str, **options: Any) -> str:
    """One of PLOTS as the text of an SVG file, without minor ticks. Raises InputError for what cannot be drawn."""
    with mpl.rc_context(_STYLE):
        figure = draw(result, kind, **options)
        for axes in figure.axes:
            axes.minorticks_off()  # of logarithmic axes: hundreds, which take longer than all the rest
        title = figure.get_suptitle()
        narrow = "\n".join(wrap(line, int(12.5 * figure.get_figwidth())) for line in title.split("\n"))
        if narrow != title:  # wider than the figure, in letters of 10 points
            figure.suptitle(narrow, fontsize=10)
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata=_NO_DATE["svg"])  # draws once; savefig does twice
    return text.getvalue()
