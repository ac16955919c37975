"""What PyTorch's eager mode does in several kernels where the op table has one op, as data.

Between these kernels lie tensors that the graph does not have, each of the size of an operand or a result. So a row
says, by operand or result, how many more passes are made over as much: read, and written; fewer, where PyTorch makes
in one kernel what are two ops here. Products have none in their
row: which of their operands are copied first hangs on how the dims lie in memory.

This is of ops that model families write. A traced graph has each call of PyTorch as it was.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from costsim.graph.graph import Graph, Op


class Passes(NamedTuple):
    """Passes over what is as large as one operand or result, beyond the op's own."""

    reads: Fraction | int
    writes: Fraction | int


_NONE = Passes(0, 0)
_ONE = Passes(1, 1)
_HALF = Fraction(1, 2)
_RMS_NORM = {"x": Passes(3, 2), "rstd": Passes(3, 2)}  # pow, mean, add, rsqrt, mul, mul: transformers' LlamaRMSNorm
_RMS_NORM_GRAD = {"x": Passes(9, 7), "rstd": Passes(5, 4)}  # mul, mul, mul, sum, rsqrt's, div, pow's 3, add
_READ_BEFORE = dict.fromkeys(("dy", "x", "mean", "rstd"), Passes(-1, 0))  # native_layer_norm_backward makes all
_GATED = {"a": _ONE}  # the activation, mul
_GATED_GRAD = {"a": Passes(3, 1)}  # mul, mul, the activation's gradient; the activation was kept
_POWER_GRAD = Passes(2, 2)  # pow, mul by the exponent, mul
# By kind. Sources: autograd's formulas (derivatives.yaml), transformers' code, torch.optim's loops without foreach.
STEPS: Mapping[str, Mapping[str, Passes]] = {
    "rope": {"x": Passes(4 + _HALF, 3 + _HALF)},  # mul, neg of a half, cat, mul, add
    "rope_grad": {"dy": Passes(6 + _HALF, 5 + _HALF)},  # mul, mul, neg of a half, slice_backward twice, add, add
    "rms_norm": _RMS_NORM,
    "rms_norm_1p": _RMS_NORM,
    "rms_norm_grad": _RMS_NORM_GRAD,
    "rms_norm_1p_grad": _RMS_NORM_GRAD,
    "rms_norm_grad_weight": {"x": _ONE},  # mul, sum
    "layer_norm_grad_weights": _READ_BEFORE,
    "layer_norm_grad_weight": _READ_BEFORE,
    "swiglu": _GATED,
    "geglu_new": _GATED,
    "geglu": _GATED,
    "swiglu_grad": _GATED_GRAD,
    "geglu_new_grad": _GATED_GRAD,
    "geglu_grad": _GATED_GRAD,
    "square_grad": {"x": _POWER_GRAD},
    "cube_grad": {"x": _POWER_GRAD},
    "rsqrt_grad": {"y": _POWER_GRAD},
    "scale_rows_grad": {"x": _ONE},  # mul, sum
    "scale_columns_grad": {"x": _ONE},
    "cross_entropy_grad": {"dlogits": _ONE},  # nll_loss_backward, _log_softmax_backward_data
    "adam": {"g": Passes(7, 4)},  # lerp_, mul_, addcmul_, sqrt, div, add_, addcdiv_
    "adamw": {"g": Passes(8, 5)},  # mul_ of the weight before
}
# Which operands of a product its GEMM may copy first: autograd keeps the copies of the forward, and a gradient's.
_COPIED: Mapping[str, tuple[int, ...]] = {"forward": (0, 1), "dgrad": (0,)}


def _copies(graph: Graph, op: Op) -> tuple[Passes, ...]:
    """Of a product: a pass that copies what does not lie as torch.bmm takes and makes it.

    bmm has batch, rows and columns. Axes of the batch that do not lie next to each other are one only in a copy, and a
    result whose dims are in another order is written once more in that order.
    """
    x, w, y = (operand.pattern for operand in (*op.kind.inputs, *op.kind.outputs))
    batch = [i for i in y if i in x and i in w and graph.elements(op.env[i]) != 1]
    if len(batch) < 2:
        natural = [i for i in y if i in x and i in w] + [i for i in y if i not in w] + [i for i in y if i not in x]
        return (_NONE, _NONE, _ONE if batch and list(y) != natural else _NONE)
    copied = _COPIED.get(op.gemm or "", ())
    apart = [_ONE if n in copied and not _adjoin(term, batch) else _NONE for n, term in enumerate((x, w))]
    return (*apart, _NONE if _adjoin(y, batch) else _ONE)


def _adjoin(term: tuple[str, ...], batch: list[str]) -> bool:
    """Whether the axes of a batch lie next to each other, in this order."""
    at = [term.index(i) for i in batch]
    return at == list(range(at[0], at[0] + len(at)))


def passes(graph: Graph, op: Op) -> tuple[Passes, ...]:
    """By slot of an op, of its inputs, then outputs: the passes that eager mode makes beyond those of the op."""
    if op.joins is not None or op.kernel:
        return (_NONE,) * len(op.kind.names)
    if op.kind.is_contraction:
        return _copies(graph, op)
    row = STEPS.get(op.kind.name, {})
    return tuple([row.get(name, _NONE) for name in op.kind.names])
