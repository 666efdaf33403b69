"""Draw what the network sees of a data set: after augmentation, beside the same under its labels.

    python tools/browse_dataset.py configs/pspnet_repvgg_a0_demo.py --out work_dirs/browse

Look at the pictures before a long training: are the colours natural, do labels lie where the things are, is what is
hatched (ignored) meant to be?
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import set_random_seed
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS, MODELS
from mmseg.utils import register_all_modules
from torch.utils.data import Dataset

from ..data import pictures
from ..data.splits import Split
from ..files import atomic_write
from ..parallel import parallel_map
from ..terminal import say
from ..workflows.config import load_config
from ..workflows.splits import list_splits
from .config import add_config


def browse(cfg: Config, *, out_dir: str | Path, split: str = 'train', number: int = 16, seed: int = 0) -> int:
    """Draw `number` samples of a split, spread over it, as the network gets them, and return how many there are.

    Each picture shows the image, with the normalisation undone, beside the same under its labels; what is ignored,
    padding among it, is hatched. Samples are drawn again from the start if there are fewer than `number`.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the config has no such split, or nothing is asked for.
    """
    register_all_modules()
    loader = f'{split}_dataloader'
    if loader not in cfg:
        raise ValueError(f'the config has no {loader}')
    if number < 1:
        raise ValueError(f'--number is {number}: at least one sample must be drawn')
    source = list_splits(cfg, loader)[0]
    set_random_seed(seed)
    dataset = DATASETS.build(copy.deepcopy(cfg[loader].dataset))
    preprocessor = MODELS.build(cfg.model.get('data_preprocessor') or {'type': 'SegDataPreProcessor'})
    indices = [i * len(dataset) // number % len(dataset) for i in range(number)]
    draw = partial(_draw, dataset, preprocessor, source, training=split == 'train')
    drawn = parallel_map(draw, indices, workers=1, description='Drawing samples')
    for i, (index, (name, picture)) in enumerate(zip(indices, drawn, strict=True)):
        with atomic_write(Path(out_dir, f'{i:03d}_{index:05d}_{name}.png')) as file:
            file.write(picture)
    return number


def _draw(
    dataset: Dataset, preprocessor: SegDataPreProcessor, split: Split, index: int, *, training: bool
) -> tuple[str, bytes]:
    """Return the name of a sample's image and the picture of what the network gets of it."""
    batch = preprocessor(pseudo_collate([dataset[index]]), training)
    sample = batch['data_samples'][0]
    image = _image(batch['inputs'][0].numpy(), preprocessor)
    truth = sample.gt_sem_seg.data[0].numpy().astype(np.int16)
    truth[(truth >= len(split.labels.classes)) | (truth == split.labels.ignore_index)] = pictures.IGNORED
    if image.shape[:2] != truth.shape:  # in validation masks keep the size of the file
        image = cv2.resize(image, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    pair = np.concatenate([image, pictures.overlay(image, truth, split.labels.palette)], axis=1)
    height, width = truth.shape
    name = Path(sample.img_path).name
    legend = pictures.legend(split.labels.classes, split.labels.palette, np.unique(truth).tolist(), width=pair.shape[1])
    return Path(name).stem, pictures.png(
        pictures.stacked(pictures.captioned(pair, f'{name}  {width}x{height}'), legend)
    )


def _image(tensor: np.ndarray, preprocessor: SegDataPreProcessor) -> np.ndarray:
    """Return the image (H, W, 3), uint8 RGB, that the network's input (3, H, W) was made from."""
    pixels = tensor.transpose(1, 2, 0)
    if preprocessor._enable_normalize:
        pixels = pixels * preprocessor.std.numpy().ravel() + preprocessor.mean.numpy().ravel()
    if not preprocessor._channel_conversion:  # mmcv loads BGR
        pixels = pixels[..., ::-1]
    return np.clip(pixels.round(), 0, 255).astype(np.uint8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('--out', required=True, metavar='DIR', help='where pictures go')
    parser.add_argument(
        '--split', choices=['train', 'val', 'test'], default='train', help='what is drawn (default: %(default)s)'
    )
    parser.add_argument('--number', type=int, default=16, metavar='N', help='how many samples (default: %(default)s)')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='another seed augments differently (default: %(default)s)'
    )


def main(args: argparse.Namespace) -> None:
    """Draw, and say how many."""
    cfg = load_config(args.config, args.cfg_options)
    drawn = browse(cfg, out_dir=args.out, split=args.split, number=args.number, seed=args.seed)
    say(f'{drawn} samples of {args.split} are drawn in {args.out}')
