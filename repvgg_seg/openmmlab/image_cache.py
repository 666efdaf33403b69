"""Decoded images and masks on disk, and the loaders that map them into memory instead of decoding a file again.

    ROOT/PATH/NAME.png                a source
    ROOT/.decoded/PATH/NAME.png.raw   its entry: a page of JSON, then the pixels

ROOT is the deepest folder above all sources. An entry is valid while its source has the size and the time of change
that it notes; else the source is decoded as without a cache. Of mapped pixels only the pages that are used are read: a
crop reads its own rows.
"""

from __future__ import annotations

import functools
import json
import logging
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

FOLDER = '.decoded'
FORMAT = 1  # raise it when older entries must not be read
PAGE = 4096  # bytes of the header, so that the pixels are aligned


@TRANSFORMS.register_module()
class LoadCachedImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, which takes pixels that are cached from the cache."""

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
    """mmseg's LoadAnnotations, which takes a mask that is cached from the cache."""

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
            return open_entry(path, folder, decoding)[1]
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


def open_entry(source: str, folder: Path, decoding: str) -> tuple[dict[str, Any], np.ndarray]:
    """Return header and pixels of the entry of `source`.

    Raises:
        ValueError: it is cut short, or of another source or decoding.
    """
    with open(entry(source, folder), 'rb') as file:
        header = json.loads(file.read(PAGE))
        if not isinstance(header, dict) or header.get('of') != identity(source, decoding):
            raise ValueError('it is of something else')
        pixels = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return header, np.frombuffer(pixels, np.uint8, offset=PAGE).reshape(header['shape'])


def entry(source: str, folder: Path) -> Path:
    return folder / f'{os.path.relpath(source, folder.parent)}.raw'


def identity(source: str, decoding: str) -> dict[str, Any]:
    """Return what identifies the source of an entry; it changes with the source, and costs one look at its folder."""
    state = os.stat(source)
    return {'format': FORMAT, 'decoding': decoding, 'source': [state.st_size, state.st_mtime_ns]}
