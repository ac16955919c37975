"""The loss."""

from typing import Any

from costsim.reference.torch_kernels.library import Tensor, aten, torch


def _row_weights(labels: Tensor, counted: Tensor, ignore: int, share: float, dtype: Any) -> Tensor:
    """share / counted for each row that counts, 0 for the others."""
    return (labels != ignore).to(dtype) * (share / counted.to(dtype).clamp(min=1))


def count_labels(labels: Tensor, ignore: int) -> Tensor:
    """A comparison, and a sum."""
    return (labels != ignore).sum()


def cross_entropy_chunk(
    logits: Tensor, labels: Tensor, counted: Tensor, smoothing: float, ignore: int, share: float
) -> tuple[Tensor, Tensor]:
    """The logarithm of softmax, what is picked of it, and its sum if labels are smoothed."""
    logp = logits.log_softmax(-1)
    weights = _row_weights(labels, counted, ignore, share, logits.dtype)
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rows = picked * (smoothing - 1)
    if smoothing:
        rows = rows - logp.sum(-1) * (smoothing / logits.shape[-1])
    return (rows * weights).sum(), logp


def cross_entropy_chunk_grad(
    dloss: Tensor, logp: Tensor, labels: Tensor, counted: Tensor, smoothing: float, ignore: int, share: float
) -> Tensor:
    """The gradient of logp, then that of the logits."""
    weights = (dloss * _row_weights(labels, counted, ignore, share, logp.dtype))[..., None]
    dlogp = torch.zeros_like(logp) if not smoothing else (weights * (-smoothing / logp.shape[-1])).expand_as(logp)
    dlogp = dlogp.contiguous().scatter_add_(-1, labels.clamp(min=0)[..., None], weights * (smoothing - 1))
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)


def cross_entropy_in_place(
    logits: Tensor, labels: Tensor, counted: Tensor, smoothing: float, ignore: int, share: float
) -> tuple[Tensor, Tensor]:
    """Both; PyTorch has no kernel that overwrites the logits."""
    loss, logp = cross_entropy_chunk(logits, labels, counted, smoothing, ignore, share)
    one = torch.ones((), dtype=logits.dtype, device=logits.device)
    return loss, cross_entropy_chunk_grad(one, logp, labels, counted, smoothing, ignore, share)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float) -> tuple[Tensor, Tensor]:
    """All rows as one chunk."""
    return cross_entropy_chunk(logits, labels, count_labels(labels, ignore), smoothing, ignore, share)


def cross_entropy_grad(
    dloss: Tensor, logp: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float
) -> Tensor:
    """All rows as one chunk."""
    return cross_entropy_chunk_grad(dloss, logp, labels, count_labels(labels, ignore), smoothing, ignore, share)


def binary_cross_entropy(logits: Tensor, targets: Tensor, ignore: int, share: float) -> Tensor:
    """One kernel for each target, then their weighted sum."""
    weights = _row_weights(targets, count_labels(targets, ignore), ignore, share, logits.dtype)
    bits = targets.to(logits.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, bits, weights, reduction="sum")


def binary_cross_entropy_grad(dloss: Tensor, logits: Tensor, targets: Tensor, ignore: int, share: float) -> Tensor:
    """Three kernels: a sigmoid, a difference, a product."""
    weights = _row_weights(targets, count_labels(targets, ignore), ignore, share, logits.dtype)
    return (logits.sigmoid() - targets.to(logits.dtype)) * (weights * dloss)


def log_softmax(logits: Tensor) -> Tensor:
    """One kernel over the last dim."""
    return logits.log_softmax(-1)


def log_softmax_grad(dlogp: Tensor, logp: Tensor) -> Tensor:
    """What autograd calls, with logp kept from the forward."""
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)


_REDUCTIONS = {"mean": 1, "sum": 2}


def nll_loss(logits: Tensor, labels: Tensor, ignore: int, reduction: str) -> tuple[Tensor, Tensor]:
    """One kernel over all rows."""
    rows, classes = labels.flatten(), logits.flatten(0, -2)
    loss, counted = aten.nll_loss_forward(classes, rows, None, _REDUCTIONS[reduction], ignore)
    return loss, counted


def nll_loss_grad(
    dloss: Tensor, labels: Tensor, counted: Tensor, shape: tuple[int, ...], ignore: int, reduction: str
) -> Tensor:
    """What autograd calls; of the log-probabilities it wants the shape only."""
    like = dloss.new_empty(shape).flatten(0, -2)
    reduced = _REDUCTIONS[reduction]
    return aten.nll_loss_backward(dloss, like, labels.flatten(), None, reduced, ignore, counted).view(shape)
