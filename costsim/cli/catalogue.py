"""Shipped files, formats, op kinds and traffic models by name, each in a line or in full; and the schemas of files."""

import json
import re
from collections.abc import Callable
from typing import Any

from costsim.devices import profile
from costsim.devices.profile import Hardware, Rate
from costsim.errors import InputError, nearest, one_line
from costsim.formats import named
from costsim.formats.format import Format
from costsim.graph import fusion, ops
from costsim.graph.kinds import Kind
from costsim.graph.steps import STEPS, Passes
from costsim.inputs import files, schema, schema_hardware, schema_policy, schema_workload
from costsim.inputs.parse import parse_yaml
from costsim.inputs.section import Section
from costsim.models import families


def _files(folder: str) -> Callable[[], dict[str, str]]:
    def entries() -> dict[str, str]:
        descriptions = {}
        for name, path in files.list_shipped(folder).items():
            document = parse_yaml(files.read_text(path), str(path))
            descriptions[name] = str(document.data.get("description", ""))
        return descriptions

    return entries


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _format_line(format: Format) -> str:
    return (
        f"{float(format.bits_per_element):.6g} bit, {format.width} in a multiplier, up to {_number(format.largest)}, "
        f"step {_number(format.step)}; {format.source}"
    )


def _ridge_points(device: Hardware) -> str:
    """The ridge point of every format that a device multiplies with itself; `?` marks the unverified."""
    by_ridge: dict[str, list[str]] = {}
    square = [rate for rate in device.shown_rates if rate.a.name == rate.b.name]
    for rate in sorted(square, key=lambda rate: rate.mac_per_s):
        ridge = profile.ridge_point(device, rate)
        known = rate.verified and "dram_bytes_per_s" not in device.unverified
        by_ridge.setdefault("n/a" if ridge is None else f"{float(ridge):.4g}", []).append(
            f"{_operand(rate, square)}{'' if known else '?'}"
        )
    points = ", ".join(f"{ridge} {' '.join(names)}" for ridge, names in by_ridge.items())
    marked = " (?: unverified)" if "?" in points else ""
    return f"ridge point in op/byte: {points}{marked}"


def _operand(rate: Rate, others: list[Rate]) -> str:
    """The operands' format, with the accumulator's where the device has several for it."""
    several = sum(other.a.name == rate.a.name for other in others) > 1
    return f"{rate.a.name}+{rate.accumulator.name}" if several else rate.a.name


def _hardware() -> dict[str, str]:
    descriptions = {}
    for name, path in files.list_shipped("hardware_profiles").items():
        device = profile.load_hardware(str(path))
        descriptions[name] = f"{device.description}; {_ridge_points(device)}{_links(device)}"
    return descriptions


def _links(device: Hardware) -> str:
    """Bandwidths of the links, and how many devices each joins; `?` marks the unverified."""
    parts = [
        f"{link.name}{f' of {link.devices}' if link.devices else ''} {link.bytes_per_s / 1e9:.4g}"
        f"{'?' if f'links.{i}' in device.unverified else ''}"
        for i, link in enumerate(device.links)
    ]
    return f"; links in GB/s: {', '.join(parts)}" if parts else ""


def _formats() -> dict[str, str]:
    return {name: _format_line(named.parse_format(name)) for name in named.EXAMPLES}


def _ops() -> dict[str, str]:
    runs = {name: called.run for name, called in ops.FUNCTIONS.items()}
    runs |= {name: kind.run for name, kind in ops.OPS.items()}
    return {name.replace("_", "-"): (run.__doc__ or "").splitlines()[0] for name, run in sorted(runs.items())}


def aten() -> dict[str, str]:
    """What becomes of each op of PyTorch that a trace may have."""
    from costsim.trace.mappings import ATEN

    return {name: becomes for name, (_, becomes) in sorted(ATEN.items())}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "workloads": _files("workloads"),
    "policies": _files("policies"),
    "hardware": _hardware,
    "formats": _formats,
    "ops": _ops,
    "traffic": lambda: {name: model.description for name, model in fusion.MODELS.items()},
}


def _describe_format(format: Format) -> str:
    lines = [
        f"format {format.name}",
        f"  family: {format.family.name}",
        f"  bits of {'an element' if format.together == 1 else f'{format.together} elements'}: {format.element_bits}",
        f"  width in a multiplier: {format.width} bit",
        f"  largest element: {_number(format.largest)}, step {_number(format.step)}",
    ]
    if format.exponent_bits:
        lines.append(f"  exponent bits of an element: {format.exponent_bits}")
    for scale in format.scales:
        sides = (
            f"{scale.contracted} elements of the flattened tensor"
            if format.flat
            else f"{scale.block} (free x contracted) elements"
        )
        lines.append(f"  {scale.kind}: {scale.bits} bit per block of {sides}")
    if format.scales:
        lines.append(f"  bits per element in whole blocks: {float(format.bits_per_element):.6g}")
    lines.append(f"  source: {format.source}")
    for spelling in named.SPELLINGS:
        if re.fullmatch(spelling.pattern, format.name):
            bounds = ", ".join(f"{name} {low}..{high}" for name, (low, high) in spelling.bounds.items())
            lines.append(
                f"  spelling: {spelling.text}, with {bounds}; BLOCK: tensor, row, column, flatN or FREExCONTRACTED"
            )
    return "\n".join(lines) + "\n"


def _describe_kind(kind: Kind) -> str:
    def listed(operands: Any) -> str:
        return ", ".join(f"{operand.name}[{' '.join(operand.pattern)}]" for operand in operands)

    lines = [f"op {kind.name}: {listed(kind.inputs)} -> {listed(kind.outputs)}"]
    lines += [f"  {line.strip()}" for line in (kind.run.__doc__ or "").strip().splitlines() if line.strip()]
    for pattern, counts in kind.work:
        work = ", ".join(f"{n} {operation}" for operation, n in counts.items())
        lines.append(f"  work per point of [{' '.join(pattern)}]: {work}")
    for rule in kind.grads:
        made = f"{rule.kind}({', '.join(rule.arguments)})" if rule.kind else rule.arguments[0]
        lines.append(f"  gradient of {', '.join(rule.operands)}: {made}")
    for part, whole in (kind.lies_in or {}).items():
        lines.append(f"  {part} lies in the memory of {whole}{', and nothing is moved' if kind.view else ''}")
    return "\n".join(lines) + "\n"


def _describe_function(name: str, called: ops.Function) -> str:
    lines = [f"function {name}, of pointwise equations, such as {name} {','.join(['ab'] * len(called.operands))}->ba"]
    lines += [f"  {line.strip()}" for line in (called.run.__doc__ or "").strip().splitlines() if line.strip()]
    if called.params:
        lines.append(f"  params: {', '.join(called.params)}")
    if called.work:
        lines.append(f"  work per point: {', '.join(f'{n} {operation}' for operation, n in called.work.items())}")
    if called.view:
        lines.append("  the result lies in the memory of the operand, and nothing is moved")
    return "\n".join(lines) + "\n"


def _passes(operand: str, passes: Passes) -> str:
    return f"{operand} {passes.reads}, {passes.writes}"


def _describe_traffic(model: fusion.TrafficModel) -> str:
    patterns = [pattern for pattern in fusion.PATTERNS if pattern.name in model.patterns]
    lines = [f"traffic model {model.name}: {model.description}", "  ops that run as one kernel:"]
    lines += [f"    {pattern.name}: {pattern.description}" for pattern in patterns]
    if model.by_steps:
        lines.append("  ops of families that are other kernels there; more passes over an operand (read, written):")
        lines += [f"    {kind}: {', '.join(_passes(*row) for row in rows.items())}" for kind, rows in STEPS.items()]
    if model.tiled:
        lines.append("  the buffer: --buffer-bytes, buffer_bytes of the workload, or on_chip_bytes of the first device")
    return "\n".join(lines) + "\n"


def describe(name: str) -> str:
    """The text of a shipped file, or lines about a format, op kind or traffic model.

    Raises InputError with the nearest name.
    """
    stem = name.removesuffix(".yaml")
    for folder in ("workloads", "policies", "hardware_profiles"):
        shipped = files.list_shipped(folder)
        if stem in shipped:
            return files.read_text(shipped[stem])
    for model in fusion.MODELS.values():
        if model.name == name:
            return _describe_traffic(model)
    kind = ops.OPS.get(name.replace("-", "_"))
    if kind is not None:
        return _describe_kind(kind)
    called = ops.FUNCTIONS.get(name.replace("-", "_"))
    if called is not None:
        return _describe_function(name.replace("-", "_"), called)
    try:
        return _describe_format(named.parse_format(name))
    except InputError as error:
        if str(error).startswith("format "):
            raise
    known = [entry for entries in CATALOGUES.values() for entry in entries()]
    raise InputError(f"unknown name {one_line(name)!r}{nearest(stem, known, most=0)}; see costsim list")


def _either(*sections: type[Section]) -> dict[str, Any]:
    """The JSON schema of files that are one of several sections."""
    variants = [schema.json_schema(section) for section in sections]
    shared = {name: part for variant in variants for name, part in variant.pop("$defs", {}).items()}
    return {"anyOf": variants, "$defs": shared}


def json_schema(file: str) -> str:
    """The JSON schema of a `workload` (with every model family), a `policy` or a `hardware` file (a cluster's too)."""
    if file == "policy":
        return json.dumps(schema.json_schema(schema_policy.Policy), indent=2) + "\n"
    if file == "hardware":
        return json.dumps(_either(schema_hardware.Hardware, schema_hardware.Cluster), indent=2) + "\n"
    workload = schema.json_schema(schema_workload.Workload)
    for part, class_name in (("model", "Model"), ("batch", "Batch")):
        variants = []
        for family in families.families():
            variant = schema.json_schema(getattr(families.family(family), class_name))
            workload.setdefault("$defs", {}).update(variant.pop("$defs", {}))
            variants.append({**variant, "title": f"{part} of {family}"})
        workload["properties"][part] = {"oneOf" if part == "model" else "anyOf": variants}
    return json.dumps(workload, indent=2) + "\n"
