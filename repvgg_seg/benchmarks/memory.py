"""How much memory a piece of work takes, in the process that does it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar('Result')

_PROCESS = Path('/proc/self')


def peak_memory(work: Callable[[], Result]) -> tuple[Result, float | None]:
    """Return what `work()` returns, and by how many MiB memory rose above what was in use before it, at its peak.

    On CUDA that of torch's allocator; else the resident memory of this process, or None where the system does not
    report it (it is not Linux). What earlier work freed is given back to the system first, or it would be used again
    unseen.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        used = torch.cuda.memory_allocated()
        return work(), (torch.cuda.max_memory_allocated() - used) / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROCESS / 'clear_refs').write_text('5')  # the peak begins anew
        used = _resident('VmRSS')
    except OSError:
        return work(), None
    return work(), (_resident('VmHWM') - used) / 2**10


def _resident(field: str) -> int:
    """Return a field of this process's status, in KiB."""
    found = re.search(rf'^{field}:\s+(\d+) kB$', (_PROCESS / 'status').read_text(), re.MULTILINE)
    if not found:
        raise OSError(f'the system does not report {field}')
    return int(found[1])
