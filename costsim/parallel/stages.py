"""Stages of a pipeline: a rank has some of the layers, receives what comes from others, and sends what goes to others.

The layers are cut into parts, one a stage, or several (`chunks`), of which part k lies on stage k % stages. The whole
forward is built, then cut: ops of other stages go, and what crosses is an op at either end. What stages farther on read
goes along through those between, as an encoder's output through the stages of the decoder, and its gradient comes back
summed. Data, and what is made of data alone, each stage has itself. A weight that several stages read (the embedding
that is the head, too) is in each, and they sum its gradients.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from costsim.graph.graph import Op, Tensor
from costsim.inputs.field_error import FieldError
from costsim.parallel.builder import NOTHING, ShardedBuilder
from costsim.parallel.layout import joining, parts_of


def _part_of(b: ShardedBuilder) -> list[int]:
    """By op of the forward: its part.

    What is before all layers is in the first, what is behind a stack in that of its last layer; but what is between two
    stacks, and not of the first one, in that of the second's first layer.
    """
    of = {f"{stack}.{i}": part for stack, parts in b.stacks.items() for part, layers in parts.items() for i in layers}
    stacks = list(b.stacks)
    part, seen, every = 0, "", list[int]()
    for op in b.ops:
        stack = op.layer.rpartition(".")[0]
        if op.layer in of:
            part, seen = of[op.layer], stack
        elif seen:
            between = stack != seen and seen != stacks[-1]
            part = min(b.stacks[stacks[-1]]) if between else max(b.stacks[seen])
        every.append(part)
    return every


def _made_anywhere(b: ShardedBuilder) -> set[int]:
    """Positions of ops that any stage can run: those on data alone, and gathers of weights."""
    made: set[int] = set()
    own = {name for name, tensor in b.tensors.items() if tensor.role in ("data", "weight")}
    for op in b.ops:
        own.difference_update(op.outputs)
    for op in b.ops:
        of_weight = any(b.tensors[name].role == "weight" for name in op.inputs)
        if op.inputs and own.issuperset(op.inputs) and (not of_weight or op.kind.name == "all_gather_flat"):
            made.add(op.position)
            own.update(op.outputs)
    return made


def _with_needed(ops: list[Op], anywhere: set[int], keep: set[int]) -> set[int]:
    """Positions to keep, with those of ops that any stage can run and that one of them needs."""
    producer = {name: op for op in ops for name in op.outputs}
    todo = [ops[position] for position in keep]
    kept = set(keep)
    while todo:
        for name in todo.pop().inputs:
            maker = producer.get(name)
            if maker is not None and maker.position in anywhere and maker.position not in kept:
                kept.add(maker.position)
                todo.append(maker)
    return kept


class _Crossing(NamedTuple):
    """By part of this stage: the tensors that it receives, and those that it sends, in the order of the forward."""

    received: dict[int, list[str]]
    sent: dict[int, list[str]]


def _crossing(b: ShardedBuilder, part_of: Sequence[int], anywhere: set[int]) -> _Crossing:
    """What parts of this stage read of others, or they of it; what parts farther on read is passed on by those between.

    Raises FieldError for more than one tensor between chunks.
    """
    made = {name: part_of[op.position] for op in b.ops if op.position not in anywhere for name in op.outputs}
    last = dict(made)
    for op in b.ops:
        for name in op.inputs:
            if name in made:
                last[name] = max(last[name], part_of[op.position])
    crossing = _Crossing({}, {})
    for name, there in made.items():
        for part in parts_of(b.parallel):
            if there < part <= last[name]:
                crossing.received.setdefault(part, []).append(name)
            if there <= part < last[name]:
                crossing.sent.setdefault(part, []).append(name)
    for names in (*crossing.received.values(), *crossing.sent.values()):
        if len(names) > 1 and b.parallel.chunks > 1:
            raise FieldError(("parallel", "chunks"), f"{', '.join(names)} go on to the next chunk; one tensor can")
    return crossing


def cut(b: ShardedBuilder, loss: str) -> str:
    """Leave of the forward the ops of this rank's stage, between those that receive and send; its loss.

    That is "" where another stage has it. Raises FieldError for what cannot be cut.
    """
    part_of, anywhere, own = _part_of(b), _made_anywhere(b), parts_of(b.parallel)
    crossing = _crossing(b, part_of, anywhere)
    b.tied, stages = _tied(b, part_of)
    if stages:
        b.mesh = {**b.mesh, "tied": joining(stages, b.mesh["pipeline"].stride)}
    parts = {op.position: part_of[op.position] for op in b.ops if op.position not in anywhere}
    parts = {position: part for position, part in parts.items() if part in own}
    _keep(b, _with_needed(b.ops, anywhere, set(parts)), parts, crossing)
    if not any(tensor.role == "weight" and tensor.trainable for tensor in b.tensors.values()):
        message = f"stage {b.parallel.stage} trains no weight, and stages without an update are not there"
        raise FieldError(("training", "trainable"), f"{message}; train some of its weights, or cut into fewer stages")
    return loss if b.parallel.stage == b.parallel.pipeline - 1 else ""


def _tied(b: ShardedBuilder, part_of: Sequence[int]) -> tuple[set[str], tuple[int, ...]]:
    """The weights that several stages read, an embedding and a head, and these stages. Raises FieldError for others."""
    readers: dict[str, set[int]] = {}
    for op in b.ops:
        for name in op.inputs:
            if b.tensors[name].role == "weight" and b.tensors[name].share_of is None:
                readers.setdefault(name, set()).add(part_of[op.position] % b.parallel.pipeline)
    several = {name: tuple(sorted(of)) for name, of in readers.items() if len(of) > 1}
    ends = {min(parts) for parts in b.stacks.values()} | {b.parallel.pipeline - 1}
    for name, of in several.items():
        if not ends.issuperset(of) or len(set(several.values())) > 1:
            raise FieldError(("parallel", "pipeline"), f"{name} is read by layers of several stages")
    return set(several), next(iter(several.values()), ())


def _send(b: ShardedBuilder, tensor: Tensor) -> None:
    left = Tensor(f"{tensor.name}.sent", (NOTHING,), tensor.role, tensor.layer)
    b.layer = tensor.layer
    b.op("send", tensor.name, name=f"{tensor.name}.send", outputs=[left], axis="pipeline")


def _receive(b: ShardedBuilder, tensor: Tensor) -> None:
    b.layer = tensor.layer
    b.op("receive", name=f"{tensor.name}.receive", outputs=[tensor], axis="pipeline")
    b.received.add(tensor.name)


def _keep(b: ShardedBuilder, positions: set[int], parts: Mapping[int, int], crossing: _Crossing) -> None:
    """Leave these ops, of each part after what receives and before what sends, and the tensors that they touch.

    `parts` says of which part ops are, but for those that any stage can run.
    """
    old = list(b.ops)
    paths, tensors = dict(b.segments), dict(b.tensors)
    firsts = {part: position for position, part in reversed([*parts.items()])}
    lasts = {part: position for position, part in parts.items()}
    b.ops.clear()
    b.segments.clear()
    touched = {name for position in positions for name in old[position].inputs + old[position].outputs}
    b.tensors.clear()
    received = {name for names in crossing.received.values() for name in names}
    b.tensors.update((name, tensor) for name, tensor in tensors.items() if name in touched and name not in received)
    segments = {segment for path in paths.values() for segment in path}
    for segment in segments:
        segment.ops.clear()
    for op in old:
        part = parts.get(op.position, -1)
        if firsts.get(part) == op.position:
            for name in crossing.received.get(part, ()):
                _receive(b, tensors[name])
        if op.position in positions:
            moved = op._replace(position=len(b.ops))
            if op.position in paths:
                b.segments[moved.position] = paths[op.position]
                for segment in paths[op.position]:
                    segment.ops.append(moved)
            b.ops.append(moved)
        if lasts.get(part) == op.position:
            for name in crossing.sent.get(part, ()):
                _send(b, tensors[name])
    b.dropped &= set(b.tensors)
    b.layer = ""
