"""Tensors without numbers: modules of any size are made in no memory, and sizes of marked axes stay open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costsim.errors import InputError
from costsim.trace.library import Tensor, fakes, shapes, sources, torch
from costsim.trace.record import Symbols
from costsim.trace.subject import Subject


class Fake:
    """PyTorch's mode in which tensors have shapes only, and the names of symbolic sizes."""

    def __init__(self) -> None:
        self.shapes = shapes.ShapeEnv(duck_shape=False)
        self.mode = fakes.FakeTensorMode(shape_env=self.shapes, allow_non_fake_inputs=True)
        self.symbols = Symbols()

    def inputs(self, subject: Subject) -> tuple[dict[str, int], dict[str, Any]]:
        """The sizes of dynamic dims in the example, by name; and the inputs with these open. Raises InputError."""
        examples: dict[str, int] = {}
        known: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for name, x in subject.inputs.items():
            axes = subject.dynamic.get(name, {})
            if not isinstance(x, torch.Tensor) or not axes:
                inputs[name] = x
                continue
            inputs[name] = made = self._open(name, x, axes)
            for axis, dim in axes.items():
                if examples.setdefault(dim, x.shape[axis]) != x.shape[axis]:
                    sizes = f"{examples[dim]} in one input and {x.shape[axis]} in {name}"
                    raise InputError(f"the dynamic dim {dim} is {sizes}")
                size = made.shape[axis]
                if dim in known:
                    torch._check(size == known[dim])
                else:
                    known[dim] = size
        for dim, size in known.items():
            if isinstance(size, torch.SymInt):
                self.symbols.names[str(size.node.expr)] = dim
                self.symbols.sizes[dim] = size
        return examples, inputs

    def _open(self, name: str, x: Tensor, axes: Mapping[int, str]) -> Tensor:
        """A tensor like x whose sizes along some axes are symbols."""
        sizes = [shapes.DimDynamic.DYNAMIC if axis in axes else shapes.DimDynamic.STATIC for axis in range(x.dim())]
        context = shapes.StatelessSymbolicContext(dynamic_sizes=sizes, constraint_sizes=[None] * x.dim())
        real = torch.empty(tuple(x.shape), dtype=x.dtype, device=x.device)
        return self.mode.from_tensor(real, source=sources.ConstantSource(name), symbolic_context=context)
