"""What an op kind is: one record with the shapes, the work, the traffic, the gradient and the NumPy meaning.

A kind is a row of the op table (`ops/`), declared by the decorator `op`, or an einsum equation of two operands, for
which `contraction` derives the same record mechanically. Nothing here imports NumPy.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from costsim.graph.pairs import RAGGED, base_of
from costsim.names import Values

Dims = tuple[str, ...]
Pattern = tuple[str, ...]  # tokens: `k` is one dim, `...` and `*k` any number of dims
Env = dict[str, Dims]  # by token: the dims of one op that it stands for


class Operand(NamedTuple):
    """A named operand or result and the index pattern that its dims must match."""

    name: str
    pattern: Pattern


class GradRule(NamedTuple):
    """The op `kind` of the named arguments makes the gradients of some operands.

    `kind == ""` makes no op: the one argument is the gradient of the operand, passed through or made by the op itself.
    """

    operands: tuple[str, ...]  # whose gradients are its results, in this order
    kind: str
    arguments: tuple[str, ...]  # operands, results, or `dy`: the gradient of the result `y`


@dataclass(frozen=True, eq=False)
class Kind:
    """One row of the op table: everything that costsim knows of an op. There is one object per kind."""

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    work: tuple[tuple[Pattern, Mapping[str, int]], ...]  # operations by name, at each point of an index pattern
    grads: tuple[GradRule, ...]  # an operand without a rule (`None` in the row) gets no gradient
    run: Callable[..., Any]
    torch: str = ""  # the PyTorch kernel of a row: see `ops.register`
    params: tuple[str, ...] = ()  # arguments fixed when the op is made
    runtime: tuple[str, ...] = ()  # arguments given by whoever runs the op (step, shape, key)
    touches: Mapping[str, Pattern] | None = None  # by operand: the part of it that is read, if not all
    remake: Mapping[str, tuple[str, tuple[str, ...]]] | None = None  # by result: the op that recomputes it from others
    lies_in: Mapping[str, str] | None = None  # by operand or result: another, in whose memory it lies
    view: bool = False  # all lies in one memory, as it was: nothing is done or moved
    unit: tuple[str, ...] = ()  # gradients of results that no rule takes, as they are 1: that of a step's loss
    values: Values = "float"  # of the results
    fuses: bool = True  # whether it may run in one kernel with the op before it
    collective: str = ""  # what devices do together here: see `ops.collectives`
    passes: str = ""  # the operand or result that passes round a ring, share by share
    contracted: tuple[tuple[int, ...], ...] = ()  # by operand of a contraction: the axes that are summed over

    @property
    def is_contraction(self) -> bool:
        """Whether this is an einsum equation of two operands: a GEMM, or a batch of them."""
        return bool(self.contracted)

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The operands' names, in order."""
        return tuple(operand.name for operand in self.inputs)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The operands' names, then the results'."""
        return self.input_names + tuple(result.name for result in self.outputs)

    @cached_property
    def differentiable(self) -> tuple[int, ...]:
        """The places of the operands that get a gradient."""
        return tuple(i for i, name in enumerate(self.input_names) if any(name in rule.operands for rule in self.grads))

    @cached_property
    def results(self) -> tuple[tuple[str, str, bool], ...]:
        """By result: its name, its gradient's name, and whether a rule takes that gradient."""
        used = {argument for rule in self.grads for argument in rule.arguments}.union(self.unit)
        return tuple((result.name, f"d{result.name}", f"d{result.name}" in used) for result in self.outputs)

    @cached_property
    def touched(self) -> tuple[Pattern | None, ...]:
        """By operand: the pattern of the part that is read, None for all of it."""
        return tuple((self.touches or {}).get(name) for name in self.input_names)


def _tokens(text: str) -> Pattern:
    return tuple(text.split())


def _operands(text: str) -> tuple[Operand, ...]:
    return tuple(Operand(name, _tokens(inner)) for name, inner in re.findall(r"(\w+)\[([^\]]*)\]", text))


def _is_variadic(token: str) -> bool:
    return token == "..." or token.startswith("*")


def _match(operand: Operand, dims: Dims, env: Env, kind: str) -> None:
    """Bind the tokens of one operand to its dims. Raises ValueError, which names the clash."""
    open_tokens = [token for token in operand.pattern if _is_variadic(token) and token not in env]
    fixed = sum(len(env[t]) if _is_variadic(t) else 1 for t in operand.pattern if t not in open_tokens)
    spare = len(dims) - fixed
    times = open_tokens.count(open_tokens[0]) if open_tokens else 1  # a square has its side twice
    at = 0
    if spare < 0 or spare % times or (spare and not open_tokens):
        raise ValueError(f"{kind}: {operand.name}[{' '.join(operand.pattern)}] does not fit dims {dims}")
    for token in operand.pattern:
        length = spare // times if token in open_tokens else len(env[token]) if _is_variadic(token) else 1
        here = dims[at : at + length]
        at += length
        if env.setdefault(token, here) != here:
            if tuple(map(base_of, env[token])) != tuple(map(base_of, here)):
                raise ValueError(f"{kind}: {token} is {env[token]} elsewhere but {here} in {operand.name}{dims}")
            both = zip(env[token], here, strict=True)  # where one is ragged, only pairs that meet are points
            env[token] = tuple([a if RAGGED in a else b for a, b in both])


def bind(kind: Kind, inputs: Sequence[Dims], outputs: Sequence[Dims] | None = None) -> Env:
    """The dims that every token of the kind's patterns stands for. Raises ValueError if dims clash.

    A kind with an index that is in no input (a gradient that scatters, a mask that is drawn) needs `outputs`.
    """
    if len(inputs) != len(kind.inputs):
        raise ValueError(f"{kind.name}: takes {len(kind.inputs)} operands, got {len(inputs)}")
    env: Env = {}
    todo = list(zip(kind.inputs, inputs, strict=True))
    if outputs is not None:
        todo += zip(kind.outputs, outputs, strict=True)
    while todo:  # the operand with fewest unbound variadic tokens first: after `b[*k]`, `x[... *k]` has one meaning
        todo.sort(key=lambda item: sum(_is_variadic(t) and t not in env for t in item[0].pattern))
        operand, dims = todo.pop(0)
        _match(operand, dims, env, kind.name)
    return env


def expand(pattern: Pattern, env: Env) -> Dims:
    """The dims that a pattern stands for."""
    return tuple(dim for token in pattern for dim in env[token])


def _call(kind: str, text: str) -> tuple[str, tuple[str, ...]]:
    """The kind and the arguments of a text like `other(a, b)`; a bare name is an argument without a kind."""
    match = re.fullmatch(r"(?:(\w+)\(([^)]*)\)|(\w+))", text)
    if match is None:
        raise ValueError(f"{kind}: cannot read {text!r}")
    called, arguments, passed = match.groups()
    return called or "", tuple(re.findall(r"\w+", passed or arguments))


def _parse_grads(kind: str, inputs: tuple[Operand, ...], grads: Mapping[str, str | None]) -> tuple[GradRule, ...]:
    listed = [name for names in grads for name in names.split()]
    if sorted(listed) != sorted(operand.name for operand in inputs):
        raise ValueError(f"{kind}: grads must list every operand once, {[o.name for o in inputs]}, has {listed}")
    rules = []
    for names, text in grads.items():
        if text is None:
            continue
        rules.append(GradRule(tuple(names.split()), *_call(kind, text)))
    return tuple(rules)


def make_kind(
    name: str,
    signature: str,
    run: Callable[..., Any],
    work: Mapping[str, Mapping[str, int]],
    grads: Mapping[str, str | None],
    touches: Mapping[str, str] | None = None,
    remake: Mapping[str, str] | None = None,
    **more: Any,
) -> Kind:
    """A kind from the texts that the decorator takes. Raises ValueError if a part is missing or unreadable."""
    left, _, right = signature.partition("->")
    inputs, outputs = _operands(left), _operands(right)
    if not outputs:
        raise ValueError(f"{name}: {signature!r} has no result")
    if not (run.__doc__ or "").strip():
        raise ValueError(f"{name}: say in a docstring what the op computes")
    known = {token for operand in (*inputs, *outputs) for token in operand.pattern}
    patterns = tuple((_tokens(pattern), dict(counts)) for pattern, counts in work.items())
    if any(token not in known for pattern, _ in patterns for token in pattern):
        raise ValueError(f"{name}: work names an index that the signature lacks")
    touched = {operand: _tokens(pattern) for operand, pattern in (touches or {}).items()}
    rules = _parse_grads(name, inputs, grads)
    remakes = {result: _call(name, text) for result, text in (remake or {}).items()}
    return Kind(name, inputs, outputs, patterns, rules, run, touches=touched or None, remake=remakes or None, **more)


def _einsum(equation: str) -> Callable[..., Any]:
    def run(x: Any, w: Any) -> Any:
        """A sum of products over the contracted indices."""
        import numpy as np

        return np.einsum(equation, x, w, optimize=x.dtype != object)

    return run


def _contracted(x: str, w: str, y: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of each operand that are summed over, in the order of the first operand."""
    letters = [letter for letter in x if letter in w and letter not in y]
    return tuple(x.index(letter) for letter in letters), tuple(w.index(letter) for letter in letters)


@cache
def contraction(equation: str) -> Kind:
    """The kind of an einsum equation of two operands, such as `bsd,df->bsf`: one MAC per point of the index space.

    The gradient of an operand is the equation with that operand and the result swapped. This holds if no index stands
    twice in a term and every index of a term is in another one. Raises ValueError if not.
    """
    match = re.fullmatch(r"([a-z]+),([a-z]+)->([a-z]*)", equation)
    if match is None:
        raise ValueError(f"not an einsum equation of two operands: {equation!r}")
    x, w, y = match.groups()
    for term, others in ((x, w + y), (w, x + y), (y, x + w)):
        if len(set(term)) != len(term):
            raise ValueError(f"{equation}: an index stands twice in {term!r}")
        if not set(term) <= set(others):
            raise ValueError(f"{equation}: an index of {term!r} is in no other term")
    indices = "".join(dict.fromkeys(x + w))
    return Kind(
        name=equation,
        inputs=(Operand("x", tuple(x)), Operand("w", tuple(w))),
        outputs=(Operand("y", tuple(y)),),
        work=((tuple(indices), {"mac": 1}),),
        grads=(GradRule(("x",), f"{y},{w}->{x}", ("dy", "w")), GradRule(("w",), f"{x},{y}->{w}", ("x", "dy"))),
        run=_einsum(equation),
        contracted=_contracted(x, w, y),
    )


@cache
def linear_equation(batch: int, inner: int, outer: int) -> str:
    """The equation of x[batch.. inner..] w[inner.. outer..] -> y[batch.. outer..], by numbers of dims.

    >>> linear_equation(2, 1, 2)
    'abc,cde->abde'
    """
    letters = string.ascii_lowercase
    b, i, o = letters[:batch], letters[batch : batch + inner], letters[batch + inner : batch + inner + outer]
    return f"{b}{i},{i}{o}->{b}{o}"
