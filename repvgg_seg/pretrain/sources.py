"""Where labelled images come from: a folder of classes, or the tar files of ILSVRC2012, read in place."""

from __future__ import annotations

import logging
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import track

from ..files import FileError, atomic_write, read_text, walk
from ..weights.key_maps import shorten

logger = logging.getLogger(__name__)

TARS = {'train': 'ILSVRC2012_img_train.tar', 'val': 'ILSVRC2012_img_val.tar'}
DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'
SYNSETS = 'imagenet_2012_validation_synset_labels.txt'  # as TensorFlow's ImageNet scripts have it: a WordNet id a line
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
CURE = 'point to the data with --data-root DIR'


class Source(Protocol):
    """Encoded images with their labels; `classes` are names, in the order of the labels."""

    classes: list[str]
    labels: np.ndarray

    def read(self, index: int) -> bytes:
        """Return the bytes of one image file."""

    def name(self, index: int) -> str:
        """Return what to call that file in a message."""


def open_source(root: str | Path, split: str) -> Source:
    """Open `split` ('train' or 'val') of the data in `root`: a folder of that name with one folder a class, or a tar.

    Raises:
        FileNotFoundError: neither is there, or a class has no image.
        ValueError: a tar file is damaged, or its labels do not fit.
    """
    folder, tar = Path(root, split), Path(root, TARS[split])
    if folder.is_dir():
        return FolderSource(folder)
    if not tar.is_file():
        raise FileNotFoundError(
            f'{root} has no {split} images: neither a folder {split}/ with one folder a class nor {tar.name}; {CURE}'
        )
    return TrainTarSource(tar) if split == 'train' else ValTarSource(tar)


def check_classes(train: Source, val: Source) -> None:
    """Check that both have the same classes.

    Raises:
        ValueError: they do not; says which are in one alone.
    """
    in_train, in_val = set(train.classes), set(val.classes)
    alone = [
        f'{shorten(sorted(names))} only in {where}'
        for where, names in (('train', in_train - in_val), ('val', in_val - in_train))
        if names
    ]
    if alone:
        raise ValueError(f'train and val have different classes: {" and ".join(alone)}; give both the same folders')


class FolderSource:
    """One folder a class, in the order of torchvision's ImageFolder."""

    def __init__(self, folder: Path) -> None:
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != '.')
        images = [[str(path) for path in walk(folder / name, SUFFIXES)] for name in self.classes]
        if empty := [name for name, paths in zip(self.classes, images, strict=True) if not paths]:
            raise FileNotFoundError(f'{folder}: the classes {shorten(empty)} have no image; {CURE}')
        if not images:
            raise FileNotFoundError(f'{folder} holds no folder of a class; {CURE}')
        self.paths = [path for paths in images for path in paths]
        self.labels = np.repeat(np.arange(len(images)), [len(paths) for paths in images])

    def read(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        return self.paths[index]


class TarSource:
    """Images at offsets of one tar file, which is read in place; the offsets are found once and kept beside it."""

    classes: list[str]
    labels: np.ndarray

    def __init__(self, tar: Path) -> None:
        self.tar = tar
        self.names, self.offsets, self.sizes = _index(tar)
        self._open: tuple[int, IO[bytes]] | None = None

    def read(self, index: int) -> bytes:
        # Processes that inherited an open file would share its position: each opens its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), open(self.tar, 'rb')  # noqa: SIM115
        file = self._open[1]
        file.seek(int(self.offsets[index]))
        return file.read(int(self.sizes[index]))

    def name(self, index: int) -> str:
        return f'{self.tar}: {self.names[index].decode()}'

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_open': None}


class TrainTarSource(TarSource):
    """ILSVRC2012_img_train.tar: a tar of one tar a class."""

    def __init__(self, tar: Path) -> None:
        super().__init__(tar)
        wnids = [name.decode().partition('/')[0] for name in self.names]
        self.classes = sorted(set(wnids))
        number = {wnid: label for label, wnid in enumerate(self.classes)}
        self.labels = np.array([number[wnid] for wnid in wnids])


class ValTarSource(TarSource):
    """ILSVRC2012_img_val.tar: images whose classes the development kit lists, or a text file of WordNet ids."""

    def __init__(self, tar: Path) -> None:
        super().__init__(tar)
        wnids = _val_wnids(tar.parent)
        numbers = [int(found[1]) if (found := re.search(rb'_(\d+)\.\w+$', name)) else 0 for name in self.names]
        if not all(1 <= number <= len(wnids) for number in numbers):
            raise ValueError(f'{tar} has images that the list of {len(wnids)} labels beside it does not: get both anew')
        self.classes = sorted(set(wnids))
        label = {wnid: label for label, wnid in enumerate(self.classes)}
        self.labels = np.array([label[wnids[number - 1]] for number in numbers])


def _val_wnids(folder: Path) -> list[str]:
    """Return the WordNet id of each validation image, in the order of their numbers."""
    if (folder / SYNSETS).is_file():
        return read_text(folder / SYNSETS).split()
    devkit = folder / DEVKIT
    if not devkit.is_file():
        raise FileNotFoundError(
            f'the classes of {folder / TARS["val"]} are not known: put {DEVKIT}, or {SYNSETS} with the WordNet id of '
            'one image a line, beside it'
        )
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as archive:
            files = {Path(member.name).name: member for member in archive}
            synsets = loadmat(_extract(archive, files['meta.mat']), squeeze_me=True)['synsets']
            truth = _extract(archive, files['ILSVRC2012_validation_ground_truth.txt']).read().split()
        wnids = dict(zip(synsets['ILSVRC2012_ID'].tolist(), synsets['WNID'].tolist(), strict=True))
        return [wnids[int(number)] for number in truth]
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f'{devkit} is not the development kit of ILSVRC2012, or damaged: get it anew') from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None  # a regular file
    return file


Index = tuple[np.ndarray, np.ndarray, np.ndarray]  # names, offsets, sizes


def _index(tar: Path) -> Index:
    """Return names, offsets and sizes of the images in `tar`, from a file beside it (or in the cache) if it has one."""
    state = tar.stat()
    stamp = np.array([state.st_size, state.st_mtime_ns])
    cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'repvgg_seg'
    places = [tar.with_name(f'{tar.name}.index.npz'), cache / f'{tar.name}.{stamp[1]}.index.npz']
    for place in places:
        try:
            with np.load(place, allow_pickle=False) as stored:
                if np.array_equal(stored['stamp'], stamp):
                    return stored['names'], stored['offsets'], stored['sizes']
        except (OSError, ValueError, KeyError):  # none there, or none of ours
            continue
    try:
        entries = list(_entries(tar))
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f'{tar} is damaged or cut short ({error}): get it anew') from error
    if not entries:
        raise ValueError(f'{tar} holds no image: get it anew')
    names, offsets, sizes = (np.array(column) for column in zip(*entries, strict=True))
    for place in places:
        try:
            with atomic_write(place) as file:
                np.savez(file, stamp=stamp, names=names, offsets=offsets, sizes=sizes)
            break
        except FileError as error:
            logger.warning('the index of %s is not kept there: %s', tar, error)
    return names, offsets, sizes


def _entries(tar: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset and size of each image in a tar file, and in each tar file inside it."""
    with tarfile.open(tar, 'r:') as outer:
        members = track(outer, f'indexing {tar.name}', console=Console(stderr=True), transient=True)
        for member in (m for m in members if m.isfile()):
            if not member.name.endswith('.tar'):
                yield member.name.encode(), member.offset_data, member.size
                continue
            with tarfile.open(fileobj=_extract(outer, member), mode='r:') as inner:
                for image in (m for m in inner if m.isfile()):
                    name = f'{Path(member.name).stem}/{image.name}'
                    yield name.encode(), member.offset_data + image.offset_data, image.size
