"""A result in sentences, as the HTML report opens with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costsim.page.table import time
from costsim.plots.reductions import Reduction
from costsim.results.records import Record, published, records
from costsim.run.simulate import Result
from costsim.tables.cells import short, signed
from costsim.tables.run import convention_line

_QUANTITIES = {"arithmetic_reduction": "arithmetic", "dram_reduction": "DRAM traffic"}


def _policy(name: str) -> str:
    return f"policy {name}"


def _times(ratio: float, baseline: str) -> str:
    return f"about as much as {baseline}" if short(ratio) == "1.00" else f"{short(ratio)} times less than {baseline}"


def _best(rows: Sequence[Record], reduction: Reduction) -> tuple[Record, float] | None:
    """The row with the largest ratio, and the ratio; None if no row has one."""
    known = [(row, ratio) for row in rows if (ratio := reduction.ratio(row)) is not None]
    return max(known, key=lambda pair: pair[1], default=None)


def summary(result: Result) -> list[str]:
    """A sentence each: the size of the run, the best policies, published figures, the fastest policy on each device."""
    convention, count = result.job.convention, len(result.policies)
    rows, baseline = records(result, "policy"), _policy(convention.baseline)
    sentences = [
        f"{count} {'policy' if count == 1 else 'policies'}, counted exactly over {convention.steps:,} training steps "
        f"of a model with {result.job.graph.parameters:,} parameters."
    ]
    for field, quantity in _QUANTITIES.items():
        best = _best(rows, Reduction(quantity, field))
        if best is None:
            continue
        row, ratio = best
        if row["policy"] == convention.baseline:
            sentences.append(f"None takes less {quantity} than the baseline, {baseline}.")
        else:
            times = _times(ratio, f"that of {baseline}")
            sentences.append(f"The least {quantity} is that of {_policy(row['policy'])}, {times}.")
    sentences += _stated(result)
    for device in result.job.hardware:
        fastest = _best(rows, Reduction("time", "time_reduction", device.name))
        if fastest is not None:
            row, ratio = fastest
            spent = time(row["hardware"][device.name]["time_s"])
            name, times = _policy(row["policy"]), _times(ratio, baseline)
            sentences.append(f"On {device.name}, {name} takes the least time, {spent}, {times}.")
    return sentences


def _stated(result: Result) -> Iterator[str]:
    """Published figures beside ours, in the scope and traffic model of the workload file."""
    file = result.job.file
    for row in published(result):
        if row["convention"] and (row["scope"], row["traffic"]) == (file.scope, file.traffic):
            change = signed(row["difference"]) or "+0.0"
            yield (
                f"For {_policy(row['policy'])} the paper states {row['stated']:g} times less "
                f"{_QUANTITIES[row['quantity']]}; here it is {short(row['ours'])} ({change} %)."
            )


def ratios(result: Result) -> str:
    """The meaning of a ratio on the page, and the convention."""
    convention = result.job.convention
    line = convention_line(convention)
    return (
        f"A ratio (\u00d7) says how many times less than {convention.baseline} a policy takes: above 1 it saves, below "
        f"1 it costs more. {line[0].upper()}{line[1:]}."
    )
