"""BLAS on one thread, for products of small matrices: threads that wait for each other take longer than to multiply."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's BLAS on one thread, of the whole process, until the block or the decorated function ends.

    Products of a shrunken copy are a millisecond on one core; beside other work, two threads took twenty. Not for
    timings.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # here: it looks through what is loaded

    with threadpool_limits(1, user_api="blas"):
        yield
