import os
import re
import shutil
import stat
import tarfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from repvgg_seg.pretrain import sources
from repvgg_seg.pretrain.sources import DEVKIT, SYNSETS, TARS, check_classes, open_source
from tests.pretrain.conftest import WNIDS, write_folders


def contents(source) -> set[tuple[bytes, str]]:
    return {(source.read(index), source.classes[label]) for index, label in enumerate(source.labels)}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_tar_files_hold_the_same_images_and_classes_as_folders(folders, tars, split: str) -> None:
    folder, tar = open_source(folders, split), open_source(tars, split)
    assert tar.classes == folder.classes == list(WNIDS)
    assert contents(tar) == contents(folder) and len(tar.labels) == len(folder.labels) == len(contents(tar))


def test_a_list_of_wordnet_ids_stands_for_the_development_kit(folders, tars) -> None:
    expected = contents(open_source(folders, 'val'))
    (tars / DEVKIT).unlink()
    with pytest.raises(FileNotFoundError, match=f'put {DEVKIT}, or {SYNSETS} with the WordNet id of one image a line'):
        open_source(tars, 'val')
    (tars / SYNSETS).write_text('\n'.join([*WNIDS] * 4))
    assert contents(open_source(tars, 'val')) == expected
    (tars / SYNSETS).write_text('\n'.join(WNIDS))
    with pytest.raises(ValueError, match='has images that the list of 3 labels beside it does not'):
        open_source(tars, 'val')


def test_the_index_is_read_once_until_the_tar_changes(tars, monkeypatch) -> None:
    first = open_source(tars, 'train')
    assert Path(f'{tars / TARS["train"]}.index.npz').is_file()
    scans = []
    entries = sources._entries
    monkeypatch.setattr(sources, '_entries', lambda tar: scans.append(tar) or entries(tar))
    again = open_source(tars, 'train')
    assert not scans and np.array_equal(again.offsets, first.offsets) and again.name(0) == first.name(0)
    os.utime(tars / TARS['train'], (1, 1))
    open_source(tars, 'train')
    assert len(scans) == 1


def test_an_index_that_cannot_be_kept_beside_the_tar_goes_to_the_cache(tars, tmp_path, monkeypatch) -> None:
    beside = tars / f'{TARS["train"]}.index.npz'
    beside.mkdir()  # as good as a folder that cannot be written, which root could
    expected = contents(open_source(tars, 'train'))
    assert list((tmp_path / 'cache/repvgg_seg').glob('*.index.npz'))
    monkeypatch.setattr(sources, '_entries', lambda tar: pytest.fail('scanned again'))
    assert contents(open_source(tars, 'train')) == expected


def _read(source, index: int) -> bytes:
    return source.read(index)


def test_processes_read_a_tar_without_disturbing_each_other(tars) -> None:
    source = open_source(tars, 'train')
    expected = [source.read(index) for index in range(len(source.labels))]
    with get_context('fork').Pool(2) as pool:  # each inherits the open file
        assert pool.starmap(_read, [(source, index) for index in range(24)] * 4) == expected * 4


def test_nothing_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=rf'neither a folder train/ .* nor {TARS["train"]}; point to the data'):
        open_source(tmp_path, 'train')


def test_a_class_without_images(tmp_path) -> None:
    write_folders(tmp_path)
    shutil.rmtree(tmp_path / 'train' / WNIDS[1])
    (tmp_path / 'train' / WNIDS[1]).mkdir()
    with pytest.raises(FileNotFoundError, match=f'train: the classes {WNIDS[1]} have no image; .*--data-root'):
        open_source(tmp_path, 'train')


def test_classes_that_differ_between_train_and_val(tmp_path) -> None:
    write_folders(tmp_path)
    (tmp_path / 'val' / WNIDS[0]).rename(tmp_path / 'val/n09999999')
    message = f'different classes: {WNIDS[0]} only in train and n09999999 only in val; give both the same folders'
    with pytest.raises(ValueError, match=message):
        check_classes(open_source(tmp_path, 'train'), open_source(tmp_path, 'val'))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_tar_that_is_cut_short(tars, split: str) -> None:
    path = tars / TARS[split]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ValueError, match=f'{re.escape(str(path))} is damaged or cut short .*: get it anew'):
        open_source(tars, split)
    assert not list(tars.glob('*.npz'))


def test_a_tar_without_images_and_one_that_is_none(tars) -> None:
    with tarfile.open(tars / TARS['train'], 'w'):
        pass
    with pytest.raises(ValueError, match='holds no image'):
        open_source(tars, 'train')
    (tars / TARS['train']).write_text('<html>404</html>')
    with pytest.raises(ValueError, match='is damaged or cut short'):
        open_source(tars, 'train')
    (tars / DEVKIT).write_bytes(b'\x1f\x8bnonsense')
    with pytest.raises(ValueError, match='is not the development kit of ILSVRC2012, or damaged'):
        open_source(tars, 'val')


def test_the_index_is_readable_by_others(tars) -> None:
    open_source(tars, 'val')
    assert (tars / f'{TARS["val"]}.index.npz').stat().st_mode & stat.S_IRUSR
