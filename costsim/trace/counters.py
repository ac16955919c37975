"""What PyTorch's own counters say of a step: FlopCounterMode, saved_tensors_hooks and the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costsim.trace.library import FlopCounter, Module, Tensor, torch
from costsim.trace.record import loss_of


def counted(module: Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """FLOPs of products forward and backward, bytes that autograd keeps besides parameters, and parameters."""
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
    with flops, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = loss_of(module(**inputs))
        forward = flops.get_total_flops()
        trained = [x for x in module.parameters() if x.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
    return {
        "parameters": sum(x.numel() for x in module.parameters()),
        "flops_forward": int(forward),
        "flops_backward": int(flops.get_total_flops() - forward),
        "saved_bytes": sum(storages.values()),
    }
