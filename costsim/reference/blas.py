"""BLAS on one thread, for products of small matrices: threads that wait for each other take longer than to multiply."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def one_thread(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function with NumPy's BLAS on one thread, of the whole process, until it returns: not for timings.

    Products of a shrunken copy are a millisecond on one core; beside other work, two threads took twenty.
    """

    @wraps(function)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # here: it looks through what is loaded

        with threadpool_limits(1, user_api="blas"):
            return function(*arguments, **options)

    return run
