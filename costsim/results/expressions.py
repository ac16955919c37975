"""Assertions such as `dsq.dram_reduction > 2 and "stash-bfp".macs == dsq.macs`: parsed, checked, evaluated; no eval.

    truth:    truth or truth, truth and truth, not truth, number < number (<= > >= == !=; in chains as in Python)
    number:   + - * / over 12, 0.5, 1e9, POLICY.FIELD, POLICY.DEVICE.FIELD; names with hyphens in quotes

Integers are exact, as in Python; `/` gives a float.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from costsim.errors import InputError, one_line

Number = int | float
Name = tuple[str, ...]  # policy, field, or policy, device, field

LONGEST = 1000  # characters
DEEPEST = 20  # parentheses in each other

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<word>[^\W\d]\w*)|(?P<quoted>"[^"]*"|'[^']*')|(?P<sign><=|>=|==|!=|[-+*/()<>.])|(?P<end>$))""",
    re.VERBOSE | re.ASCII,
)
_COMPARE: Mapping[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_CALCULATE: Mapping[str, Callable[[Number, Number], Number]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SPACE = " \t\n\r\f\v"  # as the pattern skips
_WORDS = ("and", "or", "not")


class _Token(NamedTuple):
    sort: str  # number, word, quoted, sign, end
    text: str
    column: int  # from 1


class Literal(NamedTuple):
    """A number."""

    value: Number


class Field(NamedTuple):
    """A number of a policy, or of a policy on a device."""

    name: Name
    columns: tuple[int, ...]  # of each part of the name, from 1


class Chain(NamedTuple):
    """Operands with operators of one rank between them; after a sign or `not` there is one operand, and no first."""

    first: "Node | None"
    rest: tuple[tuple[str, int, "Node"], ...]  # operator, its column, operand


Node = Literal | Field | Chain


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked assertion."""

    text: str
    root: Node
    fields: tuple[Field, ...]


def _fault(text: str, column: int, message: str) -> InputError:
    """The error at a column of an expression, from 1."""
    return InputError(f"--assert {one_line(text)!r}: column {column}: {message}")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            at += text[at:].find(text[at:].lstrip(_SPACE))
            what = "a quote that is not closed" if text[at] in "\"'" else f"unexpected {one_line(text[at])!r}"
            raise _fault(text, at + 1, what)
        sort = str(match.lastgroup)
        yield _Token(sort, match[sort], match.start(sort) + 1)
        if sort == "end":
            return
        at = match.end()


class _Parser:
    """A recursive descent parser, a method a rank, which tells truths from numbers; errors name the column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0
        self.fields: list[Field] = []

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        token = self.next
        self.at += token.sort != "end"
        return token

    def takes(self, sort: str, *texts: str) -> bool:
        """Whether the next token is one of these."""
        return self.next.sort == sort and self.next.text in texts

    def wrong(self, token: _Token, expected: str) -> InputError:
        got = f"got {one_line(token.text)!r}" if token.text else "but it ends"
        return _fault(self.text, token.column, f"expected {expected}, {got}")

    def parse(self) -> Node:
        """Parse the whole text. Raises InputError unless it is a truth."""
        node, _ = self.truth(self.either)
        if self.next.sort != "end":
            raise self.wrong(self.next, "and, or, an operator, or the end")
        return node

    def truth(self, parse: Callable[[], tuple[Node, bool]]) -> tuple[Node, bool]:
        """Parse a node. Raises InputError unless it is a truth."""
        token = self.next
        node, true = parse()
        if not true:
            raise _fault(self.text, token.column, "expected a comparison such as dsq.dram_reduction > 2, got a number")
        return node, True

    def number(self, parse: Callable[[], tuple[Node, bool]]) -> Node:
        """Parse a node. Raises InputError unless it is a number."""
        token = self.next
        node, true = parse()
        if true:
            raise _fault(self.text, token.column, "expected a number, got a comparison")
        return node

    def either(self) -> tuple[Node, bool]:
        return self.logic("or", lambda: self.logic("and", self.negation))

    def logic(self, word: str, parse: Callable[[], tuple[Node, bool]]) -> tuple[Node, bool]:
        token = self.next
        node, true = parse()
        rest = []
        while self.takes("word", word):
            if not true:
                raise _fault(self.text, token.column, f"expected a comparison before {word}, got a number")
            column = self.take().column
            rest.append((word, column, self.truth(parse)[0]))
        return (Chain(node, tuple(rest)), True) if rest else (node, true)

    def negation(self) -> tuple[Node, bool]:
        columns = []
        while self.takes("word", "not"):
            columns.append(self.take().column)
        if not columns:
            return self.comparison()
        node, _ = self.truth(self.comparison)
        return (Chain(None, (("not", columns[0], node),)) if len(columns) % 2 else node), True

    def comparison(self) -> tuple[Node, bool]:
        token = self.next
        node, true = self.sum()
        rest = []
        while self.takes("sign", *_COMPARE):
            if true:
                raise _fault(self.text, token.column, "expected a number to compare, got a comparison")
            sign = self.take()
            rest.append((sign.text, sign.column, self.number(self.sum)))
        return (Chain(node, tuple(rest)), True) if rest else (node, true)

    def sum(self) -> tuple[Node, bool]:
        return self.terms(("+", "-"), lambda: self.terms(("*", "/"), self.signed))

    def terms(self, signs: tuple[str, ...], parse: Callable[[], tuple[Node, bool]]) -> tuple[Node, bool]:
        token = self.next
        node, true = parse()
        rest = []
        while self.takes("sign", *signs):
            if true:
                raise _fault(self.text, token.column, "expected a number to calculate with, got a comparison")
            sign = self.take()
            rest.append((sign.text, sign.column, self.number(parse)))
        return (Chain(node, tuple(rest)), False) if rest else (node, true)

    def signed(self) -> tuple[Node, bool]:
        signs = []
        while self.takes("sign", "+", "-"):
            signs.append(self.take())
        if not signs:
            return self.primary()
        node = self.number(self.primary)
        minus = sum(sign.text == "-" for sign in signs) % 2
        return (Chain(None, (("-", signs[0].column, node),)) if minus else node), False

    def primary(self) -> tuple[Node, bool]:
        token = self.take()
        if token.sort == "number":
            return Literal(self.literal(token)), False
        if token.sort == "quoted" or (token.sort == "word" and token.text not in _WORDS):
            return self.field(token), False
        if (token.sort, token.text) != ("sign", "("):
            raise self.wrong(token, "a number, POLICY.FIELD or (")
        self.depth += 1
        if self.depth > DEEPEST:
            raise _fault(self.text, token.column, f"more than {DEEPEST} parentheses in each other")
        node, true = self.either()
        if not self.takes("sign", ")"):
            raise self.wrong(self.next, ")")
        self.take()
        self.depth -= 1
        return node, true

    def literal(self, token: _Token) -> Number:
        if token.text.isdigit():
            return int(token.text)
        value = float(token.text)
        if math.isinf(value):
            raise _fault(self.text, token.column, "the number is too large")
        return value

    def field(self, token: _Token) -> Field:
        parts = [token]
        while self.takes("sign", "."):
            self.take()
            part = self.take()
            if part.sort not in ("word", "quoted"):
                raise self.wrong(part, "a name")
            parts.append(part)
        if not 2 <= len(parts) <= 3:
            expected = "POLICY.FIELD or POLICY.DEVICE.FIELD (names with hyphens in quotes)"
            raise _fault(self.text, token.column, f"expected {expected}, got {one_line(token.text)!r}")
        names = tuple(part.text[1:-1] if part.sort == "quoted" else part.text for part in parts)
        self.fields.append(Field(names, tuple(part.column for part in parts)))
        return self.fields[-1]


def parse(text: str) -> Expression:
    """Parse an assertion. Raises InputError, with the column, for a text that is none."""
    if len(text) > LONGEST:
        raise InputError(f"--assert: expected at most {LONGEST} characters, got {len(text)}")
    if not text.strip():
        raise InputError("--assert: expected a comparison such as 'dsq.dram_reduction > 2', got nothing")
    parser = _Parser(text)
    root = parser.parse()
    return Expression(text, root, tuple(parser.fields))


def field_error(expression: Expression, field: Field, part: int, message: str) -> InputError:
    """The error for a part of a name."""
    return _fault(expression.text, field.columns[part], message)


def _calculate(text: str, sign: str, column: int, left: Number, right: Number) -> Number:
    """The result of an operator; integers stay exact. Raises InputError for a division by zero and for overflow."""
    try:
        result = _CALCULATE[sign](left, right)
    except ZeroDivisionError:
        raise _fault(text, column, "division by zero") from None
    except OverflowError:
        raise _fault(text, column, "a number is too large for a float") from None
    if isinstance(result, float) and not math.isfinite(result):
        raise _fault(text, column, "a number is too large for a float")
    return result


def evaluate(expression: Expression, values: Mapping[Name, Number]) -> bool:
    """Whether an assertion holds. As in Python, `and`, `or` and chains stop as soon as their truth is settled.

    Raises InputError, with the column, for a division by zero and for overflow.
    """
    return bool(_evaluate(expression.text, expression.root, values))


def _evaluate(text: str, node: Node, values: Mapping[Name, Number]) -> Number:
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Field):
        return values[node.name]
    first, rest = node
    if first is None:
        sign, _, operand = rest[0]
        value = _evaluate(text, operand, values)
        return not value if sign == "not" else -value
    value = _evaluate(text, first, values)
    for sign, column, operand in rest:
        if sign in ("and", "or"):
            if bool(value) is (sign == "or"):
                return value
            value = _evaluate(text, operand, values)
        elif sign in _COMPARE:
            right = _evaluate(text, operand, values)
            if not _COMPARE[sign](value, right):
                return False
            value = right
        else:
            value = _calculate(text, sign, column, value, _evaluate(text, operand, values))
    return True if rest[0][0] in _COMPARE else value
