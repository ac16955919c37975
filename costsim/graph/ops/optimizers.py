"""Optimizers beside Adam. What they have of matrix products are contractions: see models/update.py."""

from __future__ import annotations

import math

from costsim.graph.ops.register import Array, np, op

_ONE_STATE = "w[...], g[...], m[...] -> w_next[...], m_next[...]"
_NO_GRADS = {"w": None, "g": None, "m": None}


@op(
    "w[...], g[...] -> w_next[...]",
    work={"...": {"mul": 2, "add": 2}},
    grads={"w": None, "g": None},
    params=("lr", "weight_decay"),
    fuses=False,
    torch="same",
)
def sgd(w: Array, g: Array, lr: float, weight_decay: float) -> Array:
    """w - lr (g + weight_decay w), as torch.optim.SGD."""
    return w - (g + w * weight_decay) * lr


@op(
    _ONE_STATE,
    work={"...": {"mul": 3, "add": 3}},
    grads=_NO_GRADS,
    params=("lr", "momentum", "weight_decay"),
    fuses=False,
    torch="same",
)
def momentum(w: Array, g: Array, m: Array, lr: float, momentum: float, weight_decay: float) -> tuple[Array, Array]:
    """m = momentum m + g + weight_decay w; w - lr m, as torch.optim.SGD(momentum=...)."""
    m_next = m * momentum + (g + w * weight_decay)
    return w - m_next * lr, m_next


@op(
    _ONE_STATE,
    work={"...": {"mul": 6, "add": 4}},
    grads=_NO_GRADS,
    params=("lr", "beta1", "beta2", "weight_decay"),
    fuses=False,
    torch="optimizers.lion",
)
def lion(
    w: Array, g: Array, m: Array, lr: float, beta1: float, beta2: float, weight_decay: float
) -> tuple[Array, Array]:
    """w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w); Chen et al. 2023, arXiv:2302.06675, algorithm 2."""
    direction = np.sign(m * beta1 + g * (1 - beta1))
    return w - (direction + w * weight_decay) * lr, m * beta2 + g * (1 - beta2)


# --- Adafactor: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5, as torch.optim.Adafactor has them -------


def _share(step: int, beta2_decay: float) -> float:
    """How much of the second moment is new."""
    return math.pow(step, beta2_decay)


@op(
    "g[*i *o], r[*i], c[*o] -> r_next[*i], c_next[*o]",
    work={"*i *o": {"mul": 1, "add": 2}, "*i": {"div": 1, "mul": 1, "add": 2}, "*o": {"div": 1, "mul": 1, "add": 2}},
    grads={"g": None, "r": None, "c": None},
    params=("beta2_decay",),
    runtime=("step",),
    fuses=False,
    torch="optimizers.adafactor_moments",
)
def adafactor_moments(g: Array, r: Array, c: Array, beta2_decay: float, step: int) -> tuple[Array, Array]:
    """Means of g^2 over columns and rows, exponentially averaged: all that is kept of the second moment of a matrix."""
    square = g * g
    rows, columns = tuple(range(r.ndim)), tuple(range(r.ndim, g.ndim))
    share = _share(step, beta2_decay)
    r_mean = np.add.reduce(square, axis=columns, initial=0) / math.prod(c.shape)
    c_mean = np.add.reduce(square, axis=rows, initial=0) / math.prod(r.shape)
    return r + (r_mean - r) * share, c + (c_mean - c) * share


def _factored(g: Array, r: Array, c: Array, eps1: float) -> Array:
    """g over the root of the second moment that rows and columns stand for."""
    mean = np.maximum(np.add.reduce(r.reshape(-1), initial=0) / math.prod(r.shape), eps1)
    moment = r.reshape(r.shape + (1,) * c.ndim) * c / mean
    return g / np.sqrt(np.maximum(moment, eps1 * eps1))


@op(
    "g[*i *o], r[*i], c[*o] -> total[]",
    work={"*i *o": {"mul": 2, "div": 2, "cmp": 1, "sqrt": 1, "add": 1}, "*i": {"add": 1}, "": {"div": 1, "cmp": 1}},
    grads={"g": None, "r": None, "c": None},
    params=("eps1",),
    fuses=False,
    torch="optimizers.adafactor_square_sum",
)
def adafactor_square_sum(g: Array, r: Array, c: Array, eps1: float) -> Array:
    """total = sum u^2 of the update u, by which it is clipped; nothing else of u is kept."""
    u = _factored(g, r, c, eps1)
    return np.add.reduce((u * u).reshape(-1), initial=0)


def _step_size(squares: Array, weights: Array, n: int, step: int, **h: float) -> Array:
    """max(eps2, RMS(w)) min(lr, 1 / sqrt(step)) / max(1, RMS(u) / clip)."""
    size = np.maximum(np.sqrt(weights / n), h["eps2"]) * min(h["lr"], 1 / math.sqrt(step))
    return size / np.maximum(np.sqrt(squares / n) / h["clip"], 1)


_ADAFACTOR = ("lr", "eps1", "eps2", "clip", "weight_decay")
_OF_SIZES = {"sqrt": 2, "div": 4, "cmp": 2, "mul": 1}


@op(
    "w[*i *o], g[*i *o], r[*i], c[*o], squares[], weights[] -> w_next[*i *o]",
    work={
        "*i *o": {"mul": 3, "div": 2, "cmp": 1, "sqrt": 1, "add": 1},
        "*i": {"add": 1},
        "": {**_OF_SIZES, "div": _OF_SIZES["div"] + 1, "cmp": _OF_SIZES["cmp"] + 1},
    },
    grads=dict.fromkeys(("w", "g", "r", "c", "squares", "weights")),
    params=_ADAFACTOR,
    runtime=("step",),
    fuses=False,
    torch="optimizers.adafactor",
)
def adafactor(w: Array, g: Array, r: Array, c: Array, squares: Array, weights: Array, step: int, **h: float) -> Array:
    """A matrix less its clipped update, which is made once more from the gradient."""
    u = _factored(g, r, c, h["eps1"])
    size = _step_size(squares, weights, math.prod(w.shape), step, **h)
    return w * (1 - h["lr"] * h["weight_decay"]) - u * size


@op(
    "g[...], v[...] -> v_next[...], total[]",
    work={"...": {"mul": 3, "add": 3, "div": 1, "cmp": 1, "sqrt": 1}},
    grads={"g": None, "v": None},
    params=("eps1", "beta2_decay"),
    runtime=("step",),
    fuses=False,
    torch="optimizers.adafactor_vector_moment",
)
def adafactor_vector_moment(g: Array, v: Array, eps1: float, beta2_decay: float, step: int) -> tuple[Array, Array]:
    """The second moment of a vector, in full, and the sum of squares of its update."""
    v_next = v + (g * g - v) * _share(step, beta2_decay)
    u = g / np.sqrt(np.maximum(v_next, eps1 * eps1))
    return v_next, np.add.reduce((u * u).reshape(-1), initial=0)


@op(
    "w[...], g[...], v[...], squares[], weights[] -> w_next[...]",
    work={"...": {"mul": 2, "add": 1, "div": 1, "cmp": 1, "sqrt": 1}, "": _OF_SIZES},
    grads=dict.fromkeys(("w", "g", "v", "squares", "weights")),
    params=_ADAFACTOR,
    runtime=("step",),
    fuses=False,
    torch="optimizers.adafactor_vector",
)
def adafactor_vector(w: Array, g: Array, v: Array, squares: Array, weights: Array, step: int, **h: float) -> Array:
    """A vector less its clipped update."""
    u = g / np.sqrt(np.maximum(v, h["eps1"] * h["eps1"]))
    size = _step_size(squares, weights, math.prod(w.shape), step, **h)
    return w * (1 - h["lr"] * h["weight_decay"]) - u * size


# --- Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon, as torch.optim.Muon has it --------------------------


@op(
    "g[...], m[...] -> update[...], m_next[...]",
    work={"...": {"mul": 2, "add": 4}},
    grads={"g": None, "m": None},
    params=("momentum",),
    fuses=False,
    torch="same",
)
def muon_momentum(g: Array, m: Array, momentum: float) -> tuple[Array, Array]:
    """m + (1 - momentum) (g - m), and Nesterov's look ahead: g + momentum (m - g)."""
    m_next = m + (g - m) * (1 - momentum)
    return g + (m_next - g) * momentum, m_next


@op(
    "x[*b *k] -> total[*b]",
    work={"*b *k": {"mul": 1, "add": 1}},
    grads={"x": None},
    fuses=False,
    torch="optimizers.matrix_square_sum",
    runtime=("shape",),
)
def matrix_square_sum(x: Array, shape: tuple[int, ...]) -> Array:
    """total = sum x^2 of each of a stack of matrices."""
    return np.add.reduce((x * x).reshape(*shape, -1), axis=-1, initial=0)


@op(
    "x[*b *k], total[*b] -> y[*b *k]",
    work={"*b *k": {"div": 1}, "*b": {"sqrt": 1, "cmp": 1}},
    grads={"x": None, "total": None},
    torch="optimizers.divide_by_norm",
)
def divide_by_norm(x: Array, total: Array) -> Array:
    """y = x / max(sqrt(total), 1e-7), so that no singular value is above 1."""
    norm = np.maximum(np.sqrt(total), 1e-7)
    return x / norm.reshape(norm.shape + (1,) * (x.ndim - norm.ndim))


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x x' x and (x x')^2 x; Jordan et al. 2024


@op(
    "gram[...], square[...] -> poly[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"gram": None, "square": None},
    torch="same",
)
def newton_schulz_factor(gram: Array, square: Array) -> Array:
    """poly = b x x' + c (x x')^2, of a step of the Newton-Schulz iteration."""
    _, b, c = NEWTON_SCHULZ
    return gram * b + square * c


@op(
    "x[...], product[...] -> y[...]",
    work={"...": {"mul": 1, "add": 1}},
    grads={"x": None, "product": None},
    torch="same",
)
def newton_schulz_sum(x: Array, product: Array) -> Array:
    """y = a x + poly x, the end of a step of the Newton-Schulz iteration."""
    return x * NEWTON_SCHULZ[0] + product


@op(
    "w[...], update[...] -> w_next[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"w": None, "update": None},
    params=("lr", "weight_decay", "scale"),
    torch="same",
)
def step_along(w: Array, update: Array, lr: float, weight_decay: float, scale: float) -> Array:
    """w (1 - lr weight_decay) - lr scale update."""
    return w * (1 - lr * weight_decay) - update * (lr * scale)


# --- GaLore: Zhao et al. 2024, arXiv:2403.03507, algorithm 2, as jiaweizzhao/GaLore has it ----------------------------


@op(
    "g[...], m[...], v[...] -> update[...], m_next[...], v_next[...]",
    work={"...": {"mul": 5, "add": 3, "sqrt": 1, "div": 1}},
    grads={"g": None, "m": None, "v": None},
    params=("beta1", "beta2", "eps"),
    fuses=False,
    torch="optimizers.adam_direction",
)
def adam_direction(g: Array, m: Array, v: Array, beta1: float, beta2: float, eps: float) -> tuple[Array, Array, Array]:
    """Adam's moments and their ratio, without its correction of bias, which is left to the step."""
    m_next = m * beta1 + g * (1 - beta1)
    v_next = v * beta2 + g * (1 - beta2) * g
    return m_next / (np.sqrt(v_next) + eps), m_next, v_next


@op(
    "w[...], update[...] -> w_next[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"w": None, "update": None},
    params=("lr", "beta1", "beta2", "weight_decay", "scale"),
    runtime=("step",),
    torch="same",
)
def adam_step(w: Array, update: Array, step: int, **h: float) -> Array:
    """w less the update that was projected back, with Adam's correction of bias; then decay, as GaLore's AdamW."""
    size = h["lr"] * math.sqrt(1 - h["beta2"] ** step) / (1 - h["beta1"] ** step)
    return (w - update * (size * h["scale"])) * (1 - h["lr"] * h["weight_decay"])


# 6 m n^2 + 20 n^3 operations, as many additions as products. Source: Golub and Van Loan, Matrix Computations, 4th ed.,
# figure 8.6.1, R-SVD with the singular values and the vectors of both sides.
_SVD = {"*s *s *l": {"mul": 3, "add": 3}, "*s *s *s": {"mul": 10, "add": 10}}


@op(
    "g[*s *l] -> p[*s rank]",
    work=_SVD,
    grads={"g": None},
    runtime=("shape",),
    fuses=False,
    torch="optimizers.left_vectors",
)
def left_vectors(g: Array, shape: tuple[int, ...]) -> Array:
    """The first singular vectors of a matrix whose shorter side is the first."""
    vectors = np.linalg.svd(g.reshape(math.prod(shape[:-1]), -1), full_matrices=False)[0]
    return vectors[:, : shape[-1]].reshape(shape)


@op(
    "g[*l *s] -> p[*s rank]",
    work=_SVD,
    grads={"g": None},
    runtime=("shape",),
    fuses=False,
    torch="optimizers.right_vectors",
)
def right_vectors(g: Array, shape: tuple[int, ...]) -> Array:
    """The first singular vectors of a matrix whose shorter side is the last."""
    vectors = np.linalg.svd(g.reshape(-1, math.prod(shape[:-1])), full_matrices=False)[2]
    return vectors[: shape[-1]].T.reshape(shape)


# --- SOAP: Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4, as nikhilvyas/SOAP has them ------------------------


@op(
    "x[...], g[...] -> x_next[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"x": None, "g": None},
    params=("beta2",),
    torch="optimizers.moving_average",
)
def moving_average(x: Array, g: Array, beta2: float) -> Array:
    """x beta2 + g (1 - beta2)."""
    return x * beta2 + g * (1 - beta2)


# 2 n^3 operations, as many additions as products. Source: Golub and Van Loan, Matrix Computations, 4th ed., 5.2.8,
# modified Gram-Schmidt; Householder's with the factor Q takes 8/3 n^3 (5.1.6).
@op(
    "x[*s *s] -> q[*s *s]",
    work={"*s *s *s": {"mul": 1, "add": 1}},
    grads={"x": None},
    fuses=False,
    torch="optimizers.orthonormal",
)
def orthonormal(x: Array) -> Array:
    """The orthogonal factor of a square matrix (QR)."""
    side = math.isqrt(x.size)
    return np.linalg.qr(x.reshape(side, side))[0].reshape(x.shape)
