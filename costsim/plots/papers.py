"""Figures of the papers: losses of training runs, peak memory, linear layers' share of time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from costsim.devices.profile import Hardware
from costsim.plots.look import SCREEN, Look
from costsim.plots.memory import Bar, bars_and_legend
from costsim.plots.style import COLOURS, legend_below
from costsim.reference.training import Spent
from costsim.run.pretraining import Peak, Share

# --- training ---------------------------------------------------------------------------------------------------------


def training(curves: Mapping[str, Sequence[Spent]], unigram_entropy: float, look: Look = SCREEN) -> Figure:
    """Validation losses over the steps, and over the arithmetic and the DRAM traffic spent by then."""
    columns = look.columns(3, 11, 2.0)
    figure = look.figure(11, 4 if columns == 3 else 7)
    panels: Any = figure.subplots(-(-3 // columns), columns, sharey=True, squeeze=False).ravel()
    for axes in panels[3:]:
        axes.set_axis_off()
    along: dict[str, Callable[[Spent], float]] = {
        "training step": lambda spent: spent.step,
        "arithmetic spent, share of the baseline's run": lambda spent: spent.arithmetic,
        "DRAM traffic spent, share of the baseline's run": lambda spent: spent.dram,
    }
    for axes, (label, amount) in zip(panels, along.items(), strict=False):
        for i, (name, curve) in enumerate(curves.items()):
            points = [amount(spent) for spent in curve], [spent.validation_loss for spent in curve]
            axes.plot(*points, marker=".", color=COLOURS[i % len(COLOURS)], label=name)
        axes.axhline(unigram_entropy, color="grey", linestyle="--", linewidth=1, label="unigram entropy")
        axes.set_xlabel(label)
        axes.grid(linewidth=0.3)
        if label != "training step":
            axes.set_xscale("log")
    lowest = min(spent.validation_loss for curve in curves.values() for spent in curve)
    panels[0].set_ylim(0.9 * lowest, 1.4 * unigram_entropy)  # a run that diverges leaves the figure
    panels[0].set_ylabel("validation loss, nats per word")
    legend_below(figure, panels[0].get_legend_handles_labels()[0], look.room(11))
    return figure


# --- pre-training -----------------------------------------------------------------------------------------------------


def peaks(memories: Sequence[Peak], device: Hardware, look: Look = SCREEN) -> Figure:
    """Peak memory by component, for each workload and micro-batch size, and where a device's DRAM ends."""
    bars = [Bar(peak.workload, str(peak.sequences), peak.components) for peak in memories]
    figure = bars_and_legend(look, 10, 4.5, bars, [device])
    figure.axes[0].set_title(
        f"{', '.join(dict.fromkeys(peak.policy for peak in memories))}, by sequences of a micro-batch"
    )
    return figure


def linear_shares(shares: Sequence[Share], look: Look = SCREEN) -> Figure:
    """The linear layers' share of a block's time over the length of sequences, a line per workload."""
    attentions = list(dict.fromkeys(share.attention for share in shares))
    workloads = list(dict.fromkeys(share.workload for share in shares))
    natural = 4.6 * len(attentions) + 0.4
    columns = look.columns(len(attentions), natural, 2.2)
    rows = -(-len(attentions) // columns)
    figure = look.figure(natural, 4 if rows == 1 else 2.6 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, attention in zip(panels, attentions, strict=False):
        for i, workload in enumerate(workloads):
            line = [share for share in shares if (share.workload, share.attention) == (workload, attention)]
            points = [share.tokens for share in line], [share.share for share in line]
            axes.plot(*points, marker="osD^v"[i % 5], color=COLOURS[i % len(COLOURS)], label=workload)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({share.tokens for share in shares}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"attention {attention}")
        axes.set_xlabel("tokens of a sequence")
        axes.grid(linewidth=0.3)
    panels[0].set_ylim(0, 1)
    panels[0].set_ylabel("linear layers, share of a block's time")
    panels[0].legend(frameon=False)
    return figure
