"""The sorts of files that users write: what tells them apart, how commands take them, and how an editor checks them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from costsim.errors import InputError


class Sort(NamedTuple):
    """A sort of file: its name in `names.FILES`, what it is called, where shipped ones are, what a command is given.

    `marks` are fields that files of this sort have, and of no other.
    """

    name: str
    noun: str
    folder: str
    typed: str
    marks: frozenset[str]


SORTS = (
    Sort("workload", "workload", "workloads", "costsim run {}", frozenset({"model", "batch"})),
    Sort("policy", "policy", "policies", "costsim run WORKLOAD --policy {}", frozenset({"rules", "compose"})),
    Sort(
        "hardware",
        "hardware profile",
        "hardware_profiles",
        "costsim run WORKLOAD --hardware {}",
        frozenset({"schema_version"}),
    ),
)


def other_sort(noun: str, fields: Any) -> Sort | None:
    """The sort of a file that is not of the sort that was expected; None if nothing says so."""
    if not isinstance(fields, Mapping) or any(sort.noun == noun and sort.marks & fields.keys() for sort in SORTS):
        return None
    return next((sort for sort in SORTS if sort.marks & fields.keys()), None)


def check_sort(noun: str, path: str, fields: Any) -> None:
    """Raise InputError for a file of another sort than that which is expected, with what to type instead."""
    other = other_sort(noun, fields)
    if other is not None:
        raise InputError(f"{path}: is a {other.noun}, expected a {noun}: {other.typed.format(path)}")


def editor_lines(name: str) -> str:
    """The comment that opens a written file: the schema by which editors check it, and how to make that.

    Source: github.com/redhat-developer/yaml-language-server, "Using inlined schema".
    """
    return (
        f"# yaml-language-server: $schema={name}.schema.json\n"
        f"# For editors: costsim schema {name} --out {name}.schema.json\n"
    )
