"""The formats that a rule's template stands for: `bfp<q0>` is bfp4 in a phase whose level q0 is 4."""

import re
from collections.abc import Callable, Iterable, Mapping

from costsim.errors import InputError, nearest, one_line
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.inputs import schema_policy
from costsim.inputs.document import Where
from costsim.inputs.schema_policy import LEVEL

Fault = Callable[[Where, str], InputError]  # the error for a field of a policy, at its place in the file that says it


def mentioned(file: schema_policy.Policy) -> frozenset[str]:
    """The levels and numbers that the policy's formats mention, in cases of assumptions too."""
    cases = [case for assumption in file.assumptions for case in assumption.cases]
    rules = [*file.rules, *(rule for case in cases for rule in case.rules)]
    texts = [file.accumulator, *(text for rule in rules for text in (rule.format, rule.accumulator))]
    return frozenset(name for text in set(texts) if text for name in re.findall(LEVEL, text))


def unknown_level(name: str, known: Iterable[str]) -> str:
    """What is wrong with a template that mentions what is neither a level nor a number."""
    return f"unknown level or number {one_line(name)!r}{nearest(name, known)}"


def fill(
    file: schema_policy.Policy, fault: Fault, at: Where, template: str, index: int, row: Mapping[str, int] | None = None
) -> Format:
    """The format of a template in the phase of that index.

    A row of the policy's widths has numbers of its own. Raises `fault`, with `at` or the place of the number; where it
    is the row's, a plain InputError, for the caller knows the row's place.
    """
    levels = dict(zip(file.levels, file.phases[index].levels, strict=True))
    known = {**file.numbers, **levels, **(row or {})}
    names = re.findall(LEVEL, template)
    for name in names:
        if name not in known:
            raise fault(at, unknown_level(name, known))
    try:
        if names:
            at = ("phases", index, "levels") if names[0] in levels else ("numbers", names[0])
        return parse_format(re.sub(LEVEL, lambda match: str(known[match[1]]), template))
    except InputError as error:
        if row:
            raise
        raise fault(at, str(error)) from None
