"""The PyTorch kernel of every op kind, where its row in `graph.ops` says that it is."""

from collections.abc import Callable, Mapping
from typing import Any

from costsim.graph.kinds import Kind
from costsim.graph.ops import OPS
from costsim.reference.torch_kernels import (
    attention,
    channels,
    convolutions,
    elementwise,
    experts,
    lookups,
    loss,
    norms,
    optimizers,
    rows,
    shares,
    update,
)
from costsim.reference.torch_kernels.library import aten, torch
from costsim.reference.torch_kernels.pointwise import pointwise

Kernel = Callable[..., Any]

_PLACES: Mapping[str, Any] = {
    "torch": torch,
    "aten": aten,
    "attention": attention,
    "channels": channels,
    "convolutions": convolutions,
    "elementwise": elementwise,
    "experts": experts,
    "lookups": lookups,
    "loss": loss,
    "norms": norms,
    "optimizers": optimizers,
    "rows": rows,
    "shares": shares,
    "update": update,
}


def _kernel(kind: Kind) -> Kernel:
    """The function that a row names."""
    if kind.torch == "same":
        return kind.run
    place, name = kind.torch.split(".")
    kernel: Kernel = getattr(_PLACES[place], name)
    return kernel


KERNELS: dict[str, Kernel] = {name: _kernel(kind) for name, kind in OPS.items()}


def kernel_of(kind: Kind) -> Kernel:
    """The kernel of a row, or of an equation of a traced graph."""
    return KERNELS[kind.name] if kind.name in KERNELS else pointwise(kind.name)
