"""Put a batch norm behind each fused kernel of a deployed segmentor, to train it further for int8.

    python tools/quantize.py insert-bn work_dirs/demo configs/pspnet_repvgg_a0_demo.py --out work_dirs/demo/bn

The norms get the statistics of training images, and a gamma and beta that undo them: the network computes what it did.
Writes model.py, the config with such a network, and insert_bn.pth, its weights, which model.py begins with. A config
over model.py and configs/_base_/quantization_aware.py trains it with fake quantization: see docs/quantization.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..data.splits import spread
from ..deploy.convert import make_folder
from ..deploy.graph import InferenceGraph
from ..deploy.insert_bn import insert_measured_norms
from ..files import write_text
from ..openmmlab.datasets import inner_data_sets
from ..terminal import say
from ..weights.checkpoint_io import write_checkpoint
from ..workflows.config import load_config
from ..workflows.deployed import converted, load_deployed
from ..workflows.preparation import steps_of_test
from ..workflows.splits import check_data
from .config import add_config

IMAGES = 100  # whose pixels give each norm its statistics


def insert_bn(
    model_dir: str | Path,
    config: str | Path,
    out: str | Path,
    images: int | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Write `model.py` and `insert_bn.pth` to `out` and return the former.

    `config` is the one that the float network was trained with: its training images are measured, `images` of them (by
    default IMAGES, or all if there are fewer), prepared as the test prepares its own. `options` change the config.

    Raises:
        FileNotFoundError, ValueError: there is no deployed model, no such config, or see `insert_measured_norms`.
            Nothing has been written then.
    """
    cfg = load_config(config, options)
    if cfg.model.type != 'RepVGGSegmentor' or 'train_dataloader' not in cfg:
        raise ValueError(
            f'{config} is not a config to train a RepVGGSegmentor with: name the one of the float training'
        )
    _, segmentor, meta, _ = load_deployed(converted(model_dir))
    graph = InferenceGraph(segmentor, output='logits')
    number, samples = _training_images(cfg, config, images)
    insert_measured_norms(graph, track(samples, 'measuring', number, console=Console(stderr=True), transient=True))
    folder = make_folder(out).resolve()
    weights = folder / 'insert_bn.pth'
    write_checkpoint({'meta': {'dataset_meta': meta}, 'state_dict': segmentor.state_dict()}, weights)
    cfg.model.inserted_norms = True
    cfg.model.backbone.init_cfg = None
    cfg.load_from = str(weights)
    write_text(cfg.pretty_text, folder / 'model.py')
    return folder / 'model.py'


def _training_images(cfg: Config, config: str | Path, wanted: int | None) -> tuple[int, Iterator[Tensor]]:
    """Return how many training images are taken, and an iterator over them, each RGB of uint8 (1, H, W, 3)."""
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    parts: list[Any] = [
        DATASETS.build({**part, 'pipeline': steps_of_test(cfg)})
        for part in inner_data_sets(cfg.train_dataloader.dataset)
    ]
    places = [(part, index) for part in parts for index in range(len(part))]
    if wanted is not None and not 1 <= wanted <= len(places):
        raise ValueError(f'{wanted} images were asked for, and {config} has {len(places)}: choose from 1 to that')
    chosen = spread(places, wanted or IMAGES)
    return len(chosen), (part[index]['inputs'].flip(0).permute(1, 2, 0)[None] for part, index in chosen)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('step', choices=['insert-bn'], help='what is done')
    parser.add_argument(
        'model_dir', metavar='MODEL', help='folder of convert-deploy, or a work directory or checkpoint of a training'
    )
    add_config(parser)
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for model.py and insert_bn.pth')
    parser.add_argument(
        '--calibration-images',
        type=int,
        metavar='N',
        help=f'training images that are measured (default: {IMAGES}, or all)',
    )


def main(args: argparse.Namespace) -> None:
    """Insert the norms, and say what comes next."""
    path = insert_bn(args.model_dir, args.config, args.out, args.calibration_images, args.cfg_options)
    say(
        f'wrote {path}, which computes what {args.model_dir} does; train a config over it and '
        'configs/_base_/quantization_aware.py'
    )
