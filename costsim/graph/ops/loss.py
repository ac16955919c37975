"""The loss."""

from __future__ import annotations

from typing import Any

from costsim.graph.ops.register import Array, np, op, total


def _row_weights(labels: Array, counted: int, ignore: int, share: float, dtype: Any) -> Array:
    """share / counted for each row that counts, 0 for the others."""
    return ((labels != ignore) * (share / max(counted, 1))).astype(dtype)


def _counted(labels: Array, ignore: int) -> int:
    """The number of rows that count."""
    return int((labels != ignore).sum())


def _cross_entropy(
    logits: Array, labels: Array, counted: int, smoothing: float, ignore: int, share: float
) -> tuple[Array, Array]:
    """The loss of these rows, of so many that count in all, and logp."""
    z = logits - np.maximum.reduce(logits, axis=-1, keepdims=True, initial=-np.inf)
    logp = z - np.log(total(np.exp(z)))
    weights = _row_weights(labels, counted, ignore, share, logits.dtype)
    picked = np.take_along_axis(logp, np.where(labels == ignore, 0, labels)[..., None], -1)[..., 0]
    rows = picked * (smoothing - 1) + total(logp)[..., 0] * (-smoothing / logits.shape[-1])
    return np.add.reduce((rows * weights).reshape(-1), initial=0), logp


def _cross_entropy_grad(
    dloss: Array | None, logp: Array, labels: Array, counted: int, smoothing: float, ignore: int, share: float
) -> Array:
    """The gradient of the logits of these rows; dloss None is 1."""
    weights = _row_weights(labels, counted, ignore, share, logp.dtype)
    w = (weights if dloss is None else dloss * weights)[..., None]
    dlogits = (np.exp(logp) - smoothing / logp.shape[-1]) * w
    at = np.where(labels == ignore, 0, labels)[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, -1) - w * (1 - smoothing), -1)
    return dlogits


@op(
    "logits[... v], labels[...] -> loss[], logp[... v]",
    work={"... v": {"cmp": 1, "add": 4, "exp": 1}, "...": {"log": 1, "mul": 3, "add": 2}},
    grads={"logits": "cross_entropy_grad(dloss, logp, labels)", "labels": None},
    params=("smoothing", "ignore", "share"),
    fuses=False,
    torch="loss.cross_entropy",
)
def cross_entropy(logits: Array, labels: Array, smoothing: float, ignore: int, share: float) -> tuple[Array, Array]:
    """loss = share x mean over rows of -(1-s) logp[label] - s/V sum logp; rows labelled `ignore` do not count.

    Keeps logp for the backward. Label smoothing as in torch.nn.functional.cross_entropy; `share` is 1 / micro-batches.
    """
    return _cross_entropy(logits, labels, _counted(labels, ignore), smoothing, ignore, share)


@op(
    "dloss[], logp[... v], labels[...] -> dlogits[... v]",
    work={"... v": {"exp": 1, "add": 1, "mul": 1}, "...": {"mul": 2, "add": 1}},
    grads={"dloss": None, "logp": None, "labels": None},
    params=("smoothing", "ignore", "share"),
    fuses=False,
    torch="loss.cross_entropy_grad",
)
def cross_entropy_grad(dloss: Array, logp: Array, labels: Array, smoothing: float, ignore: int, share: float) -> Array:
    """dlogits = (softmax - s/V) w, minus (1-s) w at the label, with w = dloss share / rows that count."""
    return _cross_entropy_grad(dloss, logp, labels, _counted(labels, ignore), smoothing, ignore, share)


# --- one bit a token --------------------------------------------------------------------------------------------------


@op(
    "logits[...], targets[...] -> loss[]",
    work={"...": {"cmp": 1, "mul": 3, "add": 5, "exp": 1, "log": 1}},
    grads={"logits": "binary_cross_entropy_grad(dloss, logits, targets)", "targets": None},
    params=("ignore", "share"),
    fuses=False,
    torch="loss.binary_cross_entropy",
)
def binary_cross_entropy(logits: Array, targets: Array, ignore: int, share: float) -> Array:
    """loss = share x mean of max(z, 0) + log(1 + exp(z - 2 max(z, 0))) - z t; targets t are 0, 1, or do not count.

    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    floor = np.maximum(logits, 0)
    rows = np.log(np.exp(logits - floor * 2) + 1) + floor - logits * targets.astype(logits.dtype)
    weights = _row_weights(targets, _counted(targets, ignore), ignore, share, logits.dtype)
    return np.add.reduce((rows * weights).reshape(-1), initial=0)


@op(
    "dloss[], logits[...], targets[...] -> dlogits[...]",
    work={"...": {"exp": 1, "add": 2, "div": 1, "mul": 2}},
    grads={"dloss": None, "logits": None, "targets": None},
    params=("ignore", "share"),
    fuses=False,
    torch="loss.binary_cross_entropy_grad",
)
def binary_cross_entropy_grad(dloss: Array, logits: Array, targets: Array, ignore: int, share: float) -> Array:
    """dlogits = (1 / (1 + exp(-z)) - t) w, with w = dloss share / targets that count."""
    weights = _row_weights(targets, _counted(targets, ignore), ignore, share, logits.dtype)
    return (1 / (np.exp(-logits) + 1) - targets.astype(logits.dtype)) * (weights * dloss)


# --- chunks of rows ---------------------------------------------------------------------------------------------------


@op(
    "labels[...] -> counted[]",
    work={"...": {"cmp": 1, "add": 1}},
    grads={"labels": None},
    params=("ignore",),
    values="index",
    fuses=False,
    torch="loss.count_labels",
)
def count_labels(labels: Array, ignore: int) -> Array:
    """counted = how many rows are not labelled `ignore`: what the losses of all chunks of rows are divided by."""
    return np.asarray((labels != ignore).sum())


_CHUNK = "logits[... v], labels[...], counted[]"
_CHUNK_PARAMS = ("smoothing", "ignore", "share")


@op(
    f"{_CHUNK} -> loss[], logp[... v]",
    work={"... v": {"cmp": 1, "add": 4, "exp": 1}, "...": {"log": 1, "mul": 3, "add": 2}},
    grads={"logits": "cross_entropy_chunk_grad(dloss, logp, labels, counted)", "labels": None, "counted": None},
    params=_CHUNK_PARAMS,
    fuses=False,
    torch="loss.cross_entropy_chunk",
)
def cross_entropy_chunk(logits: Array, labels: Array, counted: Array, **params: Any) -> tuple[Array, Array]:
    """What a chunk of rows adds to `cross_entropy` of all, of which so many are counted. Keeps logp."""
    return _cross_entropy(logits, labels, int(counted), **params)


@op(
    "dloss[], logp[... v], labels[...], counted[] -> dlogits[... v]",
    work={"... v": {"exp": 1, "add": 1, "mul": 1}, "...": {"mul": 2, "add": 1}},
    grads={"dloss": None, "logp": None, "labels": None, "counted": None},
    params=_CHUNK_PARAMS,
    fuses=False,
    torch="loss.cross_entropy_chunk_grad",
)
def cross_entropy_chunk_grad(dloss: Array, logp: Array, labels: Array, counted: Array, **params: Any) -> Array:
    """As `cross_entropy_grad`, of a chunk of rows."""
    return _cross_entropy_grad(dloss, logp, labels, int(counted), **params)


@op(
    f"{_CHUNK} -> loss[], dlogits[... v]",
    work={"... v": {"cmp": 1, "add": 5, "exp": 2, "mul": 1}, "...": {"log": 1, "mul": 3, "add": 3}},
    grads={"logits": "dlogits", "labels": None, "counted": None},
    unit=("dloss",),
    lies_in={"dlogits": "logits"},
    params=_CHUNK_PARAMS,
    fuses=False,
    torch="loss.cross_entropy_in_place",
)
def cross_entropy_in_place(logits: Array, labels: Array, counted: Array, **params: Any) -> tuple[Array, Array]:
    """`cross_entropy_chunk` and, in the memory of the logits, their gradient. Source: Hsu et al., arXiv:2410.10989."""
    loss, logp = _cross_entropy(logits, labels, int(counted), **params)
    return loss, _cross_entropy_grad(None, logp, labels, int(counted), **params)


# --- log-probabilities and their loss apart, as PyTorch's kernels have them -------------------------------------------


@op(
    "logits[... v] -> logp[... v]",
    work={"... v": {"cmp": 1, "add": 3, "exp": 1}, "...": {"log": 1}},
    grads={"logits": "log_softmax_grad(dlogp, logp)"},
    torch="loss.log_softmax",
)
def log_softmax(logits: Array) -> Array:
    """logp = z - log sum exp z over the last dim, with z = logits - max logits. Keeps logp for the backward."""
    z = logits - np.maximum.reduce(logits, axis=-1, keepdims=True, initial=-np.inf)
    return z - np.log(total(np.exp(z)))


@op(
    "dlogp[... v], logp[... v] -> dlogits[... v]",
    work={"... v": {"exp": 1, "mul": 1, "add": 2}},
    grads={"dlogp": None, "logp": None},
    torch="loss.log_softmax_grad",
)
def log_softmax_grad(dlogp: Array, logp: Array) -> Array:
    """dlogits = dlogp - exp(logp) sum(dlogp)."""
    return dlogp - np.exp(logp) * total(dlogp)


_NLL_PARAMS = ("ignore", "reduction")


def _nll_divisor(counted: Array, reduction: str) -> Array:
    """What the sum of a loss is divided by."""
    return np.maximum(counted, 1) if reduction == "mean" else np.ones_like(counted)


@op(
    "logits[... v], labels[...] -> loss[], counted[]",
    work={"...": {"cmp": 1, "add": 2}, "": {"div": 1}},
    grads={"logits": "nll_loss_grad(dloss, labels, counted)", "labels": None},
    params=_NLL_PARAMS,
    touches={"logits": "..."},
    fuses=False,
    torch="loss.nll_loss",
)
def nll_loss(logits: Array, labels: Array, ignore: int, reduction: str) -> tuple[Array, Array]:
    """loss = mean (or sum) of -logp[label] over rows not labelled `ignore`, of log-probabilities; and their number.

    PyTorch's nll_loss keeps the number as `total_weight`.
    """
    valid = labels != ignore
    picked = np.take_along_axis(logits, np.where(valid, labels, 0)[..., None], -1)[..., 0]
    counted = np.asarray(valid.sum(), dtype=logits.dtype)
    return -np.add.reduce(picked[valid], initial=0) / _nll_divisor(counted, reduction), counted


@op(
    "dloss[], labels[...], counted[] -> dlogits[... v]",
    work={"...": {"cmp": 1}, "": {"div": 1}},
    grads={"dloss": None, "labels": None, "counted": None},
    params=_NLL_PARAMS,
    runtime=("shape",),
    fuses=False,
    torch="loss.nll_loss_grad",
)
def nll_loss_grad(dloss: Array, labels: Array, counted: Array, shape: tuple[int, ...], **params: Any) -> Array:
    """dlogits = -dloss / number at the labels, zeros elsewhere: written whole."""
    dlogits = np.zeros(shape, np.asarray(dloss).dtype)
    valid = labels != params["ignore"]
    each = -dloss / _nll_divisor(counted, params["reduction"])
    np.put_along_axis(dlogits, np.where(valid, labels, 0)[..., None], (valid * each)[..., None], -1)
    return dlogits
