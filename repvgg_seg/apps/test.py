"""Evaluate a segmentor, and with --deploy also its converted form.

    python tools/test.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo --deploy --show-dir overlays

CHECKPOINT is a file or a work directory, which stands for its best checkpoint or else its latest.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image

from ..cli import add_runner_options
from ..deploy.convert import convert_segmentor, is_deployed, verify_segmentor
from ..files import atomic_write
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..openmmlab.runner import Runner
from ..openmmlab.skip_unreadable import GuardedRunner
from ..weights.pretrained import load_weights, resolve
from .check_dataset import check_data
from .config import add_config, default_work_dir, find_checkpoint, keep_only_test, load_config
from .train import prepare


class PredictionHook(Hook):
    """Writes a PNG file of each test image to `folder`, under the path of the image in the folder of its data set."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Write those of one batch."""
        parts = inner_data_sets(runner.test_loop.dataloader.dataset)
        root = os.path.commonpath([os.path.abspath(part.data_prefix['img_path'] or '') for part in parts])
        for sample in outputs or ():
            path = Path(os.path.abspath(sample.img_path))
            inside = path.relative_to(root if path.is_relative_to(root) else path.anchor)
            self.write(runner, sample, self.folder / inside.with_suffix('.png'))

    def write(self, runner: Runner, sample: SegDataSample, path: Path) -> None:
        """Write the file of one image."""
        raise NotImplementedError


class MaskHook(PredictionHook):
    """Writes the predicted class indices, 8 bits a pixel, above 256 classes 16."""

    def write(self, runner: Runner, sample: SegDataSample, path: Path) -> None:
        """Write those of one image."""
        few = len(runner.test_loop.dataloader.dataset.metainfo['classes']) <= 256
        mask = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if few else np.uint16)
        with atomic_write(path) as file:
            Image.fromarray(mask).save(file, 'PNG')


class OverlayHook(PredictionHook):
    """Draws each image twice side by side: under its ground truth, if it has one, and under the prediction."""

    def __init__(self, folder: str, loader: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self.loader = TRANSFORMS.build(loader)  # that of the pipeline: another might turn or convert the image

    def write(self, runner: Runner, sample: SegDataSample, path: Path) -> None:
        """Draw one image."""
        pixels = np.atleast_3d(self.loader({'img_path': sample.img_path})['img'])[..., :3]
        if pixels.dtype == np.uint16:
            pixels = pixels >> 8
        image = np.broadcast_to(pixels[..., ::-1], (*pixels.shape[:2], 3)).astype(np.uint8)
        runner.visualizer.add_datasample(path.stem, image, sample, with_labels=False, out_file=str(path))


Results = dict[str, dict[str, float]]  # form of the network -> metric -> value


def evaluate(
    cfg: Config,
    checkpoint: str,
    *,
    deploy: bool = False,
    tta: bool = False,
    out_dir: str | None = None,
    show_dir: str | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Results:
    """Evaluate on the test set of `cfg`; with `deploy` in both forms, after proving that they are equal.

    Predicted masks go to `out_dir` as PNG files of class indices; `show_dir` gets one picture per image, truth on
    the left and prediction on the right. Where both forms are evaluated they are the deployed one's. Of a test set
    without labels (no seg_map_path, or format_only in the evaluator) there are files, and no metrics.

    Raises:
        FileNotFoundError: the data or the checkpoint is not there.
        ValueError: the checkpoint does not fit, or the model has no train-time RepVGG block to convert.
    """
    source = resolve(find_checkpoint(checkpoint))
    out_dir = _without_labels(cfg, out_dir, show_dir)
    check_data(cfg, 'test_dataloader')
    if tta and not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    cfg.work_dir = work_dir or default_work_dir(cfg)
    cfg.load_from, cfg.resume = None, False  # what is evaluated is `checkpoint`, whatever the training began with
    keep_only_test(cfg)
    cfg.model.backbone.init_cfg = None  # the checkpoint holds these weights
    if tta:
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        for part in inner_data_sets(cfg.test_dataloader.dataset):
            part.pipeline = cfg.tta_pipeline if cfg.test_evaluator else _unlabelled(cfg.tta_pipeline)
    runner = GuardedRunner.from_cfg(prepare(cfg, launcher))
    parent, name = runner, 'model'  # where the segmentor is: below what distributes or augments it
    while hasattr(getattr(parent, name), 'module'):
        parent, name = getattr(parent, name), 'module'
    segmentor: Any = getattr(parent, name)
    deployed = is_deployed(segmentor)
    if deploy and deployed:
        raise ValueError('this config is of a deployed model already: leave --deploy out')
    load_weights(segmentor, source)
    runner.logger.info('evaluating %s', source)

    if out_dir:
        runner.register_hook(MaskHook(out_dir))
        runner.logger.info('%s gets masks of %s', out_dir, _meaning(runner.test_loop.dataloader.dataset.metainfo))
    if show_dir:
        runner.register_hook(OverlayHook(show_dir, next(inner_data_sets(cfg.test_dataloader.dataset)).pipeline[0]))
    if not deploy:
        results = {'deployed' if deployed else 'train-time': runner.test()}
    else:
        converted = convert_segmentor(segmentor)
        deviations = verify_segmentor(segmentor, converted)
        runner.logger.info('converted; largest relative deviation %.2e', max(d.max_rel for d in deviations))
        results = {'train-time': runner.test()}
        setattr(parent, name, converted)
        results['deployed'] = runner.test()
    return results if is_main_process() else {}


def _without_labels(cfg: Config, out_dir: str | None, show_dir: str | None) -> str | None:
    """Let `cfg` neither load nor compare labels if its test set has none; return where masks go.

    Raises:
        ValueError: it has none, and nothing is to be written.
    """
    parts = list(inner_data_sets(cfg.test_dataloader.dataset))
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    format_only = [evaluator for evaluator in evaluators if evaluator.get('format_only')]
    if not format_only and all(is_labelled(part) for part in parts):
        return out_dir
    out_dir = out_dir or next((evaluator.get('output_dir') for evaluator in format_only), None)
    if not (out_dir or show_dir):
        raise ValueError('the test set has no labels to compare with: write the masks with --out DIR')
    cfg.test_evaluator = []
    for part in parts:
        part.data_prefix.pop('seg_map_path', None)
        part.pipeline = _unlabelled(part.pipeline)
    return out_dir


def _unlabelled(steps: Any) -> Any:
    """Return the steps of a pipeline, of one for test-time augmentation too, without those that load labels."""
    if isinstance(steps, Mapping):
        return {**steps, 'transforms': _unlabelled(steps['transforms'])} if 'transforms' in steps else steps
    kept = [step for step in steps if not (isinstance(step, Mapping) and 'Annotations' in step['type'])]
    return [step for step in map(_unlabelled, kept) if step]


def _meaning(metainfo: Mapping[str, Any]) -> str:
    """Return what the numbers in predicted masks mean."""
    names = metainfo['classes']
    less = ', one less than in the masks of the data set, whose 0 is ignored' if metainfo['reduce_zero_label'] else ''
    return f'class indices, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]}){less}'


def format_table(results: Mapping[str, Mapping[str, float]], metrics: Sequence[str] = ('mIoU', 'aAcc', 'mAcc')) -> str:
    """Return one line per metric, one column per form and, where there are two, their difference."""
    forms = list(results)
    header = ['', *forms, *(['difference'] if len(forms) == 2 else [])]
    lines = [header]
    for metric in metrics:
        values = [results[form][metric] for form in forms if metric in results[form]]
        if len(values) == len(forms):
            difference = [f'{values[1] - values[0]:+.2f}'] if len(forms) == 2 else []
            lines.append([metric, *(f'{value:.2f}' for value in values), *difference])
    return '\n'.join('  '.join(cell.rjust(10) for cell in line) for line in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file or work directory')
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='convert the whole segmentor, verify it, evaluate both forms and print their difference',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: six scales, flipped and not')
    parser.add_argument('--out', metavar='DIR', help='write the predicted masks as PNG files of class indices')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside the ground truth')
    add_runner_options(parser, work_dir='work_dirs/NAME_OF_CONFIG')


def main(args: argparse.Namespace) -> None:
    """Evaluate, and print the table."""
    results = evaluate(
        load_config(args.config, args.cfg_options),
        args.checkpoint,
        deploy=args.deploy,
        tta=args.tta,
        out_dir=args.out,
        show_dir=args.show_dir,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )
    if any(results.values()):  # only the first process of several has them, and only of labels
        print(format_table(results))
    if results:
        for what, folder in (('masks', args.out), ('overlays', args.show_dir)):
            if folder:
                print(f'{what}: {folder}')
