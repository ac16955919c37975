"""JSON documents: an object as plain data with the place of each of its keys. Configs of models come so."""

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from costsim.errors import Fault, InputError, one_line
from costsim.inputs.document import MAX_DEPTH, Document, Unreadable, Where

_BLANKS = re.compile(r"[ \t\n\r]*")
# What is looked at before JSON is parsed: texts, to step over them, brackets, numbers and what Python takes for some.
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_TOKENS = re.compile(
    rf'"(?:[^"\\]|\\.)*"?|[\[\]{{}}]|(?P<constant>-?(?:NaN|Infinity))|(?P<number>{_NUMBER})', re.DOTALL
)
MAX_DIGITS = 1000  # Python reads integers of 4300; fields say what they take

Place = Callable[[int], tuple[int, int]]  # 1-based line and column of an index of a text


def _place_in(text: str) -> Place:
    starts = [0, *(end.end() for end in re.finditer("\n", text))]  # of lines

    def place(at: int) -> tuple[int, int]:
        line = bisect_right(starts, at)
        return line, at - starts[line - 1] + 1

    return place


def _too_long(number: str) -> bool:
    return len(number) > MAX_DIGITS


class _Reader:
    """Reads an object, which is known to be valid but for constants, and notes where each key stands.

    What Python's parser takes though JSON has it not, and a key's second value, are Unreadable.
    """

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path, self.place = text, path, _place_in(text)
        self.marks: dict[Where, tuple[int, int]] = {(): (1, 1)}
        self.wrong = iter(self.check_tokens())  # values that cannot be read, in the order in which they come
        self.decoder = json.JSONDecoder(
            parse_constant=lambda _: next(self.wrong),
            parse_int=lambda number: next(self.wrong) if _too_long(number.lstrip("-")) else int(number),
            parse_float=lambda number: next(self.wrong) if _too_long(number.lstrip("-")) else float(number),
        )

    def fault(self, at: int, message: str) -> Fault:
        """What is wrong at an index of the text."""
        line, column = self.place(at)
        return Fault(f"{self.path}:{line}:{column}: {message}", self.path, line, column)

    def check_tokens(self) -> list[Unreadable]:
        """What is no JSON number, or too long for one. Raises InputError for what is too deep."""
        depth, faults = 0, list[Fault]()
        for token in _TOKENS.finditer(self.text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
            if depth > MAX_DEPTH:
                raise InputError(*faults, self.fault(token.start(), f"nested more than {MAX_DEPTH} deep"))
            if token["constant"]:
                faults.append(self.fault(token.start(), f"not valid JSON: {token[0]} is no JSON number"))
            if token["number"] and _too_long(token[0]):
                digits = sum(map(str.isdigit, token[0]))
                faults.append(self.fault(token.start(), f"a number of {digits} digits is out of range"))
        return [Unreadable(fault) for fault in faults]

    def after_blanks(self, at: int) -> int:
        return at + len(_BLANKS.match(self.text, at)[0])  # type: ignore[index]  # it matches anywhere

    def value(self, at: int, where: Where) -> tuple[Any, int]:
        """The value that begins there, and where it ends."""
        if self.text[at] == "{":
            return self.object(at, where)
        value, end = self.decoder.raw_decode(self.text, at)
        return value, end

    def object(self, at: int, above: Where) -> tuple[dict[str, Any], int]:
        """The object that begins there, and where it ends."""
        data: dict[str, Any] = {}
        at = self.after_blanks(at + 1)
        while self.text[at] != "}":
            key, end = self.decoder.raw_decode(self.text, at)
            where = (*above, key)
            value, after = self.value(self.after_blanks(self.after_blanks(end) + 1), where)
            if where in self.marks:
                first = self.marks[where][0]
                value = Unreadable(self.fault(at, f"duplicate key {one_line(key)!r}, first on line {first}"))
            else:
                self.marks[where] = self.place(at)
            data[key] = value
            at = self.after_blanks(after)
            if self.text[at] == ",":
                at = self.after_blanks(at + 1)
        return data, at + 1


def parse_json(text: str, path: str) -> Document:
    """A JSON object as plain data with the places of its keys; what cannot be read is `Unreadable`.

    Raises InputError, with the place, for what is no JSON object.
    """
    reader = _Reader(text, path)
    try:
        data: Any = json.loads(text, parse_int=len, parse_float=len, parse_constant=len)  # only whether it is valid
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}"
        raise InputError(*(bad.fault for bad in reader.wrong), reader.fault(error.pos, message)) from None
    start = reader.after_blanks(0)
    if not isinstance(data, dict):
        raise InputError(reader.fault(start, f"expected an object, got {one_line(text[start:])}"))
    return Document(path, reader.object(start, ())[0], reader.marks)
