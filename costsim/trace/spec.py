"""What is to be traced: `module:function`, a function that gives a module and example inputs, or `hf:config.json`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from costsim.errors import InputError, one_line
from costsim.trace.subject import Subject, default_axes


def load(spec: str) -> Callable[[], Any]:
    """The function that a SPEC names. Raises InputError for a SPEC that names none."""
    name, colon, attribute = spec.partition(":")
    if not colon or not name or not attribute:
        raise InputError(f"SPEC {one_line(spec)!r}: expected module:function, or hf:config.json")
    if name == "hf":
        from costsim.trace.hugging_face import from_config

        return lambda: from_config(attribute)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it: modules of this folder
    try:
        function = getattr(import_module(name), attribute, None)
    except ImportError as error:
        raise InputError(f"SPEC {one_line(spec)!r}: {one_line(error, 200)}") from None
    if not callable(function):
        raise InputError(f"SPEC {one_line(spec)!r}: module {name} has no function {attribute}")
    made: Callable[[], Any] = function
    return made


def subject(made: Any, spec: str) -> Subject:
    """What a SPEC's function gave back: (module, inputs) or (module, inputs, dynamic axes). Raises InputError.

    Inputs are a tuple, as the module's forward takes them, or a dict by name. Dynamic axes are a dict by input, of the
    name of each axis by its number; if they are left out, the first two axes of inputs of whole numbers are batch and
    tokens.
    """
    from costsim.trace.library import torch

    if isinstance(made, Subject):
        return made
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], torch.nn.Module):
        raise InputError(f"SPEC {one_line(spec)!r}: expected (module, inputs), got {type(made).__name__}")
    module, inputs = made[0], made[1]
    if not isinstance(inputs, Mapping):
        inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        names = list(inspect.signature(module.forward).parameters)
        if len(inputs) > len(names):
            raise InputError(f"SPEC {one_line(spec)!r}: forward takes {len(names)} inputs, got {len(inputs)}")
        inputs = dict(zip(names, inputs, strict=False))
    dynamic = made[2] if len(made) == 3 else default_axes(inputs)
    for name in dynamic:
        if name not in inputs:
            raise InputError(f"SPEC {one_line(spec)!r}: dynamic axes of {name!r}, which is no input")
    return Subject(module, inputs, dynamic)
