"""The graph of a whole training step, which all families share: backward and update after a forward."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from costsim.collector import paused
from costsim.errors import nearest, one_line
from costsim.graph.autodiff import backward
from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Graph, Tensor
from costsim.inputs.files import Where
from costsim.inputs.schema_workload import Optimizer
from costsim.models.families import family


class FieldError(ValueError):
    """What does not fit, and the field of a workload file that says it."""

    def __init__(self, at: Where, message: str) -> None:
        super().__init__(message)
        self.at = at


def _update(b: GraphBuilder, optimizer: Optimizer, gradients: dict[str, str]) -> None:
    """Clipping by the global norm, if asked for, then the optimizer's op on every weight."""
    b.phase, b.times = "update", 1
    clip = None
    if optimizer.clip_norm is not None:
        b.layer = "clip"
        parts = [b.op("square_sum", grad, name=f"{grad}.square_sum") for grad in gradients.values()]
        total = parts[0]
        for i, part in enumerate(parts[1:], 1):
            total = b.op("add", total, part, name=f"clip.sum.{i}")
        clip = b.op("clip_factor", total, name="clip.factor", max_norm=optimizer.clip_norm)
    hyper = optimizer.model_dump(include={"lr", "beta1", "beta2", "eps", "weight_decay"})
    for weight, grad in gradients.items():
        of = b.tensors[weight]
        b.layer = of.layer
        if clip is not None:
            clipped = Tensor(f"{grad}.clipped", of.dims, "weight_gradient", of.layer, alias=grad)
            grad = b.op("rescale", grad, clip, name=f"{grad}.rescale", outputs=[clipped])
        states = [b.given(f"{weight}.{state}", of.dims, role="state") for state in ("m", "v")]
        outputs = [
            Tensor(f"{name}.next", of.dims, b.tensors[name].role, of.layer, alias=name) for name in (weight, *states)
        ]
        b.op(optimizer.kind, weight, grad, *states, name=f"{weight}.{optimizer.kind}", outputs=outputs, **hyper)
    b.layer = ""


@paused
def training_step(
    model: Any,
    batch: Any,
    optimizer: Optimizer,
    micro_batches: int = 1,
    label_smoothing: float = 0.0,
    trainable: Sequence[str] = ("*",),
) -> Graph:
    """The graph of one whole training step: forward and backward (`micro_batches` times) and update.

    `model` and `batch` are a family's sections. Gradients of micro-batches are summed in place: the first becomes the
    sum, each further one is added (n - 1 adds), as PyTorch does after zero_grad(set_to_none=True); averaging is folded
    into the loss. `trainable` are globs over names of weights; the others get no gradient. Raises ValueError if sizes
    clash, or a glob matches no weight.
    """
    module = family(model.family)
    b = GraphBuilder(module.sizes(model, batch), micro_batches, trainable, model.adapters())
    loss = module.forward(b, model, batch, label_smoothing)
    weights = [name for name, tensor in b.tensors.items() if tensor.role == "weight"]
    for glob in trainable:
        if not any(fnmatchcase(name, glob) for name in weights):
            message = f"no weight is named like {one_line(glob)!r}{nearest(glob, weights)}"
            raise FieldError(("training", "trainable"), message)
    adapted = [name.removesuffix(".lora_a.weight") for name in weights if name.endswith(".lora_a.weight")]
    for glob in b.lora.targets if b.lora else ():
        if not any(fnmatchcase(name, glob) for name in adapted):
            message = f"no linear layer is named like the adapters' target {one_line(glob)!r}"
            raise FieldError(("model", "lora", "targets"), message)
    gradients: dict[str, str] = {}

    def finished(weight: str, gradient: str) -> None:
        gradients[weight] = gradient
        if micro_batches > 1:
            of = b.tensors[weight]
            acc = b.tensor(Tensor(f"{weight}.grad_sum", of.dims, "weight_gradient", of.layer))
            total = Tensor(f"{weight}.grad_sum.next", of.dims, "weight_gradient", of.layer, alias=acc)
            b.times = micro_batches - 1
            gradients[weight] = b.op("accumulate", acc, gradient, name=f"{weight}.accumulate", outputs=[total])
            b.times = micro_batches

    backward(b, loss, finished)
    _update(b, optimizer, gradients)
    return b.build()
