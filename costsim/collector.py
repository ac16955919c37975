"""Python's garbage collector, out of the way where thousands of objects are made that live on."""

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def paused(function: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The function with the collector at rest: looking for cycles among what it makes would take a third of its time.

    What it makes is still freed as soon as nobody refers to it; only cycles wait until the function has returned.
    """

    @wraps(function)
    def run(*arguments: _Given.args, **options: _Given.kwargs) -> _Made:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return function(*arguments, **options)
        finally:
            if was_on:
                gc.enable()

    return run
