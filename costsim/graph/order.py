"""In which order gradients are made: the last op's first, but for stretches of ops whose gradients are made at once.

Such stretches (`Segment.at_once`) are chunks of one job, such as the rows of a head and loss. Each is followed by its
own backward before the next begins, so that what the backward of one reads is gone when the next runs.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from costsim.graph.builder import GraphBuilder, Segment
from costsim.graph.graph import Op


def stretch(builder: GraphBuilder, op: Op) -> Segment | None:
    """The stretch with gradients at once that a forward op is in."""
    return next((segment for segment in builder.segments.get(op.position, ()) if segment.at_once), None)


def in_backward_order(builder: GraphBuilder) -> list[Op]:
    """The forward ops from the last to the first; stretches beside each other in the order in which they run."""
    order: list[Op] = []
    for at_once, beside in groupby(reversed(builder.ops), lambda op: stretch(builder, op) is not None):
        ops = list(beside)
        if at_once:
            stretches = [list(one) for _, one in groupby(ops, lambda op: stretch(builder, op))]
            ops = [op for one in reversed(stretches) for op in one]
        order += ops
    return order


def move_behind(builder: GraphBuilder, made: Mapping[Segment, Sequence[Op]]) -> None:
    """Move the ops that are made for a stretch right behind it; positions change, and segments are forgotten."""
    if not made:
        return
    moved = {op.position for ops in made.values() for op in ops}
    behind = {segment.ops[-1].position: ops for segment, ops in made.items()}
    ops = [each for op in builder.ops if op.position not in moved for each in (op, *behind.get(op.position, ()))]
    builder.ops[:] = [op._replace(position=position) for position, op in enumerate(ops)]
    builder.segments.clear()
