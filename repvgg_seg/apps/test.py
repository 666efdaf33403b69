"""Evaluate a segmentor, and with --deploy also its converted form.

    python tools/test.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo --deploy --show-dir overlays

CHECKPOINT is a file or a work directory, which stands for its best checkpoint or else its latest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.structures import SegDataSample

from ..cli import add_runner_options
from ..deploy.convert import convert_segmentor, is_deployed, verify_segmentor
from ..openmmlab.runner import Runner
from ..openmmlab.skip_unreadable import GuardedRunner
from ..weights.pretrained import load_weights, resolve
from .check_dataset import check_data
from .config import add_config, default_work_dir, find_checkpoint, keep_only_test, load_config
from .train import prepare


class OverlayHook(Hook):
    """Writes each test image twice side by side to `folder`: under its ground truth and under the prediction."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the images of one batch."""
        for sample in outputs or ():
            source = Path(sample.img_path)
            runner.visualizer.add_datasample(
                source.stem,
                mmcv.imread(str(source), channel_order='rgb'),
                sample,
                with_labels=False,
                out_file=str(self.folder / f'{source.stem}.png'),
            )


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
    the left and prediction on the right. Where both forms are evaluated they are the deployed one's.

    Raises:
        FileNotFoundError: the data or the checkpoint is not there.
        ValueError: the checkpoint does not fit, or the model has no train-time RepVGG block to convert.
    """
    source = resolve(find_checkpoint(checkpoint))
    check_data(cfg, 'test_dataloader')
    if tta and not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    cfg.work_dir = work_dir or default_work_dir(cfg)
    cfg.load_from, cfg.resume = None, False  # what is evaluated is `checkpoint`, whatever the training began with
    keep_only_test(cfg)
    cfg.model.backbone.init_cfg = None  # the checkpoint holds these weights
    if tta:
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    if out_dir:
        cfg.test_evaluator.output_dir = str(Path(out_dir).resolve())
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

    if show_dir:
        runner.register_hook(OverlayHook(show_dir))
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
    if results:  # only the first process of several has them
        print(format_table(results))
        if args.show_dir:
            print(f'overlays: {args.show_dir}')
