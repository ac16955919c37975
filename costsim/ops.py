"""The op table: every kind of op that a training step has, one NumPy function each.

The decorator says the index patterns, how much work is done per point of a pattern, and which op of which arguments
makes each operand's gradient (`None` for integers and masks; "dy" passes the gradient through). Conventions of work:
a subtraction is an `add`, a maximum a `cmp`, a reduction of n counts n; looking up and picking count nothing. DRAM
traffic needs no entry: every input is read once, every output written once, unless `touches` narrows what is read.
Matrix products are einsum equations (`kinds.contraction`) and are not listed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from costsim.errors import nearest
from costsim.kinds import Kind, contraction, make_kind


class _LazyNumpy:
    """NumPy on first use: counting reads this table without ever running it."""

    def __getattr__(self, name: str) -> Any:
        import numpy

        return getattr(numpy, name)


np: Any = _LazyNumpy()
Array = Any  # a NumPy array, of floats or of objects that count their own operations

OPS: dict[str, Kind] = {}


def op(
    signature: str,
    *,
    work: Mapping[str, Mapping[str, int]],
    grads: Mapping[str, str | None],
    **more: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a row to the op table. Every part is required, so that an op without work or gradient cannot exist."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        OPS[run.__name__] = make_kind(run.__name__, signature, run, work, grads, **more)
        return run

    return register


def kind_of(name: str) -> Kind:
    """The kind of that name: a row of the table, or the record of an einsum equation. Raises ValueError."""
    found = OPS.get(name)
    if found is not None:
        return found
    if "->" in name:
        return contraction(name)
    raise ValueError(f"unknown op kind {name!r}{nearest(name, OPS)}")


def _total(x: Array) -> Array:
    """Sum over the last dim, kept; starts from 0, so n elements take n adds."""
    return np.add.reduce(x, axis=-1, keepdims=True, initial=0)


def _erf(x: Array) -> Array:
    return np.frompyfunc(lambda v: v.erf() if hasattr(v, "erf") else math.erf(v), 1, 1)(x).astype(x.dtype)


# --- lookups ---------------------------------------------------------------------------------------------------------


@op(
    "table[v d], ids[...] -> y[... d]",
    work={},
    grads={"table": "embed_grad(dy, ids)", "ids": None},
    touches={"table": "... d"},
    fuses=False,
)
def embed(table: Array, ids: Array) -> Array:
    """y = table[ids]; only the rows that are looked up are read."""
    return table[ids]


@op(
    "dy[... d], ids[...] -> dtable[v d]",
    work={"... d": {"add": 1}},
    grads={"dy": None, "ids": None},
    runtime=("shape",),
    fuses=False,
)
def embed_grad(dy: Array, ids: Array, shape: tuple[int, ...]) -> Array:
    """Scatter-add of dy's rows into a zero table: a dense gradient, the whole table is written (as PyTorch does)."""
    dtable = np.zeros(shape, dy.dtype)
    np.add.at(dtable, ids, dy)
    return dtable


@op("x[b s d] -> y[b d]", work={}, grads={"x": "select_first_grad(dy)"}, touches={"x": "b d"})
def select_first(x: Array) -> Array:
    """The first position of each sequence ([CLS], or RoBERTa's <s>); only that much is read."""
    return x[:, 0]


@op("dy[b d] -> dx[b s d]", work={}, grads={"dy": None}, runtime=("shape",))
def select_first_grad(dy: Array, shape: tuple[int, ...]) -> Array:
    """dy in the first position, zeros elsewhere: the dense gradient is written whole."""
    dx = np.zeros(shape, dy.dtype)
    dx[:, 0] = dy
    return dx


# --- elementwise -----------------------------------------------------------------------------------------------------


@op("x[...] -> y[...]", work={"...": {"mul": 1}}, grads={"x": "scale(dy)"}, params=("factor",))
def scale(x: Array, factor: float) -> Array:
    """y = factor x."""
    return x * factor


@op("a[...], b[...] -> y[...]", work={"...": {"add": 1}}, grads={"a": "dy", "b": "dy"})
def add(a: Array, b: Array) -> Array:
    """y = a + b: a residual connection, or the sum of a tensor's gradients where it has several readers."""
    return a + b


@op(
    "x[... *k], b[*k] -> y[... *k]",
    work={"... *k": {"add": 1}},
    grads={"x": "dy", "b": "sum_leading(dy)"},
)
def add_bias(x: Array, b: Array) -> Array:
    """y = x + b, b broadcast over the leading dims: a bias, or positions that all sequences share."""
    return x + b


@op("dy[... *k] -> db[*k]", work={"... *k": {"add": 1}}, grads={"dy": None}, runtime=("shape",))
def sum_leading(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the leading dims: the gradient of a bias."""
    return np.add.reduce(dy, axis=tuple(range(dy.ndim - len(shape))), initial=0)


@op("x[...] -> y[...]", work={"...": {"cmp": 1}}, grads={"x": "relu_grad(dy, y)"})
def relu(x: Array) -> Array:
    """y = max(x, 0). Keeps y for the backward, as PyTorch does."""
    return np.maximum(x, 0)


@op("dy[...], y[...] -> dx[...]", work={"...": {"cmp": 1, "mul": 1}}, grads={"dy": None, "y": None})
def relu_grad(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0."""
    return dy * (y > 0)


@op("x[...] -> y[...]", work={"...": {"mul": 3, "add": 1, "erf": 1}}, grads={"x": "gelu_grad(dy, x)"})
def gelu(x: Array) -> Array:
    """y = x/2 (1 + erf(x / sqrt 2)), exact form. Source: Hendrycks & Gimpel, arXiv:1606.08415, section 2."""
    return x * 0.5 * (_erf(x * math.sqrt(0.5)) + 1)


@op(
    "dy[...], x[...] -> dx[...]",
    work={"...": {"mul": 7, "add": 2, "erf": 1, "exp": 1}},
    grads={"dy": None, "x": None},
)
def gelu_grad(dy: Array, x: Array) -> Array:
    """dx = dy (Phi(x) + x phi(x)), Phi and phi the normal distribution and its density."""
    cdf = (_erf(x * math.sqrt(0.5)) + 1) * 0.5
    pdf = np.exp(x * -0.5 * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (cdf + x * pdf)


@op("x[...] -> y[...]", work={"...": {"tanh": 1}}, grads={"x": "tanh_grad(dy, y)"})
def tanh(x: Array) -> Array:
    """y = tanh x."""
    return np.tanh(x)


@op("dy[...], y[...] -> dx[...]", work={"...": {"mul": 2, "add": 1}}, grads={"dy": None, "y": None})
def tanh_grad(dy: Array, y: Array) -> Array:
    """dx = dy (1 - y^2)."""
    return dy * (1 - y * y)


# --- dropout ---------------------------------------------------------------------------------------------------------


@op(
    "-> mask[...]",
    work={"...": {"random": 1, "cmp": 1}},
    grads={},
    params=("rate",),
    runtime=("shape", "key"),
    values="mask",
)
def bernoulli(rate: float, shape: tuple[int, ...], key: tuple[int, ...]) -> Array:
    """mask = 1 with probability 1 - rate. `key` (seed, step, pass, op name) alone decides it, so it can be redrawn."""
    return np.random.default_rng(key).random(shape, np.float32) >= rate


@op(
    "x[...], mask[...] -> y[...]",
    work={"...": {"mul": 2}},
    grads={"x": "dropout(dy, mask)", "mask": None},
    params=("rate",),
)
def dropout(x: Array, mask: Array, rate: float) -> Array:
    """y = x mask / (1 - rate)."""
    return x * mask * (1 / (1 - rate))


# --- attention: masks and softmax -------------------------------------------------------------------------------------


@op(
    "x[b ... k], keep[b k] -> y[b ... k]",
    work={"b ... k": {"add": 1}},
    grads={"x": "dy", "keep": None},
)
def mask_padding(x: Array, keep: Array) -> Array:
    """y = x, minus infinity at keys that are padding. The gradient passes: softmax makes it 0 there."""
    shape = (keep.shape[0], *(1,) * (x.ndim - 2), keep.shape[1])
    return x + np.where(keep, 0.0, -np.inf).reshape(shape).astype(x.dtype)


@op("x[... q k] -> y[... q k]", work={"... q k": {"add": 1}}, grads={"x": "dy"})
def mask_causal(x: Array) -> Array:
    """y = x, minus infinity where the key lies after the query. The gradient passes: softmax makes it 0 there."""
    return x + np.triu(np.full(x.shape[-2:], -np.inf), 1).astype(x.dtype)


@op(
    "x[... k] -> y[... k]",
    work={"... k": {"cmp": 1, "add": 2, "exp": 1, "div": 1}},
    grads={"x": "softmax_grad(dy, y)"},
)
def softmax(x: Array) -> Array:
    """y = exp(x - max x) / sum exp(x - max x) over the last dim. Keeps y, not x, for the backward."""
    e = np.exp(x - np.maximum.reduce(x, axis=-1, keepdims=True, initial=-np.inf))
    return e / _total(e)


@op("dy[... k], y[... k] -> dx[... k]", work={"... k": {"mul": 2, "add": 2}}, grads={"dy": None, "y": None})
def softmax_grad(dy: Array, y: Array) -> Array:
    """dx = y dy - y sum(y dy)."""
    t = y * dy
    return t - y * _total(t)


# --- layer norm ------------------------------------------------------------------------------------------------------


@op(
    "x[... k], w[k], b[k] -> y[... k], mean[...], rstd[...]",
    work={"... k": {"add": 4, "mul": 3}, "...": {"div": 3, "add": 1, "sqrt": 1}},
    grads={"x": "layer_norm_grad(dy, x, w, mean, rstd)", "w b": "layer_norm_grad_weights(dy, x, mean, rstd)"},
    params=("eps",),
)
def layer_norm(x: Array, w: Array, b: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = (x - mean) rstd w + b over the last dim. Source: Ba et al., arXiv:1607.06450, equation 4."""
    n = x.shape[-1]
    mean = _total(x) / n
    c = x - mean
    rstd = 1 / np.sqrt(_total(c * c) / n + eps)
    return c * rstd * w + b, mean[..., 0], rstd[..., 0]


@op(
    "dy[... k], x[... k], w[k], mean[...], rstd[...] -> dx[... k]",
    work={"... k": {"add": 5, "mul": 5}, "...": {"div": 2}},
    grads={"dy": None, "x": None, "w": None, "mean": None, "rstd": None},
)
def layer_norm_grad(dy: Array, x: Array, w: Array, mean: Array, rstd: Array) -> Array:
    """dx = (g - mean(g) - xhat mean(g xhat)) rstd, with g = dy w and xhat = (x - mean) rstd."""
    n = x.shape[-1]
    xhat = (x - mean[..., None]) * rstd[..., None]
    g = dy * w
    return (g - _total(g) / n - xhat * (_total(g * xhat) / n)) * rstd[..., None]


@op(
    "dy[... k], x[... k], mean[...], rstd[...] -> dw[k], db[k]",
    work={"... k": {"add": 3, "mul": 2}},
    grads={"dy": None, "x": None, "mean": None, "rstd": None},
)
def layer_norm_grad_weights(dy: Array, x: Array, mean: Array, rstd: Array) -> tuple[Array, Array]:
    """dw = sum dy xhat and db = sum dy over all rows: the second kernel of a layer norm's backward."""
    axes = tuple(range(x.ndim - 1))
    xhat = (x - mean[..., None]) * rstd[..., None]
    return np.add.reduce(dy * xhat, axis=axes, initial=0), np.add.reduce(dy, axis=axes, initial=0)


# --- loss ------------------------------------------------------------------------------------------------------------


def _row_weights(labels: Array, ignore: int, share: float, dtype: Any) -> Array:
    """share / (number of rows that count) for each row that counts, 0 for the others."""
    counts = labels != ignore
    return (counts * (share / max(int(counts.sum()), 1))).astype(dtype)


@op(
    "logits[... v], labels[...] -> loss[], logp[... v]",
    work={"... v": {"cmp": 1, "add": 4, "exp": 1}, "...": {"log": 1, "mul": 3, "add": 2}},
    grads={"logits": "cross_entropy_grad(dloss, logp, labels)", "labels": None},
    params=("smoothing", "ignore", "share"),
    fuses=False,
)
def cross_entropy(logits: Array, labels: Array, smoothing: float, ignore: int, share: float) -> tuple[Array, Array]:
    """loss = share x mean over rows of -(1-s) logp[label] - s/V sum logp; rows labelled `ignore` do not count.

    Keeps logp for the backward. Label smoothing as in torch.nn.functional.cross_entropy; `share` is 1 / micro-batches.
    """
    z = logits - np.maximum.reduce(logits, axis=-1, keepdims=True, initial=-np.inf)
    logp = z - np.log(_total(np.exp(z)))
    weights = _row_weights(labels, ignore, share, logits.dtype)
    picked = np.take_along_axis(logp, np.where(labels == ignore, 0, labels)[..., None], -1)[..., 0]
    rows = picked * (smoothing - 1) + _total(logp)[..., 0] * (-smoothing / logits.shape[-1])
    return np.add.reduce((rows * weights).reshape(-1), initial=0), logp


@op(
    "dloss[], logp[... v], labels[...] -> dlogits[... v]",
    work={"... v": {"exp": 1, "add": 1, "mul": 1}, "...": {"mul": 2, "add": 1}},
    grads={"dloss": None, "logp": None, "labels": None},
    params=("smoothing", "ignore", "share"),
    fuses=False,
)
def cross_entropy_grad(dloss: Array, logp: Array, labels: Array, smoothing: float, ignore: int, share: float) -> Array:
    """dlogits = (softmax - s/V) w, minus (1-s) w at the label, with w = dloss share / rows that count."""
    w = (dloss * _row_weights(labels, ignore, share, logp.dtype))[..., None]
    dlogits = (np.exp(logp) - smoothing / logp.shape[-1]) * w
    at = np.where(labels == ignore, 0, labels)[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, -1) - w * (1 - smoothing), -1)
    return dlogits


# --- update ----------------------------------------------------------------------------------------------------------


@op("acc[...], g[...] -> sum[...]", work={"...": {"add": 1}}, grads={"acc": None, "g": None})
def accumulate(acc: Array | None, g: Array) -> Array:
    """sum = acc + g in place, over micro-batches; the first micro-batch's gradient just becomes the sum."""
    return g if acc is None else acc + g


@op("g[...] -> total[]", work={"...": {"mul": 1, "add": 1}}, grads={"g": None}, fuses=False)
def square_sum(g: Array) -> Array:
    """total = sum g^2: a gradient's part of the global norm."""
    return np.add.reduce((g * g).reshape(-1), initial=0)


@op(
    "total[] -> factor[]",
    work={"": {"sqrt": 1, "add": 1, "div": 1, "cmp": 1}},
    grads={"total": None},
    params=("max_norm",),
)
def clip_factor(total: Array, max_norm: float) -> Array:
    """factor = min(1, max_norm / (sqrt(total) + 1e-6)), as torch.nn.utils.clip_grad_norm_."""
    return np.minimum(max_norm / (np.sqrt(total) + 1e-6), 1)


@op("g[...], factor[] -> clipped[...]", work={"...": {"mul": 1}}, grads={"g": None, "factor": None})
def rescale(g: Array, factor: Array) -> Array:
    """clipped = factor g, in place."""
    return g * factor


_ADAM = "w[...], g[...], m[...], v[...] -> w_next[...], m_next[...], v_next[...]"
_NO_GRADS = {"w": None, "g": None, "m": None, "v": None}
_ADAM_PARAMS = ("lr", "beta1", "beta2", "eps", "weight_decay")


def _adam(w: Array, g: Array, m: Array, v: Array, step: int, **h: float) -> tuple[Array, Array, Array]:
    beta1, beta2 = h["beta1"], h["beta2"]
    m_next = m * beta1 + g * (1 - beta1)
    v_next = v * beta2 + g * (1 - beta2) * g
    denominator = np.sqrt(v_next) * (1 / math.sqrt(1 - beta2**step)) + h["eps"]
    return w - m_next * (h["lr"] / (1 - beta1**step)) / denominator, m_next, v_next


@op(
    _ADAM,
    work={"...": {"mul": 8, "add": 5, "sqrt": 1, "div": 1}},
    grads=_NO_GRADS,
    params=_ADAM_PARAMS,
    runtime=("step",),
    fuses=False,
)
def adam(w: Array, g: Array, m: Array, v: Array, step: int, **h: float) -> tuple[Array, Array, Array]:
    """Adam with coupled (L2) decay, g + weight_decay w; one fused kernel. Source: Kingma & Ba, algorithm 1."""
    return _adam(w, g + w * h["weight_decay"], m, v, step, **h)


@op(
    _ADAM,
    work={"...": {"mul": 8, "add": 4, "sqrt": 1, "div": 1}},
    grads=_NO_GRADS,
    params=_ADAM_PARAMS,
    runtime=("step",),
    fuses=False,
)
def adamw(w: Array, g: Array, m: Array, v: Array, step: int, **h: float) -> tuple[Array, Array, Array]:
    """Adam with decoupled decay, w (1 - lr weight_decay) as in torch.optim.AdamW; one fused kernel."""
    return _adam(w * (1 - h["lr"] * h["weight_decay"]), g, m, v, step, **h)
