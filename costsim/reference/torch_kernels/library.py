"""PyTorch itself, which is loaded with this file and with no other: see `engines`."""

from importlib import import_module
from typing import Any

torch: Any = import_module("torch")
aten: Any = torch.ops.aten
Tensor = Any
