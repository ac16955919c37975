"""Attention: masks, softmax, rotary positions."""

from typing import Any

from costsim.reference.torch_kernels.library import Tensor, aten, torch


def mask_padding(x: Tensor, keep: Tensor) -> Tensor:
    """One fill of minus infinity, where the key is padding."""
    shape = (keep.shape[0], *(1,) * (x.ndim - 2), keep.shape[1])
    return x.masked_fill(~keep.view(shape), -torch.inf)


def mask_causal(x: Tensor) -> Tensor:
    """One fill of minus infinity, where the key lies after the query."""
    return x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), -torch.inf)


def mask_pairs(x: Tensor, pairs: str, met: Any) -> Tensor:  # noqa: ARG001 - names what has met
    """One fill of minus infinity, where query and key do not meet."""
    return x.masked_fill(~torch.as_tensor(met, device=x.device), -torch.inf)


def add_pair_bias(x: Tensor, bias: Tensor) -> Tensor:
    """One sum, broadcast over the batch."""
    return x + bias.permute(2, 0, 1)


def sum_pairs(dy: Tensor) -> Tensor:
    """One sum, and its dims in the order of the table's rows."""
    return dy.sum(0).permute(1, 2, 0).contiguous()


def softmax(x: Tensor) -> Tensor:
    """One kernel over the last dim."""
    return x.softmax(-1)


def softmax_grad(dy: Tensor, y: Tensor) -> Tensor:
    """What autograd calls, with y kept from the forward."""
    return aten._softmax_backward_data(dy, y, -1, y.dtype)


def softmax_lse(x: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax and logsumexp, one after the other: PyTorch has no kernel for both."""
    return x.softmax(-1), x.logsumexp(-1)


def _beside_sink(x: Tensor, sink: Tensor) -> Tensor:
    """The scores, and the sink as one more."""
    each = sink.view(1, *sink.shape, 1, 1).expand(*x.shape[:-1], 1)
    return torch.cat([x, each], -1)


def softmax_sink(x: Tensor, sink: Tensor) -> Tensor:
    """Softmax of one score more, as transformers' gpt-oss."""
    return _beside_sink(x, sink).softmax(-1)[..., :-1]


def softmax_sink_lse(x: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax and logsumexp, one after the other."""
    scores = _beside_sink(x, sink)
    return scores.softmax(-1)[..., :-1], scores.logsumexp(-1)


def softmax_sink_grad(dy: Tensor, y: Tensor) -> Tensor:
    """By hand."""
    return ((y.sum(-1) - 1) * (y * dy).sum(-1)).sum((0, y.ndim - 2))


def softmax_from_lse(x: Tensor, lse: Tensor) -> Tensor:
    """By hand: a difference and its exp."""
    return torch.exp(x - lse[..., None])


# --- contents against distances ---------------------------------------------------------------------------------------


def pick_distances(x: Tensor, ids: Tensor) -> Tensor:
    """One gather."""
    return x.gather(-1, ids.expand(*x.shape[:-1], ids.shape[-1]))


def pick_distances_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What autograd calls: zeros, then a scatter."""
    return dy.new_zeros(shape).scatter_add(-1, ids.expand(dy.shape), dy)


def pick_distances_of_keys(x: Tensor, ids: Tensor) -> Tensor:
    """One gather, and its result the other way round."""
    return pick_distances(x, ids.T).transpose(-1, -2).contiguous()


def pick_distances_of_keys_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then a scatter."""
    return pick_distances_grad(dy.transpose(-1, -2), ids.T, shape)


# --- rotary positions -------------------------------------------------------------------------------------------------


def _turned(x: Tensor) -> Tensor:
    """(-second half, first half) of the last dim; the last of an odd number is left out."""
    n = x.shape[-1] // 2
    return torch.cat([-x[..., n : 2 * n], x[..., :n], *([x[..., 2 * n :] * 0] if x.shape[-1] % 2 else [])], -1)


def _along(table: Tensor, x: Tensor) -> Tensor:
    """A table [s, r] so that it broadcasts with x[b, s, ..., e]."""
    return table.view(1, table.shape[0], *(1,) * (x.ndim - 3), table.shape[1])


def _beside(turned: Tensor, x: Tensor) -> Tensor:
    """What is turned, and the rest of x as it is."""
    rest = x[..., turned.shape[-1] :]
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By hand, as transformers' Llama, and its GPT-NeoX where the tables are narrower than a head."""
    part = x[..., : cos.shape[1]]
    return _beside(part * _along(cos, x) + _turned(part) * _along(sin, x), x)


def rope_grad(dy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By hand, as the backward of transformers' Llama."""
    part = dy[..., : cos.shape[1]]
    return _beside(part * _along(cos, dy) - _turned(part * _along(sin, dy)), dy)
