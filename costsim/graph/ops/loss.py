"""The loss."""

from __future__ import annotations

from typing import Any

from costsim.graph.ops.register import Array, np, op, total


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
    torch="loss.cross_entropy",
)
def cross_entropy(logits: Array, labels: Array, smoothing: float, ignore: int, share: float) -> tuple[Array, Array]:
    """loss = share x mean over rows of -(1-s) logp[label] - s/V sum logp; rows labelled `ignore` do not count.

    Keeps logp for the backward. Label smoothing as in torch.nn.functional.cross_entropy; `share` is 1 / micro-batches.
    """
    z = logits - np.maximum.reduce(logits, axis=-1, keepdims=True, initial=-np.inf)
    logp = z - np.log(total(np.exp(z)))
    weights = _row_weights(labels, ignore, share, logits.dtype)
    picked = np.take_along_axis(logp, np.where(labels == ignore, 0, labels)[..., None], -1)[..., 0]
    rows = picked * (smoothing - 1) + total(logp)[..., 0] * (-smoothing / logits.shape[-1])
    return np.add.reduce((rows * weights).reshape(-1), initial=0), logp


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
    w = (dloss * _row_weights(labels, ignore, share, logp.dtype))[..., None]
    dlogits = (np.exp(logp) - smoothing / logp.shape[-1]) * w
    at = np.where(labels == ignore, 0, labels)[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, -1) - w * (1 - smoothing), -1)
    return dlogits
