"""Write one HTML page about a training, and about the files that were made from it.

    repvgg-seg report work_dirs/demo work_dirs/demo/deploy/model.onnx

The page loads nothing from anywhere, so that it can be sent to somebody. The training is evaluated for it on the test
set (of data without labels there, on the val set), and so is each exported file, which is timed as well. Of a training
that was interrupted, the page has what is there.
"""

from __future__ import annotations

import argparse
import copy
import functools
import shlex
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from .. import files
from ..cli import add_trust
from ..environment import cpu, versions
from ..openmmlab.datasets import inner_data_sets, is_labelled, metainfo
from ..report.page import Contents, render
from ..report.pictures import Extremes, Segmented, draw
from ..report.training import Training, read_reports, read_training
from ..runtime.segmenter import Segmenter
from ..terminal import say
from ..timing import Latency, measure_latency
from ..weights.pretrained import Checkpoint
from ..workflows.config import load_config, merge_options, recorded_config
from ..workflows.evaluation import Confusion, Results, class_rows, evaluate, evaluate_file, facts_of, reader
from ..workflows.work_dir import open_checkpoint
from .config import add_cfg_options
from .train import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('work_dir', metavar='WORK_DIR', help='work directory of a training')
    parser.add_argument('model_files', nargs='*', metavar='MODEL_FILE', help='files that export wrote')
    parser.add_argument('--out', metavar='FILE', help='the page (default: WORK_DIR/report.html)')
    parser.add_argument(
        '--count', type=int, default=3, metavar='N', help='how many of the worst and of the best (default: 3)'
    )
    parser.add_argument('--runs', type=int, default=10, metavar='N', help='timed runs of each file (default: 10)')
    add_trust(parser)
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """Evaluate, time, and write the page.

    Raises:
        FileNotFoundError: the folder or a file is not there.
        ValueError: the folder holds no training, or a file does not fit it.
    """
    if args.count < 0 or args.runs < 1:
        raise ValueError(f'there is nothing to show with --count {args.count} and --runs {args.runs}')
    folder = Path(args.work_dir)
    training = read_training(folder)
    reports = read_reports(folder / 'deploy', map(Path, args.model_files))
    cfg, checkpoint = _config(folder, training, args.cfg_options)
    state, config = _state(training, cfg), cfg.pretty_text if cfg else ''
    page: dict[str, Any] = {'notes': []}
    if checkpoint is None:
        page['notes'].append(
            'There is no checkpoint yet, so nothing was evaluated: go on with the training by --resume.'
        )
    elif cfg:
        page |= _evaluated(cfg, checkpoint, args)
    made = {'this page': versions(), 'conversion': (reports['conversion'] or {}).get('versions')}
    made |= {path: (report.get('metadata') or {}).get('versions') for path, report in reports['exports'].items()}
    contents = Contents(
        title=f'Training {folder.resolve().name}',
        state=state,
        training=training,
        config=config,
        commands=_commands(args, training, reports),
        reports=reports,
        versions={what: found for what, found in made.items() if found},
        **page,
    )
    path = args.out or folder / 'report.html'
    text = render(contents)
    files.write_text(text, path)
    for note in contents.notes:
        say(note)
    say(f'{state}; wrote {path} ({len(text.encode()) / 1e6:.1f} MB)')


def _config(folder: Path, training: Training, options: dict[str, Any]) -> tuple[Config | None, Checkpoint | None]:
    """Return the config of a training, as far as it was recorded, and its checkpoint if it has come to one."""
    try:
        checkpoint = open_checkpoint(folder)
    except FileNotFoundError:
        return (load_config(training.config, options) if training.config else None), None
    try:
        return recorded_config(checkpoint, options), checkpoint
    except ValueError:
        if not training.config:
            raise
        return merge_options(load_config(training.config), options, str(training.config)), checkpoint


def _state(training: Training, cfg: Config | None) -> str:
    loop = (cfg and cfg.get('train_cfg')) or {}
    if 'max_iters' not in loop:
        return f'{training.last_step} iterations were recorded'
    done = min(training.last_step, loop['max_iters'])
    return f'{done} of {loop["max_iters"]} iterations' + (
        '' if done == loop['max_iters'] else ': interrupted, or still at it'
    )


def _evaluated(cfg: Config, checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the checkpoint and the files; return what the page tells of it."""
    if not all(map(is_labelled, inner_data_sets(cfg.test_dataloader.dataset))):
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    extremes = Extremes(max(1, args.count))
    meta = metainfo(cfg.test_dataloader.dataset)
    original = copy.deepcopy(cfg)
    segmenters = {path: Segmenter(path, trust=args.trust) for path in args.model_files}
    collect = _collector(extremes, list(meta['classes']))
    try:  # the files first: what does not fit is told before the longer part
        of_files = {path: evaluate_file(copy.deepcopy(original), path, trust=args.trust) for path in segmenters}
        with tempfile.TemporaryDirectory(prefix='report-') as work_dir:
            results: Results = evaluate(prepare(cfg, 'none'), checkpoint, work_dir=work_dir, each=collect)
    except FileNotFoundError as error:
        return {'notes': [f'Nothing was evaluated: {str(error).rstrip(".")}.']}
    weights = dict.fromkeys(results, checkpoint.path) | {path: Path(path) for path in of_files}
    results |= of_files
    loader = next(inner_data_sets(original.test_dataloader.dataset)).pipeline[0]
    pictures = draw([*extremes.worst, *extremes.best][: 2 * args.count], reader(loader), meta['palette'])
    latencies: dict[str, Latency] = {}
    if segmenters and extremes.kept:
        image = reader(loader)(extremes.worst[0].path)
        latencies = measure_latency(
            {path: functools.partial(one, image) for path, one in segmenters.items()}, runs=args.runs
        )
        size = 'x'.join(map(str, image.shape[:2]))
        text = f'From an image of {size} in memory to its mask, one at a time and in turn, on {cpu()[0]}, by Segmenter.'
    return {
        'results': facts_of(results, original, weights)['results'],
        'palette': meta['palette'],
        'worst': pictures[: args.count],
        'best': pictures[args.count :],
        'latencies': latencies,
        'latency_text': text if latencies else '',
        'notes': [],
    }


def _collector(extremes: Extremes, classes: list[str]) -> Callable[[Runner, SegDataSample, Path], None]:
    """Return what looks at each evaluated image and keeps the best and the worst ones."""
    confusion = Confusion()
    confusion.dataset_meta = {'classes': classes}

    def collect(runner: Runner, sample: SegDataSample, path: Path) -> None:
        confusion.process(None, [sample.to_dict()])
        confusion.compute_metrics(confusion.results)
        confusion.results.clear()
        ious = [row['IoU'] for row in class_rows({'': {'confusion': confusion.matrix}}, classes)]
        if not (known := [iou for iou in ious if iou is not None]):
            return
        scores = sample.seg_logits.data.float()
        sure = torch.maximum(scores, 1 - scores)[0] if len(scores) == 1 else scores.softmax(0).amax(0)
        truth, prediction = (part.data[0].cpu().numpy() for part in (sample.gt_sem_seg, sample.pred_sem_seg))
        extremes.add(
            Segmented(
                str(path),
                sample.img_path,
                statistics.fmean(known),
                truth,
                prediction,
                (255 * sure).round().byte().cpu().numpy(),
            )
        )

    return collect


def _commands(args: argparse.Namespace, training: Training, reports: dict[str, Any]) -> list[str]:
    """Return the commands that make all this again."""
    work_dir = args.work_dir
    commands = [['train', str(training.config), '--work-dir', work_dir]] if training.config else []
    if reports['conversion']:
        commands.append(['convert-deploy', work_dir])
    for path, report in reports['exports'].items():
        if metadata := report.get('metadata'):
            size = 'x'.join(map(str, metadata['input'][1:3]))
            options = ['--precision', metadata['precision'], '--output', metadata['output'], '--size', size]
            commands.append(['export', str(Path(work_dir, 'deploy')), '--to', report['to'], *options, '--out', path])
    options = ['--out', args.out] if args.out else []
    options += ['--cfg-options', *(f'{key}={value}' for key, value in args.cfg_options.items())] * bool(
        args.cfg_options
    )
    commands.append(['report', work_dir, *args.model_files, *options])
    return [f'repvgg-seg {shlex.join(words)}' for words in commands]
