"""The graph of a whole training step, which all families share: backward and update after a forward."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from types import ModuleType
from typing import Any

from costsim.collector import paused
from costsim.errors import nearest, one_line
from costsim.graph import autodiff
from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Graph
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Optimizer, Parallel, Trained
from costsim.models.channels import parts
from costsim.models.families import family
from costsim.models.meeting import COUNTED, Counting
from costsim.models.resizing import resized
from costsim.models.update import OPTIMIZERS, InBackward, update
from costsim.names import AttentionPairs
from costsim.parallel.builder import ShardedBuilder
from costsim.parallel.gradients import Gradients
from costsim.parallel.layout import layout
from costsim.parallel.schedules import SCHEDULES, refusal
from costsim.parallel.stages import cut

ALONE = Parallel()  # one device


def _check_globs(b: GraphBuilder) -> None:
    """Raise FieldError for a glob over weights, or over linear layers with adapters, that matches none."""
    weights = [name for name, tensor in b.tensors.items() if tensor.role == "weight"]
    targets = b.lora.targets if b.lora else ()
    if isinstance(b, ShardedBuilder) and (_unmatched(b.trainable, weights) or _unmatched(targets, _adapted(weights))):
        weights += b.of_other_stages(weights)
    for glob in _unmatched(b.trainable, weights):
        message = f"no weight is named like {one_line(glob)!r}{nearest(glob, weights)}"
        raise FieldError(("training", "trainable"), message)
    for glob in _unmatched(targets, _adapted(weights)):
        message = f"no linear layer is named like the adapters' target {one_line(glob)!r}"
        raise FieldError(("model", "lora", "targets"), message)


def _unmatched(globs: Iterable[str], names: Sequence[str]) -> list[str]:
    return [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]


def _adapted(weights: Sequence[str]) -> list[str]:
    """The linear layers that have adapters."""
    return [name.removesuffix(".lora_a.weight") for name in weights if name.endswith(".lora_a.weight")]


def packed(model: Any, batch: Any) -> tuple[Any, tuple[int, ...]]:
    """The batch as one row in which its sentences lie one after another, without padding, and their lengths.

    Raises FieldError for a batch without lengths, and for a model that wants each sentence in a row of its own.
    """
    lengths = getattr(batch, "lengths", ())
    if not lengths:
        raise FieldError(("attention_pairs",), "sentences are packed by their lengths; say batch.lengths")
    if getattr(model, "classes", None) is not None:
        raise FieldError(("attention_pairs",), "a head that looks at the first token of each row takes no packs")
    sentences = tuple(length.tokens for length in lengths for _ in range(length.sequences))
    return type(batch)(sequences=1, tokens=sum(sentences), padding_mask=False), sentences


def _check_pairs(b: GraphBuilder, model: Any) -> None:
    """Raise FieldError if `attention_pairs` leaves out nothing of what the model's masks would let it."""
    counting = COUNTED[b.attention_pairs]
    if counting.window and not any(getattr(model, "windows", None) or ()):
        raise FieldError(("attention_pairs",), f"{b.attention_pairs}: the model has no windows; say model.windows")
    if counting.causal and not counting.window and not any(pairs.causal for pairs in b.pairs.values()):
        raise FieldError(("attention_pairs",), f"{b.attention_pairs}: no attention of this model is causal")


def _check_parallel(
    module: ModuleType, optimizer: Optimizer, parallel: Parallel, micro_batches: int, counting: Counting
) -> None:
    """Raise FieldError for what cannot be shared by devices."""
    if why := refusal(parallel.schedule, parallel.pipeline, micro_batches, parallel.chunks):
        at = ("parallel", "chunks") if not SCHEDULES[parallel.schedule].chunked else ("training", "micro_batches")
        raise FieldError(at, why)
    if hasattr(module, "backward"):
        raise FieldError(("parallel",), "a traced step is that of one device; leave parallel out")
    if optimizer.kind in OPTIMIZERS and (parallel.zero or parallel.tensor > 1):
        raise FieldError(("parallel",), f"{optimizer.kind} takes whole matrices, of which ranks have shares here")
    if parallel.context > 1 and (counting.window or counting.packed):
        message = "of windows and packs its ranks have not equally many pairs; say attention_pairs: square or causal"
        raise FieldError(("parallel", "context"), message)


def _shares(trainable: Sequence[str | Trained]) -> dict[str, Fraction]:
    """By glob over weights: the share of output channels that is trained."""
    entries = [Trained(weights=entry) if isinstance(entry, str) else entry for entry in trainable]
    return {entry.weights: Fraction(repr(entry.share)) for entry in entries}


def _check_shares(shares: Mapping[str, Fraction], module: ModuleType, parallel: Parallel) -> None:
    """Raise FieldError for shares in a step of which no weight can be trained in part."""
    if min(shares.values()) < 1 and (hasattr(module, "backward") or parallel != ALONE):
        what = "a traced step" if hasattr(module, "backward") else "a step on many devices"
        raise FieldError(("training", "trainable"), f"{what} trains weights whole; leave the shares out")


def _update_after_backward(b: GraphBuilder, module: ModuleType, model: Any, loss: str, optimizer: Optimizer) -> None:
    gradients = Gradients(b)
    if hasattr(module, "backward"):  # it brings its own
        module.backward(b, model, loss, gradients.finished)
    else:
        own = cut(b, loss) if isinstance(b, ShardedBuilder) and b.parallel.pipeline > 1 else loss
        autodiff.backward(b, own, gradients.finished)
    update(b, optimizer, gradients.complete())


def _update_in_backward(b: GraphBuilder, module: ModuleType, model: Any, loss: str, optimizer: Optimizer) -> None:  # noqa: ARG001
    """Raises FieldError if a weight's gradient is not whole when the backward of one micro-batch has made it."""
    at = ("optimizer", "in_backward")
    if hasattr(module, "backward"):
        raise FieldError(at, "a traced step has its backward in one piece; leave in_backward out")
    if b.micro_batches > 1:
        raise FieldError(at, "micro-batches sum their gradients before the update; say training.micro_batches: 1")
    if isinstance(b, ShardedBuilder):
        raise FieldError(at, "ranks reduce their gradients before the update; leave parallel out")
    updates = InBackward(b, optimizer)
    autodiff.backward(b, loss, updates.finished, between=updates.step)
    updates.last()


@paused
def training_step(
    model: Any,
    batch: Any,
    optimizer: Optimizer,
    micro_batches: int = 1,
    label_smoothing: float = 0.0,
    trainable: Sequence[str | Trained] = ("*",),
    attention_pairs: AttentionPairs = "square",
    parallel: Parallel = ALONE,
) -> Graph:
    """The graph of one whole training step: forward and backward (`micro_batches` times) and update.

    `model` and `batch` are a family's sections. The loss folds in the averaging over micro-batches, so that their
    gradients are summed. `trainable` are globs over names of weights, maybe with a share of their output channels; all
    else gets no gradient. `attention_pairs`
    says which pairs of tokens attention counts; on many devices (`parallel`) it is the step of one of them. Raises
    ValueError if sizes clash, FieldError if a glob matches no weight, or if there is nothing of the model for
    `attention_pairs` to leave out.
    """
    module = family(model.family)
    sentences: tuple[int, ...] = ()
    if COUNTED[attention_pairs].packed:
        batch, sentences = packed(model, batch)
    sizes = module.sizes(model, batch)
    own = None if parallel == ALONE else layout(parallel, sizes)
    if own is not None:
        _check_parallel(module, optimizer, parallel, micro_batches, COUNTED[attention_pairs])
        sizes = own.sizes
    step = (optimizer, micro_batches, label_smoothing, tuple(trainable), attention_pairs, sentences, parallel)

    shares = _shares(trainable)
    _check_shares(shares, module, parallel)

    def built(model: Any, batch: Any) -> GraphBuilder:
        given = (micro_batches, tuple(shares), model.adapters(), attention_pairs, sentences)
        b = GraphBuilder(sizes, *given) if own is None else ShardedBuilder(parallel, own, model.stacks(), *given)
        loss = module.forward(b, model, batch, label_smoothing)
        _check_globs(b)
        b.channels = parts(b, shares)
        _check_pairs(b, model)
        append = _update_in_backward if optimizer.in_backward else _update_after_backward
        append(b, module, model, loss, optimizer)
        return b

    return resized(step, model, batch, sizes, built)
