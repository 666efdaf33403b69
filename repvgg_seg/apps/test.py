"""Evaluate a segmentor, with --deploy also its converted form, and exported files like checkpoints.

    python tools/test.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo --deploy --show-dir overlays
    python tools/test.py work_dirs/demo work_dirs/demo/deploy/model.onnx

WEIGHTS are a checkpoint or a work directory, which stands for its best checkpoint or else its latest, and what
tools/export.py wrote: files that are run as in an application, by Segmenter with its defaults. Differences are to
the first of them.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cli import add_amp, add_runner_options, add_trust
from ..runtime.backends import KINDS
from ..terminal import say
from ..workflows.config import is_config, load_config, recorded_config
from ..workflows.evaluation import Results, evaluate, evaluate_file, facts_of, write_results
from ..workflows.work_dir import open_checkpoint
from .config import add_cfg_options
from .train import prepare


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
    add_amp(parser)
    add_trust(parser)
    add_runner_options(
        parser, work_dir='work_dirs/NAME_OF_CONFIG; without CONFIG, the folder test beside the checkpoint'
    )


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
    if args.amp and not checkpoints:
        raise ValueError('an exported file has a precision of its own: leave --amp out')
    if exported and args.launcher != 'none':
        raise ValueError('exported files are evaluated in one process: leave --launcher out')
    if config is None and not checkpoints:
        raise ValueError(f'an exported file does not hold its config: name that before {exported[0]}')
    cfg = load_config(config, args.cfg_options) if config else None  # before a large file is read
    opened = [open_checkpoint(path) for path in checkpoints]
    cfg = cfg or recorded_config(opened[0], args.cfg_options)
    original = copy.deepcopy(cfg)
    results: Results = {}
    weights: dict[str, Path] = {}
    for checkpoint in opened:
        results = evaluate(
            prepare(cfg, args.launcher, amp=args.amp),
            checkpoint,
            deploy=args.deploy,
            tta=args.tta,
            out_dir=args.out,
            show_dir=args.show_dir,
            work_dir=args.work_dir,
        )
        if not results:  # only the first process of several has them
            return
        weights = dict.fromkeys(results, checkpoint.path)
    for path in exported:
        results[path] = evaluate_file(copy.deepcopy(original), path, trust=args.trust)
        weights[path] = Path(path)
    if args.json or args.csv:
        write_results(facts_of(results, original, weights), to_json=args.json, to_csv=args.csv)
    if any(values.keys() - {'confusion'} for values in results.values()):  # there are none without labels
        say(*format_table(results).splitlines())
    for what, folder in (('masks', args.out), ('overlays', args.show_dir)):
        if folder:
            say(f'{what}: {folder}')
