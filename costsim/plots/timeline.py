"""Memory over a training step: live bytes by component while each kernel runs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from costsim.cost.memory import COMPONENTS, Memory, of_policy
from costsim.graph.autodiff import AFTER_FORWARD
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph
from costsim.names import Traffic
from costsim.plots.style import OF_COMPONENT, marks, short, si, starred
from costsim.results.trace import Live, live_parts
from costsim.run.simulate import CountedPolicy, Result

_POINTS = 2600  # of all panels together: what keeps an SVG file below a megabyte
_LEAST, _MOST = 120, 700  # of a panel


class Steps(NamedTuple):
    """What is drawn of a panel: from each of `starts` to the next (the last: to `end`) the live bytes are `parts`."""

    starts: list[int]
    parts: list[tuple[int, ...]]
    end: int


def thin(live: Sequence[Live], points: int) -> Steps:
    """At most so many steps: each has the fullest memory of as many kernels in a row, so that every maximum stays."""
    width = -(-len(live) // points)
    starts: list[int] = []
    parts: list[tuple[int, ...]] = []
    for at in range(0, len(live), width):
        fullest = max((its.parts for its in live[at : at + width]), key=sum)
        if not parts or fullest != parts[-1]:
            starts.append(at)
            parts.append(fullest)
    return Steps(starts, parts, len(live))


def regions(graph: Graph, traffic: Traffic) -> dict[str, tuple[int, int]]:
    """The kernels, from and to (without the last), of forward, backward (with what it makes again) and update."""
    starts = sorted(set(group_ops(graph, traffic)))
    found: dict[str, tuple[int, int]] = {}
    for i, start in enumerate(starts):
        phase = graph.ops[start].phase
        name = "backward" if phase in AFTER_FORWARD else phase
        found[name] = (found.get(name, (i, i))[0], i + 1)
    return found


def _areas(axes: Axes, steps: Steps, divisor: int) -> None:
    """Stacked areas, the whole first: what lies on it covers it, so that each has one outline only."""
    xs = [x for pair in zip(steps.starts, [*steps.starts[1:], steps.end], strict=True) for x in pair]
    heights = [list(accumulate(parts)) for parts in steps.parts]
    for i in reversed(range(len(COMPONENTS))):
        if not any(parts[i] for parts in steps.parts):
            continue
        tops = [its[i] / divisor for its in heights]
        outline = [(x, top) for top, pair in zip(tops, zip(xs[::2], xs[1::2], strict=True), strict=True) for x in pair]
        kept = [  # corners only
            point for j, point in enumerate(outline)
            if j in (0, len(outline) - 1) or not outline[j - 1][1] == point[1] == outline[j + 1][1]
        ]  # fmt: skip
        corners = [(xs[0], 0.0), *kept, (xs[-1], 0.0)]
        axes.fill(*zip(*corners, strict=True), color=OF_COMPONENT[COMPONENTS[i]], linewidth=0)


def _annotate(axes: Axes, its: Memory, at: int, count: int, divisor: int, unit: str) -> None:
    height = its.peak_bytes / divisor
    left = at < 0.5 * count
    axes.plot(at + 0.5, height, "v", color="black", markersize=5, zorder=5)
    axes.annotate(
        f"peak {short(height)} {unit} at {its.peak_op.name}",
        (at + 0.5, height),
        xytext=(6 if left else -6, 2),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        fontsize=7,
        zorder=6,
    )


def _panel(axes: Axes, result: Result, counted: CountedPolicy, points: int, divisor: int, unit: str) -> None:
    graph, traffic = result.job.graph, result.job.convention.traffic
    phase, its = of_policy(graph, counted.policy, traffic)
    live = live_parts(its, graph, traffic)
    _areas(axes, thin(live, points), divisor)
    for name, (first, end) in regions(graph, traffic).items():
        axes.axvline(end, color="black", linewidth=0.7, linestyle=":")
        middle = (first + end) / 2 / len(live)
        axes.annotate(name, (middle, 1), xycoords="axes fraction", xytext=(0, -3), textcoords="offset points",
                      ha="center", va="top", fontsize=6.5, color="0.35")  # fmt: skip
    at = max(i for i, one in enumerate(live) if one.kernel <= its.peak_kernel)
    _annotate(axes, its, at, len(live), divisor, unit)
    of = f", phase {phase + 1} of {len(counted.phases)}" if len(counted.phases) > 1 else ""
    axes.set_title(f"{starred(counted)}{of}", fontsize=9)


def timeline(result: Result) -> Figure:
    """Live bytes by component over the kernels of a step, in the phase of each policy whose peak is highest.

    A panel per policy at the same scale. Of long steps, each place shows the fullest of some kernels in a row.
    """
    job, count = result.job, len(result.policies)
    traffic = job.convention.traffic
    peaks = [of_policy(job.graph, counted.policy, traffic)[1].peak_bytes for counted in result.policies]
    kernels = len(set(group_ops(job.graph, traffic)))
    divisor, prefix = si(max(peaks))
    columns = 1 if count <= 3 else 2 if count <= 8 else 3
    rows = -(-count // columns)
    figure = Figure(figsize=(max(9.0, 5.2 * columns), 2.1 * rows + 1.2), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [axes for row in grid for axes in row]
    points = min(_MOST, max(_LEAST, _POINTS // count))
    for axes, counted in zip(flat, result.policies, strict=False):
        _panel(axes, result, counted, points, divisor, f"{prefix}B")
    flat[0].set(xlim=(0, kernels), ylim=(0, 1.3 * max(peaks) / divisor))  # room for the words above
    for axes in flat[count:]:
        axes.set_axis_off()
    for axes in flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("kernel of the step, in order")
    for row in grid:
        row[0].set_ylabel(f"live memory, {prefix}B")
    shown = [name for name in COMPONENTS if any(its.component == name and its.size_bytes for counted in result.policies
             for its in of_policy(job.graph, counted.policy, traffic)[1].stored)]  # fmt: skip
    handles = [Patch(color=OF_COMPONENT[name], label=name.replace("_", " ")) for name in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    every = f"; each place: the fullest of {-(-kernels // points)} kernels in a row" if kernels > points else ""
    sequences = job.graph.sizes["batch"]
    of = f"a micro-batch of {sequences} sequence{'s' if sequences != 1 else ''}{every}"
    said = f"{job.workload}: live memory over a step, traffic {traffic}{marks(result.policies)}"
    figure.suptitle(f"{said}\n{of}", fontsize=10)
    return figure
