"""What each row of the op table is in PyTorch: the kernels that an ordinary eager training step launches for it.

Where PyTorch has one function for an op, or for its backward, it is that one (aten's own, as autograd calls it); where
it has none, a few functions, as people write the op by hand. Updates and sums of gradients are made in place, as the
graph says. Needs PyTorch, which only these modules load: see `benches.load_torch`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from costsim.reference.torch_table import Kernel, Tensor, aten, kernel, torch

# --- matrix products --------------------------------------------------------------------------------------------------


@cache
def _swapped(equation: str) -> str | None:
    """The equation with its operands swapped, if that leaves the rows of the result one after another."""
    operands, y = equation.split("->")
    x, w = operands.split(",")
    return f"{w},{x}->{y}" if y and y[-1] in x and y[-1] not in w else None


def contract(equation: str, x: Tensor, w: Tensor) -> Tensor:
    """A contraction by batched matrix products."""
    swapped = _swapped(equation)
    return torch.einsum(swapped, w, x) if swapped else torch.einsum(equation, x, w)


# --- attention --------------------------------------------------------------------------------------------------------


@kernel
def mask_padding(x: Tensor, keep: Tensor) -> Tensor:
    """Minus infinity at keys that are padding."""
    shape = (keep.shape[0], *(1,) * (x.ndim - 2), keep.shape[1])
    return x.masked_fill(~keep.view(shape), -torch.inf)


@kernel
def mask_causal(x: Tensor) -> Tensor:
    """Minus infinity where the key lies after the query."""
    return x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), -torch.inf)


@kernel
def softmax(x: Tensor) -> Tensor:
    """Over the last dim."""
    return x.softmax(-1)


@kernel
def softmax_grad(dy: Tensor, y: Tensor) -> Tensor:
    """From y."""
    return aten._softmax_backward_data(dy, y, -1, y.dtype)


@kernel
def softmax_lse(x: Tensor) -> tuple[Tensor, Tensor]:
    """And the logarithm of the sum."""
    return x.softmax(-1), x.logsumexp(-1)


@kernel
def softmax_from_lse(x: Tensor, lse: Tensor) -> Tensor:
    """Again."""
    return torch.exp(x - lse[..., None])


def _turned(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return torch.cat([-x[..., n : 2 * n], x[..., :n], *([x[..., 2 * n :] * 0] if x.shape[-1] % 2 else [])], -1)


def _along(table: Tensor, x: Tensor) -> Tensor:
    return table.view(1, table.shape[0], *(1,) * (x.ndim - 3), table.shape[1])


@kernel
def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers' Llama."""
    return x * _along(cos, x) + _turned(x) * _along(sin, x)


@kernel
def rope_grad(dy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As its backward."""
    return dy * _along(cos, dy) - _turned(dy * _along(sin, dy))


# --- elementwise ------------------------------------------------------------------------------------------------------


@kernel
def sum_leading(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A bias's gradient."""
    return dy.sum(tuple(range(dy.ndim - len(shape)))) if dy.ndim > len(shape) else dy.clone()


@kernel
def relu(x: Tensor) -> Tensor:
    """One kernel."""
    return x.relu()


@kernel
def relu_grad(dy: Tensor, y: Tensor) -> Tensor:
    """One kernel."""
    return aten.threshold_backward(dy, y, 0)


@kernel
def gelu(x: Tensor) -> Tensor:
    """The exact form."""
    return aten.gelu(x)


@kernel
def gelu_grad(dy: Tensor, x: Tensor) -> Tensor:
    """Of the exact form."""
    return aten.gelu_backward(dy, x)


@kernel
def gelu_new(x: Tensor) -> Tensor:
    """GPT-2's."""
    return aten.gelu(x, approximate="tanh")


@kernel
def gelu_new_grad(dy: Tensor, x: Tensor) -> Tensor:
    """Of GPT-2's."""
    return aten.gelu_backward(dy, x, approximate="tanh")


@kernel
def silu(x: Tensor) -> Tensor:
    """One kernel."""
    return aten.silu(x)


@kernel
def silu_grad(dy: Tensor, x: Tensor) -> Tensor:
    """One kernel."""
    return aten.silu_backward(dy, x)


@kernel
def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """Two kernels: PyTorch has none for both."""
    return aten.silu(a) * b


@kernel
def swiglu_grad(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Four kernels, of which one makes silu again."""
    return aten.silu_backward(dy * b, a), dy * aten.silu(a)


@kernel
def tanh(x: Tensor) -> Tensor:
    """One kernel."""
    return x.tanh()


@kernel
def tanh_grad(dy: Tensor, y: Tensor) -> Tensor:
    """One kernel."""
    return aten.tanh_backward(dy, y)


@kernel
def bernoulli(rate: float, shape: tuple[int, ...], key: Any) -> Tensor:
    """Drawn by `key`, a generator, on its device."""
    return torch.empty(shape, dtype=torch.bool, device=key.device).bernoulli_(1 - rate, generator=key)


@kernel
def dropout(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """What autograd calls for the backward of dropout; it is the same product."""
    return aten.native_dropout_backward(x, mask, 1 / (1 - rate))


# --- lookups, loss ----------------------------------------------------------------------------------------------------


@kernel
def embed_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The dense one."""
    return aten.embedding_dense_backward(dy, ids, shape[0], -1, False)


@kernel
def select_first_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then a copy."""
    return aten.select_backward(dy, shape, 1, 0)


def _row_weights(labels: Tensor, ignore: int, share: float, dtype: Any) -> Tensor:
    counts = (labels != ignore).to(dtype)
    return counts * (share / counts.sum().clamp(min=1))


@kernel
def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float) -> tuple[Tensor, Tensor]:
    """The logarithm of softmax, what is picked of it, and its sum if it is smoothed."""
    logp = logits.log_softmax(-1)
    weights = _row_weights(labels, ignore, share, logits.dtype)
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rows = picked * (smoothing - 1)
    if smoothing:
        rows = rows - logp.sum(-1) * (smoothing / logits.shape[-1])
    return (rows * weights).sum(), logp


@kernel
def cross_entropy_grad(
    dloss: Tensor, logp: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float
) -> Tensor:
    """The gradient of logp, then that of the logits."""
    weights = (dloss * _row_weights(labels, ignore, share, logp.dtype))[..., None]
    dlogp = torch.zeros_like(logp) if not smoothing else (weights * (-smoothing / logp.shape[-1])).expand_as(logp)
    dlogp = dlogp.contiguous().scatter_add_(-1, labels.clamp(min=0)[..., None], weights * (smoothing - 1))
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)


# --- norms ------------------------------------------------------------------------------------------------------------


@kernel
def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """One kernel."""
    y, mean, rstd = aten.native_layer_norm(x, w.shape, w, b, eps)
    return y, mean[..., 0], rstd[..., 0]


def _layer_norm_backward(
    dy: Tensor, x: Tensor, w: Tensor, mean: Tensor, rstd: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = aten.native_layer_norm_backward(
        dy, x, w.shape, mean[..., None], rstd[..., None], w, w, wanted
    )
    return found


@kernel
def layer_norm_grad(dy: Tensor, x: Tensor, w: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """One kernel."""
    return _layer_norm_backward(dy, x, w, mean, rstd, [True, False, False])[0]


@kernel
def layer_norm_grad_weights(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """One call; of the weight it wants to know the shape only."""
    _, dw, db = _layer_norm_backward(dy, x, x.new_empty(x.shape[-1]), mean, rstd, [False, True, True])
    return dw, db


@kernel
def rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Llama."""
    rstd = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return x * rstd * w, rstd[..., 0]


@kernel
def rms_norm_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    xhat = x * rstd[..., None]
    g = dy * w
    return (g - xhat * (g * xhat).mean(-1, keepdim=True)) * rstd[..., None]


@kernel
def rms_norm_grad_weight(dy: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return (dy * (x * rstd[..., None])).sum(tuple(range(x.ndim - 1)))


# --- the update -------------------------------------------------------------------------------------------------------


@kernel
def accumulate(acc: Tensor | None, g: Tensor) -> Tensor:
    """In place."""
    return g if acc is None else acc.add_(g)


@kernel
def square_sum(g: Tensor) -> Tensor:
    """As clip_grad_norm_ has it: a norm."""
    return torch.linalg.vector_norm(g).square()


@kernel
def clip_factor(total: Tensor, max_norm: float) -> Tensor:
    """As clip_grad_norm_ has it."""
    return (max_norm / (total.sqrt() + 1e-6)).clamp(max=1)


@kernel
def rescale(g: Tensor, factor: Tensor) -> Tensor:
    """In place."""
    return g.mul_(factor)


Adam = tuple[Tensor, Tensor, Tensor]


def _update(run: Kernel, tensors: Sequence[Tensor], step: int, hyper: Mapping[str, float]) -> Adam:
    w, g, m, v = tensors
    steps = torch.full((), step, dtype=torch.float32, device=w.device)
    # They assume equal strides.
    run([w], [g.contiguous()], [m], [v], [], [steps], **hyper, amsgrad=False, maximize=False)
    return w, m, v


@kernel
def adam(*tensors: Tensor, step: int, **hyper: float) -> Adam:
    """What torch.optim.Adam(fused=True) calls, in place."""
    return _update(torch._fused_adam_, tensors, step, hyper)


@kernel
def adamw(*tensors: Tensor, step: int, **hyper: float) -> Adam:
    """What torch.optim.AdamW(fused=True) calls, in place."""
    return _update(torch._fused_adamw_, tensors, step, hyper)
