"""Python's garbage collector, out of the way where thousands of objects are made that live on."""

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def paused(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function with the collector at rest, which would take a third of its time looking for cycles.

    Objects are still freed as soon as nobody refers to them; only cycles wait until the function has returned.
    """

    @wraps(function)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return function(*arguments, **options)
        finally:
            if was_on:
                gc.enable()

    return run
