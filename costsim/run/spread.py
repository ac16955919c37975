"""Where the points of a sweep are worked out: here one after another, on all cores, or on machines of a Dask cluster.

Results come in the order of the points wherever they are made. A job travels without its graph, which takes megabytes
and is made again in milliseconds from sizes; what files said travels with it, so no worker reads any.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from costsim import __version__
from costsim.errors import InputError, nearest, one_line
from costsim.models.build import build
from costsim.run.job import Job
from costsim.run.sweep import Point, Sweep

T = TypeVar("T")
LOCAL, DASK = "local", "dask"
SECONDS = 10  # that a scheduler has to answer, and to have a worker


class LostError(InputError):
    """Workers are gone: nothing is wrong with what was asked, and what is done may be kept."""


class Workers(NamedTuple):
    """Something that runs functions elsewhere, and how many of them it should have at a time."""

    executor: Executor | None = None  # None: there is nobody, everything is worked out here
    at_a_time: int = 1


HERE = Workers()


# --- who works --------------------------------------------------------------------------------------------------------


@contextmanager
def workers(name: str | Executor | None) -> Iterator[Workers]:
    """The workers that `local` or `dask:ADDRESS` names, or an executor. Raises InputError if there are none."""
    kind, _, address = name.partition(":") if isinstance(name, str) else ("", "", "")
    if name is None:
        yield HERE
    elif isinstance(name, Executor):
        yield Workers(name, _at_a_time(getattr(name, "_max_workers", None) or _cores()))
    elif kind == LOCAL and not address:
        with _pool() as pool:
            yield Workers(pool, _at_a_time(_cores()))
    elif kind == DASK and address:
        with _cluster(address) as found:
            yield found
    else:
        hint = "" if kind == DASK else nearest(kind, (LOCAL, DASK), most=0)
        raise InputError(f"--executor {one_line(name)}: expected {LOCAL}, or {DASK}:ADDRESS of a scheduler{hint}")


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_a_time(number: int) -> int:
    """How many points so many workers get: one each, and the next."""
    return 2 * number


@contextmanager
def _pool() -> Iterator[Executor]:
    """A process for each core; Ctrl-C is for the process that waits for them."""
    pool = ProcessPoolExecutor(_cores(), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _cluster(address: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler. Raises InputError if nobody is there."""
    named = f"--executor {DASK}:{one_line(address)}"
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise InputError(f"{named}: Dask is not installed; pip install 'costsim[dask]'") from None
    try:
        client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{named}: no scheduler answers there: {one_line(reason or type(error).__name__)}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except TimeoutError:
            raise InputError(f"{named}: the scheduler has no workers") from None
        threads = sum(worker["nthreads"] for worker in client.scheduler_info(-1)["workers"].values())
        yield Workers(client.get_executor(), _at_a_time(threads))


# --- what they do -----------------------------------------------------------------------------------------------------


def in_order(work: Callable[[Any], T], items: Iterable[Any], workers: Workers = HERE) -> Iterator[T]:
    """What a function makes of items, in their order. Raises LostError if workers die, and what the function raises."""
    executor, number = workers
    if executor is None:
        yield from map(work, items)
        return
    rest, waiting = iter(items), deque[Any]()
    try:
        waiting.extend(executor.submit(work, item) for item in islice(rest, number))
        while waiting:
            result = waiting[0].result()
            waiting.popleft()
            waiting.extend(executor.submit(work, item) for item in islice(rest, 1))
            yield result
    except InputError:
        raise
    except BrokenProcessPool:
        raise LostError("--executor: a process that worked on a point was killed") from None
    except Exception as error:
        if not _of_dask(error):
            raise
        raise LostError(f"--executor: {one_line(f'{type(error).__name__}: {error}', 200)}") from None
    finally:
        for future in waiting:
            future.cancel()


def _of_dask(error: Exception) -> bool:
    """Whether the cluster says so: workers that died, a connection that is lost, modules that a worker lacks."""
    return type(error).__module__.partition(".")[0] in ("distributed", "asyncio", "concurrent") or isinstance(
        error, (ImportError, OSError)
    )


@dataclass(frozen=True, slots=True)
class Work:
    """A function of jobs, and the sweep at whose points they are, for a process elsewhere."""

    make: Callable[[Job], Any]
    sweep: bytes
    version: str

    def __call__(self, point: Point) -> Any:
        """What the function makes of the job at a point. Raises InputError."""
        if self.version != __version__:
            raise InputError(f"--executor: a worker has costsim {__version__}, and this is costsim {self.version}")
        return self.make(_unpacked(self.sweep).at(point))


def _packed(sweep: Sweep) -> bytes:
    nothing: dict[str, Any] = {"graph": None}
    return pickle.dumps((sweep.request, replace(sweep.first, **nothing)))


@lru_cache(maxsize=2)
def _unpacked(sweep: bytes) -> Sweep:
    request, job = pickle.loads(sweep)
    return Sweep((), request, replace(job, graph=build(job.file, job.document)))


def over(sweep: Sweep, make: Callable[[Job], T], workers: Workers = HERE, after: int = 0) -> Iterator[T]:
    """What a function makes of the jobs of a sweep, in the order of its points, but for so many of the first.

    Raises InputError, and LostError if workers die.
    """
    where = sweep.where[after:]
    if workers.executor is None:
        return in_order(lambda point: make(sweep.at(point)), where)
    return in_order(Work(make, _packed(sweep), str(__version__)), where, workers)
