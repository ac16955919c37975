"""What each row of the op table is in PyTorch: the kernels that an ordinary eager training step launches for it.

Where PyTorch has one function for an op, or for its backward, it is that one (aten's own, as autograd calls it); where
it has none, a few functions, as people write the op by hand. Updates and sums of gradients are made in place, as the
graph says. Needs PyTorch, which only these modules load: see `benches.load_torch`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from costsim.graph.ops import OPS

torch: Any = import_module("torch")
aten: Any = torch.ops.aten
Tensor = Any
Kernel = Callable[..., Any]

# The op table's own function where it is operators on arrays and no more.
_PLAIN = ("scale", "add", "add_bias", "mul", "cube", "cube_grad", "shift", "embed", "select_first")
KERNELS: dict[str, Kernel] = {name: OPS[name].run for name in _PLAIN}


def _kernel(run: Kernel) -> Kernel:
    """Enter a function in the table, under the name of the row."""
    KERNELS[run.__name__] = run
    return run


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


@_kernel
def mask_padding(x: Tensor, keep: Tensor) -> Tensor:
    """Minus infinity at keys that are padding."""
    shape = (keep.shape[0], *(1,) * (x.ndim - 2), keep.shape[1])
    return x.masked_fill(~keep.view(shape), -torch.inf)


@_kernel
def mask_causal(x: Tensor) -> Tensor:
    """Minus infinity where the key lies after the query."""
    return x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), -torch.inf)


@_kernel
def softmax(x: Tensor) -> Tensor:
    """Over the last dim."""
    return x.softmax(-1)


@_kernel
def softmax_grad(dy: Tensor, y: Tensor) -> Tensor:
    """From y."""
    return aten._softmax_backward_data(dy, y, -1, y.dtype)


@_kernel
def softmax_lse(x: Tensor) -> tuple[Tensor, Tensor]:
    """And the logarithm of the sum."""
    return x.softmax(-1), x.logsumexp(-1)


@_kernel
def softmax_from_lse(x: Tensor, lse: Tensor) -> Tensor:
    """Again."""
    return torch.exp(x - lse[..., None])


def _turned(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return torch.cat([-x[..., n : 2 * n], x[..., :n], *([x[..., 2 * n :] * 0] if x.shape[-1] % 2 else [])], -1)


def _along(table: Tensor, x: Tensor) -> Tensor:
    return table.view(1, table.shape[0], *(1,) * (x.ndim - 3), table.shape[1])


@_kernel
def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers' Llama."""
    return x * _along(cos, x) + _turned(x) * _along(sin, x)


@_kernel
def rope_grad(dy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As its backward."""
    return dy * _along(cos, dy) - _turned(dy * _along(sin, dy))


# --- elementwise ------------------------------------------------------------------------------------------------------


@_kernel
def sum_leading(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A bias's gradient."""
    return dy.sum(tuple(range(dy.ndim - len(shape)))) if dy.ndim > len(shape) else dy.clone()


@_kernel
def relu(x: Tensor) -> Tensor:
    """One kernel."""
    return x.relu()


@_kernel
def relu_grad(dy: Tensor, y: Tensor) -> Tensor:
    """One kernel."""
    return aten.threshold_backward(dy, y, 0)


@_kernel
def gelu(x: Tensor) -> Tensor:
    """The exact form."""
    return aten.gelu(x)


@_kernel
def gelu_grad(dy: Tensor, x: Tensor) -> Tensor:
    """Of the exact form."""
    return aten.gelu_backward(dy, x)


@_kernel
def gelu_new(x: Tensor) -> Tensor:
    """GPT-2's."""
    return aten.gelu(x, approximate="tanh")


@_kernel
def gelu_new_grad(dy: Tensor, x: Tensor) -> Tensor:
    """Of GPT-2's."""
    return aten.gelu_backward(dy, x, approximate="tanh")


@_kernel
def silu(x: Tensor) -> Tensor:
    """One kernel."""
    return aten.silu(x)


@_kernel
def silu_grad(dy: Tensor, x: Tensor) -> Tensor:
    """One kernel."""
    return aten.silu_backward(dy, x)


@_kernel
def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """Two kernels: PyTorch has none for both."""
    return aten.silu(a) * b


@_kernel
def swiglu_grad(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Four kernels, of which one makes silu again."""
    return aten.silu_backward(dy * b, a), dy * aten.silu(a)


@_kernel
def tanh(x: Tensor) -> Tensor:
    """One kernel."""
    return x.tanh()


@_kernel
def tanh_grad(dy: Tensor, y: Tensor) -> Tensor:
    """One kernel."""
    return aten.tanh_backward(dy, y)


@_kernel
def bernoulli(rate: float, shape: tuple[int, ...], key: Any) -> Tensor:
    """Drawn by `key`, a generator, on its device."""
    return torch.empty(shape, dtype=torch.bool, device=key.device).bernoulli_(1 - rate, generator=key)


@_kernel
def dropout(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """What autograd calls for the backward of dropout; it is the same product."""
    return aten.native_dropout_backward(x, mask, 1 / (1 - rate))


# --- experts ----------------------------------------------------------------------------------------------------------


def _slots(index: Tensor, experts: int, capacity: int) -> Tensor:
    chosen = index.reshape(-1)
    order = chosen.argsort(stable=True)
    sorted_ones = chosen[order]
    first = torch.searchsorted(sorted_ones, torch.arange(experts, device=index.device))
    place = torch.empty_like(chosen)
    place[order] = torch.arange(chosen.numel(), device=index.device) - first[sorted_ones]
    return torch.where(place < capacity, chosen * capacity + place, experts * capacity).view(index.shape)


def _gather(y: Tensor, index: Tensor) -> Tensor:
    e, c, d = y.shape
    return torch.cat([y.reshape(e * c, d), y.new_zeros(1, d)])[_slots(index, e, c)]


def _scatter(rows: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    e, c, d = shape
    y = rows.new_zeros(e * c + 1, d)
    y[_slots(index, e, c).reshape(-1)] = rows.reshape(-1, d)
    return y[: e * c].view(shape)


@_kernel
def top_k(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Of equal ones any."""
    return x.topk(shape[-1], -1).indices


@_kernel
def pick(x: Tensor, index: Tensor) -> Tensor:
    """One kernel."""
    return x.gather(-1, index)


@_kernel
def pick_grad(dy: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then one kernel."""
    return dy.new_zeros(shape).scatter_(-1, index, dy)


@_kernel
def normalize(x: Tensor) -> Tensor:
    """Two kernels."""
    return x / x.sum(-1, keepdim=True)


@_kernel
def normalize_grad(dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A few small ones."""
    return (dy - (dy * y).sum(-1, keepdim=True)) / x.sum(-1, keepdim=True)


@_kernel
def dispatch(x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows to experts."""
    return _scatter(x[..., None, :].expand(*index.shape, x.shape[-1]), index, shape)


@_kernel
def dispatch_grad(dy: Tensor, index: Tensor) -> Tensor:
    """And back."""
    return _gather(dy, index).sum(-2)


@_kernel
def combine(y: Tensor, gates: Tensor, index: Tensor) -> Tensor:
    """Rows from experts, weighted."""
    return (_gather(y, index) * gates[..., None]).sum(-2)


@_kernel
def combine_grad(dout: Tensor, gates: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """And back."""
    return _scatter(dout[..., None, :] * gates[..., None], index, shape)


@_kernel
def combine_grad_gates(dout: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Of the weights."""
    return (dout[..., None, :] * _gather(y, index)).sum(-1)


# --- lookups, loss ----------------------------------------------------------------------------------------------------


@_kernel
def embed_grad(dy: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The dense one."""
    return aten.embedding_dense_backward(dy, ids, shape[0], -1, False)


@_kernel
def select_first_grad(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros, then a copy."""
    return aten.select_backward(dy, shape, 1, 0)


def _row_weights(labels: Tensor, ignore: int, share: float, dtype: Any) -> Tensor:
    counts = (labels != ignore).to(dtype)
    return counts * (share / counts.sum().clamp(min=1))


@_kernel
def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float) -> tuple[Tensor, Tensor]:
    """The logarithm of softmax, what is picked of it, and its sum if it is smoothed."""
    logp = logits.log_softmax(-1)
    weights = _row_weights(labels, ignore, share, logits.dtype)
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rows = picked * (smoothing - 1)
    if smoothing:
        rows = rows - logp.sum(-1) * (smoothing / logits.shape[-1])
    return (rows * weights).sum(), logp


@_kernel
def cross_entropy_grad(
    dloss: Tensor, logp: Tensor, labels: Tensor, smoothing: float, ignore: int, share: float
) -> Tensor:
    """The gradient of logp, then that of the logits."""
    weights = (dloss * _row_weights(labels, ignore, share, logp.dtype))[..., None]
    dlogp = torch.zeros_like(logp) if not smoothing else (weights * (-smoothing / logp.shape[-1])).expand_as(logp)
    dlogp = dlogp.contiguous().scatter_add_(-1, labels.clamp(min=0)[..., None], weights * (smoothing - 1))
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)


# --- norms ------------------------------------------------------------------------------------------------------------


@_kernel
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


@_kernel
def layer_norm_grad(dy: Tensor, x: Tensor, w: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """One kernel."""
    return _layer_norm_backward(dy, x, w, mean, rstd, [True, False, False])[0]


@_kernel
def layer_norm_grad_weights(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """One call; of the weight it wants to know the shape only."""
    _, dw, db = _layer_norm_backward(dy, x, x.new_empty(x.shape[-1]), mean, rstd, [False, True, True])
    return dw, db


@_kernel
def rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """By hand, as transformers' Llama."""
    rstd = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return x * rstd * w, rstd[..., 0]


@_kernel
def rms_norm_grad(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    xhat = x * rstd[..., None]
    g = dy * w
    return (g - xhat * (g * xhat).mean(-1, keepdim=True)) * rstd[..., None]


@_kernel
def rms_norm_grad_weight(dy: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """By hand."""
    return (dy * (x * rstd[..., None])).sum(tuple(range(x.ndim - 1)))


# --- the update -------------------------------------------------------------------------------------------------------


@_kernel
def accumulate(acc: Tensor | None, g: Tensor) -> Tensor:
    """In place."""
    return g if acc is None else acc.add_(g)


@_kernel
def square_sum(g: Tensor) -> Tensor:
    """As clip_grad_norm_ has it: a norm."""
    return torch.linalg.vector_norm(g).square()


@_kernel
def clip_factor(total: Tensor, max_norm: float) -> Tensor:
    """As clip_grad_norm_ has it."""
    return (max_norm / (total.sqrt() + 1e-6)).clamp(max=1)


@_kernel
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


@_kernel
def adam(*tensors: Tensor, step: int, **hyper: float) -> Adam:
    """What torch.optim.Adam(fused=True) calls, in place."""
    return _update(torch._fused_adam_, tensors, step, hyper)


@_kernel
def adamw(*tensors: Tensor, step: int, **hyper: float) -> Adam:
    """What torch.optim.AdamW(fused=True) calls, in place."""
    return _update(torch._fused_adamw_, tensors, step, hyper)
