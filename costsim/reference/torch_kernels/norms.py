"""Normalization over the last dim, RMS norms over the last dims."""

import math

from costsim.reference.torch_kernels.library import Tensor, aten


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """One kernel."""
    y, mean, rstd = aten.native_layer_norm(x, w.shape, w, b, eps)
    return y, mean[..., 0], rstd[..., 0]


def _layer_norm_backward(
    dy: Tensor, x: Tensor, w: Tensor, mean: Tensor, rstd: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dw, db), of which only those wanted are made."""
    grads: tuple[Tensor, Tensor, Tensor] = aten.native_layer_norm_backward(
        dy, x, w.shape, mean[..., None], rstd[..., None], w, w, wanted
    )
    return grads


def layer_norm_grad(dy: Tensor, x: Tensor, w: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """What autograd calls, for dx only."""
    return _layer_norm_backward(dy, x, w, mean, rstd, [True, False, False])[0]


def layer_norm_grad_weights(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """What autograd calls, for dw and db only, which needs no more of the weight than its shape."""
    _, dw, db = _layer_norm_backward(dy, x, x.new_empty(x.shape[-1]), mean, rstd, [False, True, True])
    return dw, db


def _last(dims: int) -> tuple[int, ...]:
    """So many last axes."""
    return tuple(range(-dims, 0))


def _of_rows(r: Tensor, dims: int) -> Tensor:
    """What there is one of for each row, so that it broadcasts with rows of so many dims."""
    return r.view(r.shape + (1,) * dims)


def layer_norm_no_bias(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """One kernel."""
    y, mean, rstd = aten.native_layer_norm(x, w.shape, w, None, eps)
    return y, mean[..., 0], rstd[..., 0]


def layer_norm_grad_weight(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """What autograd calls, for dw only."""
    return _layer_norm_backward(dy, x, x.new_empty(x.shape[-1]), mean, rstd, [False, True, False])[1]


def rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Llama."""
    rstd = (x.square().mean(_last(w.ndim), keepdim=True) + eps).rsqrt()
    return x * rstd * w, rstd.view(rstd.shape[: x.ndim - w.ndim])


def rms_norm_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    rstd = _of_rows(rstd, w.ndim)
    xhat = x * rstd
    g = dy * w
    return (g - xhat * (g * xhat).mean(_last(w.ndim), keepdim=True)) * rstd


def rms_norm_grad_weight(dy: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return (dy * (x * _of_rows(rstd, x.ndim - rstd.ndim))).sum(tuple(range(rstd.ndim)))


def rms_norm_1p(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Gemma."""
    return rms_norm(x, 1 + w, eps)


def rms_norm_1p_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return rms_norm_grad(dy, x, 1 + w, rstd)


def mean(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One kernel over the last dims."""
    return x.mean(_last(x.ndim - len(shape)))


def mean_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd does: a division of what is broadcast."""
    return _of_rows(dy, len(shape) - dy.ndim).expand(shape) / math.prod(shape[dy.ndim :])


def scale_rows(x: Tensor, r: Tensor) -> Tensor:
    """One product, broadcast over rows."""
    return x * _of_rows(r, x.ndim - r.ndim)


def scale_rows_grad(dy: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd does: a product, then a sum."""
    return (dy * x).sum(_last(x.ndim - len(shape)))


def scale_columns_grad(dy: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd does: a product, then a sum."""
    return (dy * x).sum(tuple(range(x.ndim - len(shape))))
