"""The loss."""

from typing import Any

from costsim.reference.torch_kernels.library import Tensor, aten, torch


def _row_weights(labels: Tensor, ignore: int, share: float, dtype: Any) -> Tensor:
    """share / (number of rows that count) for each row that counts, 0 for the others."""
    counts = (labels != ignore).to(dtype)
    return counts * (share / counts.sum().clamp(min=1))


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float) -> tuple[Tensor, Tensor]:
    """The logarithm of softmax, what is picked of it, and its sum if labels are smoothed."""
    logp = logits.log_softmax(-1)
    weights = _row_weights(labels, ignore, share, logits.dtype)
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rows = picked * (smoothing - 1)
    if smoothing:
        rows = rows - logp.sum(-1) * (smoothing / logits.shape[-1])
    return (rows * weights).sum(), logp


def cross_entropy_grad(
    dloss: Tensor, logp: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float
) -> Tensor:
    """The gradient of logp, then that of the logits."""
    weights = (dloss * _row_weights(labels, ignore, share, logp.dtype))[..., None]
    dlogp = torch.zeros_like(logp) if not smoothing else (weights * (-smoothing / logp.shape[-1])).expand_as(logp)
    dlogp = dlogp.contiguous().scatter_add_(-1, labels.clamp(min=0)[..., None], weights * (smoothing - 1))
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)
