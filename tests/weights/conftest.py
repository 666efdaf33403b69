"""Files that would run code, for the tests of weight files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


class _Call:
    def __init__(self, function: Callable, *args: object) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.fixture
def write_malicious(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return a function that writes a file which creates a marker where its pickle runs: (file, marker)."""

    def write(kind: str = 'zip', **rest: object) -> tuple[Path, Path]:
        path, marker = tmp_path / f'{kind}.pth', tmp_path / 'marker'
        command = f'touch {marker}'
        if kind == 'getattr':  # walks from an allowed class to a function that is not
            from mmengine.logging import HistoryBuffer

            payload: object = _Call(getattr, HistoryBuffer, '__init__')
        elif kind == 'buffer':  # bytes of the file as addresses of objects
            payload = _Call(np.ndarray, (1,), 'O', bytearray(8))
        elif kind == 'object':
            payload = np.array([None, {}], dtype=object)
        elif kind == 'eval':
            payload = _Call(eval, f'open({str(marker)!r}, "w")')
        else:
            payload = _Call(os.system, command)
        checkpoint = {'state_dict': {'stage0.rbr_dense.conv.weight': torch.ones(1), 'x': payload}, **rest}
        if kind == 'pickle':
            path.write_bytes(pickle.dumps(checkpoint, protocol=4))
        else:
            torch.save(checkpoint, path, _use_new_zipfile_serialization=kind != 'legacy')
        return path, marker

    return write
