"""Where the numbers of the HTML report come from: law, formats, devices, energies, policies, and the files."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from costsim.cost.laws import LAWS
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph.fusion import MODELS
from costsim.inputs import files
from costsim.page.tables import PageTable, integer, number, table, words
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.results.records import convention
from costsim.run.simulate import Result

if TYPE_CHECKING:
    from costsim.devices.profile import Hardware

MOST_TEXT = 60_000  # characters of a file that the page shows
_SCOPES = {"gemm": "GEMM operands and results", "layer": "all ops but the update", "step": "all ops and the update"}


class Listed(NamedTuple):
    """A file as it is: what it is, its name, its text."""

    what: str
    name: str
    text: str


def _policies(result: Result) -> list[Policy]:
    """The policies and the baseline, once each."""
    return list({its.policy.name: its.policy for its in (*result.policies, result.baseline)}.values())


def conventions(result: Result) -> list[tuple[str, str]]:
    """What all numbers depend on, and its source: terms and what they say."""
    said, law = convention(result), LAWS[result.job.convention.law]
    model = MODELS[result.job.convention.traffic]
    found = [
        ("law", f"{said['law']}, in {law.unit}; defined for {law.defined}"),
        ("source of the law", law.source),
        ("traffic model", f"{result.job.convention.traffic_said}: {model.description}"),
        ("scope", f"{said['scope']}: {_SCOPES[said['scope']]}"),
        ("baseline", said["baseline"]),
        ("steps", f"{said['steps']} of {said['micro_batches']} micro-batches each"),
        ("parameters", f"{said['parameters']}, of which {said['trainable_parameters']} are trained"),
        ("causal attention", f"counted as the {said['causal_attention']}"),
    ]
    if "real_tokens" in said:
        found.append(("tokens of a step", f"{said['real_tokens']} of {said['padded_tokens']}; the others are padding"))
    if result.job.hardware:
        found.append(("overlap", "of arithmetic and DRAM traffic" if result.job.overlap else "none"))
    if result.job.document.overrides:
        found.append(("fields set", "; ".join(result.job.document.overrides.values())))
    return found


def formats(result: Result) -> PageTable:
    """The formats that tensors, copies and sums have under the policies, each with its source."""
    known: dict[str, Format] = {}
    users: dict[str, dict[str, None]] = {}
    for policy in _policies(result):
        for phase in range(len(policy.file.phases)):
            its = assign(result.job.graph, policy, phase)
            copies = (copy.format for chain in its.chains for copy in chain)
            for one in (*its.stored, *copies, its.accumulator):
                known[one.name] = one
                users.setdefault(one.name, {})[policy.name] = None
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
        number("bit per element", lambda r: r["bits"], lambda value: f"{value:.6g}"),
        integer("bit in a multiplier", "width"),
        words("policies", lambda r: r["users"]),
        words("source"),
    ]
    return table("formats", "Formats in use, and their sources.", columns, rows)


def _figure(value: float) -> str:
    """A figure with all its digits, large ones with a power of ten."""
    return f"{value:.10g}" if value < 10**6 else str(Decimal(value).normalize()).replace("E+", "e")


def _value(device: Hardware, field: str) -> tuple[str, str]:
    """What a figure of a profile is called, and its value with its unit."""
    section, _, index = field.partition(".")
    if section == "rates":
        rate = device.rates[int(index)]
        return f"MACs of {rate.name}", f"{_figure(rate.mac_per_s)} MAC/s"
    if section == "gemm_efficiency":
        macs, part = device.gemm_efficiency[int(index)]
        return f"efficiency of a GEMM of {_figure(macs)} MACs", f"{part:.4g}"
    if section == "efficiency":
        return f"efficiency of {index}", f"{getattr(device, f'{index}_efficiency'):.4g}"
    if section == "bit_serial" and device.bit_serial:
        return "bit-serial multiplier", f"{_figure(device.bit_serial.bit_product_per_s)} bit products/s"
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
    """Where joules come from: the tables of energies and the memories of the devices."""
    from costsim.devices import energy  # a page without devices does without

    found: dict[str, str] = {}
    for device in devices:
        its = energy.TABLES.get(device.energy_table or "")
        if its is not None:
            found[f"energies {device.energy_table}"] = its.source
        dram = energy.DRAM.get(device.memory)
        if dram is not None:
            mark = "" if dram.verified else "; unverified"
            found[f"a bit of {device.memory}"] = f"{dram.pj_per_bit:g} pJ: {dram.source}{mark}"
    return list(found.items())


def policies(result: Result) -> PageTable:
    """What each policy is, where it comes from, and how well that is known."""
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


def _paths(policy: Policy) -> Iterator[str]:
    """The files of a policy and of what it composes."""
    places = (document for document, _ in (*policy.rule_places, *policy.inherited.values()))
    for document in (policy.document, *places, *(its.document for its in policy.assumptions)):
        yield document.path
    if policy.widths is not None:
        yield policy.widths.path


def listed(result: Result) -> list[Listed]:
    """The workload's file, those of the policies, and files of widths, as they are; each once."""
    found = [Listed("workload", Path(result.job.document.path).name, _text(result.job.document.path))]
    seen: set[Path] = set()
    for policy in _policies(result):
        for path in _paths(policy):
            try:
                at = Path(path).resolve()
                if at in seen or not at.is_file():  # a composition, or a policy that Python made, is no file
                    continue
            except (OSError, ValueError):
                continue
            seen.add(at)
            what = "widths" if policy.widths is not None and path == policy.widths.path else "policy"
            found.append(Listed(what, Path(path).name, _text(path)))
    return found


def _text(path: str) -> str:
    try:
        text = files.read_text(Path(path)).expandtabs(4)
    except InputError as error:  # it has gone since it was read
        return str(error)
    left = len(text) - MOST_TEXT
    return text if left <= 0 else f"{text[:MOST_TEXT]}\n... and {left} more characters"
