"""Models traced from PyTorch: forward and backward as `costsim trace` wrote them to a file, the update is costsim's."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from costsim.errors import InputError, nearest, one_line
from costsim.graph import builder
from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Tensor
from costsim.graph.ops import kind_of
from costsim.inputs.field_error import FieldError
from costsim.inputs.section import Count, Field, Section, from_file
from costsim.models import traced_file
from costsim.models.traced_file import Traced, TracedOp


class Model(Section):
    """A graph that `costsim trace` wrote."""

    family: Literal["traced"] = Field(description="which fields a model has, and how it is built")
    file: str = Field(description="the traced graph, from the workload's folder")

    @from_file
    def traced(self) -> Traced:
        """What the file holds. Raises InputError for what is none."""
        return traced_file.read(Path(self.file))

    def adapters(self) -> builder.Lora | None:
        """None: what a traced model has, it has."""
        return None


def located(model: Model, folder: Path) -> Model:
    """The model of a workload in that folder, with the whole path of its file. Raises FieldError for no trace."""
    whole = model.changed(file=str(folder / model.file))
    try:
        _ = whole.traced
    except InputError as error:
        raise FieldError(("model", "file"), str(error)) from None
    return whole


class Batch(Section):
    """One micro-batch: sizes of the dims that were traced as dynamic; those of the example where nothing is said."""

    sequences: Count | None = Field(default=None, description="the dim batch")
    tokens: Count | None = Field(default=None, description="the dim tokens")
    sizes: dict[str, Count] = Field(default={}, description="other dynamic dims, by name")

    @property
    def lengths(self) -> tuple[()]:
        """None: what is padding in a trace nobody knows."""
        return ()

    @property
    def dims(self) -> dict[str, int]:
        """All that is said, by dim."""
        named = {"batch": self.sequences, "tokens": self.tokens}
        return {**{name: size for name, size in named.items() if size is not None}, **self.sizes}


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError for a dim that was not traced as dynamic."""
    traced = model.traced
    for name in batch.dims:
        if name not in traced.examples:
            fixed = "is fixed in the trace" if name in traced.sizes else "is none of the trace"
            raise ValueError(f"{one_line(name)} {fixed}{nearest(name, traced.examples)}")
    return traced_file.sizes_of(traced, {**traced.examples, **batch.dims})


def smaller(model: Model, batch: Batch) -> dict[str, object]:
    """Fields of a workload that make a small copy: what was traced as dynamic is small and odd, the rest is fixed."""
    dims = {**model.traced.examples, **batch.dims}
    small = {name: min(size, most) for (name, size), most in zip(dims.items(), _SMALL, strict=False)}
    named = {"batch": "sequences", "tokens": "tokens"}
    return {f"batch.{named.get(name, f'sizes.{name}')}": size for name, size in small.items()}


_SMALL = (3, 5, 7, 11, 13)


def _given(b: GraphBuilder, traced: Traced) -> None:
    for tensor in traced.tensors[: traced.given]:
        if tensor.role == "gradient":  # of the loss: see `backward`
            continue
        trainable = tensor.name in traced.gradients and any(fnmatchcase(tensor.name, glob) for glob in b.trainable)
        dims, weight = traced.dims[tensor.dims], tensor.role == "weight"
        b.tensor(Tensor(tensor.name, dims, tensor.role, tensor.layer, tensor.values, trainable=trainable or not weight))


def _append(b: GraphBuilder, traced: Traced, op: TracedOp) -> None:
    """Append an op as the file has it."""
    b.phase, b.layer = op.phase, op.layer
    kind = traced.kinds[op.kind]
    results = []
    for number in op.outputs:
        row = traced.tensors[number]
        again = None if row.recomputes is None else traced.tensors[row.recomputes].name
        results.append(Tensor(row.name, traced.dims[row.dims], row.role, row.layer, row.values, recomputes=again))
    params = {name: op.params[name] for name in kind_of(kind).params}
    names = [traced.tensors[number].name for number in op.inputs]
    b.op(
        kind,
        *names,
        name=op.name,
        outputs=results,
        gemm=op.gemm,
        recomputes=op.recomputes,
        joins=bool(op.joins),
        **params,
    )


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:  # noqa: ARG001
    """Append the forward ops, and return the loss. Raises FieldError; ValueError for too many positions."""
    if label_smoothing:
        message = "the loss is in the trace: smooth labels in the module, and trace it again"
        raise FieldError(("label_smoothing",), message)
    traced: Traced = model.traced
    _given(b, traced)
    for op in traced.ops:
        if op.phase == "forward":
            _append(b, traced, op)
    _check_positions(b)
    loss = traced.tensors[traced.loss].name
    if b.micro_batches > 1:
        b.layer = b.tensors[loss].layer
        return b.op("scale", loss, name=f"{loss}.share", factor=1 / b.micro_batches)
    return loss


def _check_positions(b: GraphBuilder) -> None:
    """Raise ValueError for positions counted up to more than their table has."""
    counted = {op.outputs[0]: op.params for op in b.ops if op.kind.name.startswith("arange ")}
    for op in b.ops:
        if op.kind.name == "embed" and (params := counted.get(op.inputs[1])):
            [dim], rows = b.tensors[op.inputs[1]].dims, b.sizes[b.tensors[op.inputs[0]].dims[0]]
            last = params["start"] + params["step"] * (b.sizes[dim] - 1)
            if last >= rows:
                raise ValueError(f"{dim} {b.sizes[dim]}: {op.inputs[0]} has {rows} rows, place {last} is none of them")


def _live(traced: Traced, wanted: set[int]) -> list[TracedOp]:
    """The ops after the forward that wanted tensors need, in order: frozen weights need none."""
    kept: list[TracedOp] = []
    for op in reversed(traced.ops):
        if op.phase != "forward" and not wanted.isdisjoint(op.outputs):
            kept.append(op)
            wanted.update(op.inputs)
    return kept[::-1]


def backward(b: GraphBuilder, model: Model, loss: str, finished: Callable[[str, str], None]) -> None:
    """Append the backward as it was traced, but for what only frozen weights need; see `autodiff.backward`.

    Raises ValueError if nothing is trainable.
    """
    traced = model.traced
    weights = {n: weight for weight, n in traced.gradients.items() if b.tensors[weight].trainable}
    if not weights:
        raise ValueError("no weight is trainable")
    b.loss = loss
    _start(b, traced, loss)
    for op in _live(traced, set(weights)):
        _append(b, traced, op)
        for number in op.outputs:
            if number in weights:
                finished(weights[number], traced.tensors[number].name)
    b.layer = ""


def _start(b: GraphBuilder, traced: Traced, loss: str) -> None:
    """The gradient of the traced loss: given, or of its share if there are several micro-batches."""
    [first] = [tensor for tensor in traced.tensors[: traced.given] if tensor.role == "gradient"]
    b.phase, b.layer = "backward", first.layer
    given = first.name if b.micro_batches == 1 else f"{loss}.grad"
    b.given(given, traced.dims[first.dims], role="gradient")
    if b.micro_batches > 1:
        result = Tensor(first.name, traced.dims[first.dims], "gradient", first.layer)
        b.op("scale", given, name=f"{loss}.dx", outputs=[result], factor=1 / b.micro_batches)
