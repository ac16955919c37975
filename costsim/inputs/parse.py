"""Files and `--set` as documents. A run of files that costsim ships, as they are, reads no YAML."""

from collections.abc import Collection, Iterable
from typing import Any

from costsim.errors import InputError, nearest, one_line
from costsim.inputs.document import MAX_DEPTH, Document, Where, tuples
from costsim.inputs.shipped import shipped_document


def parse_yaml(text: str, path: str) -> Document:
    """A YAML mapping as plain data with positions; sequences become tuples. Raises InputError."""
    shipped = shipped_document(text, path)
    if shipped is not None:
        return shipped
    from costsim.inputs.yaml_text import read_document

    return read_document(text, path)


# --- overrides --------------------------------------------------------------------------------------------------------


def override(
    document: Document, assignments: Iterable[str], absent: Collection[str] = (), own: bool = False
) -> Document:
    """The document with `a.b=value` assignments, whose values are YAML. Raises InputError.

    `absent` are sections that a file may have: those that it lacks are made where a field of theirs is assigned.
    `own`: they are of one case of an assumption of the document's own, and known to be right if it is.
    """
    data = _lists(document.data)
    overrides: dict[Where, str] = {}
    for assignment in assignments:
        place = f"--set {one_line(assignment)}"
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{place}: expected FIELD=VALUE, such as model.encoder_layers=12")
        target, at = _target(data, name.strip().split("."), place, absent)
        from costsim.inputs.yaml_text import read_value

        target[at[-1]] = read_value(text, place)
        overrides[at] = assignment
    marks, overrides = document.marks, {**document.overrides, **overrides}
    return Document(document.path, tuples(data), marks, overrides, document.shipped and own) if overrides else document


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
