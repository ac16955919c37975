"""The file of a traced graph: JSON with the ops of a step as costsim's table has them, and no PyTorch in it.

Tensors, kinds and lists of dims stand in tables once, and are numbers in the ops.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.names import Gemm, Values

VERSION = 1
MAX_BYTES = 200_000_000
_FIELDS = ("traced", "source", "versions", "examples", "sizes", "counted", "dims", "kinds", "tensors", "given", "ops")
_ENDS = ("loss", "gradients")
PHASES = ("forward", "recompute", "backward")


class TracedTensor(NamedTuple):
    """A tensor: its dims by their number in the table of the file."""

    name: str
    dims: int
    role: str
    values: Values
    layer: str
    recomputes: int | None = None  # the number of the forward tensor that it has once more


class TracedOp(NamedTuple):
    """An op: its kind and its tensors by their numbers in the tables of the file."""

    name: str
    kind: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    phase: str
    layer: str
    gemm: Gemm | None
    params: Mapping[str, Any]
    recomputes: str | None = None
    joins: bool | None = None  # PyTorch does it in one call with the op before


class Traced(NamedTuple):
    """A traced graph, as its file has it."""

    source: str
    versions: Mapping[str, str]
    examples: Mapping[str, int]  # sizes of dynamic dims when it was traced, which are the defaults
    sizes: Mapping[str, int | str]  # of the other dims, as numbers or as expressions of dynamic ones
    counted: Mapping[str, int]  # what PyTorch's own counters say of the example
    dims: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    tensors: tuple[TracedTensor, ...]
    given: int  # how many of the tensors, the first, come from outside
    ops: tuple[TracedOp, ...]
    loss: int
    gradients: Mapping[str, int]  # by weight

    def text(self) -> str:
        """The text of the file, an op and a tensor a line."""
        fields = {"traced": VERSION, **self._asdict()}
        lines = []
        for name, value in fields.items():
            if name in ("tensors", "ops", "dims", "kinds"):
                rows = ",\n".join(f"  {_dumped(_short(row))}" for row in value)
                lines.append(f' "{name}": [\n{rows}\n ]')
            else:
                lines.append(f' "{name}": {_dumped(value)}')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _short(row: Any) -> Any:
    """A row without the Nones at its end."""
    if not isinstance(row, tuple):
        return row
    kept = list(row)
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _dumped(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """A value in JSON's own types, which have no infinity: that is a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def _params(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The params of an op, with infinity as a number."""
    return {name: _INFINITE.get(value, value) if isinstance(value, str) else value for name, value in row.items()}


# --- sizes ------------------------------------------------------------------------------------------------------------

_OPERATORS: Mapping[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def _value(node: ast.AST, dynamic: Mapping[str, int]) -> int:
    if isinstance(node, ast.Expression):
        return _value(node.body, dynamic)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and node.id in dynamic:
        return dynamic[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, dynamic)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, dynamic), _value(node.right, dynamic))
    raise ValueError("expected whole numbers and names of dynamic dims, with + - * // and %")


def sizes_of(traced: Traced, dynamic: Mapping[str, int]) -> dict[str, int]:
    """The size of every dim, with these of the dynamic ones. Raises ValueError for what is no size."""
    sizes: dict[str, int] = dict(dynamic)
    for name, size in traced.sizes.items():
        if isinstance(size, str):
            try:
                size = _value(ast.parse(size, mode="eval"), dynamic)
            except (SyntaxError, ZeroDivisionError) as error:
                raise ValueError(f"the size of {name}, {one_line(size)}: {error}") from None
        if size < 1:
            raise ValueError(f"the size of {name} would be {size}")
        sizes[name] = size
    return sizes


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Traced:
    """The traced graph of a file. Raises InputError for what is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return _read(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=16)
def _read(path: Path, _status: tuple[int, ...]) -> Traced:
    try:
        data = json.loads(files.read_text(path, MAX_BYTES))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    if not isinstance(data, dict) or "traced" not in data:
        raise InputError(f"{path}: no traced graph; costsim trace writes one")
    if data["traced"] != VERSION:
        raise InputError(f"{path}: traced: expected {VERSION}, got {one_line(data['traced'])}; trace it again")
    missing = [name for name in (*_FIELDS, *_ENDS) if name not in data]
    if missing:
        raise InputError(f"{path}: {missing[0]}: missing; trace it again")
    try:
        return _parsed(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not as costsim trace writes it: {one_line(error, 200)}") from None


def _op(row: list[Any]) -> TracedOp:
    name, kind, inputs, outputs, phase, layer, gemm, params, *more = row
    op = TracedOp(name, kind, tuple(inputs), tuple(outputs), phase, layer, gemm, _params(params), *more)
    if op.phase not in PHASES:
        raise ValueError(f"op {op.name}: no phase {op.phase}")
    return op


def _parsed(data: Mapping[str, Any]) -> Traced:
    tensors = tuple([TracedTensor(*row) for row in data["tensors"]])
    ops = tuple([_op(row) for row in data["ops"]])
    dims = tuple([tuple(row) for row in data["dims"]])
    plain = {
        name: data[name]
        for name in ("source", "versions", "examples", "sizes", "counted", "given", "loss", "gradients")
    }
    traced = Traced(dims=dims, kinds=tuple(data["kinds"]), tensors=tensors, ops=ops, **plain)
    _check(traced)
    return traced


def _check(traced: Traced) -> None:
    """Raise ValueError for a number that is in no table, or a size that is none."""
    known, kinds, dims = len(traced.tensors), len(traced.kinds), len(traced.dims)
    names = {*traced.examples, *traced.sizes}
    for name, size in traced.examples.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"examples: {name}: expected a size, got {size}")
    for row in traced.dims:
        if unknown := [dim for dim in row if dim not in names]:
            raise ValueError(f"dims: {unknown[0]!r} has no size")
    for tensor in traced.tensors:
        if not 0 <= tensor.dims < dims:
            raise ValueError(f"tensor {tensor.name}: no dims number {tensor.dims}")
    for op in traced.ops:
        if not 0 <= op.kind < kinds or any(not 0 <= n < known for n in (*op.inputs, *op.outputs)):
            raise ValueError(f"op {op.name}: a number that is in no table")
    if any(not 0 <= n < known for n in (traced.loss, *traced.gradients.values())):
        raise ValueError("loss or gradients: a number that is in no table")
