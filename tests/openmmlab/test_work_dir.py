"""A work directory is one training's, which resumes from the newest checkpoint that is whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from repvgg_seg.files import FileError
from repvgg_seg.interruption import resuming_command
from repvgg_seg.locking import locked
from repvgg_seg.openmmlab.work_dir import newest_whole, own_work_dir
from repvgg_seg.workflows.work_dir import find_checkpoint


def write(path: Path, iteration: int, value: float = 1.0, **meta: object) -> Path:
    tensors = {'layer.weight': torch.ones(100), 'layer.bias': torch.full((100,), value)}
    torch.save({'meta': {'iter': iteration, 'epoch': 0, **meta}, 'state_dict': tensors}, path)
    return path


def resumed(folder: Path, resume: str = 'latest') -> str | None:
    cfg = Config({'work_dir': str(folder)})
    with own_work_dir(cfg, resume=resume, overwrite=False, first=True):
        return cfg.load_from and Path(cfg.load_from).name


@pytest.mark.parametrize('pointer', [None, '', '/gone/iter_9.pth', 'iter_2.pth'])
def test_the_newest_whole_checkpoint_is_resumed_whatever_the_pointer_says(tmp_path, pointer: str | None) -> None:
    (tmp_path / '.run').write_text('ours')
    write(tmp_path / 'iter_2.pth', 2)
    write(tmp_path / 'iter_4.pth', 4, run='ours')
    write(tmp_path / 'iter_40.pth', 3)  # a copy, which tells its own number
    write(tmp_path / 'iter_5.pth', 5, run='of another')
    write(tmp_path / 'iter_6.pth', 6, value=torch.nan)
    flipped = write(tmp_path / 'iter_7.pth', 7)
    content = bytearray(flipped.read_bytes())
    content[content.index(b'\x00\x00\x80\x3f' * 50) + 80] ^= 1
    flipped.write_bytes(content)
    cut = write(tmp_path / 'iter_8.pth', 8)
    cut.write_bytes(cut.read_bytes()[:900])
    torch.save({'state_dict': {}}, tmp_path / 'iter_9.pth')
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer)
    assert resumed(tmp_path) == 'iter_4.pth'
    assert Path(find_checkpoint(tmp_path)).is_file()
    _, errors = newest_whole(tmp_path)
    for path, why in {
        'iter_5.pth': 'is of another run', 'iter_6.pth': 'is not finite in state_dict.layer.bias',
        'iter_7.pth': 'is damaged in', 'iter_8.pth': 'is damaged, cut short', 'iter_9.pth': 'is no checkpoint of a',
    }.items():  # fmt: skip
        assert [str(error) for error in errors if str(error).startswith(f'{tmp_path / path} {why}')]
        if path != 'iter_5.pth':  # which may be resumed where it is named
            with pytest.raises(ValueError, match=why):
                resumed(tmp_path, str(tmp_path / path))


def test_nothing_whole_is_an_error_and_nothing_at_all_a_beginning(tmp_path) -> None:
    assert resumed(tmp_path / 'new') is None and (tmp_path / 'new/.run').is_file()
    write(tmp_path / 'iter_2.pth', 2, value=torch.inf)
    with pytest.raises(ValueError, match=r'holds no checkpoint to go on from: .*iter_2.* --overwrite'):
        resumed(tmp_path)


def test_a_run_that_began_elsewhere_is_not_mixed_with_another(tmp_path) -> None:
    (tmp_path / 'b').mkdir()
    source = str(write(tmp_path / 'iter_2.pth', 2))
    assert resumed(tmp_path / 'b', source) == 'iter_2.pth'
    write(tmp_path / 'b/iter_3.pth', 3)
    with pytest.raises(ValueError, match=r'holds iter_3\.pth of another training: go on with it by --resume'):
        resumed(tmp_path / 'b', source)


def test_a_killed_run_leaves_no_temporary_file_to_the_next(tmp_path) -> None:
    write(tmp_path / 'iter_2.pth', 2)
    for name in ('.iter_4.pth.0123abcd.tmp', '.last_checkpoint.0123abcd.tmp', '.mine.onnx.0123abcd.tmp'):
        (tmp_path / name).touch()
    resumed(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'.run', 'iter_2.pth', '.mine.onnx.0123abcd.tmp'}


# ---- locks


def hold(folder: Path, seconds: float) -> None:
    with locked(folder / '.lock', ''):
        (folder / 'held').touch()
        time.sleep(seconds)
        (folder / 'done').touch()


def holder(folder: Path, seconds: float) -> object:
    child = get_context('fork').Process(target=hold, args=(folder, seconds))
    child.start()
    while not (folder / 'held').exists():
        time.sleep(0.01)
    return child


def test_a_second_training_is_refused_until_the_first_has_ended_however_it_does(tmp_path) -> None:
    child = holder(tmp_path, 60)
    message = rf'{tmp_path} is in use by process {child.pid} on .*: .*go on with --resume, or choose another --work-dir'
    with pytest.raises(FileError, match=message):
        resumed(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert (tmp_path / '.lock').exists()  # a stale one
    assert resumed(tmp_path) is None and not (tmp_path / '.lock').exists()


def test_a_lock_can_be_waited_for(tmp_path) -> None:
    child = holder(tmp_path, 0.3)
    with locked(tmp_path / '.lock', '', wait=True) as waited:
        assert waited and (tmp_path / 'done').exists()
    child.join()
    with locked(tmp_path / 'new/.lock', '') as waited:
        assert not waited
    assert not (tmp_path / 'new').exists()


# ---- the command that resumes


@pytest.mark.parametrize(
    ('program', 'argv', 'command'),
    [
        ('tools/train.py', ['a b.py', '--overwrite', '--amp'], "PYTHON tools/train.py 'a b.py' --amp --resume"),
        ('/b/repvgg-seg', ['x', '--resume', 'A.pth', '--work-dir', 'B'], '/b/repvgg-seg train x --work-dir B --resume'),
        ('x/__main__.py', ['x', '--res=y', '--amp'], 'PYTHON -m repvgg_seg train x --amp --resume'),
    ],
)
def test_the_command_that_resumes(monkeypatch, program: str, argv: list[str], command: str) -> None:
    monkeypatch.setattr(sys, 'argv', [program])
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    assert resuming_command('train', argv) == command.replace('PYTHON', sys.executable)
    for key, value in {'TORCHELASTIC_RUN_ID': 'x', 'LOCAL_WORLD_SIZE': '2', 'GROUP_WORLD_SIZE': '1'}.items():
        monkeypatch.setenv(key, value)
    assert ' -m torch.distributed.run --standalone --nproc-per-node 2 ' in resuming_command('train', argv)
