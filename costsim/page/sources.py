"""The sources of the numbers in the HTML report: law, formats, devices, energies, policies, and the files."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from costsim.cost.count import count
from costsim.cost.laws import LAWS
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph.fusion import MODELS
from costsim.graph.graph import Graph
from costsim.inputs import files
from costsim.page.table import PageTable, integer, number, table, words
from costsim.policy.assign import Assignment, assign
from costsim.policy.policy import Policy
from costsim.results import records
from costsim.results.defaults import absent, defaults
from costsim.run.simulate import Result
from costsim.tables.defaults import CAPTION, nothing, spelled

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware
    from costsim.results.survey import Survey

MOST_TEXT = 60_000  # characters of a file that the page shows
_SCOPES = {"gemm": "GEMM operands and results", "layer": "all ops but the update", "step": "all ops and the update"}


class SourceFile(NamedTuple):
    """A file as the page shows it: `workload`, `policy` or `widths`, the name of the file, and the text."""

    kind: str
    name: str
    text: str


def _policies(result: Result) -> list[Policy]:
    """The policies and the baseline, once each."""
    return list({each.policy.name: each.policy for each in (*result.policies, result.baseline)}.values())


def conventions(result: Result) -> list[tuple[str, str]]:
    """Everything that all numbers depend on, with the source of the law: terms and their descriptions."""
    job, convention = result.job, records.convention(result)
    law, model, scope = LAWS[job.convention.law], MODELS[job.convention.traffic], job.convention.scope
    terms = [
        ("law", f"{convention['law']}, in {law.unit}; defined for {law.defined}"),
        ("source of the law", law.source),
        ("traffic model", f"{job.convention.traffic_label}: {model.description}"),
        ("scope", f"{job.convention.scope_label(scope)}: {_SCOPES[scope]}"),
        ("baseline", convention["baseline"]),
        ("steps", f"{convention['steps']} of {convention['micro_batches']} micro-batches each"),
        ("parameters", f"{convention['parameters']}, of which {convention['trainable_parameters']} are trained"),
    ]
    if "active_parameters" in convention:
        terms.append(
            ("active parameters", f"{convention['active_parameters']} for each token: of experts those chosen")
        )
    if convention["attention_pairs_counted"]:
        terms.append(("attention", convention["attention_pairs_counted"]))
    if "real_tokens" in convention:
        real, padded = convention["real_tokens"], convention["padded_tokens"]
        terms.append(("tokens of a step", f"{real} of {padded}; the others are padding"))
    if job.hardware:
        terms.append(("overlap", "of arithmetic and DRAM traffic" if job.overlap else "none"))
    if job.document.overrides:
        terms.append(("fields set", "; ".join(job.document.overrides.values())))
    return terms


def in_force(result: Result) -> PageTable:
    """The fields that the workload leaves out, with the defaults in force."""
    listed = defaults(result.job)
    columns = [words("field"), words("in force", lambda r: spelled(r["value"])), words("what it says", "says")]
    present = [record for record in listed if record["value"] is not None]
    return table("defaults", CAPTION, columns, present, nothing(absent(listed)))


def formats(result: Result) -> PageTable:
    """The formats that tensors, copies and sums have under the policies, each with its source."""
    known: dict[str, Format] = {}
    users: dict[str, dict[str, None]] = {}
    for policy in _policies(result):
        for phase in range(len(policy.file.phases)):
            for format in _used(result.job.graph, assign(result.job.graph, policy, phase)):
                known[format.name] = format
                users.setdefault(format.name, {})[policy.name] = None
    rows = [
        {
            "format": name,
            "bits": float(known[name].bits_per_element),
            "width": str(known[name].width),
            "users": ", ".join(users[name]),
            "source": known[name].source,
        }
        for name in sorted(known)
    ]
    columns = [
        words("format"),
        number("bit per element", "bits", lambda value: f"{value:.6g}"),
        integer("bit in a multiplier", "width"),
        words("policies", "users"),
        words("source"),
    ]
    return table("formats", "Formats in use, and their sources.", columns, rows)


def _used(graph: Graph, assignment: Assignment) -> Iterator[Format]:
    """The formats of stored tensors, of copies and of sums."""
    yield from assignment.stored
    yield from (copy.format for chain in assignment.chains for copy in chain)
    for row in count(graph, assignment, scope="gemm"):
        yield from (format for format, _ in row.additions)


def _figure(value: float) -> str:
    """All digits of a figure, with a power of ten if it is large."""
    return f"{value:.10g}" if value < 10**6 else str(Decimal(value).normalize()).replace("E+", "e")


def _value(device: Hardware, field: str) -> tuple[str, str]:
    """The name of a profile's figure, and the value with the unit."""
    section, _, index = field.partition(".")
    if section == "rates":
        rate = device.rates[int(index)]
        return f"MACs of {rate.name}", f"{_figure(rate.mac_per_s)} MAC/s"
    if section == "gemm_efficiency":
        macs, part = device.gemm_efficiency[int(index)]
        return f"efficiency of a GEMM of {_figure(macs)} MACs", f"{part:.4g}"
    if section == "kernels":
        kind, times = device.kernels[int(index)]
        return f"kernels of kind {kind}", f"{times.launch_s:.4g} s and more, spread {times.spread:.3g}"
    if section == "efficiency":
        return f"efficiency of {index}", f"{getattr(device, f'{index}_efficiency'):.4g}"
    if section == "bit_serial" and device.bit_serial:
        return "bit-serial multiplier", f"{_figure(device.bit_serial.bit_product_per_s)} bit products/s"
    if section == "links":
        number, _, figure = index.partition(".")
        link = device.links[int(number)]
        peak = f"{_figure(link.bytes_per_s)} byte/s" + (f", joins {link.devices} devices" if link.devices else "")
        values = {"": peak, "latency_s": f"{link.latency_s:.4g} s", "efficiency": f"{link.efficiency:.4g}"}
        return f"{figure or 'link'} {'of ' if figure else ''}{link.name}", values[figure]
    return field, _figure(getattr(device, field))


def figures(device: Hardware) -> PageTable:
    """Every figure of a device's profile with its source, and whether anybody has looked it up."""
    rows = []
    for field, source in device.source.items():
        name, value = _value(device, field)
        mark = "unverified" if field in device.unverified else "verified"
        rows.append({"figure": name, "value": value, "mark": mark, "source": source})
    columns = [words("figure"), words("value"), words("mark"), words("source")]
    caption = f"{device.name}: figures of the profile, and their sources. Unverified: recalled, or computed."
    return table(f"figures-of-{device.name}", caption, columns, rows)


def energies(devices: tuple[Hardware, ...]) -> list[tuple[str, str]]:
    """The sources of joules: the tables of energies and the memories of the devices, each once."""
    from costsim.devices import energy  # a page without devices does not need this

    terms: dict[str, str] = {}
    for device in devices:
        macs = energy.TABLES.get(device.energy_table or "")
        if macs is not None:
            terms[f"energies {device.energy_table}"] = macs.source
        dram = energy.DRAM.get(device.memory)
        if dram is not None:
            mark = "" if dram.verified else "; unverified"
            terms[f"a bit of {device.memory}"] = f"{dram.pj_per_bit:g} pJ: {dram.source}{mark}"
    return list(terms.items())


def recipes(survey: Survey | None) -> list[tuple[str, str]]:
    """Each recipe of a survey, and what its file says of where it comes from."""
    return [(record["recipe"], record["source"]) for record in survey.records] if survey else []


def policies(result: Result) -> PageTable:
    """Each policy with description, source and grades."""
    rows = []
    for policy in _policies(result):
        phases = policy.file.phases
        levels = ", ".join(dict.fromkeys(phase.grade for phase in phases)) if policy.file.levels else "no levels"
        ends = ", ".join(dict.fromkeys(phase.until_grade for phase in phases[:-1])) or "one phase"
        rows.append(
            {
                "policy": policy.name,
                "description": policy.file.description,
                "grade": policy.file.grade,
                "levels": levels,
                "ends of phases": ends,
                "source": policy.file.source or "not said",
            }
        )
    return table(
        "policy-sources", "Policies: what they are, their grades and sources.", [words(key) for key in rows[0]], rows
    )


def _paths(policy: Policy) -> Iterator[tuple[str, str]]:
    """The files of a policy and of those that it composes: the kind of each, and the path."""
    composed = (document for document, _ in (*policy.rule_places, *policy.inherited.values()))
    assumptions = (assumption.document for assumption in policy.assumptions)
    for document in (policy.document, *composed, *assumptions):
        yield "policy", document.path
    if policy.widths is not None:
        yield "widths", policy.widths.path


def _resolved(path: str) -> Path | None:
    """The resolved path of a file; None for a composition or a policy made in Python, which have no file."""
    try:
        place = Path(path).resolve()
        return place if place.is_file() else None
    except (OSError, ValueError):
        return None


def source_files(result: Result) -> list[SourceFile]:
    """The files of the workload, the policies and the widths, unchanged; each once."""
    workload = result.job.document.path
    listed = [SourceFile("workload", Path(workload).name, _text(workload))]
    seen: set[Path] = set()
    for policy in _policies(result):
        for kind, path in _paths(policy):
            place = _resolved(path)
            if place is not None and place not in seen:
                seen.add(place)
                listed.append(SourceFile(kind, Path(path).name, _text(path)))
    return listed


def _text(path: str) -> str:
    try:
        text = files.read_text(Path(path)).expandtabs(4)
    except InputError as error:  # the file has gone since it was read
        return str(error)
    left = len(text) - MOST_TEXT
    return text if left <= 0 else f"{text[:MOST_TEXT]}\n... and {left} more characters"
