"""Elementwise ops: biases, activations, dropout."""

from typing import Any

from costsim.reference.torch_kernels.library import Tensor, aten, torch


def sum_leading(dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One sum; a copy where there is no leading dim."""
    return dy.sum(tuple(range(dy.ndim - len(shape)))) if dy.ndim > len(shape) else dy.clone()


def convert(x: Tensor) -> Tensor:
    """A copy; the format is given to it when it is held."""
    return x.clone()


def relu_grad(dy: Tensor, y: Tensor) -> Tensor:
    """What autograd calls for relu."""
    return aten.threshold_backward(dy, y, 0)


def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2 has it."""
    return aten.gelu(x, approximate="tanh")


def gelu_new_grad(dy: Tensor, x: Tensor) -> Tensor:
    """What autograd calls for GELU by tanh."""
    return aten.gelu_backward(dy, x, approximate="tanh")


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """Two kernels: PyTorch has none for both."""
    return aten.silu(a) * b


def swiglu_grad(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Four kernels, of which one makes silu again."""
    return aten.silu_backward(dy * b, a), dy * aten.silu(a)


def geglu_new(a: Tensor, b: Tensor) -> Tensor:
    """Two kernels: PyTorch has none for both."""
    return gelu_new(a) * b


def geglu_new_grad(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Four kernels, of which one makes GELU again."""
    return gelu_new_grad(dy * b, a), dy * gelu_new(a)


def geglu(a: Tensor, b: Tensor) -> Tensor:
    """Two kernels: PyTorch has none for both."""
    return aten.gelu(a) * b


def geglu_grad(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Four kernels, of which one makes GELU again."""
    return aten.gelu_backward(dy * b, a), dy * aten.gelu(a)


def clamped_swiglu(a: Tensor, b: Tensor, alpha: float, limit: float) -> Tensor:
    """By hand, as transformers' gpt-oss."""
    g = a.clamp(max=limit)
    return g * (g * alpha).sigmoid() * (b.clamp(-limit, limit) + 1)


def clamped_swiglu_grad(dy: Tensor, a: Tensor, b: Tensor, alpha: float, limit: float) -> tuple[Tensor, Tensor]:
    """By hand."""
    g = a.clamp(max=limit)
    s = (g * alpha).sigmoid()
    slope = s * (g * (1 - s) * alpha + 1)
    return dy * (b.clamp(-limit, limit) + 1) * slope * (a <= limit), dy * (g * s) * (b.abs() <= limit)


def bernoulli(rate: float, shape: tuple[int, ...], key: Any) -> Tensor:
    """One kernel; `key` is a generator, on whose device the mask is drawn."""
    return torch.empty(shape, dtype=torch.bool, device=key.device).bernoulli_(1 - rate, generator=key)


def dropout(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """What autograd calls for the backward of dropout; the forward is the same product."""
    return aten.native_dropout_backward(x, mask, 1 / (1 - rate))
