"""Evaluating segmentors on the test set of a config: checkpoints in both forms, and exported files."""

from __future__ import annotations

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
from torch import Tensor

from .. import files, terminal
from ..deploy.convert import convert_segmentor, is_deployed, verify_segmentor
from ..environment import cpu, versions
from ..files import atomic_write
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..openmmlab.runner import Runner
from ..openmmlab.skip_unreadable import GuardedRunner
from ..runtime.images import Array
from ..runtime.segmenter import Segmenter
from ..weights.pretrained import Checkpoint, load_weights
from .config import keep_only_test
from .splits import check_data
from .work_dir import default_work_dir

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


def confusion(labels: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Return how many pixels of each class (rows) are taken for each class (columns); labels of none are left out."""
    known = labels < classes
    pairs = labels[known].long() * classes + mask[known].long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


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
                truth, found = (sample[key]['data'].cpu() for key in ('gt_sem_seg', 'pred_sem_seg'))
                self.results.append(confusion(truth, found, number))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Keep the sum."""
        if results:
            self.matrix = torch.stack(results).sum(0).numpy()
        return {}


Results = dict[str, dict[str, Any]]  # form of the network -> metric -> value; 'confusion': the matrix


def evaluate_file(
    cfg: Config,
    path: files.StrPath,
    *,
    trust: bool = False,
    backend: str = 'auto',
    each: Callable[[str, Array], None] | None = None,
) -> dict[str, Any]:
    """Evaluate an exported file on the test set of `cfg`, by a Segmenter with its defaults but for the `backend`.

    `each` is called with the path of each image and its mask.

    Raises:
        FileNotFoundError: the data or the file is not there.
        ValueError: the file cannot be used, or has other classes than the data.
    """
    register_all_modules()
    check_data(cfg, 'test_dataloader')
    segmenter = Segmenter(path, backend=backend, trust=trust)
    if not all(is_labelled(part) for part in inner_data_sets(cfg.test_dataloader.dataset)):
        raise ValueError(f'the test set has no labels to compare with: predict writes the masks of {path}')
    data = DATASETS.build(cfg.test_dataloader.dataset)
    if (classes := tuple(data.metainfo['classes'])) != segmenter.classes:
        raise ValueError(f'{path} knows the classes {", ".join(segmenter.classes)}, and the data {", ".join(classes)}')
    counted = Confusion()
    evaluator = Evaluator([*_listed(cfg.test_evaluator), counted])
    evaluator.dataset_meta = data.metainfo
    paths = [data.get_data_info(index)['img_path'] for index in range(len(data))]
    what = terminal.label(f'Segmenting by {path}')
    results = track(segmenter.stream(paths), what, len(paths), console=Console(stderr=True))
    for index, result in enumerate(results):
        sample = data[index]['data_samples']  # for its labels
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(result.mask.astype(np.int64))[None])
        evaluator.process([sample])
        if each:
            each(paths[index], result.mask)
    return {**evaluator.evaluate(len(paths)), 'confusion': counted.matrix}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def evaluate(
    cfg: Config,
    checkpoint: Checkpoint,
    *,
    deploy: bool = False,
    tta: bool = False,
    out_dir: str | None = None,
    show_dir: str | None = None,
    work_dir: str | None = None,
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
    out_dir = _without_labels(cfg, out_dir, show_dir)
    check_data(cfg, 'test_dataloader')
    if tta and not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    # A config that a checkpoint remembers has no name. Beside the checkpoint are records of its training alone.
    cfg.work_dir = work_dir or (default_work_dir(cfg) if cfg.filename else str(checkpoint.path.with_name('test')))
    cfg.load_from, cfg.resume = None, False  # `checkpoint` is evaluated, not what the training began with
    keep_only_test(cfg)
    cfg.model.backbone.init_cfg = None  # the checkpoint holds these weights
    if tta:
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        for part in inner_data_sets(cfg.test_dataloader.dataset):
            part.pipeline = cfg.tta_pipeline if cfg.test_evaluator else _unlabelled(cfg.tta_pipeline)
    runner = GuardedRunner.from_cfg(cfg)
    counted = Confusion()
    counted.dataset_meta = runner.test_loop.evaluator.dataset_meta
    runner.test_loop.evaluator.metrics.append(counted)

    def measured() -> dict[str, Any]:
        return {**runner.test(), 'confusion': counted.matrix}

    parent, name = runner, 'model'  # where the segmentor is: below what distributes or augments it
    while hasattr(getattr(parent, name), 'module'):
        parent, name = getattr(parent, name), 'module'
    segmentor: Any = getattr(parent, name)
    deployed = is_deployed(segmentor)
    if deploy and deployed:
        raise ValueError('this config is of a deployed model already: leave --deploy out')
    load_weights(segmentor, checkpoint)
    runner.logger.info('evaluating %s', checkpoint.path)

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
    """Change `cfg` not to load labels if its test set has none; return where masks go.

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
    """Return the steps of a pipeline, also of one for test-time augmentation, without those that load labels."""
    if isinstance(steps, Mapping):
        return {**steps, 'transforms': _unlabelled(steps['transforms'])} if 'transforms' in steps else steps
    kept = [step for step in steps if not (isinstance(step, Mapping) and 'Annotations' in step['type'])]
    return [step for step in map(_unlabelled, kept) if step]


def _meaning(metainfo: Mapping[str, Any]) -> str:
    """Return the meaning of the numbers in predicted masks."""
    names = metainfo['classes']
    less = ', one less than in the masks of the data set, whose 0 is ignored' if metainfo['reduce_zero_label'] else ''
    return f'class indices, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]}){less}'


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
