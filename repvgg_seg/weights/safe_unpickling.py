"""What a checkpoint may hold beside tensors and plain containers: numpy data and mmengine's log buffers.

mmengine's training checkpoints hold these, and torch's restricted reader rebuilds them with what it is given
here. That is neither `getattr` nor numpy's own constructors: `numpy.ndarray(shape, object, buffer)` takes bytes
of the file for addresses of objects, and the state of a `numpy.dtype` can claim that numbers are objects.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

_HISTORY_BUFFER = 'mmengine.logging.history_buffer'
_HISTORY_METHODS = ('min', 'max', 'current', 'mean')


# torch's allowlist and mmengine's table of methods are one per process.
_LOCK = threading.Lock()


@contextmanager
def allowlist() -> Iterator[None]:
    """Give torch's restricted reader our allowlist, instead of what others in this process allowed it.

    mmengine itself is never imported here: its class is used where it is loaded already, else a stand-in.
    """
    history_buffer = getattr(sys.modules.get(_HISTORY_BUFFER), 'HistoryBuffer', _HistoryBuffer)
    with _LOCK:
        methods = history_buffer()._statistics_methods  # of the class: a file could replace them for all buffers
        allowed, kept = get_safe_globals(), dict(methods)
        clear_safe_globals()
        try:
            add_safe_globals(_allowed_globals(history_buffer))
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(allowed)
            methods.clear()
            methods.update(kept)


def _allowed_globals(history_buffer: type) -> list[Callable | tuple[Callable, str]]:
    """Return the entries of torch's allowlist, each with the name it stands for in a file."""

    def history_method(owner: Any, name: str) -> Any:
        # A HistoryBuffer pickles its methods as getattr calls; the real getattr would give access to everything.
        if owner is not history_buffer or name not in _HISTORY_METHODS:
            raise _refusal('builtins.getattr')
        return getattr(owner, name, None)

    return [
        (history_buffer, f'{_HISTORY_BUFFER}.HistoryBuffer'),
        (history_method, 'builtins.getattr'),
        (bytes, 'builtins.bytes'),  # the contents of an empty array
        (_DType, 'numpy.dtype'),
        (_Array, 'numpy.ndarray'),
        (_empty_array, 'numpy.core.multiarray._reconstruct'),  # numpy 1
        (_empty_array, 'numpy._core.multiarray._reconstruct'),  # numpy 2
        (_scalar, 'numpy.core.multiarray.scalar'),
        (_scalar, 'numpy._core.multiarray.scalar'),
    ]


def _refusal(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'Unsupported global: GLOBAL {name}')  # in torch's own words


class _HistoryBuffer:
    """Holds the state of mmengine's HistoryBuffer for a reader that does not use mmengine."""

    _statistics_methods: ClassVar[dict[str, Any]] = {}

    def __setstate__(self, state: dict) -> None:  # without it, a file could set the class as well
        self.__dict__.update(state)


class _DType:
    """Stands in for numpy.dtype, for numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r'[biufc]\d{1,2}', code):
            raise _refusal(f'numpy.dtype.{code}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that is rebuilt from bytes of numbers only; written again, it is an ordinary array."""

    def __new__(cls, *_: Any) -> _Array:
        raise _refusal('numpy.ndarray')

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        if type(dtype) is not _DType or min(shape, default=0) < 0:
            raise _refusal('numpy.ndarray')
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise _refusal('numpy.ndarray')
        super().__setstate__((version, shape, dtype.dtype, fortran, data))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _empty_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _DType, data: bytes) -> Any:
    if type(dtype) is not _DType:  # anything else with a `dtype` could make a record, which is read like a dictionary
        raise _refusal('numpy.dtype')
    return np.frombuffer(data, dtype.dtype, count=1)[0]
