"""Aten ops that are rows of the table: norms, softmax, losses."""

from __future__ import annotations

from collections.abc import Sequence

from costsim.trace.pointwise import pointwise, reduction
from costsim.trace.recording import Call, Value
from costsim.trace.tensors import Held, Slot, slots_of
from costsim.trace.translate import aten
from costsim.trace.translator import Translator

_LAST = (-1,)


def _like(t: Translator, made: Value, value: Value) -> Held:
    """A result with the axes of an operand."""
    view = t.view(value)
    return t.result(made, [view.axis(number) for number in range(len(view.axes))])


def _check_last(t: Translator, call: Call, axis: int) -> None:
    rank = len(call["self"].shape) if "self" in call.arguments else len(call["grad_output"].shape)
    if axis % rank != rank - 1:
        raise t.error(f"works along axis {axis}, the graph along the last only; transpose before")


def _append(t: Translator, kind: str, inputs: Sequence[Held], made: Value, value: Value) -> None:
    """Append an op along the last axis whose result has the axes of an operand, which may be cut elsewhere."""
    view = t.view(value)
    axes = [view.axis(number) for number in range(len(view.axes))]
    if len(axes[-1]) == 1:
        t.emit(kind, inputs, [t.result(made, axes)])
        return
    whole = Slot(t.axis("whole", made.shape[-1]))
    held = t.made(made, [*slots_of(slot for axis in axes[:-1] for slot in axis), whole])
    t.emit(kind, inputs, [held])
    own = [[Slot(slot.axis) for slot in axis] for axis in axes]
    t.look(made, t.reshaped(held, [slot for axis in own for slot in axis]), own)


# --- softmax ----------------------------------------------------------------------------------------------------------


def _softmax(t: Translator, call: Call, kind: str) -> None:
    _check_last(t, call, call["dim"])
    x = call["self"]
    _append(t, kind, [t.straight(t.view(x), _LAST)], call.results[0], x)


@aten("softmax", "_softmax.default", "_safe_softmax.default")
def softmax(t: Translator, call: Call) -> None:
    """Over the last axis."""
    _softmax(t, call, "softmax")


@aten("log_softmax", "_log_softmax.default")
def log_softmax(t: Translator, call: Call) -> None:
    """Over the last axis."""
    _softmax(t, call, "log_softmax")


def _softmax_grad(t: Translator, call: Call, kind: str) -> None:
    _check_last(t, call, call["dim"])
    dy, y = call["grad_output"], call["output"]
    for a, b in zip(t.view(dy).axes, t.view(y).axes, strict=True):
        t.align(a, b)
    _append(t, kind, [t.straight(t.view(dy), _LAST), t.straight(t.view(y), _LAST)], call.results[0], y)


@aten("softmax_grad", "_softmax_backward_data.default")
def softmax_backward(t: Translator, call: Call) -> None:
    """The gradient, from the result."""
    _softmax_grad(t, call, "softmax_grad")


@aten("log_softmax_grad", "_log_softmax_backward_data.default")
def log_softmax_backward(t: Translator, call: Call) -> None:
    """The gradient, from the result."""
    _softmax_grad(t, call, "log_softmax_grad")


# --- norms ------------------------------------------------------------------------------------------------------------


def _normalized(t: Translator, call: Call) -> None:
    if len(call["normalized_shape"]) != 1:
        raise t.error("normalizes over several axes, the graph over the last only")
    if call["weight"] is None:
        raise t.error("has no weight")
    for name in ("weight", "bias"):
        if call[name] is not None:
            t.align(t.view(call["input"]).axes[-1], t.view(call[name]).axes[0])


def _rows_of(t: Translator, made: Value, x: Value) -> Held:
    """A result with an element for each row of x."""
    view = t.view(x)
    return t.result(made, [*(view.axis(number) for number in range(len(view.axes) - 1)), []])


@aten("layer_norm, layer_norm_no_bias", "native_layer_norm.default")
def layer_norm(t: Translator, call: Call) -> None:
    """A layer norm over the last axis, which keeps mean and reciprocal deviation."""
    _normalized(t, call)
    x, (y, mean, rstd) = call["input"], call.results
    names = [name for name in ("input", "weight", "bias") if call[name] is not None]
    inputs = [t.straight(t.view(call[name]), _LAST) for name in names]
    kind = "layer_norm" if "bias" in names else "layer_norm_no_bias"
    t.emit(kind, inputs, [_like(t, y, x), _rows_of(t, mean, x), _rows_of(t, rstd, x)], eps=call["eps"])


@aten("layer_norm_grad, layer_norm_grad_weights", "native_layer_norm_backward.default")
def layer_norm_backward(t: Translator, call: Call) -> None:
    """The gradients of what is normalized, and of weight and bias, in two kernels."""
    _normalized(t, call)
    dy, x = call["grad_out"], call["input"]
    for a, b in zip(t.view(dy).axes, t.view(x).axes, strict=True):
        t.align(a, b)
    grad, kept, weight = (t.straight(t.view(call[name]), _LAST) for name in ("grad_out", "input", "weight"))
    mean, rstd = (t.straight(t.view(call[name])) for name in ("mean", "rstd"))
    wanted, results = call["output_mask"], list(call.results)
    if wanted[0]:
        t.emit("layer_norm_grad", [grad, kept, weight, mean, rstd], [_like(t, results.pop(0), x)])
    if wanted[1] and wanted[2]:
        made = [_like(t, results.pop(0), call["weight"]) for _ in range(2)]
        t.emit("layer_norm_grad_weights", [grad, kept, mean, rstd], made)
    elif wanted[1]:
        t.emit("layer_norm_grad_weight", [grad, kept, mean, rstd], [_like(t, results.pop(0), call["weight"])])


# --- losses -----------------------------------------------------------------------------------------------------------

_REDUCTIONS = {1: "mean", 2: "sum"}


def _loss_params(t: Translator, call: Call) -> dict[str, object]:
    if call["weight"] is not None or call["reduction"] not in _REDUCTIONS:
        raise t.error("weighs classes, or gives a loss for each row; the graph has neither")
    return {"ignore": call["ignore_index"], "reduction": _REDUCTIONS[call["reduction"]]}


@aten("nll_loss", "nll_loss_forward.default")
def nll_loss(t: Translator, call: Call) -> None:
    """The loss of log-probabilities, and how many rows count."""
    logp, labels = t.view(call["self"]), t.view(call["target"])
    if labels.axes:
        t.align(logp.axes[0], labels.axes[0])
    loss, counted = (t.result(made, [[] for _ in made.shape]) for made in call.results)
    inputs = [t.straight(logp, _LAST), t.straight(labels)]
    t.emit("nll_loss", inputs, [loss, counted], **_loss_params(t, call))


@aten("nll_loss_grad", "nll_loss_backward.default")
def nll_loss_backward(t: Translator, call: Call) -> None:
    """The gradient of log-probabilities: zeros but at the labels."""
    logp, labels = t.view(call["self"]), t.view(call["target"])
    if labels.axes:
        t.align(logp.axes[0], labels.axes[0])
    inputs = [t.straight(t.view(call["grad_output"])), t.straight(labels), t.straight(t.view(call["total_weight"]))]
    axes = [logp.axis(number) for number in range(len(logp.axes))]
    t.emit("nll_loss_grad", inputs, [t.result(call.results[0], axes)], **_loss_params(t, call))


@aten("logistic_loss, mean_of, sum", "binary_cross_entropy_with_logits.default")
def binary_cross_entropy(t: Translator, call: Call) -> None:
    """The loss of yes or no, of each element, and its mean or sum."""
    if call["weight"] is not None or call["pos_weight"] is not None:
        raise t.error("weighs elements, which the graph does not; multiply the losses")
    x, made = call["self"], call.results[0]
    if call["reduction"] not in _REDUCTIONS:
        pointwise(t, "logistic_loss", [x, call["target"]], made)
        return
    each = t.invented(made, shape=x.shape)
    pointwise(t, "logistic_loss", [x, call["target"]], each)
    function = {"mean": "mean_of", "sum": "sum"}[_REDUCTIONS[call["reduction"]]]
    reduction(t, function, each, tuple(range(len(x.shape))), made, keep=False)
