"""Memory over a training step: live bytes by component while each kernel runs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon

from costsim.cost.memory import COMPONENTS, Memory, of_policy
from costsim.graph.autodiff import AFTER_FORWARD
from costsim.graph.fusion import kernel_starts
from costsim.graph.graph import Graph
from costsim.names import Traffic
from costsim.plots.look import SCREEN, Look, pt
from costsim.plots.style import COMPONENT_COLOURS, label, legend_below, letters, marks, short, si, starred
from costsim.results.trace import Live, live_parts
from costsim.run.counted import CountedPolicy
from costsim.run.simulate import Result
from costsim.tables.table import wrap

_POINTS = 2600  # of all panels together: an SVG file stays below a megabyte
_LEAST, _MOST = 120, 700  # of a panel


_NARROWEST = 3.2  # inches of a panel


class Scale(NamedTuple):
    """What bytes are divided by, their unit, and the inches of a panel."""

    divisor: int
    unit: str
    width: float


class Steps(NamedTuple):
    """A panel's outline: from each of `starts` to the next (the last: to `end`) the live bytes are `parts`."""

    starts: list[int]
    parts: list[tuple[int, ...]]
    end: int


def thin(live: Sequence[Live], points: int) -> Steps:
    """At most `points` steps: each has the fullest memory of as many kernels in a row, so that every maximum stays."""
    width = -(-len(live) // points)
    starts: list[int] = []
    parts: list[tuple[int, ...]] = []
    for start in range(0, len(live), width):
        fullest = max((kernel.parts for kernel in live[start : start + width]), key=sum)
        if not parts or fullest != parts[-1]:
            starts.append(start)
            parts.append(fullest)
    return Steps(starts, parts, len(live))


def regions(graph: Graph, traffic: Traffic) -> dict[str, tuple[int, int]]:
    """The first kernel and the end (exclusive) of forward, of backward (with recomputation) and of update.

    What runs between ops of the forward is in it: gradients that are made at once.
    """
    ends: dict[str, int] = {}
    for i, start in enumerate(kernel_starts(graph, traffic)):
        phase = graph.ops[start].phase
        ends["backward" if phase in AFTER_FORWARD else phase] = i + 1
    names = sorted(ends, key=ends.__getitem__)
    return {name: (start, ends[name]) for start, name in zip([0, *map(ends.__getitem__, names)], names, strict=False)}


def _areas(axes: Axes, steps: Steps, divisor: int) -> None:
    """Stacked areas, the whole first: later areas cover earlier ones, so that each has one outline only."""
    xs = [x for pair in zip(steps.starts, [*steps.starts[1:], steps.end], strict=True) for x in pair]
    heights = [list(accumulate(parts)) for parts in steps.parts]
    for i in reversed(range(len(COMPONENTS))):
        if not any(parts[i] for parts in steps.parts):
            continue
        tops = [height[i] / divisor for height in heights]
        outline = [(x, top) for top, pair in zip(tops, zip(xs[::2], xs[1::2], strict=True), strict=True) for x in pair]
        kept = [  # corners only
            point for j, point in enumerate(outline)
            if j in (0, len(outline) - 1) or not outline[j - 1][1] == point[1] == outline[j + 1][1]
        ]  # fmt: skip
        corners = [(xs[0], 0.0), *kept, (xs[-1], 0.0)]
        area = Polygon(corners, closed=True, color=COMPONENT_COLOURS[COMPONENTS[i]], linewidth=0)
        axes.add_artist(area)  # `fill` would look at all corners for limits, which are set


def _mark_peak(axes: Axes, memory: Memory, live: Sequence[Live], scale: Scale) -> int:
    """A triangle at the peak, with its height and the op in words; how many lines they take."""
    at = max(i for i, kernel in enumerate(live) if kernel.kernel <= memory.peak_kernel)
    height, left = memory.peak_bytes / scale.divisor, at < 0.5 * len(live)
    axes.plot(at + 0.5, height, "v", color="black", markersize=5, zorder=5)
    most = int(scale.width * max(at, len(live) - at) / len(live) / letters("x"))
    text = wrap(f"peak {short(height)} {scale.unit} at {memory.peak_op.name}", max(most, 12))
    offset, side = (6 if left else -6, 2), "left" if left else "right"
    label(axes, text, (at + 0.5, height), offset, ha=side, va="bottom", zorder=6)
    return text.count("\n") + 1


def _panel(axes: Axes, result: Result, counted: CountedPolicy, points: int, scale: Scale) -> int:
    """A policy's memory; how many lines of words are above the peak."""
    graph, traffic = result.job.graph, result.job.convention.traffic
    phase, memory = of_policy(graph, counted.policy, traffic)
    live = live_parts(memory, graph, traffic)
    _areas(axes, thin(live, points), scale.divisor)
    for name, (first, end) in regions(graph, traffic).items():
        axes.axvline(end, color="black", linewidth=0.7, linestyle=":")
        middle = (first + end) / 2 / len(live)
        style: Any = {"ha": "center", "va": "top", "fontsize": pt(6.5), "color": "0.35"}
        label(axes, name, (middle, 1), (0, -3), xycoords="axes fraction", **style)
    lines = _mark_peak(axes, memory, live, scale)
    phases = len(counted.phases)
    axes.set_title(starred(counted) + (f", phase {phase + 1} of {phases}" if phases > 1 else ""), fontsize=pt(9))
    return lines


def timeline(result: Result, look: Look = SCREEN) -> Figure:
    """Live bytes by component over the kernels of a step, in the phase of each policy whose peak is highest.

    A panel per policy at the same scale. Of long steps, each place shows the fullest of some kernels in a row.
    """
    job, count = result.job, len(result.policies)
    traffic = job.convention.traffic
    memories = [of_policy(job.graph, counted.policy, traffic)[1] for counted in result.policies]
    highest = max(memory.peak_bytes for memory in memories)
    kernels = len(kernel_starts(job.graph, traffic))
    divisor, prefix = si(highest)
    most = 1 if count <= 3 else 2 if count <= 8 else 3
    natural = max(9.0, 5.2 * most)
    columns = look.columns(most, natural, _NARROWEST)
    rows = -(-count // columns)
    scale = Scale(divisor, f"{prefix}B", look.room(natural) / columns - 0.8)
    figure = look.figure(natural, (2.1 if look.width is None else 1.9) * rows + 1.2)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [axes for row in grid for axes in row]
    points = min(_MOST, max(_LEAST, _POINTS // count))
    lines = max(
        _panel(axes, result, counted, points, scale) for axes, counted in zip(flat, result.policies, strict=False)
    )
    height = 110 if look.width is None else 72  # points of a panel, in letters of 9 points
    words = min((14 + 9 * lines) / height, 0.7)
    flat[0].set(xlim=(0, kernels), ylim=(0, highest / divisor / (1 - words)))
    for axes in flat[count:]:
        axes.set_axis_off()
    for axes in flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("kernel of the step, in order")
    for row in grid:
        row[0].set_ylabel(f"live memory, {prefix}B")
    _legend(figure, memories, look.room(natural))
    look.head(figure, _title(result, kernels, points))
    return figure


def _legend(figure: Figure, memories: Sequence[Memory], inches: float) -> None:
    """The components that hold anything at any time."""
    used = {place.component for memory in memories for place in memory.stored if place.size_bytes}
    handles = [
        Patch(color=colour, label=name.replace("_", " ")) for name, colour in COMPONENT_COLOURS.items() if name in used
    ]
    legend_below(figure, handles, inches)


def _title(result: Result, kernels: int, points: int) -> str:
    job, sequences = result.job, result.job.graph.sizes["batch"]
    plural = "s" if sequences != 1 else ""
    every = f"; each place: the fullest of {-(-kernels // points)} kernels in a row" if kernels > points else ""
    return (
        f"{job.workload}: live memory over a step, traffic {job.convention.traffic}{marks(result.policies)}\n"
        f"a micro-batch of {sequences} sequence{plural}{every}"
    )
