"""Optimizers beside Adam."""

import math

from costsim.reference.torch_kernels.library import Tensor, torch


def lion(
    w: Tensor, g: Tensor, m: Tensor, lr: float, beta1: float, beta2: float, weight_decay: float
) -> tuple[Tensor, Tensor]:
    """In place, as the authors have it."""
    direction = m.mul(beta1).add_(g, alpha=1 - beta1).sign_()
    return w.sub_(direction.add_(w, alpha=weight_decay), alpha=lr), m.mul_(beta2).add_(g, alpha=1 - beta2)


def adafactor_moments(g: Tensor, r: Tensor, c: Tensor, beta2_decay: float, step: int) -> tuple[Tensor, Tensor]:
    """In place, of norms, as torch.optim.Adafactor has means of squares."""
    share, square = math.pow(step, beta2_decay), g * g
    rows = square.mean(tuple(range(r.ndim, g.ndim)))
    return r.lerp_(rows, share), c.lerp_(square.mean(tuple(range(r.ndim))), share)


def _factored(g: Tensor, r: Tensor, c: Tensor, eps1: float) -> Tensor:
    moment = r.reshape(r.shape + (1,) * c.ndim) * c / r.mean().clamp(min=eps1)
    return g / moment.clamp_(min=eps1 * eps1).sqrt_()


def adafactor_square_sum(g: Tensor, r: Tensor, c: Tensor, eps1: float) -> Tensor:
    """As torch.optim.Adafactor has it, which keeps the update."""
    return _factored(g, r, c, eps1).square_().sum()


def _step_size(squares: Tensor, weights: Tensor, n: int, step: int, **h: float) -> Tensor:
    size = (weights / n).sqrt_().clamp_(min=h["eps2"]) * min(h["lr"], 1 / math.sqrt(step))
    return size / ((squares / n).sqrt_() / h["clip"]).clamp_(min=1)


def adafactor(
    w: Tensor, g: Tensor, r: Tensor, c: Tensor, squares: Tensor, weights: Tensor, step: int, **h: float
) -> Tensor:
    """In place."""
    size = _step_size(squares, weights, w.numel(), step, **h)
    return w.mul_(1 - h["lr"] * h["weight_decay"]).sub_(_factored(g, r, c, h["eps1"]).mul_(size))


def adafactor_vector_moment(g: Tensor, v: Tensor, eps1: float, beta2_decay: float, step: int) -> tuple[Tensor, Tensor]:
    """In place."""
    v = v.lerp_(g * g, math.pow(step, beta2_decay))
    return v, (g / v.clamp(min=eps1 * eps1).sqrt_()).square_().sum()


def adafactor_vector(
    w: Tensor, g: Tensor, v: Tensor, squares: Tensor, weights: Tensor, step: int, **h: float
) -> Tensor:
    """In place."""
    u = g / v.clamp(min=h["eps1"] * h["eps1"]).sqrt_()
    size = _step_size(squares, weights, w.numel(), step, **h)
    return w.mul_(1 - h["lr"] * h["weight_decay"]).sub_(u.mul_(size))


def matrix_square_sum(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Norms, squared."""
    return x.reshape(*shape, -1).square().sum(-1)


def divide_by_norm(x: Tensor, total: Tensor) -> Tensor:
    """As torch.optim.Muon has it."""
    norm = total.sqrt().clamp_(min=1e-7)
    return x / norm.reshape(norm.shape + (1,) * (x.ndim - norm.ndim))


def adam_direction(
    g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """In place, as GaLore's AdamW has it."""
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    return m / v.sqrt().add_(eps), m, v


def left_vectors(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As GaLore's projector has it: the whole decomposition."""
    vectors = torch.linalg.svd(g.reshape(math.prod(shape[:-1]), -1), full_matrices=False)[0]
    return vectors[:, : shape[-1]].reshape(shape)


def right_vectors(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As GaLore's projector has it: the whole decomposition."""
    vectors = torch.linalg.svd(g.reshape(-1, math.prod(shape[:-1])), full_matrices=False)[2]
    return vectors[: shape[-1]].mT.reshape(shape)


def moving_average(x: Tensor, g: Tensor, beta2: float) -> Tensor:
    """In place."""
    return x.lerp_(g, 1 - beta2)


def orthonormal(x: Tensor) -> Tensor:
    """As SOAP has it."""
    side = math.isqrt(x.numel())
    return torch.linalg.qr(x.reshape(side, side))[0].reshape(x.shape)
