"""What is traced: a module, its example inputs, and which of their axes stay open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DIMS = ("batch", "tokens")  # the names of the first two axes of an input, unless it is said otherwise


class Subject(NamedTuple):
    """A module and its example inputs by name; by input, the axes whose sizes stay open, with their names."""

    module: Any
    inputs: Mapping[str, Any]
    dynamic: Mapping[str, Mapping[int, str]]


def default_axes(inputs: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Batch and tokens: the first two axes of inputs of whole numbers, which are ids and labels."""
    from costsim.trace.library import torch

    tensors = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor) and not x.is_floating_point()}
    return {name: dict(enumerate(DIMS[: x.dim()])) for name, x in tensors.items() if x.dim()}
