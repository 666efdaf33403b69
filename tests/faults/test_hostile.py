"""Files of strangers: none runs code, none ends the process, and what cannot be used is refused in one sentence."""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import operator
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repvgg_seg import Segmenter
from repvgg_seg.files import FileError
from repvgg_seg.weights.checkpoint_io import WeightsError, read_checkpoint
from tests.faults import work
from tests.faults.conftest import TRIES
from tests.faults.trials import Trial


class Call:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def calls(marker: Path) -> dict[str, object]:
    """Return objects that write `marker` where they are unpickled without care."""
    touch = f'open({str(marker)!r}, "w")'
    return {
        'os.system': Call(os.system, f'touch {marker}'),
        'eval': Call(eval, touch),
        'exec': Call(exec, touch),
        'open': Call(builtins.open, str(marker), 'w'),
        'subprocess': Call(subprocess.check_call, ['touch', str(marker)]),
        'Path.touch': Call(Path.touch, marker),
        'shutil': Call(shutil.copy, '/etc/hostname', str(marker)),
        'partial': Call(functools.partial(os.system), f'touch {marker}'),
        'getattr': Call(Call(getattr, os, 'system'), f'touch {marker}'),  # type: ignore[arg-type]
        'attrgetter': Call(operator.methodcaller('system', f'touch {marker}'), os),
        'import': Call(importlib.import_module, 'antigravity'),
        'os.open': Call(os.open, str(marker), os.O_CREAT | os.O_WRONLY),
        'torch.load': Call(torch.load, str(marker)),
        'breakpoint': Call(breakpoint),
    }


def archives(value: object) -> dict[str, bytes]:
    """Return files that torch reads, with `value` in them."""
    content = {'state_dict': {'a': torch.ones(1)}, 'meta': value}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return {
        'zip': new.getvalue(),
        'legacy': old.getvalue(),
        **{f'pickle {protocol}': pickle.dumps(content, protocol) for protocol in (0, 2, 4, 5)},
    }


@pytest.mark.filterwarnings('ignore')
def test_weight_files_run_nothing(tmp_path, ledger) -> None:
    marker = tmp_path / 'marker'
    for name, value in calls(marker).items():
        try:
            files = archives(value)
        except (pickle.PicklingError, TypeError, AttributeError):  # such as a module: no pickle holds it
            continue
        for kind, content in files.items():
            path = tmp_path / 'x.pth'
            path.write_bytes(content)
            with ledger.trial('weight file that calls a function') as outcome:
                with pytest.raises(WeightsError, match=r'x\.pth'):
                    read_checkpoint(path)
                outcome('executed' if marker.exists() else 'refused')
                assert not marker.exists(), f'{name} in {kind}'


def test_archives_of_torch_run_nothing_without_trust(local_files, tmp_path, ledger) -> None:
    marker = tmp_path / 'marker'
    for number, value in enumerate(calls(marker).values()):
        path = tmp_path / f'{number}.pt2'
        with zipfile.ZipFile(local_files['.pt2']) as old, zipfile.ZipFile(path, 'w') as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            try:
                new.writestr('local/data/sample_inputs/other.pt', pickle.dumps(value))
            except (pickle.PicklingError, TypeError, AttributeError):
                continue
        with ledger.trial('.pt2 file that calls a function') as outcome:
            with pytest.raises(FileError, match='can run any code of its author'):
                Segmenter(path)
            outcome('executed' if marker.exists() else 'refused')
            assert not marker.exists()


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.bin'])
def test_damaged_models_end_in_a_sentence_or_in_a_mask(suffix, local_files, tmp_path, ledger) -> None:
    for seed in range(max(TRIES // 2, 1)):
        trial = Trial(work.open_damaged, local_files, suffix, tmp_path, seed)
        status, outcomes = trial.end(), re.findall('^(refused|survived)', trial.said, re.M)
        for told in outcomes if status == 0 else [*outcomes, 'lost']:
            with ledger.trial(f'{suffix} file with changed bytes') as outcome:
                outcome(told)
        assert status == 0 and len(outcomes) == 10, f'seed {seed}: {trial.said}'
