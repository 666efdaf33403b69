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
from collections.abc import Callable
from typing import Any

import numpy as np

_HISTORY_BUFFER = 'mmengine.logging.history_buffer'
_HISTORY_METHODS = ('min', 'max', 'current', 'mean')


def allowed_globals() -> list[Callable | tuple[Callable, str]]:
    """Return the entries of torch's allowlist, each with the name it stands for in a file.

    mmengine itself is never imported here: its class is used where it is loaded already, else a stand-in.
    """
    history_buffer = getattr(sys.modules.get(_HISTORY_BUFFER), 'HistoryBuffer', _HistoryBuffer)

    def history_method(owner: Any, name: str) -> Any:
        # A HistoryBuffer pickles its methods as getattr calls; the real getattr would open every door.
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
        if not isinstance(dtype, _DType) or math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise _refusal('numpy.ndarray')
        super().__setstate__((version, shape, dtype.dtype, fortran, data))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _empty_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _DType, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype, count=1)[0]
