"""How the test of a config prepares images, and which sizes it makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from PIL import ExifTags, Image

from ..runtime.metadata import DECODERS, INTERPOLATIONS, Fit, Preparation

Size = tuple[int, int]  # (H, W)


def steps_of_test(cfg: Config) -> Sequence[Mapping[str, Any]]:
    """Return the steps that prepare images for the test."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:  # in a wrapper
        dataset = dataset['dataset']
    return dataset.get('pipeline') or cfg.get('test_pipeline') or ()


def read_preparation(cfg: Config, fit: Fit = 'test') -> Preparation:
    """Return how `cfg` prepares images for the test.

    Raises:
        ValueError: in a way that a Segmenter cannot repeat, and `fit` is 'test'.
    """
    found: dict[str, Any] = {}
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        found['stride'] = tuple(cfg.model.test_cfg.stride)
    unable = []
    for step in steps_of_test(cfg):
        kind = str(step['type']).rpartition('.')[2]
        if kind.startswith(('LoadImage', 'LoadCachedImage')):
            colour = step.get('color_type', 'color')
            found['upright'] = colour == 'color'
            unable += [] if colour in ('color', 'color_ignore_orientation', 'unchanged') else [f'{kind} of {colour}']
            found['decoder'] = step.get('imdecode_backend') or 'cv2'
            if found['decoder'] not in DECODERS:
                unable.append(f'{kind} by {found.pop("decoder")}')
        elif kind == 'Resize' and 'scale' not in found and step.get('scale') and step.get('backend', 'cv2') == 'cv2':
            width, height = step['scale'] if isinstance(step['scale'], Sequence) else [step['scale']] * 2
            found |= {'scale': (int(height), int(width)), 'keep_ratio': bool(step.get('keep_ratio'))}
            found['interpolation'] = step.get('interpolation', 'bilinear')
            unable += [] if found['interpolation'] in INTERPOLATIONS else [f'{kind} by {found["interpolation"]}']
        elif not kind.startswith(('Load', 'PackSegInputs')):
            unable.append(kind)
    if unable and fit == 'test':
        raise ValueError(
            f'the test pipeline has {" and ".join(unable)}, which no exported file repeats: its masks would not be '
            'those that were measured. Remove it and measure again, or choose --fit resize or --fit tile'
        )
    return Preparation(**found)


def sizes_of_val(cfg: Config, preparation: Preparation) -> dict[Size, float]:
    """Return each (H, W) that the test makes of images of the val set, with its share; {} without these images.

    Only the heads of files are read.
    """
    register_all_modules()
    dataset = cfg.get('val_dataloader') or cfg.get('test_dataloader')
    try:
        data: Any = DATASETS.build(dataset['dataset']) if dataset else ()
        paths = [data.get_data_info(index)['img_path'] for index in range(len(data))]
        sizes = Counter(preparation.resized(_shape(path, preparation.upright)) for path in paths)
    except (OSError, ValueError):  # the training, and its data, may have been on another machine
        return {}
    return {size: count / len(paths) for size, count in sizes.most_common()}


def _shape(path: str, upright: bool) -> Size:
    """Return the (H, W) of an image file."""
    with Image.open(path) as image:
        turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def default_size(cfg: Config) -> Size:
    """Return the (H, W) of the windows of the test of `cfg`, or else of the box that its images fit into, or its crops.

    Raises:
        ValueError: it has none of these.
    """
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        return tuple(cfg.model.test_cfg.crop_size)
    for step in steps_of_test(cfg):
        if step['type'] == 'Resize' and isinstance(step.get('scale'), (list, tuple)):
            width, height = step['scale']
            return int(height), int(width)
    if size := (cfg.model.get('data_preprocessor') or {}).get('size'):
        return tuple(size)
    raise ValueError('the config names no size of images: give one with --size HEIGHTxWIDTH')
