"""Normalization over the last dim."""

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


def rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Llama."""
    rstd = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return x * rstd * w, rstd[..., 0]


def rms_norm_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    xhat = x * rstd[..., None]
    g = dy * w
    return (g - xhat * (g * xhat).mean(-1, keepdim=True)) * rstd[..., None]


def rms_norm_grad_weight(dy: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return (dy * (x * rstd[..., None])).sum(tuple(range(x.ndim - 1)))


def rms_norm_1p(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Gemma."""
    return rms_norm(x, 1 + w, eps)


def rms_norm_1p_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return rms_norm_grad(dy, x, 1 + w, rstd)


def mean(x: Tensor) -> Tensor:
    """One kernel over the last dim."""
    return x.mean(-1)


def mean_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd does: a division of what is broadcast."""
    return dy[..., None].expand(shape) / shape[-1]


def scale_rows(x: Tensor, r: Tensor) -> Tensor:
    """One product, broadcast over rows."""
    return x * r[..., None]


def scale_rows_grad(dy: Tensor, x: Tensor) -> Tensor:
    """What autograd does: a product, then a sum."""
    return (dy * x).sum(-1)


def scale_columns_grad(dy: Tensor, x: Tensor) -> Tensor:
    """What autograd does: a product, then a sum."""
    return (dy * x).sum(tuple(range(x.ndim - 1)))
