"""What a reconciliation came to, as a document: the combinations that hit, what chance would give, and interactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from costsim.results.records import FIGURES, Record
from costsim.search.reconcile import GRADES, LEAST, Departure, Hit, Interaction, Reconciliation
from costsim.tables.cells import percent, short, signed
from costsim.tables.document import Block, Document, Drawn, Heading, Notes, Source
from costsim.tables.table import Column, Table, wrap

_WIDE = 44  # columns of departures on a screen


def _text(departure: Departure) -> str:
    return f"{departure.assumption}: {departure.case} ({departure.grade})"


def _name(of: Reconciliation, i: int) -> str:
    """A figure, with its policy where figures are of several."""
    figure, several = of.figures[i], len({figure.policy for figure in of.figures}) > 1
    return f"{figure.policy} {FIGURES[figure.quantity]}" if several else FIGURES[figure.quantity]


def _graded(hit: Hit) -> str:
    """How many departures there are of each grade."""
    grades = [departure.grade for departure in hit.departures]
    return ", ".join(f"{grades.count(g)} {g}" for g in dict.fromkeys((*GRADES, *grades)) if g in grades) or "none"


def _hits(of: Reconciliation) -> Table:
    """A hit a row."""
    columns = [Column("", full="#"), Column("departs from what the files assume", "left")]
    for i in range(len(of.figures)):
        columns += [Column(f"{_name(of, i)}\nx", full=f"{_name(of, i)} x"), Column("\n%", full=f"{_name(of, i)} %")]
    rows, shown = [], []
    for number, hit in enumerate(of.listed, 1):
        parts = [_text(departure) for departure in hit.departures] or ["nothing"]
        cells = []
        for ratio, figure in zip(hit.ratios, of.figures, strict=True):
            cells += [f"{ratio:.2f}", signed(ratio / figure.stated - 1)]
        rows.append([str(number), "; ".join(parts), *cells])
        shown.append([str(number), "\n".join(wrap(part, _WIDE, "  ") for part in parts), *cells])
    return Table(columns, rows, shown)


def _interactions(of: Reconciliation) -> Table:
    """A pair of departures a row."""
    columns = [
        Column("figure", "left"),
        Column("one departure", "left"),
        Column("another", "left"),
        Column("one\nx", full="one x"),
        Column("another\nx", full="another x"),
        Column("both\nx", full="both x"),
        Column("beyond\nproduct", full="both over the product"),
    ]
    rows, shown = [], []
    for pair in of.interactions:
        names = [f"{departure.assumption}: {departure.case}" for departure in pair.departures]
        numbers = [f"{value:.2f}" for value in (*pair.alone, pair.together, pair.factor)]
        rows.append([_name(of, pair.figure), *names, *numbers])
        shown.append([wrap(_name(of, pair.figure), 10), *(wrap(name, 16) for name in names), *numbers])
    return Table(columns, rows, shown)


def _stated(of: Reconciliation) -> str:
    baseline = of.job.convention.baseline
    parts = [
        f"{figure.stated:g}x {_name(of, i)} (as shipped {ratio:.2f}x)"
        for i, (figure, ratio) in enumerate(zip(of.figures, of.shipped, strict=True))
    ]
    policies = ", ".join(dict.fromkeys(figure.policy for figure in of.figures))
    return f"{policies} against {baseline}: stated {', '.join(parts)}"


def _rough(expected: float) -> str:
    return f"{expected:.0f}" if expected >= 10 else f"{expected:.2g}"


def _verdict(of: Reconciliation) -> str:
    within = f"within {float(100 * of.within):g} %"
    if not of.hits:
        return f"none of {of.tried} combinations gives all figures {within}"
    idle = of.hits - of.needed
    more = f"; {idle} of these depart from something that changes nothing, and are not listed" if idle else ""
    return f"{of.hits} of {of.tried} combinations give all figures {within}{more}"


def notes(of: Reconciliation) -> list[str]:
    """How many were tried, what chance would give, and in which order hits are."""
    lines = [_verdict(of)]
    if not of.hits and of.nearest:
        departures = "; ".join(map(_text, of.nearest.departures)) or "nothing"
        figures = ", ".join(f"{ratio:.2f}x {_name(of, i)}" for i, ratio in enumerate(of.nearest.ratios))
        lines.append(f"nearest, {percent(of.nearest.error)} % off: {figures}, with {departures}")
    alone = ", ".join(
        f"{_name(of, i)} {percent(count / of.tried) if of.tried else 0} %" for i, count in enumerate(of.alone)
    )
    spans = ", ".join(f"{_name(of, i)} {short(low)}x to {short(high)}x" for i, (low, high) in enumerate(of.ranges))
    if len(of.figures) > 1:
        lines.append(
            f"by chance, roughly: {_rough(of.by_rates)}, if figures were independent and each right as often as it is "
            f"by itself ({alone})"
        )
    lines.append(
        f"by chance, roughly: {_rough(of.by_ranges)}, if figures were independent and log-uniform over what the "
        f"combinations span ({spans})"
    )
    lines.append("a hit is an explanation that could be, no evidence for it")
    if impossible := of.combinations - of.tried:
        lines.append(f"{impossible} more are not possible: cases that clash, or a law that is not defined")
    if of.left_out:
        least = f"{float(100 * LEAST):g} %"
        lines.append(
            f"as shipped, for alone they move no figure by {least} (--assumption NAME varies them): "
            + "; ".join(of.left_out)
        )
    lines.append(
        "order: fewest departures from what is stated, then inferred, then fitted, then ours or recalled; then by the "
        "largest difference from a figure"
    )
    return lines


def _sources(of: Reconciliation) -> Source:
    return Source(f"stated by {', '.join(dict.fromkeys(figure.source for figure in of.figures))}")


_INTERACT = "departures that together do other than the product of what each does alone"


def _blocks(of: Reconciliation) -> list[list[Block]]:
    first: list[Block] = [Heading(_stated(of))]
    groups: list[list[Block]] = [first, [Drawn(_hits(of))]] if of.listed else [first]
    groups.append([Notes(notes(of)), _sources(of)])
    if of.interactions:
        groups.append([Heading(_INTERACT), Drawn(_interactions(of))])
    return groups


def _page(of: Reconciliation) -> list[Block]:
    return [block for group in _blocks(of) for block in group]


def _paper(of: Reconciliation) -> list[Table]:
    label, workload = f"tab:costsim-{of.job.workload}-reconcile", of.job.workload
    tables = []
    if of.listed:
        caption = f"Combinations of assumptions of {workload} that give all published figures."
        tables.append(replace(_hits(of), label=label, caption=caption, notes=[_stated(of), *notes(of)]))
    if of.interactions:
        caption = f"Assumptions of {workload}: {_INTERACT}."
        tables.append(replace(_interactions(of), label=f"{label}-interactions", caption=caption))
    return tables


def _comments(of: Reconciliation) -> list[Block]:
    return [] if of.listed else [Heading(_stated(of)), Notes(notes(of))]


def _departures(departures: tuple[Departure, ...]) -> list[Record]:
    return [departure._asdict() for departure in departures]


def _hit_record(of: Reconciliation, number: int, hit: Hit) -> Record:
    figures = {
        f"{figure.policy}.{figure.quantity}": ratio for figure, ratio in zip(of.figures, hit.ratios, strict=True)
    }
    return {
        "hit": number,
        "departs_from": "; ".join(map(_text, hit.departures)),
        "grades": _graded(hit),
        **figures,
        "error": hit.error,
    }


def records(of: Reconciliation) -> list[Record]:
    """A row for each hit that is listed; without hits, one that says so."""
    rows = [_hit_record(of, number, hit) for number, hit in enumerate(of.listed, 1)]
    none = Hit((), (float("nan"),) * len(of.figures), 0.0)
    return rows or [dict.fromkeys(_hit_record(of, 0, none)) | {"hit": "none"}]


def _pair_record(of: Reconciliation, pair: Interaction) -> Record:
    figure = of.figures[pair.figure]
    return {
        "figure": f"{figure.policy}.{figure.quantity}",
        "departures": _departures(pair.departures),
        "alone": list(pair.alone),
        "together": pair.together,
        "beyond_product": pair.factor,
    }


def _data(of: Reconciliation) -> Mapping[str, Any]:
    figures = [
        {
            "policy": figure.policy,
            "quantity": figure.quantity,
            "stated": figure.stated,
            "source": figure.source,
            "as_shipped": of.shipped[i],
            "right_alone": of.alone[i],
            "least": of.ranges[i][0],
            "largest": of.ranges[i][1],
        }
        for i, figure in enumerate(of.figures)
    ]
    return {
        "workload": of.job.workload,
        "baseline": of.job.convention.baseline,
        "within": float(of.within),
        "assumptions": [
            {"name": axis.name, "of": axis.of, "here": axis.here, "grade": axis.grade}
            | {"cases": [case.name for case in axis.cases[1:]]}
            for axis in of.axes
        ],
        "left_as_shipped": list(of.left_out),
        "figures": figures,
        "combinations": of.combinations,
        "tried": of.tried,
        "hits": of.hits,
        "hits_without_idle_departures": of.needed,
        "expected_by_own_rates": of.by_rates,
        "expected_if_log_uniform": of.by_ranges,
        "listed": [
            _hit_record(of, number, hit) | {"departures": _departures(hit.departures)}
            for number, hit in enumerate(of.listed, 1)
        ],
        "nearest": None
        if of.nearest is None
        else _hit_record(of, 0, of.nearest) | {"departures": _departures(of.nearest.departures)},
        "interactions": [_pair_record(of, pair) for pair in of.interactions],
    }


def document(of: Reconciliation) -> Document:
    """A reconciliation."""
    return Document(
        stem=f"{of.job.workload}-reconcile",
        screen=partial(_blocks, of),
        page=partial(_page, of),
        paper=partial(_paper, of),
        comments=partial(_comments, of),
        data=partial(_data, of),
        records=partial(records, of),
    )
