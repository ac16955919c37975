"""Elementwise ops: sums, biases, activations, dropout."""

from __future__ import annotations

import math

from costsim.graph.ops.register import Array, np, op


def _erf(x: Array) -> Array:
    if x.dtype == object:  # numbers of more digits than floats have
        return np.frompyfunc(lambda v: v.erf() if hasattr(v, "erf") else math.erf(v), 1, 1)(x)
    return np.fromiter(map(math.erf, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


@op("x[...] -> y[...]", work={"...": {"mul": 1}}, grads={"x": "scale(dy)"}, params=("factor",), torch="same")
def scale(x: Array, factor: float) -> Array:
    """y = factor x."""
    return x * factor


@op("a[...], b[...] -> y[...]", work={"...": {"add": 1}}, grads={"a": "dy", "b": "dy"}, torch="same")
def add(a: Array, b: Array) -> Array:
    """y = a + b: a residual connection, or the sum of a tensor's gradients where it has several readers."""
    return a + b


@op(
    "x[... *k], b[*k] -> y[... *k]",
    work={"... *k": {"add": 1}},
    grads={"x": "dy", "b": "sum_leading(dy)"},
    torch="same",
)
def add_bias(x: Array, b: Array) -> Array:
    """y = x + b, b broadcast over the leading dims: a bias, or positions that all sequences share."""
    return x + b


@op(
    "dy[... *k] -> db[*k]",
    work={"... *k": {"add": 1}},
    grads={"dy": None},
    runtime=("shape",),
    torch="elementwise.sum_leading",
)
def sum_leading(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the leading dims: the gradient of a bias."""
    return np.add.reduce(dy, axis=tuple(range(dy.ndim - len(shape))), initial=0)


@op("x[...] -> y[...]", work={"...": {"cmp": 1}}, grads={"x": "relu_grad(dy, y)"}, torch="torch.relu")
def relu(x: Array) -> Array:
    """y = max(x, 0). Keeps y for the backward, as PyTorch does."""
    return np.maximum(x, 0)


@op(
    "dy[...], y[...] -> dx[...]",
    work={"...": {"cmp": 1, "mul": 1}},
    grads={"dy": None, "y": None},
    torch="elementwise.relu_grad",
)
def relu_grad(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0."""
    return dy * (y > 0)


@op(
    "x[...] -> y[...]",
    work={"...": {"mul": 3, "add": 1, "erf": 1}},
    grads={"x": "gelu_grad(dy, x)"},
    torch="aten.gelu",
)
def gelu(x: Array) -> Array:
    """y = x/2 (1 + erf(x / sqrt 2)), exact form. Source: Hendrycks & Gimpel, arXiv:1606.08415, section 2."""
    return x * 0.5 * (_erf(x * math.sqrt(0.5)) + 1)


@op(
    "dy[...], x[...] -> dx[...]",
    work={"...": {"mul": 7, "add": 2, "erf": 1, "exp": 1}},
    grads={"dy": None, "x": None},
    torch="aten.gelu_backward",
)
def gelu_grad(dy: Array, x: Array) -> Array:
    """dx = dy (Phi(x) + x phi(x)), Phi and phi the normal distribution and its density."""
    cdf = (_erf(x * math.sqrt(0.5)) + 1) * 0.5
    pdf = np.exp(x * -0.5 * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (cdf + x * pdf)


_C, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@op(
    "x[...] -> y[...]",
    work={"...": {"mul": 6, "add": 2, "tanh": 1}},
    grads={"x": "gelu_new_grad(dy, x)"},
    torch="elementwise.gelu_new",
)
def gelu_new(x: Array) -> Array:
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's. Source: arXiv:1606.08415, section 2."""
    t = np.tanh((x * x * _CUBIC + 1) * x * _C)
    return x * 0.5 * (t + 1)


@op(
    "dy[...], x[...] -> dx[...]",
    work={"...": {"mul": 12, "add": 5, "tanh": 1}},
    grads={"dy": None, "x": None},
    torch="elementwise.gelu_new_grad",
)
def gelu_new_grad(dy: Array, x: Array) -> Array:
    """dx = dy ((1 + t)/2 + x/2 (1 - t^2) sqrt(2/pi) (1 + 3 x 0.044715 x^2)), t the tanh of gelu_new."""
    square = x * x
    t = np.tanh((square * _CUBIC + 1) * x * _C)
    inner = (square * (3 * _CUBIC) + 1) * _C
    return dy * ((t + 1) * 0.5 + x * 0.5 * (1 - t * t) * inner)


def _sigmoid(x: Array) -> Array:
    return 1 / (np.exp(-x) + 1)


@op(
    "x[...] -> y[...]",
    work={"...": {"exp": 1, "add": 1, "div": 1, "mul": 1}},
    grads={"x": "silu_grad(dy, x)"},
    torch="aten.silu",
)
def silu(x: Array) -> Array:
    """y = x / (1 + exp(-x)). Source: Elfwing et al., arXiv:1702.03118."""
    return x * _sigmoid(x)


@op(
    "dy[...], x[...] -> dx[...]",
    work={"...": {"exp": 1, "div": 1, "add": 3, "mul": 3}},
    grads={"dy": None, "x": None},
    torch="aten.silu_backward",
)
def silu_grad(dy: Array, x: Array) -> Array:
    """dx = dy s (1 + x (1 - s)), s = 1 / (1 + exp(-x))."""
    s = _sigmoid(x)
    return dy * (s * (x * (1 - s) + 1))


@op(
    "a[...], b[...] -> y[...]",
    work={"...": {"exp": 1, "add": 1, "div": 1, "mul": 2}},
    grads={"a b": "swiglu_grad(dy, a, b)"},
    torch="elementwise.swiglu",
)
def swiglu(a: Array, b: Array) -> Array:
    """y = silu(a) b in one kernel, which keeps a and b only. Source: Shazeer, arXiv:2002.05202."""
    return a * _sigmoid(a) * b


@op(
    "dy[...], a[...], b[...] -> da[...], db[...]",
    work={"...": {"exp": 1, "div": 1, "add": 3, "mul": 5}},
    grads={"dy": None, "a": None, "b": None},
    torch="elementwise.swiglu_grad",
)
def swiglu_grad(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """db = dy silu(a) and da = dy b silu'(a)."""
    s = _sigmoid(a)
    y = a * s
    return dy * b * (y * (1 - s) + s), dy * y


@op(
    "a[...], b[...] -> y[...]",
    work={"...": {"mul": 7, "add": 2, "tanh": 1}},
    grads={"a b": "geglu_new_grad(dy, a, b)"},
    torch="elementwise.geglu_new",
)
def geglu_new(a: Array, b: Array) -> Array:
    """y = gelu_new(a) b in one kernel, which keeps a and b only: Gemma's GeGLU. Source: Shazeer, arXiv:2002.05202."""
    return gelu_new(a) * b


@op(
    "dy[...], a[...], b[...] -> da[...], db[...]",
    work={"...": {"mul": 15, "add": 5, "tanh": 1}},
    grads={"dy": None, "a": None, "b": None},
    torch="elementwise.geglu_new_grad",
)
def geglu_new_grad(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """db = dy gelu_new(a) and da = dy b gelu_new'(a), with the tanh made once."""
    square = a * a
    t = np.tanh((square * _CUBIC + 1) * a * _C)
    half = (t + 1) * 0.5
    slope = half + a * 0.5 * (1 - t * t) * ((square * (3 * _CUBIC) + 1) * _C)
    return dy * b * slope, dy * (a * half)


@op(
    "a[...], b[...] -> y[...]",
    work={"...": {"mul": 4, "add": 1, "erf": 1}},
    grads={"a b": "geglu_grad(dy, a, b)"},
    torch="elementwise.geglu",
)
def geglu(a: Array, b: Array) -> Array:
    """y = gelu(a) b in one kernel, which keeps a and b only: ModernBERT's GeGLU. Source: Shazeer, arXiv:2002.05202."""
    return gelu(a) * b


@op(
    "dy[...], a[...], b[...] -> da[...], db[...]",
    work={"...": {"mul": 10, "add": 2, "erf": 1, "exp": 1}},
    grads={"dy": None, "a": None, "b": None},
    torch="elementwise.geglu_grad",
)
def geglu_grad(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """db = dy gelu(a) and da = dy b gelu'(a), with the distribution Phi made once."""
    cdf = (_erf(a * math.sqrt(0.5)) + 1) * 0.5
    pdf = np.exp(a * -0.5 * a) * (1 / math.sqrt(2 * math.pi))
    return dy * b * (cdf + a * pdf), dy * (a * cdf)


@op(
    "a[...], b[...] -> y[...]",
    work={"...": {"cmp": 3, "mul": 3, "exp": 1, "add": 2, "div": 1}},
    grads={"a b": "clamped_swiglu_grad(dy, a, b)"},
    params=("alpha", "limit"),
    torch="elementwise.clamped_swiglu",
)
def clamped_swiglu(a: Array, b: Array, alpha: float, limit: float) -> Array:
    """y = g / (1 + exp(-alpha g)) (u + 1), g = min(a, limit), u = b between -limit and limit.

    Source: GptOssExperts of transformers.
    """
    g = np.minimum(a, limit)
    u = np.maximum(np.minimum(b, limit), -limit)
    return g * _sigmoid(g * alpha) * (u + 1)


@op(
    "dy[...], a[...], b[...] -> da[...], db[...]",
    work={"...": {"cmp": 6, "mul": 11, "exp": 1, "add": 4, "div": 1}},
    grads={"dy": None, "a": None, "b": None},
    params=("alpha", "limit"),
    torch="elementwise.clamped_swiglu_grad",
)
def clamped_swiglu_grad(dy: Array, a: Array, b: Array, alpha: float, limit: float) -> tuple[Array, Array]:
    """da = dy (u + 1) s (1 + alpha g (1 - s)) and db = dy g s, s the sigmoid, each 0 where its operand is clamped."""
    g = np.minimum(a, limit)
    u = np.maximum(np.minimum(b, limit), -limit)
    s = _sigmoid(g * alpha)
    slope = s * (g * (1 - s) * alpha + 1)
    return dy * (u + 1) * slope * (a <= limit), dy * (g * s) * (b <= limit) * (b >= -limit)


@op(
    "x[...] -> y[...]",
    work={"...": {"exp": 1, "add": 1, "div": 1}},
    grads={"x": "sigmoid_grad(dy, y)"},
    torch="torch.sigmoid",
)
def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + exp(-x))."""
    return _sigmoid(x)


@op(
    "dy[...], y[...] -> dx[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"dy": None, "y": None},
    torch="aten.sigmoid_backward",
)
def sigmoid_grad(dy: Array, y: Array) -> Array:
    """dx = dy y (1 - y)."""
    return dy * (y * (1 - y))


@op("a[...], b[...] -> y[...]", work={"...": {"mul": 1}}, grads={"a": "mul(dy, b)", "b": "mul(dy, a)"}, torch="same")
def mul(a: Array, b: Array) -> Array:
    """y = a b: a gate."""
    return a * b


@op("x[...] -> y[...]", work={"...": {"convert": 1}}, grads={"x": "convert(dy)"}, torch="elementwise.convert")
def convert(x: Array) -> Array:
    """y = x in the format that y has: a conversion that the model's code asks for, there and back (x.float())."""
    return x.copy()


@op("x[...] -> y[...]", work={"...": {"mul": 1}}, grads={"x": "square_grad(dy, x)"}, torch="torch.square")
def square(x: Array) -> Array:
    """y = x^2: a step of RMS norm written out op by op."""
    return x * x


@op("dy[...], x[...] -> dx[...]", work={"...": {"mul": 2}}, grads={"dy": None, "x": None}, torch="same")
def square_grad(dy: Array, x: Array) -> Array:
    """dx = 2 dy x."""
    return dy * (x * 2)


@op("x[...] -> y[...]", work={"...": {"mul": 2}}, grads={"x": "cube_grad(dy, x)"}, torch="same")
def cube(x: Array) -> Array:
    """y = x^3: a step of GELU written out op by op."""
    return x * x * x


@op("dy[...], x[...] -> dx[...]", work={"...": {"mul": 3}}, grads={"dy": None, "x": None}, torch="same")
def cube_grad(dy: Array, x: Array) -> Array:
    """dx = 3 dy x^2."""
    return dy * (x * x * 3)


@op("x[...] -> y[...]", work={"...": {"add": 1}}, grads={"x": "dy"}, params=("by",), torch="same")
def shift(x: Array, by: float) -> Array:
    """y = x + by."""
    return x + by


@op("x[...] -> y[...]", work={"...": {"tanh": 1}}, grads={"x": "tanh_grad(dy, y)"}, torch="torch.tanh")
def tanh(x: Array) -> Array:
    """y = tanh x."""
    return np.tanh(x)


@op(
    "dy[...], y[...] -> dx[...]",
    work={"...": {"mul": 2, "add": 1}},
    grads={"dy": None, "y": None},
    torch="aten.tanh_backward",
)
def tanh_grad(dy: Array, y: Array) -> Array:
    """dx = dy (1 - y^2)."""
    return dy * (1 - y * y)


@op(
    "-> mask[...]",
    work={"...": {"random": 1, "cmp": 1}},
    grads={},
    params=("rate",),
    runtime=("shape", "key"),
    values="mask",
    torch="elementwise.bernoulli",
)
def bernoulli(rate: float, shape: tuple[int, ...], key: tuple[int, ...]) -> Array:
    """mask = 1 with probability 1 - rate. `key` (seed, step, pass, op name) alone decides it, so it can be redrawn."""
    return np.random.default_rng(key).random(shape, np.float32) >= rate


@op(
    "x[...], mask[...] -> y[...]",
    work={"...": {"mul": 2}},
    grads={"x": "dropout(dy, mask)", "mask": None},
    params=("rate",),
    torch="elementwise.dropout",
)
def dropout(x: Array, mask: Array, rate: float) -> Array:
    """y = x mask / (1 - rate)."""
    return x * mask * (1 / (1 - rate))
