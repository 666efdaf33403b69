"""Transforms for training pipelines: resize and crop as one operation, and albumentations."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import Any

import albumentations
import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import Albu
from mmseg.registry import TRANSFORMS

MAX_CROPS = 11  # mmseg's RandomCrop draws at most so many crops, and takes the last one in any case


@TRANSFORMS.register_module()
class ResizeAndCrop(BaseTransform):
    """mmseg's RandomResize and RandomCrop in one operation that computes only the pixels that are kept.

    From the same state of numpy's random generator it draws the same crop as
    `RandomResize(scale, ratio_range, keep_ratio=True)` and `RandomCrop(crop_size, cat_max_ratio)` do. Labels are
    the same; pixels are interpolated at the same positions and differ by rounding.

    Args:
        scale: (width, height) that images are fitted into at ratio 1.
        ratio_range: smallest and largest ratio.
        crop_size: (height, width) of the crop; it is smaller where the resized image is.
        cat_max_ratio: a crop in which one class has a larger share of the labelled pixels is drawn again.
        ignore_index: label that counts as unlabelled.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        ratio_range: tuple[float, float],
        crop_size: tuple[int, int],
        cat_max_ratio: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        self.scale = scale
        self.ratio_range = ratio_range
        self.crop_size = crop_size
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Replace `img` and the masks by a crop of them."""
        height, width = results['img'].shape[:2]
        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        scale = int(self.scale[0] * ratio), int(self.scale[1] * ratio)
        new_width, new_height = mmcv.rescale_size((width, height), scale)
        columns, rows = _nearest(width, new_width), _nearest(height, new_height)
        for attempt in range(MAX_CROPS):
            top = np.random.randint(max(new_height - self.crop_size[0], 0) + 1)
            left = np.random.randint(max(new_width - self.crop_size[1], 0) + 1)
            kept_rows = rows[top : top + self.crop_size[0]]
            kept_columns = columns[left : left + self.crop_size[1]]
            masks = {key: results[key].take(kept_rows, 0).take(kept_columns, 1) for key in results['seg_fields']}
            last = attempt == MAX_CROPS - 1
            if self.cat_max_ratio >= 1 or last or self._is_varied(masks['gt_seg_map']):
                break
        step_x, step_y = width / new_width, height / new_height
        # Pixel centres are at +0.5, as in cv2.resize: where the crop's first pixel lies in the source, and the steps.
        to_source = np.array([[step_x, 0, (left + 0.5) * step_x - 0.5], [0, step_y, (top + 0.5) * step_y - 0.5]])
        results['img'] = cv2.warpAffine(
            results['img'],
            to_source,
            (len(kept_columns), len(kept_rows)),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        results.update(masks)
        results.update(scale=scale, scale_factor=(new_width / width, new_height / height), keep_ratio=True)
        results['img_shape'] = results['img'].shape[:2]
        return results

    def _is_varied(self, mask: np.ndarray) -> bool:
        """Whether there is more than one class and none takes more than its share."""
        if mask.dtype == np.uint8:  # a histogram takes a tenth of the time
            counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(int)
            counts[self.ignore_index] = 0
        else:
            labels, counts = np.unique(mask, return_counts=True)
            counts = counts[labels != self.ignore_index]
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale={self.scale}, ratio_range={self.ratio_range}, crop_size={self.crop_size}, '
            f'cat_max_ratio={self.cat_max_ratio}, ignore_index={self.ignore_index})'
        )


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Return the source index of each pixel of a line that cv2.resize brings from `size` to `new_size` by nearest."""
    line = np.arange(size, dtype=np.float32)[None]  # exact: an image side is far below 2**24
    return cv2.resize(line, (new_size, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.intp)


@TRANSFORMS.register_module()
class SeededAlbu(Albu):
    """mmseg's Albu for segmentation: reproducible, and labels stay labels.

    Only image and mask are handed over. Random numbers come from numpy's global generator, which mmengine seeds by
    `randomness.seed` and by worker; albumentations' own would ignore that seed and be the same in all forked workers.
    What a geometric transform brings in from beyond the border is labelled 255, unless it says `fill_mask`.

    Args:
        transforms: albumentations' transforms, as dictionaries with their `type`.
        bgr_to_rgb: hand over images as RGB, which is what albumentations expects.
    """

    def __init__(self, transforms: Sequence[dict], bgr_to_rgb: bool = True) -> None:
        super().__init__(list(transforms), bgr_to_rgb=bgr_to_rgb)

    def albu_builder(self, cfg: dict) -> Any:
        """Build a transform and what is nested in it."""
        transform = getattr(albumentations, cfg['type'], None) if isinstance(cfg['type'], str) else cfg['type']
        if transform is None:
            raise ValueError(f'albumentations {albumentations.__version__} has no transform {cfg["type"]!r}')
        if 'fill_mask' in inspect.signature(transform).parameters:
            cfg = {'fill_mask': 255, **cfg}
        return super().albu_builder(cfg)

    def transform(self, results: dict) -> dict:
        """Replace `img` and, if there is one, `gt_seg_map`."""
        seed = np.random.randint(2**32, dtype=np.uint32).item()
        self.aug.set_random_state(np.random.default_rng(seed), random.Random(seed))
        data = {'image': results['img']}
        if 'gt_seg_map' in results:
            data['mask'] = results['gt_seg_map']
        if self.bgr_to_rgb:
            data['image'] = cv2.cvtColor(data['image'], cv2.COLOR_BGR2RGB)
        data = self.aug(**data)
        if self.bgr_to_rgb:
            data['image'] = cv2.cvtColor(data['image'], cv2.COLOR_RGB2BGR)
        results['img'] = data['image']
        results['img_shape'] = data['image'].shape[:2]
        if 'mask' in data:
            results['gt_seg_map'] = np.ascontiguousarray(data['mask'])
        return results


@TRANSFORMS.register_module()
class AlbuPhotoMetricDistortion(SeededAlbu):
    """What mmseg's PhotoMetricDistortion does, with its arguments, by albumentations in a fraction of the time.

    Brightness, contrast, saturation and hue change one after the other, each with probability 1/2. Saturation is scaled
    about the grey of equal luminance (mmseg's keeps the largest channel), and contrast always changes second (mmseg's
    second or last).

    Args:
        brightness_delta: largest change of brightness, of 255.
        contrast_range: smallest and largest factor.
        saturation_range: smallest and largest factor.
        hue_delta: largest turn, of 180 for a full one.
    """

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        unchanged = {'brightness': (1, 1), 'contrast': (1, 1), 'saturation': (1, 1), 'hue': (0, 0)}
        contrast = {'contrast_limit': tuple(factor - 1 for factor in contrast_range), 'brightness_limit': 0}
        hue = hue_delta / 180
        super().__init__(
            [
                dict(type='RandomBrightnessContrast', brightness_limit=brightness_delta / 255, contrast_limit=0, p=0.5),
                dict(type='RandomBrightnessContrast', **contrast, p=0.5),
                dict(type='ColorJitter', **{**unchanged, 'saturation': saturation_range}, p=0.5),
                dict(type='ColorJitter', **{**unchanged, 'hue': (-hue, hue)}, p=0.5),
            ]
        )
