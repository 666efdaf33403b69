"""Reading runs no code, and writing leaves a whole file or the one that was there."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repvgg_seg import files
from repvgg_seg.files import FileError
from repvgg_seg.weights.checkpoint_io import WeightsError, read_checkpoint, write_checkpoint

TENSORS = {'a': torch.arange(6.0).reshape(2, 3), 'b': torch.ones(1, dtype=torch.int64)}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors', 'x.SAFETENSORS', 'new/folder/x.pth'])
def test_what_is_written_is_read(tmp_path, name):
    write_checkpoint(TENSORS, tmp_path / name)
    assert same(read_checkpoint(tmp_path / name), TENSORS)
    assert (tmp_path / name).read_bytes().startswith(b'PK') == name.endswith('.pth')
    with open(tmp_path / name, 'rb') as file:
        assert same(read_checkpoint(file), TENSORS)


def test_legacy_files_and_numpy_values_are_read(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(path), TENSORS)
    torch.save({'best': np.float64(78.5), 'curve': np.arange(3, dtype=np.int32)}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint['best'] == 78.5 and checkpoint['curve'].tolist() == [0, 1, 2]
    # Written again they are the same, and not bound to this package.
    torch.save(checkpoint, tmp_path / 'again.pth')
    assert b'repvgg_seg' not in (tmp_path / 'again.pth').read_bytes()
    assert read_checkpoint(tmp_path / 'again.pth')['curve'].dtype == np.int32
    assert pickle.dumps(checkpoint['curve']) == pickle.dumps(np.arange(3, dtype=np.int32))


@pytest.mark.parametrize('code', ['?', 'b', 'i2', '>i4', 'u8', 'f2', '>f8', 'c16'])
def test_numpy_numbers_of_every_kind_are_read(tmp_path, code):
    array = np.array([[1, 0, 3], [4, 5, 6]]).astype(code)
    torch.save(
        {'c': array, 'fortran': np.asfortranarray(array), 'empty': array[:0], 'scalar': array[1, 1]},
        tmp_path / 'x',
    )
    found = read_checkpoint(tmp_path / 'x')
    assert found['c'].dtype == array.dtype.newbyteorder('=') and np.array_equal(found['c'], array)
    assert np.array_equal(found['fortran'], array) and found['empty'].shape == (0, 3)
    assert found['scalar'] == array[1, 1] and found['scalar'].dtype == array[1, 1].dtype


def test_safetensors_takes_views_and_shared_memory_but_tensors_only(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    write_checkpoint({'a': base.T, 'b': base}, tmp_path / 'x.safetensors')
    assert same(read_checkpoint(tmp_path / 'x.safetensors'), {'a': base.T, 'b': base})
    with pytest.raises(WeightsError, match=r'tensors only, not meta: choose a \.pth name'):
        write_checkpoint({'meta': {}}, tmp_path / 'y.safetensors')
    for odd in (torch.ones(1).to_sparse(), torch.ones(1, device='meta')):
        with pytest.raises(WeightsError, match=r'y\.safetensors cannot hold one of these tensors'):
            write_checkpoint({'a': odd}, tmp_path / 'y.safetensors')
    assert not (tmp_path / 'y.safetensors').exists()


@pytest.mark.parametrize(
    ('kind', 'forbidden'),
    [
        ('zip', r'posix\.system'),
        ('legacy', r'posix\.system'),
        ('eval', 'eval'),
        # mmengine's own loader allows the rest.
        ('getattr', 'getattr'),
        ('buffer', r'numpy\.ndarray'),
        ('object', r'numpy\.dtype\.O8'),
    ],
)
def test_code_in_a_file_does_not_run(write_malicious, kind, forbidden):
    path, marker = write_malicious(kind)
    with pytest.raises(WeightsError, match=f'asks for the Python object (builtins.)?{forbidden}, which could run code'):
        read_checkpoint(path)
    assert not marker.exists()


def test_what_others_allowed_is_not_allowed_here(write_malicious):
    path, _ = write_malicious('getattr')
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([getattr])
    try:
        with pytest.raises(WeightsError, match=r'builtins\.getattr, which could run code'):
            read_checkpoint(path)
        assert set(torch.serialization.get_safe_globals()) == {*before, getattr}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: {'a': [({'b': d},)]}, lambda d: {'a': d, 'b': d}])
def test_dictionaries_that_replace_their_methods_are_refused(tmp_path, wrap):
    hiding = OrderedDict(a=torch.ones(1))
    hiding._metadata = OrderedDict()  # torch's own
    torch.save(wrap(hiding), tmp_path / 'x.pth')
    read_checkpoint(tmp_path / 'x.pth')
    hiding.get = set
    torch.save(wrap(hiding), tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match='replaces methods of its dictionaries'):
        read_checkpoint(tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth', unsafe=True)


def test_a_dictionary_that_holds_itself_is_read(tmp_path):
    checkpoint = {'a': torch.ones(1)}
    checkpoint['self'] = checkpoint
    torch.save(checkpoint, tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth')['self']['self']['a'] == 1


@pytest.mark.parametrize('shape', [(4,), (-1, -3), (-5, 0)])
def test_numpy_arrays_have_the_shape_of_their_data(tmp_path, shape):
    class Wrong:
        def __reduce__(self):
            rebuild, args, (version, _, dtype, fortran, data) = np.arange(3.0).__reduce__()
            return rebuild, args, (version, shape, dtype, fortran, data if 0 not in shape else b'')

    torch.save({'a': Wrong()}, tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=r'numpy\.ndarray, which could run code'):
        read_checkpoint(tmp_path / 'x.pth')


def test_a_bare_pickle_does_not_run(write_malicious):
    path, marker = write_malicious('pickle')
    with pytest.raises(WeightsError, match='damaged, cut short or not written by torch'):
        read_checkpoint(path)
    assert not marker.exists()


def test_opting_out_runs_it_once_and_says_so(write_malicious, caplog):
    path, marker = write_malicious('eval')
    with caplog.at_level(logging.WARNING):
        read_checkpoint(path, unsafe=True)
    assert marker.exists()
    assert f'{path} is loaded with unsafe=True' in caplog.text
    marker.unlink()
    with pytest.raises(WeightsError, match='could run code'):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_pickled_model_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / 'model.pth')
    with pytest.raises(WeightsError, match=r'torch\.nn\.modules\.linear\.Linear.*save model\.state_dict\(\) instead'):
        read_checkpoint(tmp_path / 'model.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'\n<!DOCTYPE html><title>Quota exceeded</title>', 'is a web page, not a weight file'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', 'is a Git LFS pointer'),
        (b'import torch\n', 'is not a weight file'),
        (b'\x10\0\0\0\0\0\0\0{"a":{"dtype"', 'is damaged or cut short'),
    ],
)
def test_what_is_no_weight_file(tmp_path, content, message):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kept', [0.3, 0.98])
def test_truncated(tmp_path, zipped, kept):
    path = tmp_path / 'x.pth'
    torch.save({'a': torch.zeros(5000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(WeightsError, match='damaged, cut short'):
        read_checkpoint(path)


def test_other_contents(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'list.pth')
    with pytest.raises(WeightsError, match=r'holds a list, not a dictionary'):
        read_checkpoint(tmp_path / 'list.pth')
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(tmp_path / 'script.pth')
    with pytest.raises(WeightsError, match='is a TorchScript program'):
        read_checkpoint(tmp_path / 'script.pth')
    with pytest.raises(WeightsError, match=r'none\.pth does not exist'):
        read_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(WeightsError, match=r'cannot be read \(Is a directory\)'):
        read_checkpoint(tmp_path)


# --- writing


def full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    write_checkpoint(TENSORS, tmp_path / name)
    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(FileError, match=r'cannot be written \(No space left on device\): nothing was changed'):
        write_checkpoint({'a': torch.zeros(9)}, tmp_path / name)
    assert same(read_checkpoint(tmp_path / name), TENSORS)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_full_disk_while_torch_writes(tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, mode):
            self.file = open(path, mode)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        write = full_disk

        def fileno(self):
            return self.file.fileno()

    monkeypatch.setattr(files, 'open', Full, raising=False)
    with pytest.raises(FileError, match='cannot be written'):
        write_checkpoint(TENSORS, tmp_path / 'x.pth')
    assert list(tmp_path.iterdir()) == []


def test_weights_need_no_openmmlab():
    code = (
        'import sys, repvgg_seg.weights.pretrained, repvgg_seg.weights.key_maps\n'
        'sys.exit(any(name.split(".")[0] in ("mmengine", "mmcv", "mmseg", "rich") for name in sys.modules))'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[2]).returncode == 0


def test_numbers_that_would_fill_any_memory_are_refused(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save({'state_dict': {'a': torch.zeros(1).expand(10**11)}}, path)  # 400 GB
    assert path.stat().st_size < 2000
    with pytest.raises(WeightsError, match=r'x\.pth claims 400\.0 GB of numbers in \d+ bytes, as no training does'):
        read_checkpoint(path)
    torch.save({'a': TENSORS['a'], 'tied': TENSORS['a'], 'mean': torch.ones(1).expand(1000)}, path)
    assert read_checkpoint(path)['mean'].shape == (1000,)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({'a': torch.zeros(1 << 25)}, tmp_path / 'x.pth')
    with (
        zipfile.ZipFile(tmp_path / 'x.pth') as old,
        zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(WeightsError, match=r'bomb\.pth claims 0\.1 GB of numbers in \d+ bytes'):
        read_checkpoint(tmp_path / 'bomb.pth')
