"""JSON documents: an object as plain data with the place of each of its keys. Configs of models come so."""

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NoReturn

from costsim.errors import InputError, one_line
from costsim.inputs.document import MAX_DEPTH, Document, Where

_BLANKS = re.compile(r"[ \t\n\r]*")
# What is looked at before JSON is parsed: texts, to step over them, brackets, numbers and what Python takes for some.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]|(?P<constant>-?(?:NaN|Infinity))|(?P<digits>\d+)', re.DOTALL)
MAX_DIGITS = 1000  # Python reads integers of 4300; fields say what they take

Place = Callable[[int], tuple[int, int]]  # 1-based line and column of an index of a text


def _place_in(text: str) -> Place:
    starts = [0, *(end.end() for end in re.finditer("\n", text))]  # of lines

    def place(at: int) -> tuple[int, int]:
        line = bisect_right(starts, at)
        return line, at - starts[line - 1] + 1

    return place


def _check_tokens(text: str, fail: Callable[[int, str], NoReturn]) -> None:
    """Refuse what Python's parser takes though JSON has it not, and what it refuses without a place."""
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            fail(token.start(), f"nested more than {MAX_DEPTH} deep")
        if token["constant"]:
            fail(token.start(), f"not valid JSON: {token[0]} is no JSON number")
        if token["digits"] and len(token[0]) > MAX_DIGITS:
            fail(token.start(), f"a number of {len(token[0])} digits is out of range")


def _marks(text: str, place: Place, fail: Callable[[int, str], NoReturn]) -> dict[Where, tuple[int, int]]:
    """Line and column of every key of a JSON object, and of objects in it. The text is valid.

    Fails for a key that is given twice.
    """
    decoder = json.JSONDecoder()
    marks: dict[Where, tuple[int, int]] = {}

    def after_blanks(at: int) -> int:
        return at + len(_BLANKS.match(text, at)[0])  # type: ignore[index]  # it matches anywhere

    def walk(at: int, above: Where) -> int:
        """Mark the keys of the object that begins there; where it ends."""
        at = after_blanks(at + 1)
        while text[at] != "}":
            key, end = decoder.raw_decode(text, at)
            where = (*above, key)
            if where in marks:
                fail(at, f"duplicate key {one_line(key)!r}, first on line {marks[where][0]}")
            marks[where] = place(at)
            at = after_blanks(after_blanks(end) + 1)
            at = after_blanks(walk(at, where) if text[at] == "{" else decoder.raw_decode(text, at)[1])
            if text[at] == ",":
                at = after_blanks(at + 1)
        return at + 1

    walk(after_blanks(0), ())
    return marks


def parse_json(text: str, path: str) -> Document:
    """A JSON object as plain data with the places of its keys. Raises InputError, with the place, for anything else."""
    place = _place_in(text)

    def fail(at: int, message: str) -> NoReturn:
        line, column = place(at)
        raise InputError(f"{path}:{line}:{column}: {message}")

    _check_tokens(text, fail)
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        fail(error.pos, f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}")
    if not isinstance(data, dict):
        fail(after := len(_BLANKS.match(text)[0]), f"expected an object, got {one_line(text[after:])}")  # type: ignore[index]
    return Document(path, data, {(): (1, 1), **_marks(text, place, fail)})
