"""Stages of a pipeline: a rank has some of the layers, receives what comes from others, and sends what goes to others.

The whole forward is built, then cut: ops of other stages go, and what crosses is an op at either end. Data, and what
is made of data alone, each stage has itself. A weight that two stages read (the embedding that is the head, too) is in
both, which sum its gradients.
"""

from collections.abc import Iterator

from costsim.graph.graph import Op, Tensor
from costsim.inputs.field_error import FieldError
from costsim.parallel.builder import NOTHING, ShardedBuilder
from costsim.parallel.layout import layers_of


def _stage_of(b: ShardedBuilder) -> list[int]:
    """By op of the forward: its stage. What is before all layers is in the first, what is behind them in the last."""
    assert b.stack is not None
    stack, number = b.stack
    of = {i: stage for stage, layers in enumerate(layers_of(number, b.parallel.pipeline)) for i in layers}
    stage, every = 0, list[int]()
    for op in b.ops:
        name, _, layer = op.layer.rpartition(".")
        if name == stack and layer.isdigit():
            stage = of[int(layer)]
        elif every and stage:
            stage = b.parallel.pipeline - 1
        every.append(stage)
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


def _crossing(b: ShardedBuilder, stage_of: list[int], anywhere: set[int]) -> Iterator[tuple[str, int]]:
    """What this stage reads of others, or they of it, with the stage that makes it."""
    own = b.parallel.stage
    made = {name: stage_of[op.position] for op in b.ops if op.position not in anywhere for name in op.outputs}
    crossing = {
        name: made[name]
        for op in b.ops
        for name in op.inputs
        if name in made and made[name] != stage_of[op.position] and own in (made[name], stage_of[op.position])
    }
    yield from crossing.items()


def cut(b: ShardedBuilder, loss: str) -> tuple[str, str]:
    """Leave of the forward the ops of this rank's stage; the tensor with which its backward begins, and its gradient.

    That gradient is received, or "" where the stage has the loss. Raises FieldError for what cannot be cut.
    """
    stage, stages = b.parallel.stage, b.parallel.pipeline
    stage_of, anywhere = _stage_of(b), _made_anywhere(b)
    crossing = list(_crossing(b, stage_of, anywhere))
    received = [name for name, of in crossing if of != stage]
    sent = [name for name, of in crossing if of == stage]
    if len(received) > 1 or len(sent) > 1:
        message = f"{', '.join(received if len(received) > 1 else sent)} go on to the next stage; one tensor can"
        raise FieldError(("parallel", "pipeline"), message)
    b.tied = _tied(b, stage_of)
    own = {op.position for op in b.ops if op.position not in anywhere and stage_of[op.position] == stage}
    _keep(b, _with_needed(b.ops, anywhere, own), received)
    if not sent:
        return loss, ""
    tensor, before = b.tensors[sent[0]], b.phase
    left = Tensor(f"{tensor.name}.sent", (NOTHING,), tensor.role, tensor.layer)
    b.layer = tensor.layer
    b.op("send", tensor.name, name=f"{tensor.name}.send", outputs=[left], axis="pipeline")
    b.phase = "backward"
    gradient = Tensor(f"{tensor.name}.grad", tensor.dims, "gradient", tensor.layer)
    b.op("receive", name=f"{tensor.name}.grad.receive", outputs=[gradient], axis="pipeline")
    b.phase = before
    assert stage < stages - 1
    return tensor.name, gradient.name


def _tied(b: ShardedBuilder, stage_of: list[int]) -> set[str]:
    """The weights that two stages read. Raises FieldError for others than the first and the last."""
    readers: dict[str, set[int]] = {}
    for op in b.ops:
        for name in op.inputs:
            if b.tensors[name].role == "weight" and b.tensors[name].share_of is None:
                readers.setdefault(name, set()).add(stage_of[op.position])
    several = {name: of for name, of in readers.items() if len(of) > 1}
    for name, of in several.items():
        if of != {0, b.parallel.pipeline - 1}:
            raise FieldError(("parallel", "pipeline"), f"{name} is read by layers of several stages")
    return set(several)


def _keep(b: ShardedBuilder, positions: set[int], received: list[str]) -> None:
    """Leave these ops, after those that receive what others made, and the tensors that they touch."""
    old = list(b.ops)
    paths, tensors = dict(b.segments), dict(b.tensors)
    b.ops.clear()
    b.segments.clear()
    touched = {name for position in positions for name in old[position].inputs + old[position].outputs}
    b.tensors.clear()
    b.tensors.update((name, tensor) for name, tensor in tensors.items() if name in touched and name not in received)
    for name in received:
        b.layer = tensors[name].layer
        b.op("receive", name=f"{name}.receive", outputs=[tensors[name]], axis="pipeline")
        b.received.add(name)
    segments = {segment for path in paths.values() for segment in path}
    for segment in segments:
        segment.ops.clear()
    for op in old:
        if op.position in positions:
            moved = op._replace(position=len(b.ops))
            if op.position in paths:
                b.segments[moved.position] = paths[op.position]
                for segment in paths[op.position]:
                    segment.ops.append(moved)
            b.ops.append(moved)
    b.dropped &= set(b.tensors)
    b.layer = ""
