"""Training steps that differ in sizes alone: one is built, the others are the same ops with other sizes.

A step is built once more only if something differs that its ops or names hang on. What that is nobody has to list:
while a step is built, the fields of the model and of the batch that are read are noted, and the sizes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, NamedTuple

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Graph
from costsim.inputs.section import from_file

_MOST = 4  # steps that are known: a graph takes megabytes


class Noted:
    """Stands for a section of a workload, and notes the fields of it that are read, through properties too."""

    def __init__(self, section: Any) -> None:
        self._section, self.read = section, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        kind = type(self._section)
        attribute = None if name in kind.section_fields else getattr(kind, name)
        if isinstance(attribute, (property, FunctionType)) and not isinstance(attribute, from_file):
            return attribute.__get__(self)  # which reads fields in turn
        self.read[name] = getattr(self._section, name)
        return self.read[name]

    def same(self, section: Any) -> bool:
        """Whether another section has the same values in all fields that were read."""
        return all(getattr(section, name) == value for name, value in self.read.items())


class _Built(NamedTuple):
    """A step, what it was given, and what was read of that."""

    given: object
    model: Noted
    batch: Noted
    sizes: Mapping[str, int]  # that were read
    graph: Graph


_built: deque[_Built] = deque(maxlen=_MOST)


def resized(
    given: object, model: Any, batch: Any, sizes: Mapping[str, int], build: Callable[[Any, Any], GraphBuilder]
) -> Graph:
    """The step of a model and a batch: a known one with these sizes, else the one that `build` makes.

    `given` is all else that the step is made from.
    """
    given = (type(model), type(batch), tuple(sizes), given)
    for known in tuple(_built):
        read = known.sizes.items()
        if known.given == given and known.model.same(model) and known.batch.same(batch) and read <= sizes.items():
            with suppress(ValueError):  # another thread may have had it
                _built.remove(known)
            _built.append(known)
            return known.graph.resized(sizes)
    noted = Noted(model), Noted(batch)
    builder = build(*noted)
    graph = builder.build()
    _built.append(_Built(given, *noted, {dim: sizes[dim] for dim in builder.sizes.read if dim in sizes}, graph))
    return graph


def forget() -> None:
    """Know no step any more: the next is built."""
    _built.clear()
