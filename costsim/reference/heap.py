"""The memory that a process keeps between the ops that it runs.

glibc gives large blocks back to the system as they are freed. What is made in them next starts on pages that the system
clears first, one fault a page, which can take longer than the op itself, and differs from run to run. Frameworks that
are set up for speed keep such memory (jemalloc or tcmalloc on a CPU, the caching allocator on CUDA), and so do benches
and steps here: what is timed is kernels.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)
_NEVER, _NO_BLOCKS = -1, 0


def keep_memory() -> bool:
    """From now on this process keeps what is freed; False where the C library has no such switch."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_MAX, _NO_BLOCKS))
