"""Runs a module forward and backward on tensors without numbers, and records each aten op that PyTorch calls.

The mode sits below autograd, where AOTAutograd's joint graph is taken, and sees what eager training runs: views,
copies, in-place ops, gradients summed where a tensor has several readers, forward ops run again by checkpointing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from costsim.errors import InputError, one_line
from costsim.trace.library import DispatchMode, Module, Tensor, fakes, sympy, torch, without_modes
from costsim.trace.recording import Call, Phase, Recording, Value
from costsim.trace.sizes import ONE, Size, times

_MODULES = torch.nn.modules.module


class Symbols:
    """Sizes as PyTorch has them, in the names of the dims that were marked dynamic."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # by PyTorch's symbol
        self.sizes: dict[str, Any] = {}  # PyTorch's symbolic sizes, by name
        self._known: dict[Any, Size] = {}  # by PyTorch's expression

    def size(self, number: Any) -> Size:
        """A whole number, symbolic or not."""
        if isinstance(number, int):
            return Size(number)
        expression = number.node.expr
        if expression not in self._known:
            self._known[expression] = self._factored(expression)
        return self._known[expression]

    def _factored(self, expression: Any) -> Size:
        size = ONE
        for factor, power in sympy.factor(expression).as_powers_dict().items():
            if factor.is_Integer:
                size = times(size, Size(int(factor) ** int(power)))
                continue
            text = re.sub(r"\b[a-z]\d+\b", lambda symbol: self.names[symbol[0]], str(factor))
            size = times(size, Size(1, (text,) * int(power)))
        return size


def _schema(function: Any) -> Sequence[Any]:
    arguments: Sequence[Any] = function._schema.arguments
    return arguments


def _padded(x: Tensor, pad: Sequence[Any], _value: float = 0) -> Tensor:
    shape = list(x.shape)
    for axis in range(len(pad) // 2):
        shape[-1 - axis] = shape[-1 - axis] + pad[2 * axis] + pad[2 * axis + 1]
    return x.new_empty(shape)


# What gives the shape of a result where PyTorch's own way would fix sizes that are open. No numbers are made anyway.
_SHAPES: Mapping[str, Callable[..., Any]] = {
    "aten.constant_pad_nd.default": _padded,
    "aten.polar.default": lambda abs, _angle: abs.new_empty(abs.shape, dtype=torch.complex64),
    "aten.baddbmm.default": lambda _x, a, b, **_: a.new_empty((a.shape[0], a.shape[1], b.shape[2])),
}


class Recorder(DispatchMode):  # type: ignore[misc]
    """Notes every call below autograd, with the module that makes it."""

    def __init__(self, module: Module, symbols: Symbols) -> None:
        super().__init__()
        self.paths = {id(part): path for path, part in module.named_modules()}
        self.symbols = symbols
        self.calls: list[Call] = []
        self.stack: list[str] = []  # paths of the modules whose forward runs
        self.backward = False
        self._alive: list[Any] = []  # so that no identity is used twice
        self._values: dict[int, Value] = {}
        self._numbers = count()
        self._storages: dict[int, int] = {}
        self._sequence: dict[int, int] = {}  # by autograd's number: the call that it was given to
        self._last_sequence = -1

    # --- tensors ------------------------------------------------------------------------------------------------------

    def value(self, tensor: Tensor) -> Value:
        """The value that a tensor has now."""
        if id(tensor) not in self._values:
            self._values[id(tensor)] = self._new(tensor)
        return self._values[id(tensor)]

    def _new(self, tensor: Tensor) -> Value:
        storage = tensor.untyped_storage()
        self._alive += [tensor, storage]
        shape = tuple(self.symbols.size(n) for n in tensor.shape)
        number = self._storages.setdefault(storage._cdata, len(self._storages))
        whole = bool(tensor.numel() * tensor.element_size() == storage.nbytes())
        return Value(next(self._numbers), shape, str(tensor.dtype).removeprefix("torch."), number, whole)

    def _plain(self, argument: Any) -> Any:
        """An argument without anything of PyTorch in it."""
        if isinstance(argument, torch.Tensor):
            if id(argument) not in self._values and not isinstance(argument, fakes.FakeTensor):
                self._constant(argument)
            return self.value(argument)
        if isinstance(argument, (list, tuple)):
            return tuple(map(self._plain, argument))
        if isinstance(argument, torch.SymInt):
            size = self.symbols.size(argument)
            return size if size.names else size.number
        if isinstance(argument, (torch.SymFloat, torch.SymBool)):
            raise InputError(f"{self._where()}: computes a number from sizes; mark these dims static")
        return argument if isinstance(argument, (int, float, bool, str, type(None))) else str(argument)

    # --- calls --------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and note it."""
        kwargs = kwargs or {}
        phase, forward = self._phase()
        names = [argument.name for argument in _schema(function)]
        arguments = {
            argument.name: argument.default_value for argument in _schema(function) if argument.has_default_value()
        }
        arguments |= {**dict(zip(names, args, strict=False)), **kwargs}
        plain = {name: self._plain(argument) for name, argument in arguments.items()}
        made = _SHAPES.get(str(function), function)(*args, **kwargs)
        self._check_open(str(function))
        results = [x for x in (made if isinstance(made, (tuple, list)) else (made,)) if isinstance(x, torch.Tensor)]
        if not results:
            return made
        if function._schema.is_mutable:
            self._forget(function, arguments)
        values = tuple(map(self.value, results))
        self.calls.append(Call(str(function), plain, values, phase, self._where(forward), forward))
        return made

    def _check_open(self, op: str) -> None:
        """Raise InputError if a call has fixed a size that is to stay open."""
        for dim, size in self.symbols.sizes.items():
            if size.node.expr.is_number:
                hint = "--static fixes all sizes; or name no such axis"
                raise InputError(f"module {self._where() or '(outermost)'}: {op} takes {dim} as {size}; {hint}")

    def _constant(self, tensor: Tensor) -> None:
        """Note a number that the module makes as it runs, such as torch.tensor(2.0), as a call that makes it."""
        if tensor.numel() != 1:
            shape = tuple(tensor.shape)
            raise InputError(f"module {self._where() or '(outermost)'}: a constant of shape {shape}; make it a buffer")
        phase, forward = self._phase()
        value = self._new(tensor)
        self._values[id(tensor)] = value
        with without_modes():
            arguments = {"fill_value": tensor.item()}
        self.calls.append(Call("aten.full.default", arguments, (value,), phase, self._where(forward), forward))

    def _forget(self, function: Any, arguments: Mapping[str, Any]) -> None:
        """Drop the values of what a call has overwritten: it has others now."""
        for argument in _schema(function):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._values.pop(id(arguments[argument.name]), None)

    def _phase(self) -> tuple[Phase, int | None]:
        """When a call runs; for the backward, the call whose gradient it makes."""
        if not self.backward:
            sequence = torch.autograd._get_sequence_nr() - 1
            if sequence != self._last_sequence:
                self._sequence[sequence] = len(self.calls)
                self._last_sequence = sequence
            return "forward", None
        node = torch._C._current_autograd_node()
        forward = None if node is None else self._sequence.get(node._sequence_nr())
        return ("recompute" if self.stack else "backward"), forward

    def _where(self, forward: int | None = None) -> str:
        if self.stack or not self.backward:
            return self.stack[-1] if self.stack else ""
        return self.calls[forward].path if forward is not None else self.calls[-1].path if self.calls else ""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module runs."""

        def enter(module: Module, _inputs: Any) -> None:
            path = self.paths.get(id(module))
            self.stack.append(self.stack[-1] if path is None and self.stack else path or "")

        def leave(_module: Module, _inputs: Any, _result: Any) -> None:
            self.stack.pop()

        hooks = [
            _MODULES.register_module_forward_pre_hook(enter),
            _MODULES.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


# --- a step -----------------------------------------------------------------------------------------------------------


def loss_of(made: Any) -> Tensor:
    """The loss among what a module gives back: the scalar. Raises InputError."""
    loss = getattr(made, "loss", None)
    if loss is None and isinstance(made, Mapping):
        loss = made.get("loss")
    if loss is None:
        loss = made[0] if isinstance(made, (tuple, list)) and made else made
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"the module gives back no loss, a scalar with a gradient, but {one_line(shape)}")
    return loss


def record(
    module: Module,
    inputs: Mapping[str, Any],
    symbols: Symbols,
    source: str,
    examples: Mapping[str, int],
    marks: Mapping[str, Mapping[int, str]],
) -> Recording:
    """A step of a module on inputs by name, both without numbers. Raises InputError for what cannot be traced."""
    recorder = Recorder(module, symbols)
    parameters = dict(module.named_parameters())
    given = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)} | dict(module.named_buffers())
    values = {name: recorder.value(x) for name, x in parameters.items()}
    data = {name: recorder.value(x) for name, x in given.items()}
    trained = {name: x for name, x in parameters.items() if x.requires_grad}
    with recorder.following(), recorder:
        loss = loss_of(module(**inputs)).reshape(())
        scalar = recorder.value(loss)
        recorder.backward = True
        made = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    gradients = {name: recorder.value(x) for name, x in zip(trained, made, strict=True) if x is not None}
    weights = [x for x in parameters.values() if x.is_floating_point()]
    kinds = Counter[str]()
    for x in weights:
        kinds[str(x.dtype).removeprefix("torch.")] += x.numel()
    return Recording(
        source,
        {"torch": torch.__version__},
        tuple(recorder.calls),
        values,
        frozenset(set(values) - set(gradients)),
        data,
        scalar,
        gradients,
        examples,
        marks,
        kinds.most_common(1)[0][0] if kinds else "float32",
    )
