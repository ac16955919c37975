"""Aten ops on elements that line up, and reductions: rows of the table, or pointwise equations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate, pairwise

from costsim.trace.pointwise import pointwise, reduction, scaled
from costsim.trace.recording import Call, Value
from costsim.trace.sizes import ONE, Size, times
from costsim.trace.tensors import Held, Slot, slots_of, values_of
from costsim.trace.translate import ATEN, aten
from costsim.trace.translator import Lettered, Translator

_UNARY = {
    "neg": "neg",
    "abs": "abs",
    "sign": "sign",
    "ceil": "ceil",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "reciprocal": "reciprocal",
    "sin": "sin",
    "cos": "cos",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "silu": "silu",
    "logical_not": "not",
    "bitwise_not": "not",
}
_BINARY = {  # by aten op: the functions of two tensors, and of a tensor and a number with the name of that param
    "add": ("add", "shift", "by"),
    "sub": ("sub", "shift", "by"),
    "mul": ("mul", "scale", "factor"),
    "div": ("div", "divide", "by"),
    "maximum": ("maximum", "", ""),
    "minimum": ("minimum", "", ""),
    "logical_and": ("and", "", ""),
    "logical_or": ("or", "", ""),
    "bitwise_and": ("and", "", ""),
    "bitwise_or": ("or", "", ""),
}
_GRADIENTS = {  # by aten op: the row, and its operands by the call's arguments
    "tanh_backward.default": ("tanh_grad", ("grad_output", "output")),
    "sigmoid_backward.default": ("sigmoid_grad", ("grad_output", "output")),
    "threshold_backward.default": ("relu_grad", ("grad_output", "self")),
    "silu_backward.default": ("silu_grad", ("grad_output", "self")),
}


def _unary(function: str, t: Translator, call: Call) -> None:
    pointwise(t, function, [call["self"]], call.results[0])


def _binary(functions: tuple[str, str, str], t: Translator, call: Call) -> None:
    """Two tensors, or a tensor and a number; `alpha` scales the second."""
    of_two, with_number, param = functions
    a, b, made, alpha = call["self"], call["other"], call.results[0], call.arguments.get("alpha", 1)
    if isinstance(b, Value):
        of_two = "complex_mul" if of_two == "mul" and a.is_complex and b.is_complex else of_two
        pointwise(t, of_two, [a, b if alpha == 1 else scaled(t, b, alpha)], made)
        return
    if of_two == "div" and isinstance(b, Size) and b == reduce(times, made.shape, ONE):
        pointwise(t, "divide_by_count", [a], made)
        return
    if not with_number or not isinstance(b, (int, float)):
        raise t.error("takes a number that is none in the trace")
    number = b * alpha
    pointwise(t, with_number, [a], made, **{param: _like(made, -number if of_two == "sub" else number)})


def _like(made: Value, number: float) -> float:
    """A number of the sort that a result holds: ids stay whole."""
    return int(number) if values_of(made) == "index" else float(number)


def _gradient(row: str, arguments: tuple[str, ...], t: Translator, call: Call) -> None:
    pointwise(t, row, [call[name] for name in arguments], call.results[0])


for _name, _function in _UNARY.items():
    for _suffix in (".default", "_.default"):
        ATEN[f"aten.{_name}{_suffix}"] = (partial(_unary, _function), _function)
for _name, _functions in _BINARY.items():
    _words = ", ".join(filter(None, (*_functions[:2], "divide_by_count" * (_name == "div"))))
    for _suffix in (".Tensor", "_.Tensor", ".Scalar", "_.Scalar", ".default", "_.default"):
        ATEN[f"aten.{_name}{_suffix}"] = (partial(_binary, _functions), _words)
for _name, (_row, _arguments) in _GRADIENTS.items():
    ATEN[f"aten.{_name}"] = (partial(_gradient, _row, _arguments), _row)


@aten("subtract_from, sub", "rsub.Scalar", "rsub.Tensor")
def rsub(t: Translator, call: Call) -> None:
    """A number less a tensor."""
    if isinstance(call["other"], Value):
        pointwise(t, "sub", [call["other"], call["self"]], call.results[0])
    else:
        pointwise(t, "subtract_from", [call["self"]], call.results[0], number=_like(call.results[0], call["other"]))


@aten("raised", "pow.Tensor_Tensor")
def raised(t: Translator, call: Call) -> None:
    """A power that a tensor says."""
    pointwise(t, "raised", [call["self"], call["exponent"]], call.results[0])


@aten("gelu, gelu_new", "gelu.default")
def gelu(t: Translator, call: Call) -> None:
    """GELU, exact or by tanh."""
    pointwise(t, "gelu_new" if call["approximate"] == "tanh" else "gelu", [call["self"]], call.results[0])


@aten("gelu_grad, gelu_new_grad", "gelu_backward.default")
def gelu_backward(t: Translator, call: Call) -> None:
    """The gradient of GELU, exact or by tanh."""
    row = "gelu_new_grad" if call["approximate"] == "tanh" else "gelu_grad"
    pointwise(t, row, [call["grad_output"], call["self"]], call.results[0])


@aten("square, cube, power", "pow.Tensor_Scalar")
def power(t: Translator, call: Call) -> None:
    """A fixed power."""
    exponent = call["exponent"]
    if exponent in (2, 3):
        pointwise(t, {2: "square", 3: "cube"}[exponent], [call["self"]], call.results[0])
    else:
        pointwise(t, "power", [call["self"]], call.results[0], exponent=float(exponent))


@aten("copy", "clone.default", "contiguous.default")
def clone(t: Translator, call: Call) -> None:
    """A copy with the dims in the order of the axes, or as they lie."""
    view, made = t.view(call["self"]), call.results[0]
    if call["self"].number in t.resolved:
        t.views[made.number] = view
        return
    if "contiguous" not in str(call.arguments.get("memory_format")):
        pointwise(t, "copy", [call["self"]], made)
        return
    held = t.moved("copy", view.held, view.flat())
    ends = list(accumulate((len(view.axis(number)) for number in range(len(view.axes))), initial=0))
    t.look(made, held, [held.dims()[start:end] for start, end in pairwise(ends)])


@aten("convert, to_float, to_index, to_mask", "_to_copy.default", "to.dtype")
def to_copy(t: Translator, call: Call) -> None:
    """The numbers in another format; a copy where it is the same."""
    source, made = call["self"], call.results[0]
    if source.dtype == made.dtype:
        clone(t, call)
        return
    before, after = values_of(source), values_of(made)
    pointwise(t, "convert" if before == after else f"to_{after}", [source], made)


# --- choices ----------------------------------------------------------------------------------------------------------


@aten("where", "where.self")
def where(t: Translator, call: Call) -> None:
    """One of two, by a condition."""
    pointwise(t, "where", [call["condition"], call["self"], call["other"]], call.results[0])


@aten("fill", "masked_fill.Scalar", "masked_fill_.Scalar")
def masked_fill(t: Translator, call: Call) -> None:
    """A value where a mask holds."""
    pointwise(t, "fill", [call["self"], call["mask"]], call.results[0], value=_like(call.results[0], call["value"]))


@aten("where", "masked_fill.Tensor", "masked_fill_.Tensor")
def masked_fill_tensor(t: Translator, call: Call) -> None:
    """A value that a tensor of one element has, where a mask holds."""
    pointwise(t, "where", [call["mask"], call["value"], call["self"]], call.results[0])


for _how in ("eq", "ne", "lt", "le", "gt", "ge"):

    def _compare(how: str, t: Translator, call: Call) -> None:
        other = call["other"]
        if isinstance(other, Value):
            pointwise(t, "compare", [call["self"], other], call.results[0], how=how)
        else:
            pointwise(t, "compare_with", [call["self"]], call.results[0], how=how, number=float(other))

    for _suffix in ("Tensor", "Scalar"):
        ATEN[f"aten.{_how}.{_suffix}"] = (partial(_compare, _how), "compare, compare_with")


@aten("bernoulli", "bernoulli_.float", "bernoulli.p")
def bernoulli(t: Translator, call: Call) -> None:
    """Ones with a probability, else zeros: the mask of dropout."""
    made, source = call.results[0], t.views[call["self"].number]
    axes = [[Slot(slot.axis) for slot in source.axis(number)] for number in range(len(source.axes))]
    held = Held([slot for axis in axes for slot in axis], values_of(made), made.dtype)
    t.emit("bernoulli", [], [held], rate=1 - call["p"])
    t.write(made, held, axes)


@aten("bernoulli, dropout", "native_dropout.default")
def native_dropout(t: Translator, call: Call) -> None:
    """A mask, and what it leaves, larger."""
    made, mask = call.results
    view = t.view(call["input"])
    axes = [view.axis(number) for number in range(len(view.axes))]
    t.emit("bernoulli", [], [t.result(mask, axes)], rate=call["p"])
    pointwise(t, "dropout", [call["input"], mask], made, rate=call["p"])


@aten("dropout", "native_dropout_backward.default")
def native_dropout_backward(t: Translator, call: Call) -> None:
    """What the mask leaves of the gradient, larger."""
    rate = 1 - 1 / call["scale"]
    pointwise(t, "dropout", [call["grad_output"], call["mask"]], call.results[0], rate=rate)


@aten("clamp", "clamp.default", "clamp_min.default", "clamp_max.default")
def clamp(t: Translator, call: Call) -> None:
    """Within bounds."""
    low, high = call.arguments.get("min"), call.arguments.get("max")
    bounds: Mapping[str, float] = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
    pointwise(t, "clamp", [call["self"]], call.results[0], **bounds)


# --- reductions -------------------------------------------------------------------------------------------------------


@aten("sum, sum_leading", "sum.dim_IntList", "sum.default")
def sum_(t: Translator, call: Call) -> None:
    """A sum over axes, or over all."""
    _reduce(t, call, "sum")


@aten("mean, mean_of", "mean.dim", "mean.default")
def mean(t: Translator, call: Call) -> None:
    """A mean over axes, or over all."""
    _reduce(t, call, "mean_of")


@aten("largest", "amax.default", "max.default")
def amax(t: Translator, call: Call) -> None:
    """The largest over axes, or over all."""
    _reduce(t, call, "largest")


@aten("largest, place_of_largest", "max.dim")
def max_(t: Translator, call: Call) -> None:
    """The largest along an axis, and their places."""
    largest(t, call["self"], call["dim"], call.results, bool(call["keepdim"]))


def largest(t: Translator, x: Value, axis: int, results: Sequence[Value], keep: bool) -> None:
    """Append what finds the largest along an axis, and its place."""
    for function, made in zip(("largest", "place_of_largest"), results, strict=True):
        reduction(t, function, x, (axis,), made, keep)


@aten("any", "any.default", "any.dim", "any.dims")
def any_(t: Translator, call: Call) -> None:
    """Whether one holds, over axes or all."""
    _reduce(t, call, "any")


@aten("all", "all.default", "all.dim", "all.dims")
def all_(t: Translator, call: Call) -> None:
    """Whether all hold, over axes or all."""
    _reduce(t, call, "all")


def _reduce(t: Translator, call: Call, function: str) -> None:
    rank = len(call["self"].shape)
    dims = call.arguments.get("dim")
    axes = (dims,) if isinstance(dims, int) else tuple(dims or range(rank))
    reduction(t, function, call["self"], axes, call.results[0], bool(call.arguments.get("keepdim")))


# --- made of nothing --------------------------------------------------------------------------------------------------


def _constant(t: Translator, call: Call, value: float) -> None:
    """The result of a call, the same value everywhere."""
    made = call.results[0]
    held = t.result(made, t.fresh(made))
    letters = Lettered.word(len(slots_of(held.slots)))
    t.emit(f"full ->{letters}", [], [held], value=_like(made, value))


@aten("full", "full.default", "full_like.default", "new_full.default", "scalar_tensor.default")
def full(t: Translator, call: Call) -> None:
    """A value everywhere."""
    _constant(t, call, call.arguments.get("fill_value", call.arguments.get("s", 0)))


@aten("full", "zeros.default", "zeros_like.default", "new_zeros.default")
def zeros(t: Translator, call: Call) -> None:
    """Zeros."""
    _constant(t, call, 0.0)


@aten("full; of the loss: its gradient", "ones.default", "ones_like.default", "new_ones.default")
def ones(t: Translator, call: Call) -> None:
    """Ones; the gradient of the loss is given, and 1."""
    loss = t.recording.loss
    if call.phase == "backward" and call.arguments.get("self") == loss:
        t.give("loss.grad", call.results[0], "gradient")
        return
    _constant(t, call, 1.0)


@aten("arange", "arange.default", "arange.start", "arange.start_step")
def arange(t: Translator, call: Call) -> None:
    """Whole numbers in a row."""
    made = call.results[0]
    start, step = call.arguments.get("start", 0), call.arguments.get("step", 1)
    held = t.result(made, t.fresh(made))
    t.emit("arange ->a" if held.dims() else "arange ->", [], [held], start=int(start), step=int(step))


def _triangle(t: Translator, call: Call, kind: str) -> None:
    held = t.straight(t.view(call["self"]), single=(-2, -1))
    view = t.view(call["self"])
    result = t.result(call.results[0], [view.axis(number) for number in range(len(view.axes))])
    term = Lettered.word(len(held.dims()))
    t.emit(f"{kind} {term}->{term}", [held], [result], diagonal=int(call["diagonal"]))


@aten("tril", "tril.default")
def tril(t: Translator, call: Call) -> None:
    """The lower triangle."""
    _triangle(t, call, "tril")


@aten("triu", "triu.default")
def triu(t: Translator, call: Call) -> None:
    """The upper triangle."""
    _triangle(t, call, "triu")


@aten("cumsum", "cumsum.default")
def cumsum(t: Translator, call: Call) -> None:
    """Sums up to each place."""
    view = t.view(call["self"])
    axis = call["dim"] % len(view.axes)
    held = t.straight(view, single=(axis,))
    result = t.result(call.results[0], [view.axis(number) for number in range(len(view.axes))])
    term = Lettered.word(len(held.dims()))
    at = sum(len(view.axis(number)) for number in range(axis))
    t.emit(f"cumsum {term}->{term}", [held], [result], axis=at)
