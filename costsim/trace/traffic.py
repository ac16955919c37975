"""What PyTorch's eager kernels read and write in a step, as a dispatch mode sees it: the yardstick of traffic `eager`.

A call reads each different tensor among its arguments once and writes each of its results once. A tensor counts the
bytes of its different elements: along an axis that it only repeats (stride 0: expanded, broadcast) it has one. Views
move nothing, nor does memory that is only asked for. A lookup reads as many elements as it takes, but what repeats in
memory once. An argument of which only the shape matters, or that is overwritten whole, is not read. A number that a
module makes as it runs (torch.tensor(2.0)) is written once; the gradient of the loss is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from costsim.trace.library import DispatchMode, Tensor, torch

# By aten op: arguments that are not read.
_UNREAD: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"), ("self",)),
    **dict.fromkeys(("copy_", "fill_", "zero_", "bernoulli_", "bernoulli"), ("self",)),
    "nll_loss_backward": ("self",),
    "native_layer_norm_backward": ("bias",),
}
# By aten op that looks places up: in what, by what; without places, an element for each of the result.
_LOOKUPS: Mapping[str, tuple[str, str]] = {
    "embedding": ("weight", ""),
    "index": ("self", ""),
    "index_select": ("self", ""),
    "gather": ("self", ""),
    "nll_loss_forward": ("self", "target"),
}
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_SAME_MEMORY = ("_unsafe_view", "_reshape_alias", "lift_fresh", "lift", "alias", "detach")


class Moved(NamedTuple):
    """Bytes that a call reads and writes."""

    op: str
    read_bytes: int
    written_bytes: int


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


def _axes(x: Tensor) -> tuple[tuple[int, int], ...]:
    """Sizes and strides of the axes along which a tensor has different elements."""
    return tuple(sorted((n, step) for n, step in zip(x.shape, x.stride(), strict=True) if n != 1 and step != 0))


def _size_bytes(x: Tensor) -> int:
    """Bytes of the different elements of a tensor."""
    return math.prod(n for n, _ in _axes(x)) * int(x.element_size()) if x.numel() else 0


class TrafficCounter(DispatchMode):  # type: ignore[misc]
    """Notes what each call reads and writes, of tensors of known sizes; `given` are those there from the start."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.moved: list[Moved] = []
        self._alive: list[Any] = []  # so that no address is used twice
        self._known: set[int] = set()  # storages
        for x in given:
            self.know(x)

    @property
    def bytes(self) -> int:
        """All bytes so far."""
        return sum(read + written for _, read, written in self.moved)

    def know(self, x: Tensor) -> bool:
        """Note the memory of a tensor that is there; whether it is new."""
        storage = x.untyped_storage()
        new = storage._cdata not in self._known
        self._known.add(storage._cdata)
        self._alive.append(storage)
        return new

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and note what it moves."""
        kwargs = kwargs or {}
        for x in _tensors((*args, *kwargs.values())):
            if self.know(x):
                self.moved.append(Moved("constant", 0, _size_bytes(x)))
        made = function(*args, **kwargs)
        results = list(_tensors([made]))
        for x in results:
            self.know(x)
        schema = function._schema
        name = schema.name.partition("::")[2]
        if results and not (function.is_view or name in (*_EMPTY, *_SAME_MEMORY)):
            given = {**dict(zip((argument.name for argument in schema.arguments), args, strict=False)), **kwargs}
            written = {_place(x): _size_bytes(x) for x in results}
            self.moved.append(Moved(name, _read_bytes(name, given, results[0]), sum(written.values())))
        return made


def _place(x: Tensor) -> tuple[object, ...]:
    """What tells tensors with different elements apart: where they lie, and in which steps."""
    return x.untyped_storage()._cdata, x.storage_offset(), _axes(x)


def _read_bytes(name: str, given: Mapping[str, Any], made: Tensor) -> int:
    """The bytes that a call reads."""
    unread = _UNREAD.get(name, ())
    if name == "convolution_backward" and not given["output_mask"][0]:
        unread = ("weight",)  # that is for the gradient of the input
    looked_up, places = _LOOKUPS.get(name, ("", ""))
    read: dict[object, int] = {}
    for argument, value in given.items():
        for x in _tensors([value]) if argument not in unread else ():
            size = _size_bytes(x)
            if argument == looked_up and 0 not in x.stride():
                size = int((given[places] if places else made).numel() * x.element_size())
            read[_place(x)] = size
    return sum(read.values())
