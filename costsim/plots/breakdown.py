"""Figures that compare policies: what makes up their costs, and how many times less than the baseline they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costsim.cost.laws import LAWS
from costsim.cost.memory import Memory, Stored, of_policy
from costsim.cost.totals import Total, group
from costsim.devices.profile import Hardware
from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.plots.style import COLOURS, GREY, OF_COMPONENT, largest, marks, note, short, si, starred
from costsim.run.simulate import CountedPolicy, Result

# What breaks a cost down, and how the memory is broken down beside it: by something of a stored tensor. Phases and
# kinds are of ops, and what lies in memory belongs to no single op.
_COMPONENT: tuple[str, Callable[[Graph, Stored], str]] = ("component", lambda _, stored: stored.component)
BY: dict[str, tuple[str, Callable[[Graph, Stored], str]]] = {
    "phase": _COMPONENT,
    "role": ("role", lambda graph, stored: graph.tensors[stored.tensor].role),
    "layer": ("layer", lambda graph, stored: graph.tensors[stored.tensor].layer),
    "kind": _COMPONENT,
}
MOST_GROUPS = len(COLOURS)  # with a colour of their own, counting what is left as one


def _peak(result: Result, counted: CountedPolicy) -> Memory:
    return of_policy(result.job.graph, counted.policy, result.job.convention.traffic)[1]


# --- breakdown --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stack:
    """One panel: for each policy the amounts of its groups, or None where they are not defined."""

    what: str
    unit: str
    amounts: list[dict[str, int] | None] = field(default_factory=list)


def stacks(result: Result, by: str) -> tuple[Stack, Stack, Stack]:
    """Arithmetic cost and DRAM bits of the whole run by one of BY, and the bytes at the peak of a step."""
    job, law = result.job, result.job.convention.law
    memory_by, name = BY[by]
    arithmetic = Stack(f"arithmetic of the run by {by}", LAWS[law].unit)
    dram = Stack(f"DRAM traffic of the run by {by}", "bit")
    peak = Stack(f"peak memory by {memory_by}", "B")
    for counted in result.policies:
        parts: Mapping[str, Total] = group(counted.weighted_rows(), by, law)
        priced = {one or "none": its.arithmetic_cost for one, its in parts.items()}
        defined = {one: cost for one, cost in priced.items() if cost is not None}
        arithmetic.amounts.append(defined if len(defined) == len(priced) else None)
        dram.amounts.append({one or "none": its.dram_bits for one, its in parts.items()})
        its, found = _peak(result, counted), dict[str, int]()
        for stored in its.stored:
            if stored.first <= its.peak_kernel <= stored.last:
                key = name(job.graph, stored) or "none"
                found[key] = found.get(key, 0) + stored.size_bytes
        peak.amounts.append(found)
    return arithmetic, dram, peak


def _colours(panels: Sequence[Stack]) -> dict[str, str]:
    """The groups that have colours of their own, which they keep in all of these panels."""
    amounts = [its for panel in panels for its in panel.amounts if its is not None]
    names = dict.fromkeys(name for its in amounts for name, amount in its.items() if amount)
    return dict(zip(largest(names, amounts, MOST_GROUPS), COLOURS, strict=False))


def _stack(axes: Axes, panel: Stack, colours: Mapping[str, str]) -> None:
    wholes = [sum(its.values()) if its is not None else 0 for its in panel.amounts]
    divisor, prefix = si(max(wholes, default=0))
    for y, (its, whole) in enumerate(zip(panel.amounts, wholes, strict=True)):
        if its is None:
            axes.annotate("not defined", (0, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
            continue
        left = 0
        named = {name: its.get(name, 0) for name in colours}
        for name, amount in {**named, "other": whole - sum(named.values())}.items():
            if amount:
                colour = colours.get(name, GREY)
                axes.barh(y, amount / divisor, left=left / divisor, height=0.72, color=colour, edgecolor="white",
                          linewidth=0.4)  # fmt: skip
            left += amount
        axes.annotate(short(whole / divisor), (whole / divisor, y), xytext=(3, 0), textcoords="offset points",
                      va="center", fontsize=7)  # fmt: skip
    axes.set_xlim(0, 1.17 * max(max(wholes, default=0) / divisor, 1e-9))  # room for the numbers
    axes.set_xlabel(f"{panel.what}, {prefix}{panel.unit}" if "^" not in panel.unit else _powers(panel, prefix))
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)


def _powers(panel: Stack, prefix: str) -> str:
    """A unit to a power takes a prefix in front of brackets: the prefix is not to that power."""
    return f"{panel.what}, {prefix}({panel.unit})" if prefix else f"{panel.what}, {panel.unit}"


def _legend(figure: Figure, title: str, panels: Sequence[Stack], colours: Mapping[str, str], place: Any) -> None:
    every = {name for panel in panels for its in panel.amounts or () for name, n in (its or {}).items() if n}
    handles = [Patch(color=colour, label=name.replace("_", " ")) for name, colour in colours.items()]
    left = len(every - set(colours))
    if left:
        handles.append(Patch(color=GREY, label=f"other ({left})"))
    figure.legend(handles=handles, title=title, loc=place, frameon=False, fontsize=8, title_fontsize=8, ncols=4)


def breakdown(result: Result, by: str = "phase") -> Figure:
    """Stacked bars, a policy each: arithmetic cost and DRAM bits of the run, and bytes at the peak of a step.

    The largest groups have names, the others are one. Raises InputError for a grouping that is none of BY.
    """
    if by not in BY:
        raise InputError(f"plot breakdown: --by {by}: expected one of {', '.join(BY)}")
    arithmetic, dram, peak = stacks(result, by)
    count = len(result.policies)
    same = BY[by][0] == by
    colours = _colours((arithmetic, dram, peak) if same else (arithmetic, dram))
    in_memory = {name for its in peak.amounts for name, size in (its or {}).items() if size}
    of_memory = colours if same else {name: its for name, its in OF_COMPONENT.items() if name in in_memory}
    rows = -(-max(len(colours) + 1, len(of_memory)) // 4)
    figure = Figure(figsize=(13, 1.6 + 0.3 * count + 0.18 * rows), layout="constrained")
    panels: Any = figure.subplots(1, 3, sharey=True)
    for axes, panel, its in zip(panels, (arithmetic, dram, peak), (colours, colours, of_memory), strict=True):
        _stack(axes, panel, its)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(count), [starred(counted) for counted in result.policies])
    panels[0].set_ylim(count - 0.4, -0.6)
    _legend(figure, by, (arithmetic, dram, *((peak,) if same else ())), colours, "outside lower left")
    if not same:
        _legend(figure, f"memory: {BY[by][0]}", (peak,), of_memory, "outside lower right")
    figure.suptitle(f"{note(result.job)}; memory of the whole step{marks(result.policies)}", fontsize=10)
    return figure


# --- comparison -------------------------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """One panel: how many times less than the baseline each policy is, or why that is not known."""

    what: str
    ratios: list[Fraction | float | str]
    stated: dict[str, float]  # by policy


def _over(mine: float | None, base: float | None) -> float | str:
    if mine is None or base is None:
        return "not known"
    return base / mine if mine and base else "nothing"


def _on_device(result: Result, device: Hardware) -> list[Compared]:
    found = []
    for what, name in (("time", "time_s"), ("energy", "energy_j")):
        ratios: list[Fraction | float | str] = []
        for counted in result.policies:
            its, base = (result.spent[one.policy.name, device.name] for one in (counted, result.baseline))
            lacks = "unsupported" if its.unsupported else "baseline unsupported" if base.unsupported else ""
            ratios.append(lacks or _over(getattr(its, name), getattr(base, name)))
        found.append(Compared(f"{what} on {device.name}", ratios, {}))
    return found


def compared(result: Result) -> list[Compared]:
    """The panels of a comparison: arithmetic, DRAM traffic, peak memory, and time and energy on every device."""
    job = result.job
    stated: dict[str, dict[str, float]] = {"arithmetic_reduction": {}, "dram_reduction": {}}
    for figure in job.file.published if job.of_the_file else ():
        stated[figure.quantity][figure.policy] = figure.stated
    ratios = [counted.total.reductions(result.baseline.total) for counted in result.policies]
    peaks = [_peak(result, counted).peak_bytes for counted in result.policies]
    base = _peak(result, result.baseline).peak_bytes
    found = [
        Compared("arithmetic", [its.arithmetic_reduction or "not defined" for its in ratios],
                 stated["arithmetic_reduction"]),
        Compared("DRAM traffic", [its.dram_reduction or "not defined" for its in ratios], stated["dram_reduction"]),
        Compared("peak memory", [Fraction(base, its) for its in peaks], {}),
    ]  # fmt: skip
    return found + [panel for device in job.hardware for panel in _on_device(result, device)]


def _ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 3000 else (1,)
    return [m * 10.0**k for k in range(-6, 7) for m in steps if low <= m * 10.0**k <= high]


def _compare(axes: Axes, panel: Compared, names: Sequence[str]) -> None:
    for y, (name, ratio) in enumerate(zip(names, panel.ratios, strict=True)):
        if isinstance(ratio, str):
            axes.annotate(
                ratio, (1, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color="0.35"
            )
            continue
        value = float(ratio)
        stated = panel.stated.get(name)
        axes.barh(y, value - 1, left=1, height=0.62, color=COLOURS[0 if value >= 1 else 1])
        if stated is not None:
            axes.plot(stated, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="black", zorder=5)
        ends = (value, 1.0, *(() if stated is None else (stated,)))
        right = value >= 1
        text = f"{value:.2f}" + (f" ({stated:g})" if stated is not None else "")
        axes.annotate(text, (max(ends) if right else min(value, 1.0), y), xytext=(6 if right else -4, 0),
                      textcoords="offset points", va="center", ha="left" if right else "right", fontsize=7)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    axes.set_title(panel.what, fontsize=9)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)


def comparison(result: Result) -> Figure:
    """How many times less than the baseline every policy is, on one logarithmic scale for all panels.

    Arithmetic and DRAM traffic of the run, peak memory of a step, and time and energy of the run on each device; open
    circles are figures that a paper states.
    """
    panels = compared(result)
    names = [counted.policy.name for counted in result.policies]
    columns = min((5, 4, 3), key=lambda number: -len(panels) % number)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.0 + 2.6 * columns, rows * (0.9 + 0.26 * len(names)) + 0.7), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [axes for row in grid for axes in row]
    values = [float(its) for panel in panels for its in panel.ratios if not isinstance(its, str)]
    values += [its for panel in panels for name, its in panel.stated.items() if name in names]
    low, high = min([*values, 1.0]), max([*values, 1.0])
    room = max((high / low) ** 0.6, 1.3)  # for the numbers
    low, high = low / (room if low < 1 else 1.06), high * room
    flat[0].set(xscale="log", xlim=(low, high), xticks=_ticks(low, high), ylim=(len(names) - 0.4, -0.6))
    flat[0].minorticks_off()
    flat[0].xaxis.set_major_formatter("{x:g}")
    flat[0].set_yticks(range(len(names)), [starred(counted) for counted in result.policies])
    for axes, panel in zip(flat, panels, strict=False):
        _compare(axes, panel, names)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_xlabel(f"times less than {result.job.convention.baseline}")
    for axes in flat[len(panels) :]:
        axes.set_axis_off()
    said = (
        "; circles, in brackets: stated by the paper" if any(set(panel.stated) & set(names) for panel in panels) else ""
    )
    without = "" if result.job.overlap or not result.job.hardware else ", without overlap"
    figure.suptitle(f"{note(result.job)}{without}{marks(result.policies)}{said}", fontsize=10)
    return figure
