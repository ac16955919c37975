"""Which op reads what: tensors and copies of them, and what lies in DRAM because some kernel loads it from there.

Read off the graph and the assignment only, never off the cost model.
"""

from collections.abc import Sequence

from costsim.formats.format import Format
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import Assignment, Copy

Item = tuple[str, Copy | None]  # what may lie in DRAM: a tensor (by the name of its memory), or a copy of it


def item_name(item: Item, tensor: str | None = None) -> str:
    """The name under which an item's bits are counted; `tensor` is the reader's name of the same memory."""
    return f"{tensor or item[0]}{item[1].label if item[1] else ''}"


class Plan:
    """What each op loads, which copies it makes, and what has to go to DRAM because another kernel loads it.

    `group` says, by position of the op, which kernel it is in.
    """

    def __init__(self, graph: Graph, assignment: Assignment | None, group: Sequence[int]) -> None:
        self.graph, self.assignment, self._group = graph, assignment, group
        self.loads: dict[tuple[int, int], Item] = {}  # by op and operand
        self.local: dict[tuple[int, int], list[Copy]] = {}  # by op and operand: copies that the op makes for itself
        self.made: dict[int, dict[Item, Item]] = {}  # by op: copies made along with its results, and from what
        self.casts: dict[int, dict[Item, Item]] = {}  # by op: copies made by a pass before it, and from what
        cast: set[Item] = set()
        first: dict[Item, Item] = {}  # equal copies are one, whose name the first reader gives
        for op in graph.ops:
            if self.starts_kernel(op):
                read: set[Item] = set()
            for i, name in enumerate(op.inputs):
                transient: dict[Item, Item] = {}
                item: Item = (graph.root[name], None)
                maker = graph.maker.get(name)
                for copy in assignment.chain(op, i) if assignment else ():
                    made = first.setdefault((item[0], copy), (item[0], copy))
                    if copy.placement == "on_chip":
                        self.local.setdefault((op.position, i), []).append(copy)
                        continue
                    if copy.placement == "at_producer" and maker is not None:
                        self.made.setdefault(maker.position, {})[made] = item
                    elif copy.transient:
                        transient[made] = item
                    elif made not in cast:
                        cast.add(made)
                        self.casts.setdefault(op.position, {})[made] = item
                    item = made
                self.loads[op.position, i] = item
                if transient and item not in read:
                    self.casts.setdefault(op.position, {}).update(transient)
                read.add(item)
        self.loaded = self._loaded()
        self._replaced = {source for made in self.made.values() for source in made.values()}

    def starts_kernel(self, op: Op) -> bool:
        """Whether an op is the first of its kernel: nothing is on chip yet."""
        return op.position == 0 or self._group[op.position] != self._group[op.position - 1]

    def _loaded(self) -> set[Item]:
        """What is loaded from DRAM: play the kernels through, and see what is not on chip when an op wants it."""
        loaded: set[Item] = set()
        on_chip: set[Item] = set()
        for op in self.graph.ops:
            if self.starts_kernel(op):
                on_chip = set()
            loaded.update(self.casts.get(op.position, {}).values())
            for i in range(len(op.inputs)):
                item = self.loads[op.position, i]
                if item not in on_chip:
                    loaded.add(item)
                on_chip.add(item)
            on_chip.update((self.graph.root[name], None) for name in op.outputs)
            on_chip.update(self.made.get(op.position, {}))
        return loaded

    def is_stored(self, name: str) -> bool:
        """Whether a result goes to DRAM: somebody loads it, it is an update in place, or nobody reads it at all."""
        item: Item = (self.graph.root[name], None)
        in_place = self.graph.tensors[name].alias is not None
        unread = name not in self.graph.readers and item not in self._replaced
        return in_place or unread or item in self.loaded

    def format_of(self, item: Item) -> tuple[Format | None, tuple[int, ...] | None]:
        """The format of an item, None if it is held as it is computed, and the axes along which its blocks lie."""
        if item[1] is not None:
            return item[1].format, item[1].axes
        return (self.assignment.format(item[0]) if self.assignment else None), None
