"""`costsim trace`, in one function: a module is recorded, and its calls are translated to a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

from costsim.errors import InputError, one_line
from costsim.models.traced_file import Traced
from costsim.trace.spec import load, subject


def trace(spec: str, dynamic: bool = True) -> Traced:
    """The traced graph of what a SPEC names; with `dynamic`, marked axes keep their sizes open.

    Raises InputError if PyTorch is missing, and for what cannot be traced.
    """
    try:
        import_module("torch")
    except ImportError:
        raise InputError("costsim trace: PyTorch is not installed; pip install 'costsim[torch]'") from None
    import costsim.trace.mappings  # noqa: F401 - registers them
    from costsim.trace.assemble import assemble
    from costsim.trace.counters import counted
    from costsim.trace.fake import Fake
    from costsim.trace.record import record

    fake = Fake()
    with _explained(spec):
        with fake.mode:
            made = subject(load(spec)(), spec)
        examples, inputs = fake.inputs(made if dynamic else made._replace(dynamic={}))
        with fake.mode:
            recording = record(
                made.module, inputs, fake.symbols, f"{spec} ({type(made.module).__name__})", examples, made.dynamic
            )
            counts = counted(made.module, made.inputs)
    return assemble(replace(recording, counted=counts))


@contextmanager
def _explained(spec: str) -> Iterator[None]:
    """What PyTorch raises on the way, as an InputError with the cause in a line."""
    from costsim.trace.library import fakes, shapes

    of_data = (
        fakes.DataDependentOutputException,
        fakes.DynamicOutputShapeException,
        shapes.GuardOnDataDependentSymNode,
    )
    try:
        yield
    except InputError:
        raise
    except of_data as error:
        message = f"{_module_of(error)}what it does depends on the numbers in a tensor ({one_line(error, 100)})"
        raise InputError(f"{spec}: {message}; a trace has none: take the branch by an argument of the module") from None
    except (RuntimeError, TypeError, ValueError, AttributeError, ImportError, NotImplementedError, IndexError) as error:
        raise InputError(f"{spec}: {_module_of(error)}{type(error).__name__}: {one_line(error, 300)}") from None


def _module_of(error: BaseException) -> str:
    """Where in the user's code an error came from: the last line that is in no library."""
    place, at = "", error.__traceback__
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if "site-packages" not in file and "/costsim/" not in file:
            place = f"{file}:{at.tb_lineno}: "
        at = at.tb_next
    return place
