"""Explanations as documents: text of 80 columns, and JSON."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from costsim.cost.writes import WRITES
from costsim.explain.formula import Number, Step, shown
from costsim.explain.op import Explanation, Section, explain
from costsim.explain.totals import TOTALS, Parts, explain_total
from costsim.explain.totals import Section as Total
from costsim.names import Scope
from costsim.run.job import Job
from costsim.tables.document import Document, Preformatted
from costsim.tables.run import convention_line
from costsim.tables.table import WIDTH

SHORT = 45  # sources of so many characters stay with their step, however often they repeat


def _wrap(text: str, indent: int, more: int = 2) -> list[str]:
    """Text in lines of at most WIDTH columns."""
    first = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first + " " * more)


def _result(step: Step) -> str:
    if step.result is None:
        return "n/a"
    value = step.result if isinstance(step.result, str) else shown(step.result)
    return f"{value} {step.unit}".rstrip()


class _Citations:
    """Sources of several steps are notes at the end, each once; others stand with their step."""

    def __init__(self, steps: Iterable[Step]) -> None:
        times = Counter(step.source for step in dict.fromkeys(steps))
        self.repeated = {source for source, n in times.items() if n > 1 and len(source) > SHORT}
        self.numbers: dict[str, int] = {}

    def cite(self, source: str) -> str:
        """How a step cites its source."""
        if source not in self.repeated:
            return f"({source})"
        return f"[{self.numbers.setdefault(source, len(self.numbers) + 1)}]"

    def lines(self, steps: Iterable[Step]) -> list[str]:
        """Steps: result, the formula in symbols and with values where there is one, and the source."""
        lines = []
        for step in steps:
            lines += _wrap(f"{step.what}: {_result(step)}", 0)
            result = str(step.result)
            if step.formula not in ("", "0", result):
                lines += _wrap(f"= {step.formula}", 4)
            if step.values not in ("", "0", "n/a", result):
                lines += _wrap(f"= {step.values}", 4)
            if step.source:
                lines += _wrap(self.cite(step.source), 4, 1)
        return lines

    def notes(self) -> list[str]:
        """The sources that steps cite by number, to end with."""
        lines = [line for source, n in self.numbers.items() for line in _wrap(f"[{n}] {source}", 0, 4)]
        return ["", *lines] if lines else []


def _heading(text: str) -> list[str]:
    lines = _wrap(text, 0)
    return ["", *lines, "-" * max(map(len, lines))]


def _common(sections: Sequence[Section]) -> list[Step]:
    """The steps that all sections have."""
    return [step for step in sections[0].explained if all(step in section.explained for section in sections)]


def _convention(job: Job, scope: Scope) -> str:
    """The convention in a line, with the reason if an op is counted in another scope than was asked for."""
    line, asked = convention_line(job.convention, scope), job.convention.scope
    if scope == asked:
        return line
    writes = asked == "gemm" and WRITES[job.convention.gemm_writes].of_others
    has = "has of this op only the writes that GEMMs read" if writes else "has no such op"
    return f"{line}; scope {asked}, which totals hold, {has}: counted in the first that has it whole"


def _phases(section: Section) -> str:
    noun = "phase" if len(section.phases) == 1 else "phases"
    return f"{noun} {', '.join(map(str, section.phases))} ({section.setup}): {section.steps} steps"


def _op_lines(job: Job, op: Explanation) -> Iterator[str]:
    """What all policies share, what all phases of a policy share, and the rest phase by phase; then the run."""
    citations = _Citations(step for section in op.sections for step in section.explained)
    yield from _wrap(f"{job.workload}: {op.name}", 0)
    yield from _wrap(op.about, 0)
    yield from _wrap(_convention(job, op.scope), 0)
    yield from _wrap("all numbers are of a training step, over all runs of the op in it", 0)
    everywhere = _common(op.sections) if len(op.sections) > 1 else []
    if everywhere:
        yield from _heading("whatever the policy and phase" if len(op.runs) > 1 else "in every phase")
        yield from citations.lines(everywhere)
    for policy, run in op.runs.items():
        sections = [section for section in op.sections if section.policy == policy]
        several = len(sections) > 1 and len(op.runs) > 1
        in_phases = [step for step in _common(sections) if step not in everywhere] if several else []
        if in_phases:
            yield from _heading(f"{policy}, in every phase")
            yield from citations.lines(in_phases)
        above = {*everywhere, *in_phases}
        for section in sections:
            yield from _heading(f"{policy}, {_phases(section)}")
            yield from citations.lines(step for step in section.explained if step not in above)
        yield from _heading(f"{policy}, over the run")
        yield from citations.lines(run)
    yield from citations.notes()


def _value(value: Number) -> str:
    return shown(value) if isinstance(value, int) else f"{value:.6g}"


def _part_lines(parts: Parts, unit: str) -> list[str]:
    """The parts of a total: value, share, name; the sum below."""
    total = sum(share.value for share in parts.shares)
    width = max(map(len, (_value(total), *(_value(share.value) for share in parts.shares))))
    lines = ["", f"{parts.what} by {parts.by}:".strip()]
    for share in parts.shares:
        line = f"  {_value(share.value):>{width}}  {100 * share.share:5.1f} %  "
        name = textwrap.wrap(share.name, max(20, WIDTH - len(line)))
        lines += [line + name[0], *(" " * len(line) + rest for rest in name[1:])]
    return [*lines, f"  {_value(total):>{width}}  100.0 %  sum, {unit}"]


def _total_lines(job: Job, name: str, sections: Sequence[Total]) -> Iterator[str]:
    citations = _Citations(step for section in sections for step in section.explained)
    yield from _wrap(f"{job.workload}: {name}", 0)
    yield from _wrap(_convention(job, job.convention.scope), 0)
    for section in sections:
        yield from _heading(section.policy + (f" on {section.device}" if section.device else ""))
        yield from citations.lines(section.explained)
        for parts in section.parts:
            if parts.shares:
                yield from _part_lines(parts, parts.unit or section.explained[-1].unit)
    yield from citations.notes()


def _number(value: Number | str | None) -> Number | str | None:
    """Exact integers as decimal strings."""
    return str(value) if isinstance(value, int) else value


def _step_record(step: Step) -> dict[str, Any]:
    return {
        "what": step.what,
        "formula": step.formula,
        "values": step.values,
        "result": _number(step.result),
        "unit": step.unit,
        "source": step.source,
    }


def _op_record(op: Explanation) -> dict[str, Any]:
    policies = []
    for policy, run in op.runs.items():
        phases = [
            {
                "phases": list(section.phases),
                "setup": section.setup,
                "steps": section.steps,
                "explanation": [_step_record(step) for step in section.explained],
            }
            for section in op.sections
            if section.policy == policy
        ]
        policies.append({"policy": policy, "phases": phases, "run": [_step_record(step) for step in run]})
    return {"op": op.name, "about": op.about, "counted_in_scope": op.scope, "policies": policies}


def _total_record(name: str, sections: Sequence[Total]) -> dict[str, Any]:
    policies = []
    for section in sections:
        parts = {
            part.by: [{"name": s.name, "value": _number(s.value), "share": s.share} for s in part.shares]
            for part in section.parts
        }
        explained = [_step_record(step) for step in section.explained]
        device = {"hardware": section.device} if section.device else {}
        policies.append({"policy": section.policy, **device, "explanation": explained, "parts": parts})
    return {"total": name, "policies": policies}


def _data(job: Job, record: Mapping[str, Any]) -> Mapping[str, Any]:
    used = job.convention
    convention: dict[str, Any] = {"law": used.law, "traffic": used.traffic, "scope": used.scope, "steps": used.steps}
    if used.tiled:
        convention["buffer_bytes"] = used.buffer_bytes
    return {"workload": job.workload, "baseline": used.baseline, "convention": convention, **record}


def document(job: Job, name: str) -> Document:
    """An op, or one of TOTALS, explained. Raises InputError for a name that is neither."""
    if name in TOTALS:
        result, totals = explain_total(job, name)
        lines, record = partial(_total_lines, result.job, name, totals), partial(_total_record, name, totals)
    else:
        explanation = explain(job, name, TOTALS)
        lines, record = partial(_op_lines, job, explanation), partial(_op_record, explanation)
    return Document(job.workload, lambda: [[Preformatted(list(lines()))]], lambda: _data(job, record()))
