"""What workload and policy files hold, and how they are read: YAML with positions, one clear error for bad input.

pydantic ends here: the rest of the package reads these frozen objects as plain data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from costsim.errors import InputError, nearest

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_INTEGER = 10**18  # larger sizes are typing errors; products are exact Python integers anyway

Where = tuple[Hashable, ...]  # where in a document: keys and list indices
Grade = Literal["stated", "inferred", "recalled", "fitted", "ours"]

Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]


class Strict(BaseModel):
    """A section of a file: frozen, no silent conversions, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {info.alias or name for name, info in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    hint = nearest(key, known, most=20)
                    raise PydanticCustomError("unknown_key", "unknown key {key}{hint}", {"key": repr(key), "hint": hint})
        return data


# --- workload ---------------------------------------------------------------------------------------------------------


class Optimizer(Strict):
    """The update: a row of the op table and its numbers."""

    kind: Literal["adam", "adamw"] = Field(description="adam: coupled (L2) decay; adamw: decoupled decay")
    lr: Positive
    beta1: Rate = 0.9
    beta2: Rate = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = Field(default=None, description="clip gradients to this global norm")


class Training(Strict):
    """How long: policies with phases are laid over these steps."""

    steps: Count = Field(description="updates of the weights")
    micro_batches: Count = Field(default=1, description="forward and backward passes per update")


class Published(Strict):
    """A figure that a paper states, to be shown beside ours."""

    quantity: Literal["arithmetic_reduction", "dram_reduction"]
    policy: Name
    stated: Positive
    source: str


class Workload(Strict):
    """A workload file. `model` and `batch` are checked by the model family that `model.family` names."""

    description: str
    model: dict[str, Any]
    batch: dict[str, Any]
    training: Training
    optimizer: Optimizer
    label_smoothing: Rate = 0.0
    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    baseline: str
    law: Literal["product"] = "product"
    traffic: Literal["unfused", "fused"] = "fused"
    scope: Literal["gemm", "layer", "step"] = "step"
    published: tuple[Published, ...] = ()


# --- policy -----------------------------------------------------------------------------------------------------------


class Rule(Strict):
    """Which tensors (or, with `copy`, which copies) get which format; of several that match, the last one wins."""

    role: tuple[Literal["data", "weight", "activation", "gradient", "weight_gradient", "state"], ...] | None = None
    values: Literal["float", "index", "mask"] = "float"
    phase: Literal["forward", "backward", "update"] | None = Field(
        default=None, description="of the op that writes the tensor, or for copies reads it"
    )
    gemm: tuple[Literal["forward", "dgrad", "wgrad"], ...] | None = Field(
        default=None, description="the GEMM that writes the tensor, or for copies reads it"
    )
    operand: tuple[Literal["x", "w", "dy"], ...] | None = None
    copy_: Literal["operand", "stash"] | None = Field(default=None, alias="copy")
    layer: str | None = Field(default=None, description="glob over layers, such as encoder.*")
    name: str | None = Field(default=None, description="glob over tensor names")
    format: str = Field(description="a format name; <q0> stands for the number of level q0")
    placement: Literal["at_producer", "on_chip", "stored"] | None = None
    optional: bool = Field(default=False, description="no error if the rule matches nothing")
    SELECTORS: ClassVar = ("role", "values", "phase", "gemm", "operand", "copy_", "layer", "name")


class Phase(Strict):
    """One stretch of training and its levels. The last phase has no end."""

    until_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    until_step: Count | None = None
    levels: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()
    grade: Grade = "ours"


class Policy(Strict):
    """A policy file: formats by rules, levels by phases of training."""

    description: str
    source: str = ""
    grade: Grade = "ours"
    setup: str = Field(default="", description="how tables name the setting; derived from the levels if there are any")
    accumulator: str = "fp32"
    levels: tuple[Name, ...] = ()
    monotone: bool = Field(default=False, description="no level may fall from one phase to the next")
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = (Phase(),)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its data, where each field stands, and fields set from outside (`--set`)."""

    path: str
    data: dict[str, Any]
    marks: Mapping[Where, tuple[int, int]] = field(default_factory=dict)  # 1-based line and column
    overrides: Mapping[Where, str] = field(default_factory=dict)

    def error(self, at: Where, message: str) -> InputError:
        """The error for a field: file, line, column, field, message."""
        name = ".".join(str(part) for part in at)
        if at in self.overrides:
            return InputError(f"--set {self.overrides[at]}: {message}")
        known = at
        while known and known not in self.marks:
            known = known[:-1]
        line, column = self.marks.get(known, (1, 1))
        return InputError(f"{self.path}:{line}:{column}: {name + ': ' if name else ''}{message}")


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Scalars as in YAML 1.2: no base 60 (16:4:4:16), no yes/no, no octal by a leading zero."""

    yaml_implicit_resolvers: ClassVar = {}


_SCALARS = (
    ("null", r"null|Null|NULL|~|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+0123456789.")),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _scalar(tag: str, text: str) -> Any:
    kind = tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 20:
            raise ValueError(f"an integer of {len(text)} digits is out of range")
        return int(text)
    if kind == "float":
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {text[:40]}")
        return value
    if kind != "str":
        raise ValueError(f"tag {tag[:60]!r} is not allowed")
    return text


class _Reader:
    """Builds plain data from YAML nodes and notes where each field stands."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.marks: dict[Where, tuple[int, int]] = {}

    def fail(self, mark: Any, message: str) -> InputError:
        return InputError(f"{self.path}:{mark.line + 1}:{mark.column + 1}: {message}")

    def check_events(self, text: str) -> None:
        """Refuse aliases and deep nesting before anything recursive runs."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise self.fail(event.start_mark, "YAML aliases are not allowed; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise self.fail(event.start_mark, f"nested more than {MAX_DEPTH} deep")

    def build(self, node: yaml.Node, at: Where) -> Any:
        self.marks.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.build(child, (*at, i)) for i, child in enumerate(node.value))
        try:
            return _scalar(node.tag, node.value)
        except ValueError as error:
            raise self.fail(node.start_mark, f"{'.'.join(map(str, at))}: {error}") from None

    def build_mapping(self, node: yaml.MappingNode, at: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                raise self.fail(key_node.start_mark, "expected a name as key")
            if key in result:
                line = self.marks[(*at, key)][0]
                raise self.fail(key_node.start_mark, f"duplicate key {key[:60]!r}, first on line {line}")
            self.marks[(*at, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = self.build(value_node, (*at, key))
        return result


def parse_yaml(text: str, path: str) -> Document:
    """A YAML mapping as plain data with positions; sequences become tuples. Raises InputError."""
    reader = _Reader(path)
    try:
        reader.check_events(text)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise InputError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        raise InputError(f"{path}: the file is empty")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}:1:1: expected fields (`name: value`), got {node.id}")
    return Document(path, reader.build(node, ()), reader.marks)


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file. Raises InputError for a folder, a missing, huge or binary file."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file (byte {error.start})") from None
    if "\0" in text:
        raise InputError(f"{path}: a binary file, expected YAML")
    return text


def override(document: Document, assignments: Iterable[str]) -> Document:
    """The document with `a.b=value` assignments (the values are YAML). Raises InputError."""
    data = json.loads(json.dumps(document.data))
    overrides: dict[Where, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {assignment[:80]}: expected FIELD=VALUE, such as model.encoder_layers=12")
        *parents, last = name.strip().split(".")
        target = data
        for depth, part in enumerate(parents):
            if not isinstance(target.get(part), dict):
                hint = nearest(part, (k for k, v in target.items() if isinstance(v, dict)))
                raise InputError(f"--set {assignment[:80]}: no section {'.'.join(parents[: depth + 1])!r}{hint}")
            target = target[part]
        value = parse_yaml(f"value: {text}", f"--set {assignment[:80]}").data["value"]
        target[last] = value
        overrides[(*parents, last)] = assignment[:80]
    return Document(document.path, _tuples(data), document.marks, {**document.overrides, **overrides})


def _tuples(value: Any) -> Any:
    """JSON lists as tuples again, which is what strict sections take."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


Section = TypeVar("Section", bound=Strict)

_EXPECTED = {
    "int_type": "expected an integer",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "dict_type": "expected fields (`name: value`)",
    "model_type": "expected fields (`name: value`)",
    "model_attributes_type": "expected fields (`name: value`)",
}


def _message(error: Any) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    got = repr(value) if not isinstance(value, (dict, tuple)) else {dict: "fields", tuple: "a list"}[type(value)]
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(allowed)}, got {got[:60]}{nearest(value, allowed, most=0)}"
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, got {got[:60]}"
    if kind in ("unknown_key", "value_error"):
        return str(error["msg"])
    text = str(error["msg"])
    return f"{text[0].lower()}{text[1:]}, got {got[:60]}"


def validate(section: type[Section], document: Document, at: tuple[str, ...] = ()) -> Section:
    """The part of a document at `at` as a checked section. Raises InputError for the first thing wrong."""
    data: Any = document.data
    for part in at:
        data = data[part]
    try:
        return section.model_validate(data)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        where = (*at, *error["loc"])
        if error["type"] == "unknown_key":
            where = (*where, error["ctx"]["key"].strip("'"))
        raise document.error(where, _message(error)) from None


def list_shipped(folder: str) -> dict[str, Path]:
    """The files that come with costsim in `folder` (workloads, policies), by name, sorted."""
    package = Path(__file__).parent
    for root in (package / folder, package.parent / folder):  # an installed wheel carries them; a checkout has them beside
        if root.is_dir():
            return {path.stem: path for path in sorted(root.glob("*.yaml"))}
    return {}


def find(name: str, folder: str, what: str, beside: Path | None = None) -> Path:
    """A path that exists (from here, or beside another file), else the shipped file of that name, with or without .yaml.

    Raises InputError that names the nearest shipped one.
    """
    for path in (Path(name), *([beside.parent / name] if beside else [])):
        if name and path.exists():
            return path
    shipped = list_shipped(folder)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if stem in shipped:
        return shipped[stem]
    raise InputError(f"{what} {name[:80]!r}: no such file, nor a shipped {what}{nearest(stem, shipped, most=12)}")
