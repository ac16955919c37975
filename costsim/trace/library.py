"""PyTorch, as mypy sees it: without types, for it need not be there. Only a trace loads it."""

from importlib import import_module
from typing import Any

torch: Any = import_module("torch")
Tensor = Any
Module = Any
DispatchMode: Any = import_module("torch.utils._python_dispatch").TorchDispatchMode
without_modes: Any = import_module("torch.utils._python_dispatch")._disable_current_modes
FlopCounter: Any = import_module("torch.utils.flop_counter").FlopCounterMode
fakes: Any = import_module("torch._subclasses.fake_tensor")
shapes: Any = import_module("torch.fx.experimental.symbolic_shapes")
sympy: Any = import_module("sympy")
sources: Any = import_module("torch._dynamo.source")
