"""What becomes of a tensor under an assignment of formats: who reads what of it, what of it is written, and why not.

Followed tensor by tensor through all its readers; `count` finds the same by classes of what is alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from costsim.cost.traffic import Held
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.assign import Assignment, Copy


class Use(NamedTuple):
    """How an op reads a tensor: what of it crosses DRAM for that, the copies that it makes for itself."""

    op: Op
    operand: int
    held: Held
    made: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """What becomes of one tensor: how it is read, which copies there are, and what of it is not written, and why."""

    uses: Sequence[Use]
    copies: Sequence[Copy]  # made by the op that makes the tensor
    casts: Mapping[Copy, tuple[Held, Use]]  # made by kernels of their own: of what, and before which op
    unwritten: Mapping[Held, str]


def label(name: str, held: Held) -> str:
    """The name of a tensor or of a copy of it."""
    return f"{name}{held.label}" if held else name


class Follower:
    """Follows tensors of a graph; ops are grouped into kernels as a traffic model says."""

    def __init__(self, graph: Graph, assignment: Assignment, traffic: Traffic) -> None:
        self.graph, self.assignment = graph, assignment
        self.group = group_ops(graph, traffic)
        self.stories: dict[str, Story] = {}

    def story(self, name: str) -> Story:
        """What becomes of a tensor."""
        if name not in self.stories:
            self.stories[name] = self._story(name)
        return self.stories[name]

    def _story(self, name: str) -> Story:
        graph, maker = self.graph, self.graph.maker.get(name)
        uses: list[Use] = []
        first: dict[Copy, Copy] = {}  # equal copies are one, under the name that the first reader gives it
        made: dict[Copy, Held] = {}  # by the tensor's maker: of what
        casts: dict[Copy, tuple[Held, Use]] = {}
        for op, operand in graph.readers.get(name, ()):
            chain = self.assignment.chain(op, operand)
            lies = [first.setdefault(copy, copy) for copy in chain if copy.placement != "on_chip"]
            held = lies[-1] if lies else None
            use = Use(op, operand, held, tuple(copy for copy in chain if copy.placement == "on_chip"))
            uses.append(use)
            for source, copy in zip([None, *lies], lies, strict=False):
                if copy.placement == "at_producer" and maker is not None:
                    made.setdefault(copy, source)
                else:
                    casts.setdefault(copy, (source, use))
        unwritten = {}
        for held in (None, *made):
            why = self._unwritten(name, held, uses, made, [source for source, _ in casts.values()])
            if why:
                unwritten[held] = why
        return Story(uses, tuple(made), casts, unwritten)

    def _unwritten(
        self, name: str, held: Held, uses: Sequence[Use], made: Mapping[Copy, Held], sources: Sequence[Held]
    ) -> str:
        """Why a tensor, or a copy made along with it, does not go to DRAM; empty if it does."""
        if held in sources:
            return ""  # a kernel of its own reads it
        readers = [use.op for use in uses if use.held == held]
        born = self.graph.producer.get(name) if held is None else self.graph.maker.get(name)
        if not readers:
            stands = [label(name, copy) for copy, of in made.items() if of == held]
            return f"nothing reads it: {', '.join(stands)} stands for it" if stands else ""
        if born is None or any(self.group[op.position] != self.group[born.position] for op in readers):
            return ""
        return f"kept on chip: only {', '.join(dict.fromkeys(op.name for op in readers))} reads it, in the same kernel"

    def on_chip(self, use: Use) -> str:
        """Why a read does not touch DRAM: an op before it in the kernel has what it reads; empty if none has."""
        name, graph = use.op.inputs[use.operand], self.graph
        story, kernel = self.story(name), self.group[use.op.position]
        made = use.held is None or use.held in story.copies
        position = use.op.position
        while position >= 0 and self.group[position] == kernel:
            other = graph.ops[position]
            if made and other is not use.op and any(name in (its, graph.root[its]) for its in other.outputs):
                return f"kept on chip: {other.name} makes it in the same kernel"
            for its in story.uses:
                before = other is not use.op or its.operand < use.operand
                if its.op is other and before and its.held == use.held:
                    return f"kept on chip: {other.name} has read it in the same kernel"
            position -= 1
        return ""
