"""Mixture of experts: choosing experts, moving tokens to them and back.

Each expert takes at most c tokens (`capacity`) in order; those beyond it are left out,
as in GShard (arXiv:2006.16668). Slots that no token takes hold zeros.
"""

from __future__ import annotations

from costsim.graph.ops.register import Array, np, op, total


def _slots(index: Array, experts: int, capacity: int) -> Array:
    """Of each choice: its row among experts x capacity, or one beyond them if the expert is full."""
    chosen = index.reshape(-1)
    order = np.argsort(chosen, kind="stable")
    first = np.searchsorted(chosen[order], np.arange(experts))
    place = np.empty(chosen.size, np.int64)
    place[order] = np.arange(chosen.size) - first[chosen[order]]
    return np.where(place < capacity, chosen * capacity + place, experts * capacity).reshape(index.shape)


def _gather(y: Array, index: Array) -> Array:
    """Rows [b, s, k, d] of y[e, c, d] that the choices have; zeros for those left out."""
    e, c, d = y.shape
    rows = np.concatenate([y.reshape(e * c, d), np.zeros((1, d), y.dtype)])
    return rows[_slots(index, e, c)]


def _scatter(rows: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """y[e, c, d] of rows [b, s, k, d], each in its slot."""
    e, c, d = shape
    y = np.zeros((e * c + 1, d), rows.dtype)
    y[_slots(index, e, c).reshape(-1)] = rows.reshape(-1, d)
    return y[: e * c].reshape(shape)


@op(
    "x[... e] -> index[... k]",
    work={"... e k": {"cmp": 1}},
    grads={"x": None},
    runtime=("shape",),
    values="index",
    torch="experts.top_k",
)
def top_k(x: Array, shape: tuple[int, ...]) -> Array:
    """The indices of the k largest, the largest first, by k passes; of equal ones the first."""
    return np.argsort(-x, axis=-1, kind="stable")[..., : shape[-1]]


@op(
    "x[... e], index[... k] -> y[... k]",
    work={},
    grads={"x": "pick_grad(dy, index)", "index": None},
    torch="experts.pick",
)
def pick(x: Array, index: Array) -> Array:
    """y = x at the indices."""
    return np.take_along_axis(x, index, -1)


@op(
    "dy[... k], index[... k] -> dx[... e]",
    work={},
    grads={"dy": None, "index": None},
    runtime=("shape",),
    torch="experts.pick_grad",
)
def pick_grad(dy: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """dy at the indices, zeros elsewhere."""
    dx = np.zeros(shape, dy.dtype)
    np.put_along_axis(dx, index, dy, -1)
    return dx


@op(
    "x[... k] -> y[... k]",
    work={"... k": {"add": 1, "div": 1}},
    grads={"x": "normalize_grad(dy, x, y)"},
    torch="experts.normalize",
)
def normalize(x: Array) -> Array:
    """y = x / sum x over the last dim: the weights of the chosen experts sum to 1."""
    return x / total(x)


@op(
    "dy[... k], x[... k], y[... k] -> dx[... k]",
    work={"... k": {"mul": 1, "add": 3, "div": 1}},
    grads={"dy": None, "x": None, "y": None},
    torch="experts.normalize_grad",
)
def normalize_grad(dy: Array, x: Array, y: Array) -> Array:
    """dx = (dy - sum(dy y)) / sum x."""
    return (dy - total(dy * y)) / total(x)


@op(
    "x[b s d], index[b s k] -> y[e c d]",
    work={},
    grads={"x": "dispatch_grad(dy, index)", "index": None},
    runtime=("shape",),
    fuses=False,
    torch="experts.dispatch",
)
def dispatch(x: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Every token's row to each of its k experts."""
    return _scatter(np.repeat(x[..., None, :], index.shape[-1], axis=-2), index, shape)


@op(
    "dy[e c d], index[b s k] -> dx[b s d]",
    work={"b s k d": {"add": 1}},
    grads={"dy": None, "index": None},
    fuses=False,
    torch="experts.dispatch_grad",
)
def dispatch_grad(dy: Array, index: Array) -> Array:
    """The sum of the k rows of every token."""
    return np.add.reduce(_gather(dy, index), axis=-2, initial=0)


@op(
    "y[e c d], gates[b s k], index[b s k] -> out[b s d]",
    work={"b s k d": {"mul": 1, "add": 1}},
    grads={"y": "combine_grad(dout, gates, index)", "gates": "combine_grad_gates(dout, y, index)", "index": None},
    fuses=False,
    torch="experts.combine",
)
def combine(y: Array, gates: Array, index: Array) -> Array:
    """The sum of what the k experts made of every token, weighted by its gates."""
    return np.add.reduce(_gather(y, index) * gates[..., None], axis=-2, initial=0)


@op(
    "dout[b s d], gates[b s k], index[b s k] -> dy[e c d]",
    work={"b s k d": {"mul": 1}},
    grads={"dout": None, "gates": None, "index": None},
    runtime=("shape",),
    fuses=False,
    torch="experts.combine_grad",
)
def combine_grad(dout: Array, gates: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Every token's gradient, weighted by its gates, to its experts."""
    return _scatter(dout[..., None, :] * gates[..., None], index, shape)


@op(
    "dout[b s d], y[e c d], index[b s k] -> dgates[b s k]",
    work={"b s k d": {"mul": 1, "add": 1}},
    grads={"dout": None, "y": None, "index": None},
    fuses=False,
    torch="experts.combine_grad_gates",
)
def combine_grad_gates(dout: Array, y: Array, index: Array) -> Array:
    """dgates = dout . y of each expert that a token went to."""
    return total(dout[..., None, :] * _gather(y, index))[..., 0]


# --- biases of experts, groups of experts -----------------------------------------------------------------------------


@op(
    "x[e c f], b[e f] -> y[e c f]",
    work={"e c f": {"add": 1}},
    grads={"x": "dy", "b": "sum_of_each(dy)"},
    torch="experts.add_bias_of_each",
)
def add_bias_of_each(x: Array, b: Array) -> Array:
    """y = x + b, a bias for each expert."""
    return x + b[:, None]


@op("dy[e c f] -> db[e f]", work={"e c f": {"add": 1}}, grads={"dy": None}, torch="experts.sum_of_each")
def sum_of_each(dy: Array) -> Array:
    """db = sum dy over the rows of each expert; rows that no token has are 0."""
    return np.add.reduce(dy, axis=1, initial=0)


def _largest(x: Array, groups: int, number: int) -> Array:
    """The sum of so many of the largest of each group of x[..., e], a run of its last dim: [..., groups]."""
    of = np.arange(x.shape[-1]) * groups // x.shape[-1]
    sorted_groups = [-np.sort(-x[..., of == group], axis=-1)[..., :number] for group in range(groups)]
    return np.stack([total(each)[..., 0] for each in sorted_groups], axis=-1)


@op(
    "x[... e] -> y[... g]",
    work={"... e": {"cmp": 1}},
    grads={"x": None},
    runtime=("shape",),
    torch="experts.group_max",
)
def group_max(x: Array, shape: tuple[int, ...]) -> Array:
    """y = the largest of each group of experts: DeepSeek-V2's group_limited_greedy."""
    return _largest(x, shape[-1], 1)


@op(
    "x[... e] -> y[... g]",
    work={"... e": {"cmp": 2}, "... g": {"add": 1}},
    grads={"x": None},
    runtime=("shape",),
    torch="experts.group_top2",
)
def group_top2(x: Array, shape: tuple[int, ...]) -> Array:
    """y = the sum of the two largest of each group of experts, by two passes: DeepSeek-V3's."""
    return _largest(x, shape[-1], 2)


@op(
    "x[... e], scores[... g], index[... k] -> y[... e]",
    work={},
    grads={"x": None, "scores": None, "index": None},
    torch="experts.keep_groups",
)
def keep_groups(x: Array, scores: Array, index: Array) -> Array:
    """y = x, minus infinity in groups of experts that no index names; the scores say how many groups there are."""
    groups = scores.shape[-1]
    of = np.arange(x.shape[-1]) * groups // x.shape[-1]
    kept = (of[:, None] == index[..., None, :]).any(-1)
    return np.where(kept, x, x.dtype.type(-np.inf))
