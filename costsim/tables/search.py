"""What a search found, as a document: a policy a row, and below, to compare, those that give all groups one format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from costsim.names import PEAK
from costsim.results.records import Record
from costsim.search.found import LOSS, MEASURED, Found
from costsim.search.measures import device_fields
from costsim.search.problem import Point
from costsim.tables.cells import short, three_digits
from costsim.tables.document import Block, Document, Drawn, Heading, Notes
from costsim.tables.table import Column, Table

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def record(found: Found, name: str, point: Point) -> Record:
    """A policy's row: exact integers as decimal strings."""
    posed = found.problem
    reductions = {field: _number(posed.reduction(point, cost)) for field, cost in posed.reductions.items()}
    costs = {field: _cost(cost) for field, cost in zip(posed.fields, point.costs, strict=True)}
    return {"policy": name, LOSS: _number(point.loss), **costs, **reductions}


def _cost(cost: float) -> str | float | None:
    """A count as a decimal string, time and energy as numbers; None where a policy does not run."""
    return str(cost) if isinstance(cost, int) else cost if isfinite(cost) else None


def _records(found: Found) -> list[Record]:
    named = [(found.name(point), point) for point in found.shown]
    named += [(f"all-{format}", point) for format, point in found.uniform]
    return [{**record(found, name, point), **courses(found, point)} for name, point in named]


def courses(found: Found, point: Point) -> dict[str, str]:
    """The format of each group: `bfp4`, or `bfp4, bfp8 from step 4550` if it changes."""
    made: dict[str, str] = {}
    last: dict[str, str] = {}
    for start, formats in found.formats(point):
        for group, format in formats.items():
            if format != last.get(group):
                made[group] = f"{made[group]}, {format} from step {start}" if start else format
        last = formats
    return made


_TITLES = {"arithmetic": "arith x", "dram": "DRAM x"}


def _title(reduction: str) -> str:
    """The column of a reduction: of a device among several with its name."""
    device, _, name = reduction.rpartition(".")
    short_name = name.partition("_")[0]
    return " ".join(part for part in (device, _TITLES.get(short_name, f"{short_name} x")) if part)


def _columns(found: Found) -> list[Column]:
    """Those of a table; a loss only if somebody says what is lost."""
    loss = [] if found.problem.losses is None else [Column("loss")]
    ratios = [Column(_title(name)) for name in found.problem.reductions]
    last = [Column("quantize ops"), Column("groups by format", "left")]
    return [Column("policy", "left"), *loss, *ratios, *last]


def _row(found: Found, name: str, point: Point) -> list[str]:
    made = record(found, name, point)
    loss = made[LOSS]
    numbers = [] if loss is None else [three_digits(loss) if loss >= 0.001 else f"{loss:.2e}"]
    numbers += [short(made[field]) for field in found.problem.reductions]
    usage = "; ".join(
        f"{f'from step {start}: ' if start else ''}{', '.join(f'{number} {format}' for format, number in of)}"
        for start, of in found.usage(point)
    )
    return [name, *numbers, short(made["quantize_ops"]), usage]


def _front(found: Found) -> Table:
    return Table(_columns(found), [_row(found, found.name(point), point) for point in found.shown])


def _uniform(found: Found) -> Table:
    return Table(_columns(found), [_row(found, f"all-{format}", point) for format, point in found.uniform])


def _choices(found: Found) -> Table:
    """The format of each group under the one policy that is best."""
    [point] = found.points
    rows = [list(row) for row in courses(found, point).items()]
    return Table([Column("group", "left"), Column("format", "left")], rows)


def notes(found: Found) -> list[str]:
    """What the numbers are, and what is proved of them."""
    convention = found.problem.job.convention
    lines = [f"{convention.summary()}, {convention.steps} steps; x less than {convention.baseline}"]
    lines += _what_is_chosen(found)
    if found.asked.sensitivity in MEASURED:
        what = MEASURED[found.asked.sensitivity]
        lines.append(f"loss is a proxy: {what}, of a shrunken copy with random weights and data, measured in NumPy")
    if PEAK in found.problem.measures:
        lines.append("memory is the peak of a step, of all ops whatever the scope")
    lines += [f"{device.name}: {_overlap(found)}" for device in _devices(found)]
    posed = found.problem
    without = [name for name, base in zip(posed.fields, posed.baseline, strict=True) if base is None]
    if without:
        lines.append(f"n/a: {convention.baseline} has no {', '.join(without)} there; another --baseline has")
    lines.append(_what_is_proved(found))
    return lines


def _what_is_chosen(found: Found) -> list[str]:
    base, number, stretches = found.problem.space.policy.name, len(found.groups), len(found.problem.stretches)
    if stretches == 1:
        return [f"{number} groups of {base}, each in one format; losses of groups add up (an assumption)"]
    return [
        f"{number} groups of {base}, each in one format from the start, and in a later one of --formats from one of "
        f"{stretches - 1} evenly spaced steps on",
        "losses of groups add up, each weighed by the share of all steps in that format (an assumption); costs are "
        "those of the whole run",
    ]


def _what_is_proved(found: Found) -> str:
    asked, gap = found.asked, found.gap or 0
    proof = "proved" if gap < _PROVED else f"a better one is at most {100 * gap:.2g} % better"
    if found.single:
        under = [f"at most {text}" for text in asked.at_most] + [f"at least {text}" for text in asked.at_least]
        return f"the least {found.field}{' with ' if under else ''}{', '.join(under)}: {proof}"
    shown = f"a front of {len(found.points)} policies, {len(found.shown)} shown"
    if found.kind == "budgets":
        return f"{shown}: each has the least loss at its {found.field}, or less: {proof}"
    if found.kind == "corners":
        return f"{shown}: each is best at some price of {found.field}; others lie between, which --points finds"
    return f"{shown}: none has less of both loss and {found.field} than the lines between them"


def _devices(found: Found) -> list[Hardware]:
    """The devices of which something is told."""
    of = device_fields(found.problem.job)
    return list(dict.fromkeys(of[name][0] for name in found.problem.measures if name in of))


def _overlap(found: Found) -> str:
    how = "overlaps with" if found.problem.job.overlap else "comes after"
    return f"a roofline for each kernel, summed over the run; DRAM traffic {how} arithmetic"


_PROVED = 1e-9  # of a gap, relative: rounding of the solver


def _blocks(found: Found) -> list[Block]:
    blocks: list[Block] = [Drawn(_front(found)), Notes(notes(found))]
    blocks += [Heading("all groups in one format"), Drawn(_uniform(found))]
    return blocks if not found.single else [*blocks, Heading("formats"), Drawn(_choices(found))]


def _screen(found: Found) -> list[list[Block]]:
    first, lines, *others = _blocks(found)
    pairs = zip(others[::2], others[1::2], strict=True)
    return [[first, lines], *([heading, table] for heading, table in pairs)]


def _paper(found: Found) -> list[Table]:
    workload, baseline = found.problem.job.workload, found.problem.job.convention.baseline
    under = f"{found.problem.job.convention.summary()}; \u00d7: times less than {baseline}"
    label = f"tab:costsim-{workload}-search"
    return [
        replace(_front(found), label=label, caption=f"Policies found for {workload}.", notes=[under, *notes(found)]),
        replace(
            _uniform(found),
            label=f"{label}-uniform",
            caption=f"{workload} with all groups in one format.",
            notes=[under],
        ),
    ]


def _data(found: Found) -> Mapping[str, Any]:
    """All points of a front, not only those that a table shows."""
    convention = found.problem.job.convention
    shown: Sequence[Point] = found.shown
    return {
        "workload": found.problem.job.workload,
        "baseline": convention.baseline,
        "base": found.problem.space.policy.name,
        "convention": convention.summary(),
        "steps": convention.steps,
        "minimised": found.field if found.single else None,
        "front_of": None if found.single else [LOSS, found.field],
        "gap": found.gap,
        "whole": found.kind in ("optimum", "front"),
        "groups": found.groups,
        "points": [
            {**record(found, found.name(point) if point in shown else "", point), **_formats(found, point)}
            for point in found.points
        ],
        "uniform": [record(found, f"all-{format}", point) for format, point in found.uniform],
        "notes": notes(found),
    }


def _formats(found: Found, point: Point) -> Mapping[str, Any]:
    """The formats of the start, and those of later phases."""
    (_, first), *later = found.formats(point)
    phases = [{"from_step": start, "formats": formats} for start, formats in later]
    return {"formats": first, **({"phases": phases} if phases else {})}


def document(found: Found) -> Document:
    """A search."""
    return Document(
        stem=f"{found.problem.job.workload}-search",
        screen=partial(_screen, found),
        page=partial(_blocks, found),
        paper=partial(_paper, found),
        data=partial(_data, found),
        records=partial(_records, found),
    )
