"""Peak memory of a training step: what lies in DRAM when, by last use, and what each byte is for.

Time is the kernel that runs. Something lies in memory from the kernel that writes it to the last one that reads it;
what the traffic model keeps on chip takes none. A transient copy lies there for each kernel that reads it. Weights,
optimizer states and their other copies stay through the whole step, and so do sums of gradients over micro-batches: the
step is seen in a micro-batch that is not the first, and not the last of three or more.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from costsim.collector import paused
from costsim.cost.count import count, stored_bits
from costsim.cost.read_only import resident_bits
from costsim.cost.row import each_op
from costsim.formats.format import Format
from costsim.graph.autodiff import AFTER_FORWARD
from costsim.graph.fusion import group_ops
from costsim.graph.graph import Graph, InFlight, Op, Tensor
from costsim.graph.kinds import Dims
from costsim.names import Traffic
from costsim.policy.assign import Assignment, Copy, assign
from costsim.policy.policy import Policy

COMPONENTS = ("weights", "master_weights", "gradients", "optimizer_states", "stash", "logits", "temporaries")


class Stored(NamedTuple):
    """A tensor or copy in memory, from one kernel to another (both included)."""

    name: str
    tensor: str  # whose values it holds
    copy: Copy | None
    format: Format
    component: str
    size_bytes: int
    first: int
    last: int
    producer: str  # the op that writes it; "" if it is given
    consumer: str  # the op that reads it last; "" if none does
    kept: bool  # for the backward, when the forward ends


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What lies in memory during a step."""

    peak_bytes: int
    peak_kernel: int
    peak_op: Op  # the last op of that kernel
    components: Mapping[str, int]  # bytes of each at the peak, in the order of COMPONENTS
    stored: Sequence[Stored]

    def at_peak(self, component: str) -> list[Stored]:
        """What makes up a component at the peak, the largest first."""
        places = [place for place in self.stored if place.component == component and self.is_alive(place)]
        return sorted(places, key=lambda place: (-place.size_bytes, place.name))

    def is_alive(self, place: Stored) -> bool:
        """Whether something is in memory at the peak."""
        return place.first <= self.peak_kernel <= place.last

    @property
    def largest(self) -> Stored:
        """What takes most at the peak."""
        return max(filter(self.is_alive, self.stored), key=lambda place: place.size_bytes)

    @property
    def activations(self) -> list[Stored]:
        """What the forward keeps for the backward, wherever the peak is, in the order in which it is first touched."""
        return [place for place in self.stored if place.kept]

    @property
    def wider_copies(self) -> list[Stored]:
        """The copies at the peak in wider formats than what they are copies of, where that lies there too."""
        alive = {(place.tensor, place.copy): place for place in self.stored if self.is_alive(place)}
        beside = [(place, alive.get((name, copy.source))) for (name, copy), place in alive.items() if copy]
        return [place for place, source in beside if source and source.format.element_bits < place.format.element_bits]


class Key(NamedTuple):
    """Of a place in memory: the tensor that it was first, or a copy of it."""

    name: str
    copy: Copy | None
    kernel: int | None = None  # the one that a transient copy is for

    @property
    def transient(self) -> bool:
        """Whether it is there for one kernel only."""
        return self.kernel is not None


@dataclass(slots=True)
class _Life:
    """How long something is in memory, as far as ops have been looked at."""

    first: int
    last: int
    producer: str
    name: str
    reader: Op | None = None


def _lives(graph: Graph, assignment: Assignment, traffic: Traffic) -> dict[Key, _Life]:
    """Everything that is ever written to or read from memory, with the kernels that do so first and last."""
    group, root, place = group_ops(graph, traffic), graph.root, graph.place
    lives: dict[Key, _Life] = {}
    for op, row in each_op(count(graph, assignment, traffic)):
        kernel = group[op.position]
        names = op.inputs + op.outputs
        for move in row.moves:
            transient = move.copy is not None and move.copy.transient
            name = (root if move.copy else place)[names[move.slot]]
            key = Key(name, move.copy, kernel if transient else None)
            life = lives.get(key)
            if life is None:
                writes = move.written_bits and (not move.read_bits or move.slot >= len(op.inputs))
                writer = row.name(op) if writes else ""  # else temporaries of eager mode, of the size of an operand
                shared = move.copy is None and name in graph.shared
                life = lives[key] = _Life(kernel, kernel, writer, name if shared else move.tensor(op))
            life.last = kernel
            if move.read_bits:
                life.reader = op
    return lives


def _for_backward(tensor: Tensor, life: _Life) -> bool:
    """Whether it is of the forward, and the backward (or what makes it again) reads it last."""
    return life.reader is not None and life.reader.phase in AFTER_FORWARD and is_of_forward(tensor)


def is_of_forward(tensor: Tensor) -> bool:
    """Whether it is something of the forward, as it was made first."""
    return tensor.role in ("activation", "data") and tensor.recomputes is None


def _component(tensor: Tensor, key: Key, life: _Life, lasts: set[str], copied: set[str], logits: set[Dims]) -> str:
    if key.transient:
        return "temporaries"
    if tensor.role == "weight":
        return "master_weights" if key.copy is None and key.name in copied else "weights"
    if tensor.role == "weight_gradient":
        return "gradients"
    if key.name in lasts:
        return "optimizer_states"
    if tensor.dims in logits:
        return "logits"
    return "stash" if _for_backward(tensor, life) else "temporaries"


def lasting(graph: Graph) -> set[str]:
    """What is there from step to step."""
    producer = graph.producer
    return {
        name for name, tensor in graph.tensors.items() if tensor.role in ("weight", "state") and name not in producer
    }


def _is_made_once(graph: Graph, key: Key) -> bool:
    """Whether all micro-batches read what is made before the first: a weight's copy by a pass of its own, or a weight.

    A weight that is gathered once a step is one, and so are its copies.
    """
    maker, stored = graph.producer.get(key.name), key.copy is not None and key.copy.placement == "stored"
    if graph.tensors[key.name].role != "weight":
        return False
    return stored if maker is None else maker.times == 1 and maker.phase == "forward"


def _by_producer(copy: Copy | None) -> bool:
    """Whether the op that makes a tensor writes this: the tensor, or a copy of it."""
    return copy is None or copy.placement == "at_producer"


def from_start(graph: Graph, key: Key) -> bool:
    """Whether it lies there from the start: given from outside, or made before this micro-batch."""
    name, copy, _ = key
    if _is_made_once(graph, key) and graph.micro_batches > 1:
        return True
    return name not in graph.producer and _by_producer(copy)


def to_end(graph: Graph, key: Key, lasts: set[str]) -> bool:
    """Whether it stays after its last read: for the next step, or for a micro-batch that comes after this one.

    Of three micro-batches or more, the one seen is neither the first nor the last.
    """
    name, copy, _ = key
    return (name in lasts and _by_producer(copy)) or (_is_made_once(graph, key) and graph.micro_batches > 2)


def made_again(graph: Graph) -> set[str]:
    """What is made again for the backward, in both of its lives: no results of the step, the backward reads one."""
    recomputed = {name: tensor.recomputes for name, tensor in graph.tensors.items() if tensor.recomputes is not None}
    return {*recomputed, *recomputed.values()}


def whole_bytes(bits: int) -> int:
    """The bytes of what is stored."""
    return -(-bits // 8)


def bytes_here(graph: Graph, name: str, bits: int) -> int:
    """The bytes of a tensor, or of a copy, that takes so many bits: of what passes round a ring those of 2 shares."""
    shares = graph.passing.get(name, 2)
    return whole_bytes(-(-2 * bits // shares))


def _size_bytes(graph: Graph, assignment: Assignment, name: str, copy: Copy | None) -> int:
    """The bytes that a tensor or a copy of it takes of the memory; what lies in flash takes none."""
    if copy is not None:
        return bytes_here(graph, name, stored_bits(graph, assignment, name, copy))
    return bytes_here(graph, name, resident_bits(graph, name, assignment.format(name)))


def _places(graph: Graph, assignment: Assignment, traffic: Traffic, end: int) -> Iterator[Stored]:
    lives, lasts, tensors = _lives(graph, assignment, traffic), lasting(graph), graph.tensors
    for name in tensors:  # what no op reads in this way is there all the same
        if name in lasts and tensors[name].alias is None and Key(name, None) not in lives:
            lives[Key(name, None)] = _Life(0, end, "", name)
    copied = {key.name for key in lives if key.copy is not None and not key.transient}
    logits = {graph.tensors[op.inputs[0]].dims for op in graph.ops if op.kind.input_names[:1] == ("logits",)}
    forward_end = max(group_ops(graph, traffic)[op.position] for op in graph.ops if op.phase == "forward")
    again = made_again(graph)
    sizes: dict[tuple[Dims, int, Copy | None, bool, bool], int] = {}
    stored_as = assignment.classes.stored_as
    for key, life in lives.items():
        name, copy = key.name, key.copy
        tensor, reader = tensors[name], life.reader
        alike = (tensor.dims, stored_as[name], copy, name in graph.parts, name in graph.passing)
        size = sizes.get(alike)
        if size is None:
            size = sizes[alike] = _size_bytes(graph, assignment, name, copy)
        if copy is None and name in graph.shared:
            size = max(_size_bytes(graph, assignment, part, None) for part in graph.shared[name])
        first = 0 if from_start(graph, key) else life.first
        unread = reader is None and name not in again  # a result of the step
        last = end if unread or to_end(graph, key, lasts) else life.last
        component = _component(tensor, key, life, lasts, copied, logits)
        format = copy.format if copy else assignment.format(name)
        kept = not key.transient and first <= forward_end < last and _for_backward(tensor, life)
        consumer = reader.name if reader else ""
        yield Stored(life.name, name, copy, format, component, size, first, last, life.producer, consumer, kept)


class Laid(NamedTuple):
    """What lies in memory, and how many bytes but for what other micro-batches have kept."""

    stored: Sequence[Stored]
    live: Sequence[int]  # bytes, by kernel
    chunk_of: Mapping[int, int]  # by kernel but those of the update: of the stage, that it works on
    kept: Counter[int]  # by chunk: bytes that a forward keeps

    def with_others(self, flying: InFlight) -> list[int]:
        """Bytes, by kernel, with so many micro-batches of a stage of a pipeline in flight."""
        live, others = list(self.live), of_others(flying, self.kept)
        for kernel, chunk in self.chunk_of.items():
            live[kernel] += others[chunk]
        return live

    def part(self, stored: Sequence[Stored]) -> "Laid":
        """Some of what lies there, as if it were all."""
        return _laid(stored, len(self.live), self.chunk_of)


def of_others(flying: InFlight, kept: Mapping[int, int]) -> list[int]:
    """By chunk at work of a pipeline's stage: bytes that forwards have kept but for this micro-batch's, so far.

    Each chunk keeps as much of a micro-batch as of any other: `kept`.
    """
    sizes = [kept.get(chunk, 0) for chunk in range(len(flying))]
    return [
        max(sum(n * size for n, size in zip(state, sizes, strict=True)) for state in states) - sum(sizes[: chunk + 1])
        for chunk, states in enumerate(flying)
    ]


def _laid(stored: Sequence[Stored], kernels: int, chunk_of: Mapping[int, int]) -> Laid:
    """What lies in memory, added up."""
    change, kept = [0] * (kernels + 1), Counter[int]()
    for place in stored:
        change[place.first] += place.size_bytes
        change[place.last + 1] -= place.size_bytes
        if place.kept:
            kept[chunk_of.get(place.last, 0)] += place.size_bytes
    return Laid(stored, list(accumulate(change))[:-1], chunk_of, kept)


@lru_cache(maxsize=2)  # stages of a pipeline that are alike differ in what is in flight
@paused
def laid(graph: Graph, assignment: Assignment, traffic: Traffic) -> Laid:
    """What lies in memory during a step under an assignment of formats."""
    group = group_ops(graph, traffic)
    end = group[-1]
    stored = list(_places(graph, assignment, traffic, end))
    chunk_of = {group[op.position]: chunk for op, chunk in zip(graph.ops, graph.chunk_of, strict=True)}
    for kernel in {group[op.position] for op in graph.ops if op.phase == "update"}:
        del chunk_of[kernel]
    return _laid(stored, end + 1, chunk_of)


@lru_cache(maxsize=32)
@paused
def memory(graph: Graph, assignment: Assignment, traffic: Traffic, in_flight: InFlight | None = None) -> Memory:
    """What lies in memory during a step under an assignment of formats, in exact bytes; each place is whole bytes.

    `in_flight`: micro-batches that a stage of a pipeline has in flight, if others than the graph says.
    """
    here, group = laid(graph, assignment, traffic), group_ops(graph, traffic)
    stored, live = here.stored, here.with_others(graph.in_flight if in_flight is None else in_flight)
    peak = max(range(len(live)), key=live.__getitem__)
    parts = dict.fromkeys(COMPONENTS, 0)
    for place in stored:
        if place.first <= peak <= place.last:
            parts[place.component] += place.size_bytes
    parts["stash"] += live[peak] - sum(parts.values())  # what other micro-batches have kept, if they are there then
    last_op = next(op for op in reversed(graph.ops) if group[op.position] == peak)
    return Memory(live[peak], peak, last_op, parts, stored)


def of_phase(graph: Graph, policy: Policy, index: int, traffic: Traffic) -> Memory:
    """The memory of a step in the phase of a policy with that index. Raises InputError if the policy does not fit."""
    return memory(graph, assign(graph, policy, index), traffic)


def of_policy(graph: Graph, policy: Policy, traffic: Traffic) -> tuple[int, Memory]:
    """The phase of a policy in which the peak is highest (from 0), and the memory in it."""
    phases = [of_phase(graph, policy, i, traffic) for i in range(len(policy.file.phases))]
    highest = max(range(len(phases)), key=lambda i: phases[i].peak_bytes)
    return highest, phases[highest]


def standing_bytes(graph: Graph, policy: Policy) -> int:
    """What weights and states alone take, between steps too, in the phase in which that is most: less than any peak."""
    names = [name for name in sorted(lasting(graph)) if graph.tensors[name].alias is None]
    phases = [assign(graph, policy, i) for i in range(len(policy.file.phases))]
    return max(sum(_size_bytes(graph, phase, name, None) for name in names) for phase in phases)
