"""What int8 is calibrated and judged with: the images of a folder, or the training and val set of a config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules

from .. import files
from ..data.splits import spread
from ..deploy.export import TARGETS
from ..deploy.quantize import MAX_DROP, MIN_AGREEMENT, Calibration
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..runtime.images import SUFFIXES
from .config import is_config, load_config
from .evaluation import evaluate_file
from .splits import check_data

CALIBRATION_IMAGES = 300  # at most, unless another number is asked for
OPTIONS = ('calibration', 'calibration_images', 'max_drop', 'min_agreement', 'keep_float', 'accuracy_control')


def read_calibration(options: Mapping[str, Any], command: str) -> Calibration | None:
    """Return what int8 is calibrated and judged with; None for another precision.

    `options` are the arguments of the export, and `command` is the command line that repeats it.

    Raises:
        FileNotFoundError: the images are not there.
        ValueError: the options do not fit the precision or each other.
    """
    path, drop, agreement = options['calibration'], options['max_drop'], options['min_agreement']
    given = [name for name in OPTIONS if options[name] not in (None, (), [], False)]
    if options['precision'] != 'int8':
        if given:
            flag = '--' + given[0].replace('_', '-')
            raise ValueError(f'{flag} is for --precision int8, and {options["precision"]} was asked for')
        return None
    if 'int8' not in TARGETS[options['to']].precisions:
        return None  # which the export refuses
    if path is None:  # a model that was trained with fake quantization needs none
        if given:
            flag = '--' + given[0].replace('_', '-')
            raise ValueError(f'{flag} is about images to calibrate with, and --calibration names none')
        return None
    evaluate = None
    if is_config(path):
        cfg = load_config(path)
        images, evaluate = _training_images(cfg, path), _evaluation(cfg, path)
    elif drop is not None:
        raise ValueError(
            f'{path} has no labels, which --max-drop needs: name a config with --calibration, or demand agreement with '
            '--min-agreement'
        )
    else:
        images = [str(image) for image in image_files(path)]
        agreement = MIN_AGREEMENT if agreement is None else agreement
    number = options['calibration_images']
    if number is not None and not 1 <= number <= len(images):
        raise ValueError(
            f'{number} images were asked for, and {path} has {len(images)} to calibrate with: '
            f'choose --calibration-images from 1 to {len(images)}'
        )
    return Calibration(
        images=spread(images, number or CALIBRATION_IMAGES),
        min_agreement=agreement,
        evaluate=evaluate,
        max_drop=MAX_DROP if drop is None else drop,
        keep_float=options['keep_float'],
        accuracy_control=options['accuracy_control'],
        command=command,
    )


def _training_images(cfg: Config, path: str | Path) -> list[str]:
    if 'train_dataloader' not in cfg:
        raise ValueError(f'{path} has no train_dataloader, whose images int8 is calibrated with: name another config')
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    images = []
    for part in inner_data_sets(cfg.train_dataloader.dataset):
        data = DATASETS.build({**part, 'pipeline': []})
        images += [data.get_data_info(index)['img_path'] for index in range(len(data))]
    return images


def _evaluation(cfg: Config, path: str | Path) -> Callable[[Path], float]:
    """Return a function that evaluates a file on the val set of `cfg`."""
    if 'val_dataloader' not in cfg or not all(map(is_labelled, inner_data_sets(cfg.val_dataloader.dataset))):
        raise ValueError(f'{path} has no val set with labels to measure the mIoU on: name a folder of images instead')
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    check_data(cfg, 'test_dataloader')
    return lambda file: float(evaluate_file(copy.deepcopy(cfg), file)['mIoU'])


def image_files(images: str | Path | None) -> Sequence[Path]:
    """Return an image file, or those in a folder; none for None.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if images is None:
        return []
    path = Path(images)
    found = list(files.walk(path, SUFFIXES)) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f'{path} holds no image')
    return found
