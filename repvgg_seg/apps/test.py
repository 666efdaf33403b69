"""Evaluate a segmentor, with --deploy also its converted form, and exported files like checkpoints.

    python tools/test.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo --deploy --show-dir overlays
    python tools/test.py work_dirs/demo work_dirs/demo/deploy/model.onnx

WEIGHTS are a checkpoint or a work directory, which stands for its best checkpoint or else its latest, and what
tools/export.py wrote: files that are run as applications run them, by Segmenter with its defaults. Differences are to
what is named first.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from PIL import Image
from rich.console import Console
from rich.progress import track

from .. import files
from ..cli import add_runner_options, add_trust
from ..deploy.convert import convert_segmentor, is_deployed, verify_segmentor
from ..environment import cpu, versions
from ..files import atomic_write
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..openmmlab.runner import Runner
from ..openmmlab.skip_unreadable import GuardedRunner
from ..runtime.backends import KINDS
from ..runtime.segmenter import Segmenter
from ..weights.pretrained import load_weights, resolve
from .check_dataset import check_data
from .config import (
    add_cfg_options,
    default_work_dir,
    find_checkpoint,
    is_config,
    keep_only_test,
    load_config,
    recorded_config,
)
from .train import prepare

Writer = Callable[[Runner, SegDataSample, Path], None]  # of the file of one image


class PredictionHook(Hook):
    """Lets `write` make a PNG file of each test image, in `folder` under the image's path in its data set."""

    def __init__(self, folder: str, write: Writer) -> None:
        self.folder, self.write = Path(folder), write

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


def write_mask(runner: Runner, sample: SegDataSample, path: Path) -> None:
    """Write the predicted class indices, 8 bits a pixel, above 256 classes 16."""
    few = len(runner.test_loop.dataloader.dataset.metainfo['classes']) <= 256
    mask = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if few else np.uint16)
    with atomic_write(path) as file:
        Image.fromarray(mask).save(file, 'PNG')


def reader(loader: Mapping[str, Any]) -> Callable[[str], np.ndarray[Any, Any]]:
    """Return what reads an image as (H, W, 3) RGB with `loader`, that of the pipeline."""
    load = TRANSFORMS.build(loader)

    def read(path: str) -> np.ndarray[Any, Any]:
        pixels = np.atleast_3d(load({'img_path': path})['img'])[..., :3]
        if pixels.dtype == np.uint16:
            pixels = pixels >> 8
        return np.broadcast_to(pixels[..., ::-1], (*pixels.shape[:2], 3)).astype(np.uint8)

    return read


def overlay_writer(loader: Mapping[str, Any]) -> Writer:
    """Return what draws an image twice side by side: under its ground truth, if it has one, and under the prediction.

    `loader` is that of the pipeline: another might turn or convert the image.
    """
    read = reader(loader)

    def write(runner: Runner, sample: SegDataSample, path: Path) -> None:
        image = read(sample.img_path)
        runner.visualizer.add_datasample(path.stem, image, sample, with_labels=False, out_file=str(path))

    return write


class Confusion(BaseMetric):
    """Counts the pixels of each class (rows) that are taken for each class (columns); labels of no class are left out.

    The counts are in `matrix` (classes, classes) after an evaluation, and None where there are no labels.
    """

    default_prefix = 'confusion'  # without one mmengine warns
    matrix: np.ndarray[Any, Any] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch."""
        number = len(self.dataset_meta['classes'])
        for sample in data_samples:
            if 'gt_sem_seg' in sample:
                truth, found = (sample[key]['data'].flatten().long().cpu() for key in ('gt_sem_seg', 'pred_sem_seg'))
                known = truth < number
                self.results.append(torch.bincount(truth[known] * number + found[known], minlength=number**2))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Keep the sum."""
        if results:
            number = len(self.dataset_meta['classes'])
            self.matrix = torch.stack(results).sum(0).reshape(number, number).numpy()
        return {}


Results = dict[str, dict[str, Any]]  # form of the network -> metric -> value; 'confusion': the matrix


def evaluate_file(cfg: Config, path: files.StrPath, *, trust: bool = False) -> dict[str, Any]:
    """Evaluate an exported file on the test set of `cfg`, by a Segmenter with its defaults.

    Raises:
        FileNotFoundError: the data or the file is not there.
        ValueError: the file cannot be used, or has other classes than the data.
    """
    register_all_modules()
    check_data(cfg, 'test_dataloader')
    segmenter = Segmenter(path, trust=trust)
    if not all(is_labelled(part) for part in inner_data_sets(cfg.test_dataloader.dataset)):
        raise ValueError(f'the test set has no labels to compare with: predict writes the masks of {path}')
    data = DATASETS.build(cfg.test_dataloader.dataset)
    if (classes := tuple(data.metainfo['classes'])) != segmenter.classes:
        raise ValueError(f'{path} knows the classes {", ".join(segmenter.classes)}, and the data {", ".join(classes)}')
    confusion = Confusion()
    evaluator = Evaluator([*_listed(cfg.test_evaluator), confusion])
    evaluator.dataset_meta = data.metainfo
    paths = [data.get_data_info(index)['img_path'] for index in range(len(data))]
    results = track(segmenter.stream(paths), f'Segmenting by {path}', len(paths), console=Console(stderr=True))
    for index, result in enumerate(results):
        sample = data[index]['data_samples']  # for its labels
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(result.mask.astype(np.int64))[None])
        evaluator.process([sample])
    return {**evaluator.evaluate(len(paths)), 'confusion': confusion.matrix}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


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
    each: Writer | None = None,
) -> Results:
    """Evaluate on the test set of `cfg`; with `deploy` in both forms, after proving that they are equal.

    Predicted masks go to `out_dir` as PNG files of class indices; `show_dir` gets one picture per image, truth on
    the left and prediction on the right. Where both forms are evaluated they are the deployed one's, and `each`
    is called with each of all predictions. Of a test set
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
    confusion = Confusion()
    confusion.dataset_meta = runner.test_loop.evaluator.dataset_meta
    runner.test_loop.evaluator.metrics.append(confusion)

    def measured() -> dict[str, Any]:
        return {**runner.test(), 'confusion': confusion.matrix}

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
        runner.register_hook(PredictionHook(out_dir, write_mask))
        runner.logger.info('%s gets masks of %s', out_dir, _meaning(runner.test_loop.dataloader.dataset.metainfo))
    if show_dir:
        loader = next(inner_data_sets(cfg.test_dataloader.dataset)).pipeline[0]
        runner.register_hook(PredictionHook(show_dir, overlay_writer(loader)))
    if each:
        runner.register_hook(PredictionHook('', each))
    if not deploy:
        results = {'deployed' if deployed else 'train-time': measured()}
    else:
        converted = convert_segmentor(segmentor)
        deviations = verify_segmentor(segmentor, converted)
        runner.logger.info('converted; largest relative deviation %.2e', max(d.max_rel for d in deviations))
        results = {'train-time': measured()}
        setattr(parent, name, converted)
        results['deployed'] = measured()
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
    """Return one line per metric, one column per form and, behind all but the first, the difference to the first."""
    first, *others = results
    lines = [['', first, *(cell for form in others for cell in (form, 'difference'))]]
    for metric in metrics:
        if all(metric in values for values in results.values()):
            base = results[first][metric]
            line = [metric, f'{base:.2f}']
            for form in others:
                value = results[form][metric]
                line += [f'{value:.2f}', f'{value - base:+.2f}']
            lines.append(line)
    widths = [max(10, *map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def class_rows(results: Results, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class of each form: IoU and Acc in percent, None where no label has the class."""
    rows = []
    for form, values in results.items():
        if values['confusion'] is None:
            continue
        hits, labels, found = (f(values['confusion']) for f in (np.diag, lambda m: m.sum(1), lambda m: m.sum(0)))
        for name, hit, label, all_found in zip(classes, hits, labels, found, strict=True):
            union = label + all_found - hit
            iou = 100 * hit / union if union else None
            acc = 100 * hit / label if label else None
            rows.append({'form': form, 'class': name, 'IoU': iou, 'Acc': acc, 'pixels': int(label)})
    return rows


def facts_of(results: Results, cfg: Config, weights: Mapping[str, Path]) -> dict[str, Any]:
    """Return what was measured, and with what, as plain data; `weights` are the files of the forms."""
    register_all_modules()
    rows = class_rows(results, DATASETS.build(cfg.test_dataloader.dataset).metainfo['classes'])
    return {
        'config': {'file': cfg.filename and str(cfg.filename), 'text': cfg.pretty_text},
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else cpu()[0],
        'versions': versions(),
        'results': {
            form: {
                'weights': {'file': str(weights[form]), 'sha256': files.sha256(weights[form])},
                **{name: round(float(value), 4) for name, value in values.items() if name != 'confusion'},
                'classes': [{k: v for k, v in row.items() if k != 'form'} for row in rows if row['form'] == form],
                'confusion': None if values['confusion'] is None else values['confusion'].tolist(),
            }
            for form, values in results.items()
        },
    }


def write_results(facts: Mapping[str, Any], *, to_json: str | None, to_csv: str | None) -> None:
    """Write what `facts_of` returned as JSON, and the classes as CSV.

    Raises:
        FileError: they cannot be written.
    """
    if to_json:
        files.write_text(json.dumps(facts, indent=1) + '\n', to_json)
    if to_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, ['form', 'class', 'IoU', 'Acc', 'pixels'], lineterminator='\n')
        writer.writeheader()
        for form, values in facts['results'].items():
            writer.writerows({'form': form, **row} for row in values['classes'])
        files.write_text(text.getvalue(), to_csv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'words',
        nargs='+',
        metavar='WEIGHTS',
        help='[CONFIG] checkpoint or work directory, and files that tools/export.py wrote: one or several; without '
        'CONFIG it is the one that the checkpoint remembers',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='convert the whole segmentor, verify it, evaluate both forms and print their difference',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: six scales, flipped and not')
    parser.add_argument('--out', metavar='DIR', help='write the predicted masks as PNG files of class indices')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside the ground truth')
    parser.add_argument('--json', metavar='FILE', help='write metrics, classes, confusion matrix, config and versions')
    parser.add_argument('--csv', metavar='FILE', help='write IoU and Acc of each class')
    add_trust(parser)
    add_runner_options(parser, work_dir='work_dirs/NAME_OF_CONFIG')


def main(args: argparse.Namespace) -> None:
    """Evaluate, and print the table.

    Raises:
        ValueError: what is named does not go together.
    """
    config, paths = (args.words[0], args.words[1:]) if is_config(args.words[0]) else (None, args.words)
    exported = [path for path in paths if Path(path).suffix.lower() in KINDS]
    checkpoints = [path for path in paths if path not in exported]
    if not paths:
        raise ValueError(f'there is nothing to evaluate: name weights after {config}')
    if len(checkpoints) > 1:
        raise ValueError(f'{" and ".join(checkpoints)} are two checkpoints: name one, and exported files beside it')
    if not checkpoints and (args.deploy or args.tta or args.out or args.show_dir):
        raise ValueError(
            '--deploy, --tta, --out and --show-dir are for checkpoints: predict writes the masks of a file'
        )
    if exported and args.launcher != 'none':
        raise ValueError('exported files are evaluated in one process: leave --launcher out')
    if config is None and not checkpoints:
        raise ValueError(f'an exported file does not hold its config: name that before {exported[0]}')
    cfg = load_config(config, args.cfg_options) if config else recorded_config(checkpoints[0], args.cfg_options)
    original = copy.deepcopy(cfg)
    results: Results = {}
    weights: dict[str, Path] = {}
    for checkpoint in checkpoints:
        results = evaluate(
            cfg,
            checkpoint,
            deploy=args.deploy,
            tta=args.tta,
            out_dir=args.out,
            show_dir=args.show_dir,
            work_dir=args.work_dir,
            launcher=args.launcher,
        )
        if not results:  # only the first process of several has them
            return
        weights = dict.fromkeys(results, Path(resolve(find_checkpoint(checkpoint))))
    for path in exported:
        results[path] = evaluate_file(copy.deepcopy(original), path, trust=args.trust)
        weights[path] = Path(path)
    if args.json or args.csv:
        write_results(facts_of(results, original, weights), to_json=args.json, to_csv=args.csv)
    if any(values.keys() - {'confusion'} for values in results.values()):  # there are none without labels
        print(format_table(results))
    for what, folder in (('masks', args.out), ('overlays', args.show_dir)):
        if folder:
            print(f'{what}: {folder}')
