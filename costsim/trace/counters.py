"""What is counted as PyTorch runs a step: FlopCounterMode, saved_tensors_hooks, parameters, bytes that calls move."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from costsim.trace.library import FlopCounter, Module, Tensor, torch
from costsim.trace.record import loss_of
from costsim.trace.traffic import TrafficCounter


class _AllTogether(nullcontext[None]):
    """FlopCounterMode's tracker of modules, which knows none: its hooks fail where a parameter is a module's input."""

    parents = ("Global",)


def counted(module: Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """FLOPs of products and bytes moved, forward and backward; bytes that autograd keeps besides parameters; these."""
    standing = {x.untyped_storage()._cdata for x in module.parameters()}
    alive: list[Tensor] = []  # so that no address is used twice
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        alive.append(x)
        storage = x.untyped_storage()
        if storage._cdata not in standing:
            storages[storage._cdata] = storage.nbytes()
        return x

    flops = FlopCounter(display=False)
    flops.mod_tracker = _AllTogether()
    there = (*module.parameters(), *module.buffers(), *inputs.values())
    traffic = TrafficCounter(x for x in there if isinstance(x, torch.Tensor))
    with flops, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with traffic:
            loss = loss_of(module(**inputs))
        forward, moved = flops.get_total_flops(), traffic.bytes
        trained = [x for x in module.parameters() if x.requires_grad]
        gradient = torch.ones_like(loss)
        traffic.know(gradient)
        with traffic:
            torch.autograd.grad(loss, trained, gradient, allow_unused=True)
    return {
        "parameters": sum(x.numel() for x in module.parameters()),
        "flops_forward": int(forward),
        "flops_backward": int(flops.get_total_flops() - forward),
        "saved_bytes": sum(storages.values()),
        "eager_bytes_forward": moved,
        "eager_bytes_backward": traffic.bytes - moved,
    }
