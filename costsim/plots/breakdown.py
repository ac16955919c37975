"""Stacked bars of the groups that make up arithmetic, DRAM traffic and peak memory of policies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costsim.cost.laws import LAWS
from costsim.cost.memory import Stored, of_policy
from costsim.cost.totals import Total, group
from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.plots.look import SCREEN, Look
from costsim.plots.style import (
    COLOURS,
    COMPONENT_COLOURS,
    GREY,
    grid,
    label,
    largest,
    legend_style,
    marks,
    names_beside,
    names_width,
    note,
    scaled,
    short,
)
from costsim.results.records import kind_words
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result
from costsim.tables.table import clip


class MemoryGroups(NamedTuple):
    """A breakdown of memory: the name of the grouping, and the group of a stored tensor."""

    by: str
    group: Callable[[Graph, Stored], str]


# The memory beside each breakdown. Phases and kinds are of ops, and a stored tensor belongs to no single op.
_COMPONENT = MemoryGroups("component", lambda _, stored: stored.component)
BY: dict[str, MemoryGroups] = {
    "phase": _COMPONENT,
    "role": MemoryGroups("role", lambda graph, stored: graph.tensors[stored.tensor].role),
    "layer": MemoryGroups("layer", lambda graph, stored: graph.tensors[stored.tensor].layer),
    "kind": _COMPONENT,
}
MOST_GROUPS = len(COLOURS)  # with a colour each; all the others together count as one

Amounts = dict[str, int]  # by group


class Stack(NamedTuple):
    """One panel: for each policy the amounts of its groups, or None where they are not defined."""

    title: str
    unit: str
    amounts: list[Amounts | None]


def _costs(totals: Mapping[str, Total]) -> Amounts | None:
    """The arithmetic cost of each group; None if the law is not defined for one."""
    costs = {name: total.arithmetic_cost for name, total in totals.items()}
    defined = {name: cost for name, cost in costs.items() if cost is not None}
    return defined if len(defined) == len(costs) else None


def _peak_bytes(result: Result, counted: CountedPolicy, groups: MemoryGroups) -> Amounts:
    graph = result.job.graph
    memory = of_policy(graph, counted.policy, result.job.convention.traffic)[1]
    sizes: Amounts = {}
    for stored in memory.stored:
        if stored.first <= memory.peak_kernel <= stored.last:
            name = groups.group(graph, stored) or "none"
            sizes[name] = sizes.get(name, 0) + stored.size_bytes
    return sizes


def stacks(result: Result, by: str) -> tuple[Stack, Stack, Stack]:
    """Arithmetic cost and DRAM bits of the whole run by one of BY, and the bytes at the peak of a step."""
    law, groups = result.job.convention.law, BY[by]
    totals = [
        {name or "none": total for name, total in group(counted.weighted_rows(), by, law).items()}
        for counted in result.policies
    ]
    bits: list[Amounts | None] = [{name: total.dram_bits for name, total in parts.items()} for parts in totals]
    sizes: list[Amounts | None] = [_peak_bytes(result, counted, groups) for counted in result.policies]
    return (
        Stack(f"arithmetic of the run by {by}", LAWS[law].unit, [_costs(parts) for parts in totals]),
        Stack(f"DRAM traffic of the run by {by}", "bit", bits),
        Stack(f"peak memory by {groups.by}", "B", sizes),
    )


def _said(counted: CountedPolicy, by: str) -> dict[str, str]:
    """What legends say of groups where that is not their name: of kinds what their ops are, and products' equations."""
    if by != "kind":
        return {}
    return {kind: f"{clip(said, 40)} ({kind})" if "->" in kind else said for kind, said in kind_words(counted).items()}


def _present(panels: Sequence[Stack]) -> dict[str, None]:
    """The groups that have an amount in any of these panels, in order of first appearance."""
    every = [amounts for panel in panels for amounts in panel.amounts if amounts is not None]
    return dict.fromkeys(name for amounts in every for name, amount in amounts.items() if amount)


def _colours(panels: Sequence[Stack]) -> dict[str, str]:
    """The colours of the largest groups, the same in all of these panels."""
    amounts = [each for panel in panels for each in panel.amounts if each is not None]
    return dict(zip(largest(_present(panels), amounts, MOST_GROUPS), COLOURS, strict=False))


def _draw(axes: Axes, panel: Stack, colours: Mapping[str, str], width: float) -> None:
    """Bars in a panel of so many inches."""
    wholes = [sum(amounts.values()) if amounts is not None else 0 for amounts in panel.amounts]
    divisor, unit = scaled(panel.unit, max(wholes, default=0))
    for y, (amounts, whole) in enumerate(zip(panel.amounts, wholes, strict=True)):
        if amounts is None:
            label(axes, "not defined", (0, y), (3, 0))
            continue
        left = 0
        named = {name: amounts.get(name, 0) for name in colours}
        for name, amount in {**named, "other": whole - sum(named.values())}.items():
            if amount:
                colour = colours.get(name, GREY)
                axes.barh(y, amount / divisor, left=left / divisor, height=0.72, color=colour, edgecolor="white",
                          linewidth=0.4)  # fmt: skip
            left += amount
        label(axes, short(whole / divisor), (whole / divisor, y), (3, 0))
    axes.set_xlim(0, max(max(wholes, default=0) / divisor, 1e-9) * (1 + 0.36 / width))  # room for the numbers
    axes.set_xlabel(f"{panel.title}, {unit}")
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")


Palette = Mapping[str, str]  # colours, or words, of groups


def _legend(
    of: Figure | Axes,
    title: str,
    panels: Sequence[Stack],
    colours: Palette,
    inches: float,
    place: Mapping[str, Any],
    said: Palette,
) -> None:
    """A legend for panels, in as many columns as so many inches have room for; `said`: words for groups."""
    handles = [Patch(color=colour, label=said.get(name, name.replace("_", " "))) for name, colour in colours.items()]
    others = len(set(_present(panels)) - set(colours))
    if others:
        handles.append(Patch(color=GREY, label=f"other ({others})"))
    of.legend(handles=handles, title=title, **legend_style(handles, inches, 4), **place)


_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.03, 1), "alignment": "left"}
_NATURAL = 13  # inches
_LEAST = 1.6  # inches of a panel beside others


def breakdown(result: Result, by: str = "phase", look: Look = SCREEN) -> Figure:
    """Stacked bars, a policy each: arithmetic cost and DRAM bits of the run, and bytes at the peak of a step.

    The largest groups have names, the others are one. Raises InputError for a grouping that is none of BY.
    """
    if by not in BY:
        raise InputError(f"plot breakdown: --by {by}: expected one of {', '.join(BY)}")
    arithmetic, dram, peak = panels = stacks(result, by)
    one_legend = BY[by].by == by
    coloured = panels if one_legend else (arithmetic, dram)
    colours = _colours(coloured)
    present = _present((peak,))
    components = {name: colour for name, colour in COMPONENT_COLOURS.items() if name in present}
    memory_colours = colours if one_legend else components
    count = len(result.policies)
    names = names_beside(result.policies, look.room(_NATURAL))
    taken = names_width(names, look.room(_NATURAL))
    beside = look.columns(3, _NATURAL, _LEAST, taken) == 3
    rows, columns = (1, 3) if beside else (3, 1)
    room = look.room(_NATURAL) / (2 if beside and not one_legend else 1) - (0.2 if beside else taken)
    figure = look.figure(_NATURAL, rows * (0.8 + (0.3 if beside else 0.2) * count) + (1.1 if beside else 2.0))
    flat: Any = figure.subplots(rows, columns, sharey=True)
    width = (look.room(_NATURAL) - taken) / columns
    places = [{"loc": f"outside lower {side}"} if beside else _ABOVE for side in ("left", "right")]
    for axes, panel, palette in zip(flat, panels, (colours, colours, memory_colours), strict=True):
        _draw(axes, panel, palette, width)
    flat[0].set_yticks(range(count), names)
    flat[0].set_ylim(count - 0.4, -0.6)
    _legend(figure if beside else flat[0], by, coloured, colours, room, places[0], _said(result.policies[0], by))
    if not one_legend:
        _legend(figure if beside else flat[2], f"memory: {BY[by].by}", (peak,), memory_colours, room, places[1], {})
    look.head(figure, f"{note(result.job)}; memory of the whole step{marks(result.policies)}")
    return figure
