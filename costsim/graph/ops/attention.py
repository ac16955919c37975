"""Attention: masks and softmax."""

from __future__ import annotations

from costsim.graph.ops.register import Array, np, op, total


@op(
    "x[b ... k], keep[b k] -> y[b ... k]",
    work={"b ... k": {"add": 1}},
    grads={"x": "dy", "keep": None},
    torch="attention.mask_padding",
)
def mask_padding(x: Array, keep: Array) -> Array:
    """y = x, minus infinity at keys that are padding. The gradient passes: softmax makes it 0 there."""
    shape = (keep.shape[0], *(1,) * (x.ndim - 2), keep.shape[1])
    return x + np.where(keep, 0.0, -np.inf).reshape(shape).astype(x.dtype)


@op("x[... q k] -> y[... q k]", work={"... q k": {"add": 1}}, grads={"x": "dy"}, torch="attention.mask_causal")
def mask_causal(x: Array) -> Array:
    """y = x, minus infinity where the key lies after the query. The gradient passes: softmax makes it 0 there."""
    return x + np.triu(np.full(x.shape[-2:], -np.inf), 1).astype(x.dtype)


@op(
    "x[... q k] -> y[... q k]",
    work={"... q k": {"add": 1}},
    grads={"x": "dy"},
    torch="attention.mask_pairs",
    params=("pairs",),
    runtime=("met",),
)
def mask_pairs(x: Array, pairs: str, met: Array) -> Array:  # noqa: ARG001 - names what has met
    """y = x, minus infinity where query and key do not meet: outside a window, or in another sentence of a pack."""
    return x + np.where(met, 0.0, -np.inf).astype(x.dtype)


@op(
    "x[b h q k], bias[q k h] -> y[b h q k]",
    work={"b h q k": {"add": 1}},
    grads={"x": "dy", "bias": "sum_pairs(dy)"},
    torch="attention.add_pair_bias",
)
def add_pair_bias(x: Array, bias: Array) -> Array:
    """y = x + bias, a bias for each pair of positions and head. Source: T5, arXiv:1910.10683, section 2.1."""
    return x + bias.transpose(2, 0, 1)


@op(
    "dy[b h q k] -> dbias[q k h]",
    work={"b h q k": {"add": 1}},
    grads={"dy": None},
    torch="attention.sum_pairs",
)
def sum_pairs(dy: Array) -> Array:
    """dbias = sum dy over the batch."""
    return np.add.reduce(dy, axis=0, initial=0).transpose(1, 2, 0)


@op(
    "x[... k] -> y[... k]",
    work={"... k": {"cmp": 1, "add": 2, "exp": 1, "div": 1}},
    grads={"x": "softmax_grad(dy, y)"},
    torch="attention.softmax",
)
def softmax(x: Array) -> Array:
    """y = exp(x - max x) / sum exp(x - max x) over the last dim. Keeps y, not x, for the backward."""
    e = np.exp(x - np.maximum.reduce(x, axis=-1, keepdims=True, initial=-np.inf))
    return e / total(e)


@op(
    "dy[... k], y[... k] -> dx[... k]",
    work={"... k": {"mul": 2, "add": 2}},
    grads={"dy": None, "y": None},
    torch="attention.softmax_grad",
)
def softmax_grad(dy: Array, y: Array) -> Array:
    """dx = y dy - y sum(y dy)."""
    t = y * dy
    return t - y * total(t)


@op(
    "x[... k] -> y[... k], lse[...]",
    work={"... k": {"cmp": 1, "add": 2, "exp": 1, "div": 1}, "...": {"log": 1, "add": 1}},
    grads={"x": "softmax_grad(dy, y)"},
    remake={"y": "softmax_from_lse(x, lse)"},
    torch="attention.softmax_lse",
)
def softmax_lse(x: Array) -> tuple[Array, Array]:
    """Softmax that leaves log sum exp x too, from which flash attention makes y again. Source: arXiv:2307.08691."""
    largest = np.maximum.reduce(x, axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(x - largest)
    sums = total(e)
    return e / sums, (np.log(sums) + largest)[..., 0]


# --- with sinks, a score of each head besides those of keys: gpt-oss, as transformers has it --------------------------


def _with_sink(x: Array, sink: Array) -> tuple[Array, Array, Array]:
    """exp(x - m), the sum of those and exp(sink - m), and m, the largest of all."""
    each = sink.reshape(1, *sink.shape, 1, 1)
    largest = np.maximum(np.maximum.reduce(x, axis=-1, keepdims=True, initial=-np.inf), each)
    e = np.exp(x - largest)
    return e, total(e) + np.exp(each - largest), largest


@op(
    "x[b *h q k], sink[*h] -> y[b *h q k]",
    work={"b *h q k": {"cmp": 1, "add": 2, "exp": 1, "div": 1}, "b *h q": {"cmp": 1, "add": 2, "exp": 1}},
    grads={"x": "softmax_grad(dy, y)", "sink": "softmax_sink_grad(dy, y)"},
    torch="attention.softmax_sink",
)
def softmax_sink(x: Array, sink: Array) -> Array:
    """y = exp(x - m) / (exp(sink - m) + sum exp(x - m)) over the last dim: what is left goes to the sink."""
    e, sums, _ = _with_sink(x, sink)
    return e / sums


@op(
    "x[b *h q k], sink[*h] -> y[b *h q k], lse[b *h q]",
    work={
        "b *h q k": {"cmp": 1, "add": 2, "exp": 1, "div": 1},
        "b *h q": {"cmp": 1, "add": 3, "exp": 1, "log": 1},
    },
    grads={"x": "softmax_grad(dy, y)", "sink": "softmax_sink_grad(dy, y)"},
    remake={"y": "softmax_from_lse(x, lse)"},
    torch="attention.softmax_sink_lse",
)
def softmax_sink_lse(x: Array, sink: Array) -> tuple[Array, Array]:
    """`softmax_sink` that leaves the logarithm of its sums too."""
    e, sums, largest = _with_sink(x, sink)
    return e / sums, (np.log(sums) + largest)[..., 0]


@op(
    "dy[b *h q k], y[b *h q k] -> dsink[*h]",
    work={"b *h q k": {"mul": 1, "add": 2}, "b *h q": {"add": 2, "mul": 1}},
    grads={"dy": None, "y": None},
    torch="attention.softmax_sink_grad",
)
def softmax_sink_grad(dy: Array, y: Array) -> Array:
    """dsink = -sum over batch and queries of (1 - sum y) sum(y dy)."""
    rows = (total(y) - 1) * total(y * dy)
    return np.add.reduce(rows, axis=(0, y.ndim - 2, y.ndim - 1), initial=0)


@op(
    "x[... k], lse[...] -> y[... k]",
    work={"... k": {"add": 1, "exp": 1}},
    grads={"x": None, "lse": None},
    torch="attention.softmax_from_lse",
)
def softmax_from_lse(x: Array, lse: Array) -> Array:
    """y = exp(x - lse)."""
    return np.exp(x - lse[..., None])


# --- contents against distances: DeBERTa, arXiv:2006.03654, section 3.2 -----------------------------------------------


@op(
    "x[b h q p], ids[q k] -> y[b h q k]",
    work={},
    grads={"x": "pick_distances_grad(dy, ids)", "ids": None},
    touches={"x": "b h q k"},
    fuses=False,
    torch="attention.pick_distances",
)
def pick_distances(x: Array, ids: Array) -> Array:
    """y[b h q k] = x[b h q ids[q k]]: of what a query makes of each distance, that of each key. No more is read."""
    return np.take_along_axis(x, np.broadcast_to(ids, (*x.shape[:-1], ids.shape[-1])), axis=-1)


@op(
    "dy[b h q k], ids[q k] -> dx[b h q p]",
    work={"b h q k": {"add": 1}},
    grads={"dy": None, "ids": None},
    runtime=("shape",),
    fuses=False,
    torch="attention.pick_distances_grad",
)
def pick_distances_grad(dy: Array, ids: Array, shape: tuple[int, ...]) -> Array:
    """Scatter-add of dy along the distances."""
    dx = np.zeros(shape, dy.dtype)
    np.add.at(dx, (slice(None), slice(None), np.arange(len(ids))[:, None], ids), dy)
    return dx


@op(
    "x[b h k p], ids[q k] -> y[b h q k]",
    work={},
    grads={"x": "pick_distances_of_keys_grad(dy, ids)", "ids": None},
    touches={"x": "b h q k"},
    fuses=False,
    torch="attention.pick_distances_of_keys",
)
def pick_distances_of_keys(x: Array, ids: Array) -> Array:
    """y[b h q k] = x[b h k ids[q k]]: of what a key makes of each distance, that of each query."""
    return pick_distances(x, ids.T).swapaxes(-1, -2)


@op(
    "dy[b h q k], ids[q k] -> dx[b h k p]",
    work={"b h q k": {"add": 1}},
    grads={"dy": None, "ids": None},
    runtime=("shape",),
    fuses=False,
    torch="attention.pick_distances_of_keys_grad",
)
def pick_distances_of_keys_grad(dy: Array, ids: Array, shape: tuple[int, ...]) -> Array:
    """Scatter-add of dy along the distances."""
    return pick_distances_grad(dy.swapaxes(-1, -2), ids.T, shape)


# --- rotary positions -------------------------------------------------------------------------------------------------


def _turned(x: Array) -> Array:
    """(-second half, first half) of the last dim; the last of an odd number is left out."""
    n = x.shape[-1] // 2
    return np.concatenate([-x[..., n : 2 * n], x[..., :n], x[..., 2 * n :] * 0 if x.shape[-1] % 2 else x[..., :0]], -1)


def _along(table: Array, x: Array) -> Array:
    """A table [s, r] so that it broadcasts with x[b, s, ..., e]."""
    return table.reshape(1, table.shape[0], *(1,) * (x.ndim - 3), table.shape[1])


@op(
    "x[b s ... e], cos[s r], sin[s r] -> y[b s ... e]",
    work={"b s ... r": {"mul": 2, "add": 1}},
    grads={"x": "rope_grad(dy, cos, sin)", "cos": None, "sin": None},
    torch="attention.rope",
)
def rope(x: Array, cos: Array, sin: Array) -> Array:
    """y = x cos + turned(x) sin, halves turned against each other; of x past the tables' width y is x.

    Source: Su et al., arXiv:2104.09864, as Llama; of a part of each head: GPT-NeoX, arXiv:2204.06745, section 2.1.
    """
    part = x[..., : cos.shape[1]]
    turned = part * _along(cos, x) + _turned(part) * _along(sin, x)
    return np.concatenate([turned, x[..., cos.shape[1] :]], axis=-1)


@op(
    "dy[b s ... e], cos[s r], sin[s r] -> dx[b s ... e]",
    work={"b s ... r": {"mul": 2, "add": 1}},
    grads={"dy": None, "cos": None, "sin": None},
    torch="attention.rope_grad",
)
def rope_grad(dy: Array, cos: Array, sin: Array) -> Array:
    """dx = dy cos - turned(dy sin): turning is its own inverse but for the sign."""
    part = dy[..., : cos.shape[1]]
    turned = part * _along(cos, dy) - _turned(part * _along(sin, dy))
    return np.concatenate([turned, dy[..., cos.shape[1] :]], axis=-1)
