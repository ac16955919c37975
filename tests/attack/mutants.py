"""Mutants of shipped files that mostly stay valid: what lies behind the checks of a file is what is attacked.

A mutant is a shipped file, made small, in which a few fields have another value that its JSON schema allows. Names of
formats, policies and devices are drawn from those that exist, formats from the grammar of their names.
"""

import copy
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from costsim.formats.named import EXAMPLES
from costsim.inputs import files, schema, schema_hardware, schema_policy, schema_workload
from costsim.models.families import families, family

MOST_LAYERS = 3  # each is counted, so more only take time
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 33, 64, 100, 128, 129, 1000, 4096, 10**6, 10**9)
FLOATS = (0.0, 1e-12, 0.1, 0.25, 0.5, 0.9, 1.0, 1.5, 3.0, 1e3, 1e12)
_KINDS = {"workload": "workloads", "policy": "policies", "hardware": "hardware_profiles"}
_SECTIONS = {
    "workload": schema_workload.Workload,
    "policy": schema_policy.Policy,
    "hardware": schema_hardware.Hardware,
}

_LEFT_ALONE = {"family", "source", "sources", "lengths", "schema_version"}  # any other value is refused at once

Path = tuple[str | int, ...]


@cache
def _schema(kind: str) -> dict[str, Any]:
    return schema.json_schema(_SECTIONS[kind])


@cache
def _family_schema(name: str, section: str) -> dict[str, Any]:
    return schema.json_schema(getattr(family(name), section))


@cache
def shipped(kind: str) -> dict[str, Any]:
    """The data of all shipped files of a kind, by name."""
    return {
        name: yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, path in files.list_shipped(_KINDS[kind]).items()
    }


def format_name(rng: random.Random) -> str:
    """A format that there is, or one spelled by its family's grammar."""
    n = rng.choice
    spelled = (
        f"fixed{rng.randint(2, 32)}",
        f"bfp{rng.randint(2, 32)}-box{n(SIZES[:14])}-exp{rng.randint(0, 16)}",
        f"int{rng.randint(2, 32)}{n(('', '-asym'))}-{n(('row', 'column', 'tensor', 'flat7', '3x5', '128x128'))}",
        f"fp8-e4m3-{n(('row', 'column', 'tensor', 'flat256', '1x128'))}",
        f"{n(('nf4', 'nf4-double', 'dynamic8'))}-{n(('', '1x'))}{n(SIZES[:14])}",
        "int8-row-in-bf16",
    )
    return n((*EXAMPLES, *spelled, *spelled))


class Drawer:
    """Draws values that a JSON schema allows."""

    def __init__(self, rng: random.Random, schema: dict[str, Any]) -> None:
        self.rng, self.root = rng, schema

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self.root["$defs"][schema["$ref"].rpartition("/")[2]]
        return schema

    def value(self, schema: dict[str, Any], name: str = "", depth: int = 0) -> Any:
        """A value; `name` is the field that it is for."""
        rng, schema = self.rng, self.resolve(schema)
        if "anyOf" in schema:
            return self.value(rng.choice(schema["anyOf"]), name, depth)
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        kind = schema.get("type")
        if kind == "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 10**9)
            low, high = schema.get("exclusiveMinimum", low - 1) + 1, schema.get("exclusiveMaximum", high + 1) - 1
            if name.endswith("layers"):
                high = MOST_LAYERS
            return max(low, min(high, rng.choice(SIZES)))
        if kind == "number":
            low, high = schema.get("exclusiveMinimum", -1), schema.get("exclusiveMaximum", 1e300)
            return rng.choice([x for x in FLOATS if low < x < high])
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "null":
            return None
        if kind == "array":
            most = min(4, schema.get("maxItems", 4))
            number = rng.randint(min(schema.get("minItems", 0), most), most)
            return [self.value(schema.get("items", {}), name, depth + 1) for _ in range(number)]
        if kind == "object":
            fields = schema.get("properties", {})
            needed = set(schema.get("required", ()))
            chosen = [f for f in fields if f in needed or (depth < 4 and rng.random() < 0.25)]
            return {field: self.value(fields[field], field, depth + 1) for field in chosen}
        return self.text(name)

    def text(self, name: str) -> str:
        """Text for a field, by what fields of that name hold."""
        rng = self.rng
        if name in ("format", "container", "accumulator", "operands"):
            return format_name(rng)
        if name in ("policies", "policy", "baseline", "compose"):
            return rng.choice(sorted(shipped("policy")))
        if name == "hardware":
            return rng.choice(sorted(shipped("hardware")))
        if name in ("layer", "name", "op", "not_name", "not_op", "trainable", "targets"):
            return rng.choice(("*", "*.weight", "decoder.*", "*.q", "*.fc?", "*.dw", "head.*", "*[mv]", "nothing", "["))
        return rng.choice(("a", "b-1", "x" * 60, "ours", "\u00e9", "1"))


def _paths(data: Any, at: Path = ()) -> Iterator[Path]:
    """The places of all fields and items, sections first."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from _paths(value, (*at, key))


def _schema_at(drawer: Drawer, schema: dict[str, Any], at: Path) -> dict[str, Any] | None:
    """The schema of a place; None where it has none."""
    for key in at:
        schema = drawer.resolve(schema)
        options = [drawer.resolve(option) for option in schema.get("anyOf", [schema])]
        inner = None
        for option in options:
            if isinstance(key, int) and "items" in option:
                inner = option["items"]
            elif key in option.get("properties", {}):
                inner = option["properties"][key]
            elif isinstance(option.get("additionalProperties"), dict):
                inner = option["additionalProperties"]
        if inner is None:
            return None
        schema = inner
    return schema


def _parts(kind: str, data: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The sections of a file that have a schema, with the place where each begins."""
    parts: list[tuple[Path, dict[str, Any]]] = [((), _schema(kind))]
    name = (data.get("model") or {}).get("family") if kind == "workload" else None
    if name in families():
        parts += [(("model",), _family_schema(name, "Model")), (("batch",), _family_schema(name, "Batch"))]
    return parts


def _small(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A shipped file with few layers."""
    data = copy.deepcopy(data)
    if kind == "workload":
        model = data["model"]
        model.update({name: min(n, 2) for name, n in model.items() if name.endswith("layers")})
        data["assumptions"] = []
    return data


def _change(rng: random.Random, kind: str, data: dict[str, Any]) -> None:
    """One field replaced, left out or added."""
    at, schema = rng.choice(_parts(kind, data))
    section = data
    for key in at:
        section = section[key]
    if not isinstance(section, dict):
        return
    drawer = Drawer(rng, schema)
    if rng.random() < 0.3:  # a field that is not there, or all of one that is
        field = rng.choice(sorted(schema["properties"]))
        if field not in _LEFT_ALONE:
            section[field] = drawer.value(schema["properties"][field], field)
        return
    places = list(_paths(section))
    if not places:
        return
    path = rng.choice(places)
    inner = _schema_at(drawer, schema, path)
    if inner is None or not _LEFT_ALONE.isdisjoint(path):
        return
    holder = section
    for key in path[:-1]:
        holder = holder[key]
    names = [key for key in path if isinstance(key, str)]
    if rng.random() < 0.15 and len(path) > 1 and isinstance(holder, (dict, list)):
        del holder[path[-1]]
    elif isinstance(holder, list) and rng.random() < 0.2:
        holder.insert(path[-1], copy.deepcopy(holder[path[-1]]))
    else:
        holder[path[-1]] = drawer.value(inner, names[-1] if names else "")


def mutant(rng: random.Random, kind: str) -> str:
    """The text of a mutant."""
    _, data = rng.choice(sorted(shipped(kind).items()))
    data = _small(kind, data)
    for _ in range(rng.randint(1, 4)):
        _change(rng, kind, data)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text
