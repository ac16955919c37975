"""Op kinds by name: rows of the table, collectives, and the two sorts of equations."""

from __future__ import annotations

import copyreg
from collections.abc import Callable

from costsim.errors import nearest
from costsim.graph.kinds import Kind, contraction
from costsim.graph.ops.collectives import COLLECTIVES
from costsim.graph.ops.pointwise import pointwise
from costsim.graph.ops.register import OPS


def kind_of(name: str) -> Kind:
    """The kind of that name: a row, a collective, or an equation, pointwise or einsum. Raises ValueError."""
    if name in OPS:
        return OPS[name]
    if name in COLLECTIVES:
        return COLLECTIVES[name]
    if "->" in name:
        return pointwise(name) if " " in name else contraction(name)
    raise ValueError(f"unknown op kind {name!r}{nearest(name, OPS)}")


def _by_name(kind: Kind) -> tuple[Callable[[str], Kind], tuple[str]]:
    return kind_of, (kind.name,)


copyreg.pickle(Kind, _by_name)  # there is one object per kind; its functions stay here
