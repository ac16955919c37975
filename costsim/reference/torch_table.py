"""The table of PyTorch kernels, which the files of kernels fill."""

from collections.abc import Callable
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


def kernel(run: Kernel) -> Kernel:
    """Enter a function in the table, under the name of the row."""
    KERNELS[run.__name__] = run
    return run
