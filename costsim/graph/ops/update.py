"""The update: accumulation, clipping, optimizers."""

from __future__ import annotations

import math

from costsim.graph.ops.register import Array, np, op


@op("acc[...], g[...] -> sum[...]", work={"...": {"add": 1}}, grads={"acc": None, "g": None}, torch="update.accumulate")
def accumulate(acc: Array | None, g: Array) -> Array:
    """sum = acc + g in place, over micro-batches; the first micro-batch's gradient just becomes the sum."""
    return g if acc is None else acc + g


@op("g[...] -> sent[...]", work={}, grads={"g": None}, torch="update.round_to_send")
def round_to_send(g: Array) -> Array:
    """sent = g, in the format of what is sent. Source: Tang et al., arXiv:2102.02888, algorithm 1."""
    return g


@op(
    "g[...], sent[...] -> error[...]",
    work={"...": {"add": 1}},
    grads={"g": None, "sent": None},
    torch="update.rounding_error",
)
def rounding_error(g: Array, sent: Array) -> Array:
    """error = g - sent: what is left to be sent in the next step. Tang et al., arXiv:2102.02888, algorithm 1."""
    return g - sent


@op("g[...] -> total[]", work={"...": {"mul": 1, "add": 1}}, grads={"g": None}, fuses=False, torch="update.square_sum")
def square_sum(g: Array) -> Array:
    """total = sum g^2: a gradient's part of the global norm."""
    return np.add.reduce((g * g).reshape(-1), initial=0)


@op(
    "total[] -> factor[]",
    work={"": {"sqrt": 1, "add": 1, "div": 1, "cmp": 1}},
    grads={"total": None},
    params=("max_norm",),
    torch="update.clip_factor",
)
def clip_factor(total: Array, max_norm: float) -> Array:
    """factor = min(1, max_norm / (sqrt(total) + 1e-6)), as torch.nn.utils.clip_grad_norm_."""
    return np.minimum(max_norm / (np.sqrt(total) + 1e-6), 1)


@op(
    "g[...], factor[] -> clipped[...]",
    work={"...": {"mul": 1}},
    grads={"g": None, "factor": None},
    torch="update.rescale",
)
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
    torch="update.adam",
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
    torch="update.adamw",
)
def adamw(w: Array, g: Array, m: Array, v: Array, step: int, **h: float) -> tuple[Array, Array, Array]:
    """Adam with decoupled decay, w (1 - lr weight_decay) as in torch.optim.AdamW; one fused kernel."""
    return _adam(w * (1 - h["lr"] * h["weight_decay"]), g, m, v, step, **h)
