"""Write the demo data set: reproducible images under Cityscapes' folder and file names.

ROOT/leftImg8bit/{train,val}/{city}/{city}_{seq:06d}_000019_leftImg8bit.png
ROOT/gtFine/{train,val}/{city}/{city}_{seq:06d}_000019_gtFine_label{Ids,TrainIds}.png
ROOT/demo.json                  the parameters, by which a set, also an unfinished one, is recognised
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..data.cityscapes import TRAIN_IDS
from ..files import FileError, claim
from ..parallel import parallel_map
from .scene import FEATURES, draw_scene

GENERATOR_VERSION = 1  # raise it whenever the same parameters give other bytes
SPLITS = ('train', 'val')
# Invented, so that nobody takes a demo file for one of Cityscapes' own.
CITIES = {'train': ('ahornstadt', 'birkenau', 'erlenbruck', 'lindental'), 'val': ('eschenried', 'ulmenhof')}
MARKER = 'demo.json'
MIN_SIZE, MAX_SIDE, MAX_IMAGES = (64, 32), 4096, 100_000

log = logging.getLogger(__name__)


class DemoDatasetError(ValueError):
    """A request for a demo data set that cannot be met; the message is one sentence for the user."""


def demo_sample(seed: int, split: str, index: int, size: tuple[int, int] = (512, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Draw image `index` of a split.

    It depends on these arguments alone, never on how many images there are or who draws them. Every image
    shows one of the rare classes in turn, so that small sets have them all.

    Returns:
        The image, (H, W, 3) uint8 RGB, and its Cityscapes label ids, (H, W) uint8.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))
    return draw_scene(rng, size, FEATURES[index % len(FEATURES)])


def sample_paths(split: str, index: int) -> tuple[Path, Path, Path]:
    """Return the paths of image, label ids and train ids, relative to the root."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    stem = f'{city}_{index // len(cities):06d}_000019'
    labels = Path('gtFine', split, city)
    return (
        Path('leftImg8bit', split, city, f'{stem}_leftImg8bit.png'),
        labels / f'{stem}_gtFine_labelIds.png',
        labels / f'{stem}_gtFine_labelTrainIds.png',
    )


def write_demo_dataset(
    root: str | os.PathLike[str],
    *,
    train: int = 128,
    val: int = 32,
    size: tuple[int, int] = (512, 256),
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the demo data set, or complete it, and return its folder.

    A complete set of the same parameters is left as it is, and an interrupted one is completed. With more
    than one worker, processes are spawned: call this from a module whose top level may be imported again.

    Args:
        root: the folder of the data set; it may not exist yet.
        train: number of training images.
        val: number of validation images.
        size: width and height of the images in pixels.
        seed: a non-negative integer.
        workers: number of processes, by default one for each processor.
        overwrite: replace the demo set that is there, removing nothing but the files it wrote.

    Raises:
        DemoDatasetError: if a parameter is out of range.
        FileError: if the folder holds a demo set of other parameters (without `overwrite`) or files that no demo set
            wrote.
    """
    parameters = _parameters(train, val, size, seed)
    if workers is not None and workers < 1:
        raise DemoDatasetError(f'workers is {workers}, but at least one process must draw.')
    root = Path(root)
    claim(root / MARKER, parameters, partial(_written, root), overwrite=overwrite)
    samples = [(split, i) for split in SPLITS for i in range(parameters[split])]
    missing = [s for s in samples if not all((root / path).is_file() for path in sample_paths(*s))]
    for split in SPLITS:  # both exist even if a split is empty, as loaders expect
        for kind in ('leftImg8bit', 'gtFine'):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
    _draw_all(root, missing, size, seed, workers)
    log.info('wrote %d of %d samples to %s', len(missing), len(samples), root)
    return root


def _parameters(train: int, val: int, size: tuple[int, int], seed: int) -> dict[str, Any]:
    width, height = size
    if not (MIN_SIZE[0] <= width <= MAX_SIDE and MIN_SIZE[1] <= height <= MAX_SIDE):
        raise DemoDatasetError(
            f'size {height}x{width} is out of range: give a height of {MIN_SIZE[1]} to {MAX_SIDE} '
            f'and a width of {MIN_SIZE[0]} to {MAX_SIDE} pixels.'
        )
    if min(train, val) < 0 or train + val == 0 or max(train, val) > MAX_IMAGES:
        raise DemoDatasetError(
            f'{train} train and {val} val images: give 0 to {MAX_IMAGES} of each, at least one in all.'
        )
    if seed < 0:
        raise DemoDatasetError(f'seed is {seed}, but it must not be negative.')
    return {
        'generator': 'repvgg_seg.demo', 'version': GENERATOR_VERSION, 'train': train, 'val': val,
        'size': [width, height], 'seed': seed,
    }  # fmt: skip


def _files(parameters: dict) -> Iterator[Path]:
    for split in SPLITS:
        for i in range(parameters[split]):
            yield from sample_paths(split, i)


def _temporary(path: Path) -> Path:
    return path.with_name(f'.{path.name}.tmp')


def _written(root: Path, found: dict[str, Any]) -> list[Path]:
    """Return the files of the set with the parameters `found`.

    Raises:
        FileError: the parameters are not those of a demo set, or there are other files among those of the set.
    """
    try:
        if found['generator'] != 'repvgg_seg.demo' or not all(0 <= found[split] <= MAX_IMAGES for split in SPLITS):
            raise ValueError('not written by this generator')
        own = [root / path for path in _files(found)]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f'{root / MARKER} does not describe a demo set ({error}): choose another folder') from error
    own += [_temporary(path) for path in own]
    known = {*own}
    for kind in ('leftImg8bit', 'gtFine'):
        for path in sorted((root / kind).rglob('*')):
            if not path.is_dir() and path not in known:
                raise FileError(
                    f'{root} holds files that no demo set wrote (such as {path.relative_to(root).as_posix()}): '
                    f'move them away or choose another folder'
                )
    return own


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    temporary = _temporary(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _draw(root: Path, size: tuple[int, int], seed: int, sample: tuple[str, int]) -> None:
    """Draw one sample and write its three files."""
    image, labels = demo_sample(seed, *sample, size)
    for path, pixels in zip(sample_paths(*sample), (image[..., ::-1], labels, TRAIN_IDS[labels]), strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        _write(root / path, cv2.imencode('.png', pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())


def _draw_all(
    root: Path, samples: list[tuple[str, int]], size: tuple[int, int], seed: int, workers: int | None
) -> None:
    draw = partial(_draw, root, size, seed)
    for _ in parallel_map(draw, samples, workers=workers, description='Drawing street scenes'):
        pass
