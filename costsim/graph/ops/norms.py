"""Normalization over the last dim, RMS norms over the last dims: those of a weight."""

from __future__ import annotations

import math

from costsim.graph.ops.register import Array, np, op, total


def _sum_last(x: Array, dims: int) -> Array:
    """The sums over so many last dims, which are kept with size 1."""
    return np.add.reduce(x, axis=tuple(range(x.ndim - dims, x.ndim)), keepdims=True, initial=0)


def _of_rows(r: Array, dims: int) -> Array:
    """What there is one of for each row, so that it broadcasts with rows of so many dims."""
    return r.reshape(r.shape + (1,) * dims)


@op(
    "x[... k], w[k], b[k] -> y[... k], mean[...], rstd[...]",
    work={"... k": {"add": 4, "mul": 3}, "...": {"div": 3, "add": 1, "sqrt": 1}},
    grads={"x": "layer_norm_grad(dy, x, w, mean, rstd)", "w b": "layer_norm_grad_weights(dy, x, mean, rstd)"},
    params=("eps",),
    torch="norms.layer_norm",
)
def layer_norm(x: Array, w: Array, b: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = (x - mean) rstd w + b over the last dim. Source: Ba et al., arXiv:1607.06450, equation 4."""
    n = x.shape[-1]
    mean = total(x) / n
    c = x - mean
    rstd = 1 / np.sqrt(total(c * c) / n + eps)
    return c * rstd * w + b, mean[..., 0], rstd[..., 0]


@op(
    "dy[... k], x[... k], w[k], mean[...], rstd[...] -> dx[... k]",
    work={"... k": {"add": 5, "mul": 5}, "...": {"div": 2}},
    grads={"dy": None, "x": None, "w": None, "mean": None, "rstd": None},
    torch="norms.layer_norm_grad",
)
def layer_norm_grad(dy: Array, x: Array, w: Array, mean: Array, rstd: Array) -> Array:
    """dx = (g - mean(g) - xhat mean(g xhat)) rstd, with g = dy w and xhat = (x - mean) rstd."""
    n = x.shape[-1]
    xhat = (x - mean[..., None]) * rstd[..., None]
    g = dy * w
    return (g - total(g) / n - xhat * (total(g * xhat) / n)) * rstd[..., None]


@op(
    "dy[... k], x[... k], mean[...], rstd[...] -> dw[k], db[k]",
    work={"... k": {"add": 3, "mul": 2}},
    grads={"dy": None, "x": None, "mean": None, "rstd": None},
    torch="norms.layer_norm_grad_weights",
)
def layer_norm_grad_weights(dy: Array, x: Array, mean: Array, rstd: Array) -> tuple[Array, Array]:
    """dw = sum dy xhat and db = sum dy over all rows: the second kernel of a layer norm's backward."""
    axes = tuple(range(x.ndim - 1))
    xhat = (x - mean[..., None]) * rstd[..., None]
    return np.add.reduce(dy * xhat, axis=axes, initial=0), np.add.reduce(dy, axis=axes, initial=0)


@op(
    "x[... k], w[k] -> y[... k], mean[...], rstd[...]",
    work={"... k": {"add": 3, "mul": 3}, "...": {"div": 3, "add": 1, "sqrt": 1}},
    grads={"x": "layer_norm_grad(dy, x, w, mean, rstd)", "w": "layer_norm_grad_weight(dy, x, mean, rstd)"},
    params=("eps",),
    torch="norms.layer_norm_no_bias",
)
def layer_norm_no_bias(x: Array, w: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = (x - mean) rstd w: a layer norm without a bias, as ModernBERT's (arXiv:2412.13663, section 2.1)."""
    n = x.shape[-1]
    mean = total(x) / n
    c = x - mean
    rstd = 1 / np.sqrt(total(c * c) / n + eps)
    return c * rstd * w, mean[..., 0], rstd[..., 0]


@op(
    "dy[... k], x[... k], mean[...], rstd[...] -> dw[k]",
    work={"... k": {"add": 2, "mul": 2}},
    grads={"dy": None, "x": None, "mean": None, "rstd": None},
    torch="norms.layer_norm_grad_weight",
)
def layer_norm_grad_weight(dy: Array, x: Array, mean: Array, rstd: Array) -> Array:
    """dw = sum dy xhat over all rows, where there is no bias."""
    xhat = (x - mean[..., None]) * rstd[..., None]
    return np.add.reduce(dy * xhat, axis=tuple(range(x.ndim - 1)), initial=0)


@op(
    "x[... *k], w[*k] -> y[... *k], rstd[...]",
    work={"... *k": {"mul": 3, "add": 1}, "...": {"div": 2, "add": 1, "sqrt": 1}},
    grads={"x": "rms_norm_grad(dy, x, w, rstd)", "w": "rms_norm_grad_weight(dy, x, rstd)"},
    params=("eps",),
    torch="norms.rms_norm",
)
def rms_norm(x: Array, w: Array, eps: float) -> tuple[Array, Array]:
    """y = x rstd w, rstd = 1 / sqrt(mean x^2 + eps). Source: Zhang & Sennrich, arXiv:1910.07467, equation 4."""
    square = _sum_last(x * x, w.ndim)
    rstd = 1 / np.sqrt(square / w.size + eps)
    return x * rstd * w, rstd.reshape(rstd.shape[: x.ndim - w.ndim])


@op(
    "dy[... *k], x[... *k], w[*k], rstd[...] -> dx[... *k]",
    work={"... *k": {"add": 2, "mul": 5}, "...": {"div": 1}},
    grads={"dy": None, "x": None, "w": None, "rstd": None},
    torch="norms.rms_norm_grad",
)
def rms_norm_grad(dy: Array, x: Array, w: Array, rstd: Array) -> Array:
    """dx = (g - xhat mean(g xhat)) rstd, with g = dy w and xhat = x rstd."""
    rstd = _of_rows(rstd, w.ndim)
    xhat = x * rstd
    g = dy * w
    return (g - xhat * (_sum_last(g * xhat, w.ndim) / w.size)) * rstd


@op(
    "dy[... *k], x[... *k], rstd[...] -> dw[*k]",
    work={"... *k": {"add": 1, "mul": 2}},
    grads={"dy": None, "x": None, "rstd": None},
    torch="norms.rms_norm_grad_weight",
)
def rms_norm_grad_weight(dy: Array, x: Array, rstd: Array) -> Array:
    """dw = sum dy xhat over all rows."""
    xhat = x * _of_rows(rstd, x.ndim - rstd.ndim)
    return np.add.reduce(dy * xhat, axis=tuple(range(rstd.ndim)), initial=0)


@op(
    "x[... *k], w[*k] -> y[... *k], rstd[...]",
    work={"... *k": {"mul": 3, "add": 1}, "...": {"div": 2, "add": 1, "sqrt": 1}, "*k": {"add": 1}},
    grads={"x": "rms_norm_1p_grad(dy, x, w, rstd)", "w": "rms_norm_grad_weight(dy, x, rstd)"},
    params=("eps",),
    torch="norms.rms_norm_1p",
)
def rms_norm_1p(x: Array, w: Array, eps: float) -> tuple[Array, Array]:
    """y = x rstd (1 + w): an RMS norm whose weight is centred at 0. Source: GemmaRMSNorm of transformers."""
    y, rstd = rms_norm(x, w + 1, eps)
    return y, rstd


@op(
    "dy[... *k], x[... *k], w[*k], rstd[...] -> dx[... *k]",
    work={"... *k": {"add": 2, "mul": 5}, "...": {"div": 1}, "*k": {"add": 1}},
    grads={"dy": None, "x": None, "w": None, "rstd": None},
    torch="norms.rms_norm_1p_grad",
)
def rms_norm_1p_grad(dy: Array, x: Array, w: Array, rstd: Array) -> Array:
    """dx of rms_norm, with 1 + w in place of its weight."""
    return rms_norm_grad(dy, x, w + 1, rstd)


# --- RMS norm op by op, as transformers' LlamaRMSNorm runs it (modeling_llama.py): square, mean, shift by eps, rsqrt,
# scale_rows, scale_columns. What autograd keeps of each (derivatives.yaml of PyTorch) is what these gradients read.


@op(
    "x[... *k] -> y[...]",
    work={"... *k": {"add": 1}, "...": {"div": 1}},
    grads={"x": "mean_grad(dy)"},
    runtime=("shape",),
    torch="norms.mean",
)
def mean(x: Array, shape: tuple[int, ...]) -> Array:
    """y = the mean of x over the last dims. Keeps nothing for the backward."""
    dims = x.ndim - len(shape)
    return _sum_last(x, dims).reshape(shape) / math.prod(x.shape[len(shape) :])


@op(
    "dy[...] -> dx[... *k]",
    work={"... *k": {"div": 1}},
    grads={"dy": None},
    runtime=("shape",),
    torch="norms.mean_grad",
)
def mean_grad(dy: Array, shape: tuple[int, ...]) -> Array:
    """dx = dy / k, for each of the k elements of a row."""
    return np.broadcast_to(_of_rows(dy, len(shape) - dy.ndim), shape) / math.prod(shape[dy.ndim :])


@op(
    "v[...] -> y[...]",
    work={"...": {"sqrt": 1, "div": 1}},
    grads={"v": "rsqrt_grad(dy, y)"},
    torch="torch.rsqrt",
)
def rsqrt(v: Array) -> Array:
    """y = 1 / sqrt v. Keeps y for the backward, as PyTorch does."""
    return 1 / np.sqrt(v)


@op("dy[...], y[...] -> dv[...]", work={"...": {"mul": 4}}, grads={"dy": None, "y": None}, torch="same")
def rsqrt_grad(dy: Array, y: Array) -> Array:
    """dv = -dy y^3 / 2."""
    return dy * (y * y * y) * -0.5


@op(
    "x[... *k], r[...] -> y[... *k]",
    work={"... *k": {"mul": 1}},
    grads={"x": "scale_rows(dy, r)", "r": "scale_rows_grad(dy, x)"},
    torch="norms.scale_rows",
)
def scale_rows(x: Array, r: Array) -> Array:
    """y = r x, a factor for each row: x times the reciprocal root of the mean of its squares."""
    return x * _of_rows(r, x.ndim - r.ndim)


@op(
    "dy[... *k], x[... *k] -> dr[...]",
    work={"... *k": {"mul": 1, "add": 1}},
    grads={"dy": None, "x": None},
    runtime=("shape",),
    torch="norms.scale_rows_grad",
)
def scale_rows_grad(dy: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """dr = sum dy x over each row. PyTorch multiplies and sums in two kernels."""
    return _sum_last(dy * x, x.ndim - len(shape)).reshape(shape)


@op(
    "x[... *k], w[*k] -> y[... *k]",
    work={"... *k": {"mul": 1}},
    grads={"x": "scale_columns(dy, w)", "w": "scale_columns_grad(dy, x)"},
    torch="same",
)
def scale_columns(x: Array, w: Array) -> Array:
    """y = w x, a factor for each place in a row: a norm's weight."""
    return x * w


@op(
    "dy[... *k], x[... *k] -> dw[*k]",
    work={"... *k": {"mul": 1, "add": 1}},
    grads={"dy": None, "x": None},
    runtime=("shape",),
    torch="norms.scale_columns_grad",
)
def scale_columns_grad(dy: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """dw = sum dy x over all rows. PyTorch multiplies and sums in two kernels."""
    return np.add.reduce(dy * x, axis=tuple(range(x.ndim - len(shape))), initial=0)
