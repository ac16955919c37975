"""YAML documents: plain data with the place of every field, and fields set from outside (`--set`)."""

import math
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import yaml

from costsim.errors import Fault, InputError, nearest, one_line
from costsim.inputs.files import is_shipped

MAX_DEPTH = 32
MAX_EVENTS = 100_000
MAX_ITEMS = 1_000  # of a list, and fields of a section

Where = tuple[Hashable, ...]  # where in a document: keys and list indices


# --- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its data, where each field stands, and fields set from outside (`--set`)."""

    path: str
    data: dict[str, Any]
    marks: Mapping[Where, tuple[int, int]] = field(default_factory=dict)  # 1-based line and column
    overrides: Mapping[Where, str] = field(default_factory=dict)
    shipped: bool = False  # whether it is as costsim ships it, and so known to be right

    def place(self, at: Where) -> tuple[int, int]:
        """Line and column of a field, or of the section that it is missing in."""
        while at and at not in self.marks:
            at = at[:-1]
        return self.marks.get(at, (1, 1))

    def error(self, at: Where, message: str) -> InputError:
        """The error for a field: file, line, column, field, message; or the `--set` that touched it."""
        touching = {
            set_at: assignment
            for set_at, assignment in self.overrides.items()
            if all(a == b for a, b in zip(at, set_at, strict=False))
        }
        above = [set_at for set_at in touching if len(set_at) <= len(at)]
        if touching:
            blamed = [touching[max(above, key=len)]] if above else touching.values()
            within = at[len(max(above, key=len)) :] if above else ()
            sets = " ".join(f"--set {one_line(assignment)}" for assignment in blamed)
            return InputError(f"{sets}: {_dotted(within)}{message}")
        line, column = self.place(at)
        place = f":{line}:{column}" if self.marks else ""  # what was made in Python has no lines
        return InputError(Fault(f"{self.path}{place}: {_dotted(at)}{message}", self.path, line, column))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a value that cannot be read, until its section is checked: then all faults are told together."""

    fault: Fault


def unreadable(data: Any) -> Iterator[Fault]:
    """What is wrong with all the values of some data that cannot be read."""
    if isinstance(data, Unreadable):
        yield data.fault
    elif isinstance(data, (dict, tuple, list)):
        for item in data.values() if isinstance(data, dict) else data:
            yield from unreadable(item)


def _dotted(at: Where) -> str:
    """A field's name to begin a message with, nothing for the whole document."""
    return ".".join(one_line(part) for part in at) + ": " if at else ""


# --- YAML -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Scalars as in YAML 1.2: no base 60 (16:4:4:16), no yes/no, no octal by a leading zero."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_SCALARS = (
    ("null", r"null|Null|NULL|~|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _scalar(tag: str, text: str) -> Any:
    """The value of a scalar with a tag of `_SCALARS`. Raises ValueError for a number that is too large."""
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
            raise ValueError(f"expected a finite number, got {one_line(text)}")
        return value
    return text


class _Reader:
    """Builds plain data from YAML nodes and notes where each field stands."""

    def __init__(self, path: str, placed: bool) -> None:
        self.path = path
        self.placed = placed  # whether lines and columns are those of a file
        self.marks: dict[Where, tuple[int, int]] = {}  # as in Document

    def fault(self, mark: Any, message: str) -> Fault:
        """What is wrong at a YAML mark."""
        if not (self.placed and mark):
            return Fault(f"{self.path}: {message}", self.path)
        line, column = mark.line + 1, mark.column + 1
        return Fault(f"{self.path}:{line}:{column}: {message}", self.path, line, column)

    def check_events(self, text: str) -> None:
        """Refuse what plain data does not need, and what could exhaust memory, before anything recursive runs."""
        depth, faults = 0, []
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                faults.append(self.fault(event.start_mark, "YAML aliases are not allowed; write the value out"))
            tag = getattr(event, "tag", None)
            if tag is not None:
                faults.append(self.fault(event.start_mark, f"the YAML tag {one_line(tag)} is not allowed"))
            if depth > MAX_DEPTH:
                raise InputError(*faults, self.fault(event.start_mark, f"nested more than {MAX_DEPTH} deep"))
            if count > MAX_EVENTS:
                raise InputError(*faults, self.fault(event.start_mark, f"more than {MAX_EVENTS} values"))
        if faults:
            raise InputError(*faults)

    def build(self, node: yaml.Node, at: Where) -> Any:
        self.marks.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.CollectionNode) and len(node.value) > MAX_ITEMS:
            most = f"{_dotted(at)}expected at most {MAX_ITEMS} items, got {len(node.value)}"
            return Unreadable(self.fault(node.start_mark, most))
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.build(child, (*at, i)) for i, child in enumerate(node.value))
        try:
            return _scalar(node.tag, node.value)
        except ValueError as error:
            return Unreadable(self.fault(node.start_mark, f"{_dotted(at)}{error}"))

    def build_mapping(self, node: yaml.MappingNode, at: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                result[f"{key}"] = Unreadable(self.fault(key_node.start_mark, "expected a name as key"))
                continue
            if key in result:
                message = f"duplicate key {one_line(key)!r}, first on line {self.marks[(*at, key)][0]}"
                result[key] = Unreadable(self.fault(key_node.start_mark, message))
                continue
            self.marks[(*at, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = self.build(value_node, (*at, key))
        return result


def _mark(text: str, at: int) -> yaml.Mark:
    """The place of a character, as YAML has places."""
    before = text[:at]
    return yaml.Mark("", at, before.count("\n"), at - before.rfind("\n") - 1, None, 0)


def _read(text: str, path: str, placed: bool, shipped: bool = False) -> tuple[yaml.Node | None, Any, _Reader]:
    """The YAML node of a text, its plain data and the reader that knows the positions. Raises InputError."""
    reader = _Reader(path, placed)
    try:
        if not shipped:  # else it is known to be right
            reader.check_events(text)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        unclosed = "while parsing a flow" in (error.context or "")  # then the opening bracket is the place to look at
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise InputError(reader.fault(mark, f"not valid YAML: {problem}")) from None
    except yaml.reader.ReaderError as error:
        mark = _mark(text, text.find(chr(error.character)))
        raise InputError(reader.fault(mark, f"not valid YAML: {str(error).splitlines()[0]}")) from None
    except UnicodeError as error:
        raise InputError(reader.fault(None, f"not valid YAML: {error}")) from None  # of a --set: files are UTF-8
    return node, None if node is None else reader.build(node, ()), reader


def parse_yaml(text: str, path: str) -> Document:
    """A YAML mapping as plain data with positions; sequences become tuples. Raises InputError."""
    shipped = is_shipped(text)
    return (_parse_shipped if shipped else _parse)(text, path, shipped)


def _parse(text: str, path: str, shipped: bool) -> Document:
    node, data, reader = _read(text, path, True, shipped)
    if data is None:
        raise InputError(f"{path}: the file is empty")
    if isinstance(data, Unreadable):
        raise InputError(data.fault)
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}:1:1: expected fields (`name: value`) at the top level")
    return Document(path, data, reader.marks, shipped=shipped)


_parse_shipped = lru_cache(maxsize=256)(_parse)  # policies that come with costsim compose each other


# --- overrides --------------------------------------------------------------------------------------------------------


def override(document: Document, assignments: Iterable[str], absent: Collection[str] = ()) -> Document:
    """The document with `a.b=value` assignments, whose values are YAML. Raises InputError.

    `absent` are sections that a file may have: those that it lacks are made where a field of theirs is assigned.
    """
    data = _lists(document.data)
    overrides: dict[Where, str] = {}
    for assignment in assignments:
        place = f"--set {one_line(assignment)}"
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{place}: expected FIELD=VALUE, such as model.encoder_layers=12")
        target, at = _target(data, name.strip().split("."), place, absent)
        _, target[at[-1]], _ = _read(text, place, False)
        overrides[at] = assignment
    marks, overrides = document.marks, {**document.overrides, **overrides}
    return Document(document.path, tuples(data), marks, overrides) if overrides else document


def _target(data: Any, parts: list[str], place: str, absent: Collection[str]) -> tuple[Any, Where]:
    """The section or list whose field a name's parts lead to, and where the field is. Raises InputError."""
    if len(parts) > MAX_DEPTH:
        raise InputError(f"{place}: nested more than {MAX_DEPTH} deep")
    at: Where = ()
    for part in parts[:-1]:
        key = _key(data, part)
        inner = data.get(key) if isinstance(data, dict) else data[key] if isinstance(key, int) else None
        at = (*at, key)
        if inner is None and ".".join(map(str, at)) in absent:
            inner = data[key] = {}
        if not isinstance(inner, (dict, list)):
            sections = [key for key, value in data.items() if isinstance(value, dict)] if isinstance(data, dict) else []
            raise InputError(f"{place}: no section {one_line('.'.join(map(str, at)))!r}{nearest(part, sections)}")
        data = inner
    key = _key(data, parts[-1])
    if isinstance(data, list) and not isinstance(key, int):
        raise InputError(f"{place}: expected an index below {len(data)}")
    return data, (*at, key)


def _key(data: Any, part: str) -> str | int:
    """What a part of a field's name stands for: the index of a list's item, or a name."""
    index = isinstance(data, list) and part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(data)
    return int(part) if index else part


def _lists(value: Any) -> Any:
    """A copy with tuples as lists, which can be changed, at any depth."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def tuples(value: Any) -> Any:
    """Lists as tuples, which is what strict sections take, at any depth."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
