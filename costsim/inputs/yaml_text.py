"""YAML text as plain data with the place of every field. Imports the parser, so it is imported where there is some."""

import math
import re
from typing import Any, ClassVar

import yaml

from costsim.errors import Fault, InputError, one_line
from costsim.inputs.document import MAX_DEPTH, MAX_EVENTS, MAX_ITEMS, Document, Unreadable, Where, dotted


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
            most = f"{dotted(at)}expected at most {MAX_ITEMS} items, got {len(node.value)}"
            return Unreadable(self.fault(node.start_mark, most))
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.build(child, (*at, i)) for i, child in enumerate(node.value))
        try:
            return _scalar(node.tag, node.value)
        except ValueError as error:
            return Unreadable(self.fault(node.start_mark, f"{dotted(at)}{error}"))

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


def _read(text: str, reader: _Reader) -> yaml.Node | None:
    """The YAML node of a text, and the places of what is wrong with it from its reader. Raises InputError."""
    try:
        reader.check_events(text)
        return yaml.compose(text, Loader=_Loader)
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


def read_value(text: str, place: str) -> Any:
    """The value of a YAML text that is no file, None if it is empty; `place` is what errors name. Raises InputError."""
    reader = _Reader(place, placed=False)
    node = _read(text, reader)
    return None if node is None else reader.build(node, ())


def read_document(text: str, path: str) -> Document:
    """A YAML mapping as plain data with positions; sequences become tuples. Raises InputError."""
    reader = _Reader(path, placed=True)
    node = _read(text, reader)
    if node is None:
        raise InputError(f"{path}: the file is empty")
    data = reader.build(node, ())
    if isinstance(data, Unreadable):
        raise InputError(data.fault)
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}:1:1: expected fields (`name: value`) at the top level")
    return Document(path, data, reader.marks)
