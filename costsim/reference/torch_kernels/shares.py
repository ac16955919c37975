"""A rank's share of a vocabulary."""

from costsim.reference.torch_kernels.library import Tensor, torch
from costsim.reference.torch_kernels.loss import _row_weights, count_labels


def _own(words: Tensor, rank: int, share: int) -> tuple[Tensor, Tensor]:
    """Which words are in a rank's share, and their places in it (0 for the others)."""
    at = words - rank * share
    own = (at >= 0) & (at < share)
    return own, torch.where(own, at, torch.zeros_like(at))


def embed_share(table: Tensor, ids: Tensor, rank: int, **_axis: str) -> Tensor:
    """Rows are looked up, and those of other ranks' words made 0."""
    own, at = _own(ids, rank, len(table))
    return torch.nn.functional.embedding(at, table) * own[..., None]


def embed_share_grad(dy: Tensor, ids: Tensor, rank: int, shape: tuple[int, ...], **_axis: str) -> Tensor:
    """A scatter-add."""
    own, at = _own(ids, rank, shape[0])
    table = torch.zeros(shape, dtype=dy.dtype, device=dy.device)
    return table.index_put_((at,), dy * own[..., None], accumulate=True)


def take_flat_share(x: Tensor, rank: int, shape: tuple[int, ...], **_axis: str) -> Tensor:
    """A slice, filled up."""
    flat = x.reshape(-1)[rank * shape[0] : (rank + 1) * shape[0]]
    return torch.nn.functional.pad(flat, (0, shape[0] - flat.numel()))


def row_max(logits: Tensor) -> Tensor:
    """The largest of each row."""
    return logits.amax(-1)


def exp_share(logits: Tensor, most: Tensor, labels: Tensor, rank: int, **_axis: str) -> tuple[Tensor, Tensor, Tensor]:
    """Three passes, as Megatron-LM has them."""
    z = logits - most[..., None]
    own, at = _own(labels, rank, logits.shape[-1])
    e = z.exp()
    return e.sum(-1), z.gather(-1, at[..., None])[..., 0] * own, e


def exp_share_grad(dsums: Tensor, dpicked: Tensor, e: Tensor, labels: Tensor, rank: int, **_axis: str) -> Tensor:
    """A product, and a scatter-add."""
    own, at = _own(labels, rank, e.shape[-1])
    return (e * dsums[..., None]).scatter_add_(-1, at[..., None], (dpicked * own)[..., None])


def exp_share_smoothed(
    logits: Tensor, most: Tensor, labels: Tensor, rank: int, smoothing: float, ranks: int, **_axis: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Four passes."""
    z = logits - most[..., None]
    own, at = _own(labels, rank, logits.shape[-1])
    e = z.exp()
    picked = z.gather(-1, at[..., None])[..., 0] * own * (1 - smoothing)
    return e.sum(-1), picked + z.sum(-1) * (smoothing / (ranks * logits.shape[-1])), e


def exp_share_smoothed_grad(
    dsums: Tensor, dpicked: Tensor, e: Tensor, labels: Tensor, rank: int, smoothing: float, ranks: int, **_axis: str
) -> Tensor:
    """A product, a sum, and a scatter-add."""
    own, at = _own(labels, rank, e.shape[-1])
    dlogits = e * dsums[..., None] + (dpicked * (smoothing / (ranks * e.shape[-1])))[..., None]
    return dlogits.scatter_add_(-1, at[..., None], (dpicked * own * (1 - smoothing))[..., None])


def cross_entropy_sums(sums: Tensor, picked: Tensor, labels: Tensor, ignore: int, share: float) -> Tensor:
    """The loss of all ranks."""
    return cross_entropy_sums_chunk(sums, picked, labels, count_labels(labels, ignore), ignore, share)


def cross_entropy_sums_grad(
    dloss: Tensor, sums: Tensor, labels: Tensor, ignore: int, share: float
) -> tuple[Tensor, Tensor]:
    """A division and a sign."""
    return cross_entropy_sums_chunk_grad(dloss, sums, labels, count_labels(labels, ignore), ignore, share)


def cross_entropy_sums_chunk(
    sums: Tensor, picked: Tensor, labels: Tensor, counted: Tensor, ignore: int, share: float
) -> Tensor:
    """Of a chunk of rows."""
    return ((sums.log() - picked) * _row_weights(labels, counted, ignore, share, sums.dtype)).sum()


def cross_entropy_sums_chunk_grad(
    dloss: Tensor, sums: Tensor, labels: Tensor, counted: Tensor, ignore: int, share: float
) -> tuple[Tensor, Tensor]:
    """A division and a sign."""
    w = dloss * _row_weights(labels, counted, ignore, share, sums.dtype)
    return w / sums, -w
