"""The update: accumulation, clipping, optimizers."""

from collections.abc import Callable, Mapping, Sequence

from costsim.reference.torch_kernels.library import Tensor, torch


def accumulate(acc: Tensor | None, g: Tensor) -> Tensor:
    """One sum in place; the first micro-batch's gradient just becomes the sum."""
    return g if acc is None else acc.add_(g)


def round_to_send(g: Tensor) -> Tensor:
    """A copy."""
    return g.clone()


def rounding_error(g: Tensor, sent: Tensor) -> Tensor:
    """A difference."""
    return g - sent


def square_sum(g: Tensor) -> Tensor:
    """A norm, squared, as clip_grad_norm_ has norms."""
    return torch.linalg.vector_norm(g).square()


def clip_factor(total: Tensor, max_norm: float) -> Tensor:
    """As clip_grad_norm_ has it."""
    return (max_norm / (total.sqrt() + 1e-6)).clamp(max=1)


def rescale(g: Tensor, factor: Tensor) -> Tensor:
    """One product in place."""
    return g.mul_(factor)


Updated = tuple[Tensor, Tensor, Tensor]  # the weight and both moments


def _update(fused: Callable[..., None], tensors: Sequence[Tensor], step: int, hyper: Mapping[str, float]) -> Updated:
    w, g, m, v = tensors
    steps = torch.full((), step, dtype=torch.float32, device=w.device)
    # The fused kernels assume equal strides.
    fused([w], [g.contiguous()], [m], [v], [], [steps], **hyper, amsgrad=False, maximize=False)
    return w, m, v


def adam(*tensors: Tensor, step: int, **hyper: float) -> Updated:
    """What torch.optim.Adam(fused=True) calls, in place."""
    return _update(torch._fused_adam_, tensors, step, hyper)


def adamw(*tensors: Tensor, step: int, **hyper: float) -> Updated:
    """What torch.optim.AdamW(fused=True) calls, in place."""
    return _update(torch._fused_adamw_, tensors, step, hyper)
