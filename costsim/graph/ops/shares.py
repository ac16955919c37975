"""A rank's share of a vocabulary: looking up words in it, and what it adds to the loss.

`rank` is the place of the rank on `axis`, which has a share of as many words as each other.
Source: Shoeybi et al., arXiv:1909.08053, section 3: words of other ranks give 0, and three numbers a token are summed.
"""

from __future__ import annotations

from costsim.graph.ops.loss import _counted, _row_weights
from costsim.graph.ops.register import Array, np, op, total


def _own(words: Array, rank: int, share: int) -> tuple[Array, Array]:
    """Which words are in a rank's share, and their places in it (0 for the others)."""
    at = words - rank * share
    own = (at >= 0) & (at < share)
    return own, np.where(own, at, 0)


@op(
    "table[v d], ids[...] -> y[... d]",
    work={"... d": {"mul": 1}},
    grads={"table": "embed_share_grad(dy, ids)", "ids": None},
    touches={"table": "... d"},
    params=("axis",),
    runtime=("rank",),
    fuses=False,
    torch="shares.embed_share",
)
def embed_share(table: Array, ids: Array, rank: int, **_axis: str) -> Array:
    """y = table[ids] where the rank has the word, else 0. A row is looked up for each word, as Megatron-LM does."""
    own, at = _own(ids, rank, len(table))
    return table[at] * own[..., None]


@op(
    "dy[... d], ids[...] -> dtable[v d]",
    work={"... d": {"mul": 1, "add": 1}},
    grads={"dy": None, "ids": None},
    params=("axis",),
    runtime=("rank", "shape"),
    fuses=False,
    torch="shares.embed_share_grad",
)
def embed_share_grad(dy: Array, ids: Array, rank: int, shape: tuple[int, ...], **_axis: str) -> Array:
    """Scatter-add of dy's rows of the rank's words into a zero table."""
    own, at = _own(ids, rank, shape[0])
    dtable = np.zeros(shape, dy.dtype)
    np.add.at(dtable, at, dy * own[..., None])
    return dtable


@op(
    "x[*n] -> y[s]",
    work={},
    grads={"x": None},
    touches={"x": "s"},
    params=("axis",),
    runtime=("rank", "shape"),
    fuses=False,
    torch="shares.take_flat_share",
)
def take_flat_share(x: Array, rank: int, shape: tuple[int, ...], **_axis: str) -> Array:
    """y = a rank's own share of x, flattened, the last of which is filled up with zeros. Moves it, and nothing else."""
    flat = x.reshape(-1)[rank * shape[0] : (rank + 1) * shape[0]]
    return np.concatenate([flat, np.zeros(shape[0] - flat.size, flat.dtype)])


@op("logits[... v] -> most[...]", work={"... v": {"cmp": 1}}, grads={"logits": None}, torch="shares.row_max")
def row_max(logits: Array) -> Array:
    """The largest of each row, which exp subtracts: the loss does not depend on it."""
    return np.maximum.reduce(logits, axis=-1, initial=-np.inf)


@op(
    "logits[... v], most[...], labels[...] -> sums[...], picked[...], e[... v]",
    work={"... v": {"add": 2, "exp": 1}, "...": {"mul": 1}},
    grads={"logits": "exp_share_grad(dsums, dpicked, e, labels)", "most": None, "labels": None},
    params=("axis",),
    runtime=("rank",),
    fuses=False,
    torch="shares.exp_share",
)
def exp_share(logits: Array, most: Array, labels: Array, rank: int, **_axis: str) -> tuple[Array, Array, Array]:
    """e = exp(logits - most), its sums, and the label's logit less `most` where the rank has the word, else 0."""
    z = logits - most[..., None]
    e = np.exp(z)
    own, at = _own(labels, rank, logits.shape[-1])
    return total(e)[..., 0], np.take_along_axis(z, at[..., None], -1)[..., 0] * own, e


@op(
    "dsums[...], dpicked[...], e[... v], labels[...] -> dlogits[... v]",
    work={"... v": {"mul": 1}, "...": {"mul": 1, "add": 1}},
    grads={"dsums": None, "dpicked": None, "e": None, "labels": None},
    params=("axis",),
    runtime=("rank",),
    fuses=False,
    torch="shares.exp_share_grad",
)
def exp_share_grad(dsums: Array, dpicked: Array, e: Array, labels: Array, rank: int, **_axis: str) -> Array:
    """dlogits = e dsums, plus dpicked at the label where the rank has the word."""
    own, at = _own(labels, rank, e.shape[-1])
    dlogits = e * dsums[..., None]
    at = at[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, -1) + (dpicked * own)[..., None], -1)
    return dlogits


@op(
    "logits[... v], most[...], labels[...] -> sums[...], picked[...], e[... v]",
    work={"... v": {"add": 3, "exp": 1}, "...": {"mul": 3, "add": 1}},
    grads={"logits": "exp_share_smoothed_grad(dsums, dpicked, e, labels)", "most": None, "labels": None},
    params=("axis", "smoothing", "ranks"),
    runtime=("rank",),
    fuses=False,
    torch="shares.exp_share_smoothed",
)
def exp_share_smoothed(
    logits: Array, most: Array, labels: Array, rank: int, smoothing: float, ranks: int, **_axis: str
) -> tuple[Array, Array, Array]:
    """As `exp_share`; `picked` is the rank's part of (1-s) times the label's logit, and s times the mean of all."""
    z = logits - most[..., None]
    e = np.exp(z)
    own, at = _own(labels, rank, logits.shape[-1])
    picked = np.take_along_axis(z, at[..., None], -1)[..., 0] * own * (1 - smoothing)
    return total(e)[..., 0], picked + total(z)[..., 0] * (smoothing / (ranks * logits.shape[-1])), e


@op(
    "dsums[...], dpicked[...], e[... v], labels[...] -> dlogits[... v]",
    work={"... v": {"mul": 1, "add": 1}, "...": {"mul": 3, "add": 1}},
    grads={"dsums": None, "dpicked": None, "e": None, "labels": None},
    params=("axis", "smoothing", "ranks"),
    runtime=("rank",),
    fuses=False,
    torch="shares.exp_share_smoothed_grad",
)
def exp_share_smoothed_grad(
    dsums: Array, dpicked: Array, e: Array, labels: Array, rank: int, smoothing: float, ranks: int, **_axis: str
) -> Array:
    """dlogits = e dsums + s/V dpicked, plus (1-s) dpicked at the label where the rank has the word."""
    own, at = _own(labels, rank, e.shape[-1])
    dlogits = e * dsums[..., None] + (dpicked * (smoothing / (ranks * e.shape[-1])))[..., None]
    at = at[..., None]
    more = (dpicked * own * (1 - smoothing))[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, -1) + more, -1)
    return dlogits


def _loss(sums: Array, picked: Array, labels: Array, counted: int, ignore: int, share: float) -> Array:
    weights = _row_weights(labels, counted, ignore, share, sums.dtype)
    return np.add.reduce(((np.log(sums) - picked) * weights).reshape(-1), initial=0)


def _loss_grad(
    dloss: Array, sums: Array, labels: Array, counted: int, ignore: int, share: float
) -> tuple[Array, Array]:
    w = dloss * _row_weights(labels, counted, ignore, share, sums.dtype)
    return w / sums, -w


_OF_ROWS = {"params": ("ignore", "share"), "fuses": False}


@op(
    "sums[...], picked[...], labels[...] -> loss[]",
    work={"...": {"log": 1, "add": 2, "mul": 1}},
    grads={"sums picked": "cross_entropy_sums_grad(dloss, sums, labels)", "labels": None},
    torch="shares.cross_entropy_sums",
    **_OF_ROWS,
)
def cross_entropy_sums(sums: Array, picked: Array, labels: Array, ignore: int, share: float) -> Array:
    """loss = share x mean over rows of log(sums) - picked, of all ranks; rows labelled `ignore` do not count."""
    return _loss(sums, picked, labels, _counted(labels, ignore), ignore, share)


@op(
    "dloss[], sums[...], labels[...] -> dsums[...], dpicked[...]",
    work={"...": {"mul": 1, "div": 1}},
    grads={"dloss": None, "sums": None, "labels": None},
    torch="shares.cross_entropy_sums_grad",
    **_OF_ROWS,
)
def cross_entropy_sums_grad(dloss: Array, sums: Array, labels: Array, ignore: int, share: float) -> tuple[Array, Array]:
    """dsums = w / sums and dpicked = -w, with w = dloss share / rows that count."""
    return _loss_grad(dloss, sums, labels, _counted(labels, ignore), ignore, share)


@op(
    "sums[...], picked[...], labels[...], counted[] -> loss[]",
    work={"...": {"log": 1, "add": 2, "mul": 1}},
    grads={
        "sums picked": "cross_entropy_sums_chunk_grad(dloss, sums, labels, counted)",
        "labels": None,
        "counted": None,
    },
    torch="shares.cross_entropy_sums_chunk",
    **_OF_ROWS,
)
def cross_entropy_sums_chunk(
    sums: Array, picked: Array, labels: Array, counted: Array, ignore: int, share: float
) -> Array:
    """What a chunk of rows adds to `cross_entropy_sums` of all, of which so many are counted."""
    return _loss(sums, picked, labels, int(counted), ignore, share)


@op(
    "dloss[], sums[...], labels[...], counted[] -> dsums[...], dpicked[...]",
    work={"...": {"mul": 1, "div": 1}},
    grads={"dloss": None, "sums": None, "labels": None, "counted": None},
    torch="shares.cross_entropy_sums_chunk_grad",
    **_OF_ROWS,
)
def cross_entropy_sums_chunk_grad(
    dloss: Array, sums: Array, labels: Array, counted: Array, ignore: int, share: float
) -> tuple[Array, Array]:
    """As `cross_entropy_sums_grad`, of a chunk of rows."""
    return _loss_grad(dloss, sums, labels, int(counted), ignore, share)
