"""Decoded images and masks on disk, and the loaders that map them into memory instead of decoding a file again.

    ROOT/PATH/NAME.png                a source
    ROOT/.decoded/PATH/NAME.png.raw   its entry: a page of JSON, then the pixels

ROOT is the deepest folder above all sources. An entry is valid while its source has the size and the time of change
that it notes; else, or where there is none, the source is decoded as ever. Mapped pixels cost only the pages that are
looked at: a crop reads its own rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from PIL import Image
from rich.console import Console
from rich.progress import track

from ..files import atomic_write, sha256
from .checking import check_data

FOLDER = '.decoded'
FORMAT = 1  # raise it whenever entries of before must not be read
PAGE = 4096  # bytes of the header, so that the pixels are aligned
ABANDONED_S = 600  # a temporary file that nobody has written to for so long is of a process that was killed


@TRANSFORMS.register_module()
class LoadCachedImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, which takes the pixels from the cache where they are in it."""

    @property
    def decoding(self) -> str:
        """What makes other pixels of the same file."""
        return f'image {self.color_type} {self.imdecode_backend}'

    @property
    def channels(self) -> int:
        """Bytes of a pixel, as the cache counts them before it is built."""
        return 1 if 'grayscale' in self.color_type else 3

    def decode(self, path: str) -> np.ndarray:
        """Return the pixels of a file, (H, W, 3) BGR by default."""
        return super().transform({'img_path': path})['img']

    def transform(self, results: dict) -> dict | None:
        """Add `img` and its shape."""
        pixels = read(results['img_path'], self.decoding)
        if pixels is None:
            return super().transform(results)
        results['img'] = pixels.astype(np.float32) if self.to_float32 else pixels
        results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadCachedAnnotations(LoadAnnotations):
    """mmseg's LoadAnnotations, which takes the mask from the cache where it is in it."""

    channels = 1

    def __init__(self, imdecode_backend: str = 'pillow', backend_args: dict | None = None) -> None:
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)

    @property
    def decoding(self) -> str:
        """What makes other pixels of the same file."""
        return f'mask {self.imdecode_backend}'

    def decode(self, path: str) -> np.ndarray:
        """Return the labels of a mask as they stand in its file, (H, W)."""
        content = fileio.get(path, backend_args=self.backend_args)
        return mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend).squeeze().astype(np.uint8)

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        mask = read(path, self.decoding)
        if mask is None:
            mask = self.decode(path)
        labels = _trained_labels(bool(results['reduce_zero_label']), results.get('label_map'))
        results['gt_seg_map'] = mask if labels is None else cv2.LUT(mask, labels)
        results['seg_fields'].append('gt_seg_map')


def _trained_labels(reduce_zero_label: bool, label_map: Mapping[int, int] | None) -> np.ndarray | None:
    """Return what is trained for each label 0 to 255 of a mask, or None if that is the label itself."""
    if not reduce_zero_label and label_map is None:
        return None
    labels = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:
        labels = np.array([255, *range(254), 255], np.uint8)
    renamed = labels.copy()
    for old, new in (label_map or {}).items():
        renamed[labels == old] = new
    return renamed


Loader = LoadCachedImage | LoadCachedAnnotations


def read(source: str, decoding: str) -> np.ndarray | None:
    """Return the cached pixels of `source`, mapped copy-on-write, or None if there is no valid entry."""
    path = os.path.abspath(source)
    for root in Path(path).parents:
        folder = root / FOLDER
        try:
            return _map(path, folder, decoding)[1]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError):
            _tell_invalid(folder)
    return None


@functools.cache  # once a process and cache
def _tell_invalid(folder: Path) -> None:
    print_log(
        f'{folder} has entries that do not fit their sources any more, which are decoded as if there were none: '
        'renew it with tools/cache_dataset.py',
        logger='current',
        level=logging.WARNING,
    )


def _map(source: str, folder: Path, decoding: str) -> tuple[dict[str, Any], np.ndarray]:
    """Return header and pixels of the entry of `source`.

    Raises:
        ValueError: it is cut short, or of another source or decoding.
    """
    with open(_entry(source, folder), 'rb') as file:
        header = json.loads(file.read(PAGE))
        if not isinstance(header, dict) or header.get('of') != _identity(source, decoding):
            raise ValueError('it is of something else')
        pixels = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return header, np.frombuffer(pixels, np.uint8, offset=PAGE).reshape(header['shape'])


def _entry(source: str, folder: Path) -> Path:
    return folder / f'{os.path.relpath(source, folder.parent)}.raw'


def _identity(source: str, decoding: str) -> dict[str, Any]:
    """Return what an entry must be of; a changed source shows at the cost of a look at its folder."""
    state = os.stat(source)
    return {'format': FORMAT, 'decoding': decoding, 'source': [state.st_size, state.st_mtime_ns]}


@dataclass(frozen=True)
class Plan:
    """What is to be decoded into which folder."""

    folder: Path
    missing: dict[str, Loader]  # path of a source -> the loader that decodes it
    present: int  # sources with a valid entry
    bytes: int  # the size of what is missing
    free: int  # bytes on the disk


def plan_cache(cfg: Config, *, verify: bool = False) -> Plan:
    """Return what the cache of the training data of `cfg` lacks; `verify` compares all that is there with its hashes.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: the training pipeline does not load through the cache.
    """
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    dataset_cfg = cfg.train_dataloader.dataset
    dataset = DATASETS.build(dataset_cfg)
    while 'dataset' in dataset_cfg:  # a wrapper, such as RepeatDataset
        dataset_cfg = dataset_cfg.dataset
    loaders: dict[str, Loader] = {}
    for transform in dataset_cfg.pipeline:
        if transform['type'] in ('LoadCachedImage', 'LoadCachedAnnotations'):
            loaders[transform['type']] = TRANSFORMS.build(transform)
    if len(loaders) < 2:
        raise ValueError(
            f'the training pipeline of {cfg.filename} would not read a cache: let it begin with LoadCachedImage and '
            'LoadCachedAnnotations'
        )
    sources: dict[str, Loader] = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        sources[os.path.abspath(info['img_path'])] = loaders['LoadCachedImage']
        sources[os.path.abspath(info['seg_map_path'])] = loaders['LoadCachedAnnotations']
    folder = Path(os.path.commonpath([os.path.dirname(path) for path in sources]), FOLDER)
    console = Console(stderr=True)
    missing = {
        path: loader
        for path, loader in track(sources.items(), 'looking', console=console, transient=True)
        if not _is_cached(path, loader, folder, verify)
    }
    size = sum(_size(path, loader) for path, loader in track(missing.items(), 'sizes', console=console, transient=True))
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    return Plan(folder, missing, len(sources) - len(missing), size, free)


def _is_cached(source: str, loader: Loader, folder: Path, verify: bool) -> bool:
    """Whether there is a valid entry; with `verify`, by the hashes of its source and of its pixels too."""
    try:
        header, pixels = _map(source, folder, loader.decoding)
    except (OSError, ValueError):
        return False
    return not verify or header['sha256'] == _hashes(source, pixels)


def _hashes(source: str, pixels: np.ndarray) -> list[str]:
    return [sha256(source), hashlib.sha256(pixels.data).hexdigest()]


def _size(source: str, loader: Loader) -> int:
    try:
        with Image.open(source) as image:  # reads its header only
            return PAGE + image.width * image.height * loader.channels
    except (OSError, ValueError):  # told when it is decoded
        return 0


def build_cache(plan: Plan, *, workers: int | None = None) -> None:
    """Decode what `plan` lacks, each entry whole or not at all; killed, it goes on where it was.

    Other processes may read the cache and even build it meanwhile.

    Raises:
        ValueError: the disk has no room for it, or some sources cannot be decoded; the others are cached then.
    """
    if plan.bytes > plan.free:
        raise ValueError(
            f'{plan.folder} would take {plan.bytes / 1e9:.1f} GB more, but its disk has {plan.free / 1e9:.1f} GB free: '
            'make room, or make that folder a link to one on a larger disk'
        )
    for path in plan.folder.rglob('.*.tmp'):
        if time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)
    # Threads: decoding, hashing and writing leave the interpreter to the others.
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        results = pool.map(lambda source: _store(source, plan.missing[source], plan.folder), plan.missing)
        shown = track(results, 'decoding', len(plan.missing), console=Console(stderr=True), transient=True)
        faults = [fault for fault in shown if fault]
    finally:
        pool.shutdown(cancel_futures=True)
    if faults:
        raise ValueError(
            f'{len(faults)} of {len(plan.missing)} files cannot be decoded, first {faults[0]}: repair or remove them; '
            'all others are cached'
        )


def _store(source: str, loader: Loader, folder: Path) -> str:
    """Decode `source` into its entry; return what is wrong with it, if anything."""
    identity = _identity(source, loader.decoding)  # before it is read: a change meanwhile makes the entry invalid
    try:
        pixels = np.ascontiguousarray(loader.decode(source))
    except Exception as error:  # a broken file can raise nearly anything
        return f'{source} ({" ".join(str(error).split()) or type(error).__name__})'
    if pixels.dtype != np.uint8:
        return f'{source} ({pixels.dtype}, not 8 bits a channel)'
    header = {'of': identity, 'shape': pixels.shape, 'sha256': _hashes(source, pixels)}
    with atomic_write(_entry(source, folder)) as file:
        file.write(json.dumps(header).encode().ljust(PAGE))
        file.write(pixels.data)
    return ''
