"""A data set of three classes that are easily distinguished, as folders and as the tar files of ILSVRC2012."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from repvgg_seg.pretrain.sources import DEVKIT, TARS

WNIDS = ('n01440764', 'n02096294', 'n03028079')


def write_image(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a noisy JPEG of one colour, of a size that depends on `seed`."""
    noise = np.random.default_rng(seed).integers(-40, 40, (36 + seed % 5, 44 + seed % 3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype('uint8')).save(path, 'JPEG', quality=90)


def write_folders(root: Path, train: int = 8, val: int = 4) -> Path:
    """Write `train` and `val` images of each of WNIDS to root/{train,val}/CLASS."""
    number = 0
    for split, count in (('train', train), ('val', val)):
        for index in range(count):
            for label, wnid in enumerate(WNIDS):
                colour = tuple(200 if channel == label else 80 for channel in range(3))
                number += 1
                name = (
                    f'{wnid}_{number}.JPEG' if split == 'train' else f'ILSVRC2012_val_{index * 3 + label + 1:08d}.JPEG'
                )
                write_image(root / split / wnid / name, colour, number)
    return root


def write_tars(folders: Path, root: Path) -> Path:
    """Pack what `write_folders` wrote as ILSVRC2012 is published: train a tar of tars, val flat with a devkit."""
    root.mkdir()
    with tarfile.open(root / TARS['train'], 'w') as outer:
        for wnid in reversed(WNIDS):  # a tar has no fixed order
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode='w') as tar:
                for path in sorted((folders / 'train' / wnid).iterdir()):
                    tar.add(path, path.name)
            info = tarfile.TarInfo(f'{wnid}.tar')
            info.size = inner.tell()
            inner.seek(0)
            outer.addfile(info, inner)
    images = sorted((folders / 'val').rglob('*.JPEG'), key=lambda path: path.name)
    with tarfile.open(root / TARS['val'], 'w') as tar:
        for path in images:
            tar.add(path, path.name)
    # ILSVRC numbers the classes differently from their alphabetical order, and lists inner nodes after the leaves.
    number = {wnid: 3 - label for label, wnid in enumerate(WNIDS)}
    synsets = [(number[wnid], wnid) for wnid in WNIDS] + [(1001, 'n00001740')]
    meta = io.BytesIO()
    savemat(meta, {'synsets': np.array(synsets, dtype=[('ILSVRC2012_ID', 'O'), ('WNID', 'O')])})
    truth = ''.join(f'{number[path.parent.name]}\n' for path in images)
    with tarfile.open(root / DEVKIT, 'w:gz') as devkit:
        for name, content in (
            ('meta.mat', meta.getvalue()),
            ('ILSVRC2012_validation_ground_truth.txt', truth.encode()),
        ):
            info = tarfile.TarInfo(f'ILSVRC2012_devkit_t12/data/{name}')
            info.size = len(content)
            devkit.addfile(info, io.BytesIO(content))
    return root


@pytest.fixture(scope='session')
def folders(tmp_path_factory) -> Path:
    """Eight training and four validation images of each class."""
    return write_folders(tmp_path_factory.mktemp('imagenet') / 'folders')


@pytest.fixture
def tars(folders, tmp_path, monkeypatch) -> Path:
    """The same images in tar files."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return write_tars(folders, tmp_path / 'tars')
