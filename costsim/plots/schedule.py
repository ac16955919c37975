"""Bits per level over training, and the costs spent by then."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costsim.cost.totals import Total, sum_rows
from costsim.plots.style import COLOURS, marks, note, starred
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
_LINES: dict[str, Any] = {"arithmetic": "-", "DRAM": "--"}
_QUANTITIES: dict[str, Callable[[Total], int | None]] = {
    "arithmetic": lambda total: total.arithmetic_cost,
    "DRAM": lambda total: total.dram_bits,
}


def _policy_line(i: int) -> dict[str, Any]:
    """How the lines of the i-th policy look, besides their dashes."""
    marker = _MARKERS[i // len(COLOURS) % len(_MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markersize": 4, "markevery": [-1]}


def _cumulative(axes: Axes, result: Result, shown: Sequence[CountedPolicy]) -> None:
    """The costs of each policy up to the ends of its phases, as shares of all that the baseline spends."""
    law, base = result.job.convention.law, result.baseline.total
    for i, counted in enumerate(shown):
        for name, amount in _QUANTITIES.items():
            whole = amount(base)
            costs = [amount(sum_rows(phase.rows, law)) for phase in counted.phases]
            if not whole or None in costs:
                continue
            spent = accumulate(phase.steps * (cost or 0) for phase, cost in zip(counted.phases, costs, strict=True))
            shares = [0.0, *(float(Fraction(part, whole)) for part in spent)]
            label = f"{starred(counted)}, {name}"
            axes.plot(_ends(counted), shares, linestyle=_LINES[name], label=label, **_policy_line(i))
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


def schedule(result: Result) -> Figure:
    """Bits per level over the steps, and the costs spent by then; short phases are drawn once more, larger.

    Arithmetic and DRAM traffic are shares of all that the baseline spends.
    """
    job, steps = result.job, result.job.convention.steps
    with_levels = [counted for counted in result.policies if counted.policy.file.levels]
    shown = [counted for counted in with_levels if len(counted.phases) > 1] or with_levels
    zoom = _zoom(shown, steps)
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
    handles += [Line2D([], [], label=starred(counted), **_policy_line(i)) for i, counted in enumerate(everyone)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 + 2 * columns, frameon=False, fontsize=8)
    if zoom is not None:
        _cumulative(panels[-1][1], result, shown)
        panels[-1][1].set_xlim(zoom - 0.25 * (steps - zoom), steps)
        panels[0][1].set_title(f"steps from {zoom} on", fontsize=9)
    figure.suptitle(note(job) + marks(result.policies), fontsize=10)
    return figure
