"""Bits per level over training, and the costs spent by then."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.cost.totals import Total, sum_rows
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import COLOURS, legend_below, marks, note, starred
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result

_SHORT = 0.05  # of the run: phases that last less are drawn once more, larger


def _ends(counted: CountedPolicy) -> list[int]:
    """The steps at which phases end, after 0."""
    return [0, *accumulate(phase.steps for phase in counted.phases)]


def _levels(axes: Axes, counted: CountedPolicy) -> None:
    """The bits of each level over the steps."""
    file, ends = counted.policy.file, _ends(counted)
    for i, level in enumerate(file.levels):
        bits = [phase.levels[i] for phase in file.phases]
        width = 2 + 2.5 * (len(file.levels) - 1 - i)  # equal levels are seen inside each other
        axes.step(ends, [bits[0], *bits], color=COLOURS[i % len(COLOURS)], linewidth=width, label=level)
    every = {bits for phase in file.phases for bits in phase.levels}
    axes.set_ylim(0, max(every) * 1.25)
    axes.set_yticks(sorted(every))
    axes.grid(axis="y", linewidth=0.3)


_MARKERS = ("", "o", "s", "^", "D", "v")  # where colours come round again
QUANTITIES: dict[str, Callable[[Total], int | None]] = {
    "arithmetic": lambda total: total.arithmetic_cost,
    "DRAM traffic": lambda total: total.dram_bits,
}
_CLOSE = 0.02  # of the highest line's end: lines that end nearer to each other lie on each other


def _policy_line(i: int) -> dict[str, Any]:
    """How the lines of the i-th policy look, besides their width."""
    marker = _MARKERS[i // len(COLOURS) % len(_MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markersize": 4, "markevery": [-1]}


def _shares(result: Result, counted: CountedPolicy, amount: Callable[[Total], int | None]) -> list[float]:
    """What a policy has spent by the ends of its phases, as shares of all that the baseline spends; [] if not known."""
    law, whole = result.job.convention.law, amount(result.baseline.total)
    costs = [amount(sum_rows(phase.rows, law)) for phase in counted.phases]
    if not whole or None in costs:
        return []
    spent = accumulate(phase.steps * (cost or 0) for phase, cost in zip(counted.phases, costs, strict=True))
    return [0.0, *(float(Fraction(part, whole)) for part in spent)]


def _widths(ends: Sequence[float]) -> list[float]:
    """Widths of lines by where they end: of those that lie on each other, each is seen beside the next."""
    near = _CLOSE * max(ends, default=0)
    over = [sum(abs(end - other) <= near for other in ends[i + 1 :]) for i, end in enumerate(ends)]
    return [1.4 + 2.2 * count for count in over]


def _cumulative(axes: Axes, result: Result, shown: Sequence[CountedPolicy], quantity: str) -> None:
    """What each policy has spent so far."""
    lines = [(i, counted, _shares(result, counted, QUANTITIES[quantity])) for i, counted in enumerate(shown)]
    known = [(i, counted, shares) for i, counted, shares in lines if shares]
    for (i, counted, shares), width in zip(known, _widths([shares[-1] for *_, shares in known]), strict=True):
        axes.plot(_ends(counted), shares, linewidth=width, label=starred(counted), **_policy_line(i))
    axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.3)


def _zoom(shown: Sequence[CountedPolicy], steps: int) -> int | None:
    """The step at which the first short phase starts; None if all phases can be seen without a second look."""
    starts = [
        start
        for counted in shown
        for start, phase in zip(_ends(counted), counted.phases, strict=False)
        if phase.steps < _SHORT * steps
    ]
    return min(starts, default=None)


def schedule(result: Result, look: Look = SCREEN) -> Figure:
    """Bits per level over the steps, and the costs spent by then; short phases are drawn once more, larger.

    Arithmetic and DRAM traffic are shares of all that the baseline spends.
    """
    job, steps = result.job, result.job.convention.steps
    with_levels = [counted for counted in result.policies if counted.policy.file.levels]
    shown = [counted for counted in with_levels if len(counted.phases) > 1] or with_levels
    zoom = _zoom(shown, steps)
    columns = 1 if zoom is None else 2
    ratios = [1.6] * len(shown) + [2.2] * len(QUANTITIES)
    natural = 5.5 * columns + 2.5
    figure = look.figure(natural, sum(ratios) + 1.4 + 0.1 * len(result.policies) / columns)
    panels: Any = figure.subplots(
        len(ratios), columns, squeeze=False, sharex="col", gridspec_kw={"height_ratios": ratios}
    )
    for counted, row in zip(shown, panels, strict=False):
        for axes in row:
            _levels(axes, counted)
        row[0].set_ylabel(f"{starred(counted)}\nbits per level")
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=pt(8), handlelength=1)
    everyone = (*shown, *(counted for counted in result.policies if counted not in shown))
    for quantity, row in zip(QUANTITIES, panels[len(shown) :], strict=True):
        _cumulative(row[0], result, everyone, quantity)
        row[0].set_ylabel(f"{quantity} so far,\nshare of {result.baseline.policy.label}'s")
        if zoom is not None:
            _cumulative(row[1], result, shown, quantity)
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    panels[-1][0].set_xlim(0, steps)
    if zoom is not None:
        panels[-1][1].set_xlim(zoom - 0.25 * (steps - zoom), steps)
        panels[0][1].set_title(f"steps from {zoom} on", fontsize=pt(9))
    handles = [Line2D([], [], label=starred(counted), **_policy_line(i)) for i, counted in enumerate(everyone)]
    title = "policies; of lines that lie on each other, the last is the thinnest"
    legend_below(figure, handles, look.room(natural), title=title)
    look.head(figure, note(job) + marks(result.policies))
    return figure
