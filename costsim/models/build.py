"""From a workload file to the graph of its training step: its sections, as the model's family has them, are checked."""

from functools import partial
from types import ModuleType
from typing import Any

from costsim.errors import nearest, one_line, together
from costsim.graph.graph import Graph
from costsim.inputs.document import Document
from costsim.inputs.schema import Strict, validate
from costsim.inputs.schema_workload import Workload
from costsim.models.families import families, family, is_family
from costsim.models.meeting import COUNTED
from costsim.models.training_step import FieldError, training_step


def sections(workload: Workload, document: Document) -> tuple[Any, Any]:
    """The model and the batch of a workload file, checked as its family has them. Raises InputError with the place."""
    name = workload.model.get("family")
    if name is None:
        raise document.error(("model", "family"), f"missing{nearest('', families())}")
    if not isinstance(name, str) or not is_family(name):
        raise document.error(("model", "family"), f"unknown model family {one_line(name)!r}{nearest(name, families())}")
    module = family(name)
    model, batch = together(partial(validate, section, document, at) for section, at in _sections(module))
    return model, batch


def _sections(module: ModuleType) -> tuple[tuple[type[Strict], tuple[str]], ...]:
    """The sections of a family, each with its place in a workload file."""
    return (module.Model, ("model",)), (module.Batch, ("batch",))


def check_sections(document: Document) -> None:
    """Check the model and the batch of a document whose other sections may be wrong. Raises InputError for both."""
    model = document.data.get("model")
    name = model.get("family") if isinstance(model, dict) else None
    if isinstance(name, str) and is_family(name) and isinstance(document.data.get("batch"), dict):
        together(partial(validate, section, document, at) for section, at in _sections(family(name)))


def padding(workload: Workload, document: Document) -> tuple[int, int] | None:
    """Tokens of a micro-batch without padding, and with; None if the file does not say how long sequences are."""
    if not workload.batch.get("lengths") or COUNTED[workload.attention_pairs].packed:
        return None
    _, batch = sections(workload, document)
    return batch.real_tokens, batch.rows * batch.columns


def build(workload: Workload, document: Document) -> Graph:
    """The training step of a workload file. Raises InputError, with the place in the file, for bad sections."""
    model, batch = sections(workload, document)
    training = workload.training
    try:
        return training_step(
            model,
            batch,
            workload.optimizer,
            training.micro_batches,
            workload.label_smoothing,
            training.trainable,
            workload.attention_pairs,
        )
    except FieldError as error:
        raise document.error(error.at, str(error)) from None
    except ValueError as error:
        raise document.error(("batch",), str(error)) from None
