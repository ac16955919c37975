"""How ops read and write a tensor under an assignment of formats: which copies they read, what is written, why not.

A Follower takes each tensor through all its readers; cost/count gets the same numbers from classes of like ops.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from costsim.cost.traffic import Held
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph, Op
from costsim.names import Traffic
from costsim.policy.assign import Assignment, Copy


class Use(NamedTuple):
    """How an op reads a tensor: what crosses DRAM for that (tensor or copy), which copies the op makes on chip."""

    op: Op
    operand: int
    held: Held
    made: tuple[Copy, ...]


class Cast(NamedTuple):
    """A quantize kernel: the copy that it makes, from what, and the use that comes after it."""

    copy: Copy
    source: Held
    use: Use


@dataclass(frozen=True, slots=True)
class Story:
    """The uses of one tensor, its copies, and which of these are not written to DRAM, with the reason."""

    uses: Sequence[Use]
    copies: Sequence[Copy]  # made by the op that makes the tensor
    casts: Sequence[Cast]
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
        """The story of a tensor, worked out once."""
        if name not in self.stories:
            self.stories[name] = self._story(name)
        return self.stories[name]

    def _story(self, name: str) -> Story:
        graph, maker = self.graph, self.graph.maker.get(name)
        uses: list[Use] = []
        first: dict[Copy, Copy] = {}  # equal copies are one, under the name that the first reader gives it
        made: dict[Copy, Held] = {}  # by the tensor's maker, from which source
        casts: list[Cast] = []
        for op, operand in graph.readers.get(name, ()):
            chain = self.assignment.chain(op, operand)
            stored = [first.setdefault(copy, copy) for copy in chain if copy.placement != "on_chip"]
            held = stored[-1] if stored else None
            use = Use(op, operand, held, tuple(copy for copy in chain if copy.placement == "on_chip"))
            uses.append(use)
            for source, copy in zip([None, *stored], stored, strict=False):
                if copy.placement == "at_producer" and maker is not None:
                    made.setdefault(copy, source)
                elif copy.transient or all(cast.copy != copy for cast in casts):
                    casts.append(Cast(copy, source, use))
        unwritten = {}
        for held in (None, *made):
            why = self._unwritten(name, held, uses, made, [cast.source for cast in casts])
            if why:
                unwritten[held] = why
        return Story(uses, tuple(made), tuple(casts), unwritten)

    def _unwritten(
        self, name: str, held: Held, uses: Sequence[Use], made: Mapping[Copy, Held], sources: Sequence[Held]
    ) -> str:
        """Why a tensor, or a copy made along with it, does not go to DRAM; empty if it does."""
        if held in sources:
            return ""  # a kernel of its own reads it
        readers = [use.op for use in uses if use.held == held]
        born = self.graph.producer.get(name) if held is None else self.graph.maker.get(name)
        if not readers:
            copies = [label(name, copy) for copy, source in made.items() if source == held]
            return f"nothing reads it: {', '.join(copies)} stands for it" if copies else ""
        if born is None or any(self.group[op.position] != self.group[born.position] for op in readers):
            return ""
        return f"kept on chip: only {', '.join(dict.fromkeys(op.name for op in readers))} reads it, in the same kernel"

    def results(self, op: Op) -> Iterator[tuple[str, str, list[Op]]]:
        """What an op may write, tensors and copies: label, role, and who reads it, those behind a view of it too."""
        for name in op.outputs:
            root = self.graph.root[name]
            for held in (None, *self.story(root).copies):
                of = name if held is None else root
                yield label(of, held), self.graph.tensors[of].role, list(self._reading(root, held))

    def _reading(self, name: str, held: Held) -> Iterator[Op]:
        for use in self.story(name).uses:
            if use.held == held:
                yield use.op
                if use.op.kind.view:
                    yield from self._reading(use.op.outputs[0], None)

    def casts(self, op: Op) -> Iterator[tuple[str, Cast]]:
        """The quantize kernels that run before an op, each with the tensor of which it makes a copy.

        A transient copy that an op before has read in the same kernel is not made once more.
        """
        for name in dict.fromkeys(op.inputs):
            for cast in self.story(name).casts:
                if cast.use.op is op and not (cast.copy.transient and self.on_chip(cast.use)):
                    yield name, cast

    def on_chip(self, use: Use) -> str:
        """Why a read does not touch DRAM: an earlier op of the kernel makes or reads the same; empty if none does."""
        name, graph = use.op.inputs[use.operand], self.graph
        story, kernel = self.story(name), self.group[use.op.position]
        made = use.held is None or use.held in story.copies
        position = use.op.position
        while position >= 0 and self.group[position] == kernel:
            other = graph.ops[position]
            if made and other is not use.op and any(name in (output, graph.root[output]) for output in other.outputs):
                return f"kept on chip: {other.name} makes it in the same kernel"
            for earlier in story.uses:
                before = other is not use.op or earlier.operand < use.operand
                if earlier.op is other and before and earlier.held == use.held:
                    return f"kept on chip: {other.name} has read it in the same kernel"
            position -= 1
        return ""
