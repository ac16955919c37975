"""From a workload file to the graph of its training step: its sections, as the model's family has them, are checked."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from costsim.errors import UnreadError, nearest, one_line, together
from costsim.graph.graph import Graph
from costsim.inputs.document import Document
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema import validate, whole
from costsim.inputs.schema_workload import Workload
from costsim.inputs.section import Section
from costsim.models.families import families, family, is_family
from costsim.models.meeting import COUNTED
from costsim.models.training_step import training_step


def sections(workload: Workload, document: Document) -> tuple[Any, Any]:
    """The model and the batch of a workload file, checked as its family has them.

    Raises InputError with the place; UnreadError if one of them has no fields, which is a fault that is known.
    """
    name = workload.model.get("family")
    if name is None:
        raise document.error(("model", "family"), f"missing{nearest('', families())}")
    if not isinstance(name, str) or not is_family(name):
        raise document.error(("model", "family"), f"unknown model family {one_line(name)!r}{nearest(name, families())}")
    module = family(name)
    checks = {"model": module.Model, "batch": module.Batch}
    found = together(partial(_section, section, workload, document, at) for at, section in checks.items())
    if len(found) < len(checks):
        raise UnreadError("model, batch")
    model, batch = found
    try:
        return module.located(model, Path(document.path).parent) if hasattr(module, "located") else model, batch
    except FieldError as error:
        raise document.error(error.at, str(error)) from None


def _section(section: type[Section], workload: Workload, document: Document, at: str) -> Section:
    """The model or the batch. Raises InputError, or UnreadError if it has no fields."""
    getattr(workload, at)
    return validate(section, document, (at,))


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
        graph = training_step(
            model,
            batch,
            whole(workload.optimizer),
            training.micro_batches,
            workload.label_smoothing,
            training.trainable,
            workload.attention_pairs,
            whole(workload.parallel),
        )
    except FieldError as error:
        raise document.error(error.at, str(error)) from None
    except ValueError as error:
        raise document.error(("batch",), str(error)) from None
    return replace(graph, frozen_in_flash=True) if training.frozen_in == "flash" else graph
