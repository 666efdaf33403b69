"""int8 by every way, from one trained network: mIoU, agreement, latency and size of the files, and what is refused.

From the checkpoint of a float training: its file in float32 and bfloat16; int8 by calibration, in OpenVINO and ONNX;
int8 trained further with norms behind the fused kernels (`insert-bn`), and with the equivalent kernel (`qat`). The same
of the network made hard to quantize by scaled channels (`hard-...`), which calibration must fail on. On demand it also
trains the recipe from random weights with the custom L2 and with QARepVGG's blocks, and calibrates these.

A step that is finished is not repeated, and a training that was interrupted goes on. The metrics are those of the files
on the test set, as `test CONFIG FILE` measures them; of what is trained for int8, `mIoU in torch` is that of the
network, and the agreement is of the file with it, else with the float32 file.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.structures import SegDataSample

from .. import files
from ..apps.config import add_cfg_options
from ..apps.export import export_model
from ..apps.quantize import insert_bn
from ..apps.train import prepare, train
from ..deploy.convert import VerificationError
from ..deploy.export import TARGETS
from ..deploy.quantize import MAX_DROP, QuantizationRefused
from ..models.scaled import scale_between_blocks
from ..openmmlab.runner import Runner
from ..runtime.backends import Backend, open_model
from ..runtime.images import Array
from ..runtime.precision import PRECISIONS
from ..runtime.segmenter import Segmenter
from ..timing import measure_latency
from ..weights.checkpoint_io import write_checkpoint
from ..weights.pretrained import Checkpoint, load_weights
from ..workflows.config import CONFIGS, build_segmentor, load_config
from ..workflows.deployed import convert_segmentor_checkpoint
from ..workflows.evaluation import evaluate, evaluate_file
from ..workflows.work_dir import find_checkpoint
from .accuracy import MIOU
from .accuracy import plot as plot  # mIoU against latency
from .report import Row, timed

MIOU_IN_TORCH, AGREEMENT, SIZE, REFUSED = 'mIoU in torch', 'agreement', 'size', 'refused'
CUSTOM_L2 = 1e-4
LABELS = {'onnx': 'ONNX Runtime', 'openvino': 'OpenVINO'}

Result = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('config', metavar='CONFIG', help='config of the float training')
    parser.add_argument('checkpoint', metavar='WEIGHTS', help='its work directory, or a checkpoint of it')
    add_cfg_options(parser)
    parser.add_argument(
        '--steps',
        nargs='+',
        choices=STEPS,
        default=[name for name in STEPS if name not in FROM_SCRATCH],
        metavar='NAME',
        help=f'some of: {", ".join(STEPS)} (default: all that need no training from random weights, which are those '
        f'before {FROM_SCRATCH[0]})',
    )
    parser.add_argument('--work-dir', default='work_dirs/quantization', metavar='DIR', help='a folder for each step')
    parser.add_argument(
        '--qat-iterations',
        type=int,
        default=1000,
        metavar='N',
        help='of each training with fake quantization (default: 1000)',
    )
    parser.add_argument(
        '--weight-bits',
        type=int,
        choices=(7, 8),
        help='of the kernels that are trained for int8 (default: 8, or 7 on a CPU without VNNI, where 8 may overflow)',
    )
    parser.add_argument(
        '--calibration-images', type=int, metavar='N', help='how many training images calibrate (default: 300, or all)'
    )
    parser.add_argument(
        '--max-drop',
        type=float,
        default=MAX_DROP,
        metavar='POINTS',
        help=f'by which calibration may lower the mIoU (default: {MAX_DROP:g})',
    )
    parser.add_argument('--runs', type=int, default=10, metavar='N', help='counted runs of each file (default: 10)')


def run(args: argparse.Namespace) -> list[Row]:
    """Do the steps that are not done yet, and time the files of all.

    Raises:
        FileNotFoundError: the config, the checkpoint or the data is not there.
        ValueError: the folder has the steps of another network or of other options, or a number is none.
    """
    if min(args.qat_iterations, args.runs) < 1:
        raise ValueError('--qat-iterations and --runs begin at 1')
    bits = args.weight_bits or (8 if PRECISIONS['int8'].fast_on_this_cpu() else 7)
    checkpoint = find_checkpoint(args.checkpoint)
    comparison = Comparison.begin(args, load_config(args.config, args.cfg_options), checkpoint, bits)
    results = {name: comparison.result(name) for name in STEPS if name in args.steps}
    rows = [row for name, result in results.items() for row in _rows(name, result)]
    opened = {
        name: open_model(comparison.folder / result['file'], TARGETS[result['to']].backend, 'cpu', 'latency')[1]
        for name, result in results.items()
        if result['file']
    }
    latencies = (
        measure_latency({name: _call(model) for name, model in opened.items()}, runs=args.runs) if opened else {}
    )
    for name, latency in latencies.items():
        height, width = opened[name].metadata.size
        rows.append(timed(latency, name, '', LABELS[results[name]['to']], size=f'{height}x{width}', batch=1))
    return rows


def _rows(name: str, result: Result) -> list[Row]:
    facts = {'weights': result['weights']}
    rows = [Row(name, '', '', REFUSED, float(bool(result['refused'])), '', facts)]
    if result['refused']:
        facts = facts | {'note': result['refused']}
    for metric, unit in ((MIOU, '%'), (MIOU_IN_TORCH, '%'), (AGREEMENT, '%'), (SIZE, 'MB')):
        value = result.get(metric)
        if value is not None or (metric == MIOU and result['refused']):
            more = {'with': result['with']} if metric == AGREEMENT else {}
            rows.append(Row(name, '', '', metric, value, unit, facts | more))
    return rows


def _call(model: Backend) -> Callable[[], object]:
    facts = model.metadata
    images = np.random.default_rng(0).integers(0, 256, (1, *facts.size, facts.channels), np.uint8)
    return lambda: [result for _, result in model.map([(None, images)])]


class Agreement:
    """The share of pixels that have the same class."""

    def __init__(self) -> None:
        self.pixels = self.equal = 0

    def add(self, mask: Array, reference: Array) -> None:
        """Count an image."""
        self.pixels, self.equal = self.pixels + mask.size, self.equal + int((mask == reference).sum())

    @property
    def percent(self) -> float:
        """It, of all images."""
        return 100 * self.equal / self.pixels


@dataclass
class Comparison:
    """The steps of one network, each in a folder of `folder`."""

    folder: Path
    cfg: Config
    checkpoint: Path
    iterations: int
    bits: int
    calibration_images: int | None
    max_drop: float

    @classmethod
    def begin(cls, args: argparse.Namespace, cfg: Config, checkpoint: str | Path, bits: int) -> Comparison:
        """Begin, or go on with, the comparison in the folder that `args` name.

        Raises:
            ValueError: the folder has another one.
        """
        folder = Path(args.work_dir).resolve()
        facts = {
            'weights': files.sha256(checkpoint),
            'config': cfg.pretty_text,
            'qat iterations': args.qat_iterations,
            'weight bits': bits,
            'calibration images': args.calibration_images,
            'max drop': args.max_drop,
        }
        source = folder / 'source.json'
        if source.is_file():
            before = files.parse_json(files.read_text(source))
            if changed := [name for name, value in facts.items() if before.get(name) != value]:
                raise ValueError(f'{folder} has steps of other {" and ".join(changed)}: choose another --work-dir')
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(cfg.pretty_text, folder / 'config.py')
        files.write_text(json.dumps(facts, indent=1) + '\n', source)
        return cls(
            folder, cfg, Path(checkpoint), args.qat_iterations, bits, args.calibration_images, float(args.max_drop)
        )

    def result(self, name: str) -> Result:
        """Return what a step found, which is done if it is not finished."""
        path = self.place(name) / 'result.json'
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            found = STEPS[name](self, name)
            files.write_text(json.dumps(found, indent=1) + '\n', path)
        return files.parse_json(files.read_text(path))

    def place(self, name: str) -> Path:
        """Return the folder of a step."""
        return self.folder / name

    # ---- networks

    def hard(self) -> Path:
        """Return a checkpoint of the network made hard to quantize, which computes the same."""
        path = self.folder / 'hard.pth'
        if not path.is_file():
            model: Any = build_segmentor(self.cfg)
            source = Checkpoint.read(self.checkpoint)
            load_weights(model, source)
            scale_between_blocks(model.backbone)
            meta = {'dataset_meta': source.meta.get('dataset_meta')}
            write_checkpoint({'meta': meta, 'state_dict': model.state_dict()}, path)
        return path

    def deployed(self, name: str, cfg: Config, checkpoint: Path) -> Path:
        """Return the folder of the deployed form of a checkpoint."""
        config = self.place(name) / 'config.py'
        files.write_text(cfg.pretty_text, config)
        folder = self.place(name) / 'deploy'
        if not (folder / 'report.json').is_file():
            convert_segmentor_checkpoint(config, checkpoint, folder)
        return folder

    def trained(self, name: str, cfg: Config) -> Path:
        """Return the last checkpoint of the training of `cfg`, which is done or goes on if it is not finished."""
        work_dir = self.place(name) / 'work_dir'
        last = work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'
        if not last.is_file():
            train(copy.deepcopy(cfg), work_dir=str(work_dir), resume='latest')
        return last

    def with_fake_quantization(self, cfg: Config, weights: Path | None = None) -> Config:
        """Return the config of a training with fake quantization, from the checkpoint `weights` if `cfg` has none."""
        cfg = copy.deepcopy(cfg)
        part = Config.fromfile(CONFIGS / '_base_/quantization_aware.py')
        cfg.model.quantized = self.bits
        cfg.model.backbone.init_cfg = None
        cfg.load_from = str(weights) if weights else cfg.load_from
        for name in ('optim_wrapper', 'param_scheduler', 'train_cfg'):
            cfg[name] = part[f'quantized_{name}']
        cfg.optim_wrapper.pop('_delete_', None)
        cfg.train_cfg.pop('_delete_', None)
        share = self.iterations / cfg.train_cfg.max_iters
        for step in cfg.param_scheduler:
            step.begin, step.end = (max(1, round(n * share)) if n else 0 for n in (step.begin, step.end))
        cfg.train_cfg.update(max_iters=self.iterations, val_interval=self.iterations)
        cfg.default_hooks.checkpoint.interval = max(1, self.iterations // 4)
        return cfg

    # ---- files

    def exported(self, name: str, model_dir: Path, precision: str, to: str = 'openvino', **options: Any) -> Result:
        """Export, and return what is known of the file, or why it was refused."""
        out = self.place(name) / f'model{TARGETS[to].suffix}'
        result: Result = {'file': None, 'to': to, 'precision': precision, 'refused': None}
        result['weights'] = files.sha256(model_dir / 'deploy.pth')
        try:
            path, report = export_model(model_dir, to, precision=precision, out=out, **options)
        except VerificationError as error:
            result['refused'] = str(error)
            if isinstance(error, QuantizationRefused):  # of the test or val set of the calibration
                result[MIOU] = error.report['mIoU']['int8']
            return result
        facts = {SIZE: report['bytes'] / 1e6}
        if quantization := report.get('quantization'):
            facts |= {key: quantization[key] for key in ('keep_float', 'weight_bits')}
        return result | {'file': str(path.relative_to(self.folder))} | facts

    def measured(self, result: Result, reference: str | None = None) -> Result:
        """Add to a file's result the mIoU, and the agreement with the file of the step `reference`."""
        if not result['file']:
            return result
        agreement, other = Agreement(), None
        if reference:
            other = Segmenter(self.folder / self.result(reference)['file'])
            result['with'] = 'the float32 file'
        each = (lambda image, mask: agreement.add(mask, other(image))) if other else None
        backend, path = TARGETS[result['to']].backend, self.folder / result['file']
        found = evaluate_file(copy.deepcopy(self.cfg), path, backend=backend, each=each)
        result[MIOU] = float(found['mIoU'])
        return result | ({AGREEMENT: agreement.percent} if other else {})

    def trained_for_int8(self, name: str, cfg: Config) -> Result:
        """Train with fake quantization, export, and measure both the network and the file."""
        checkpoint = self.trained(name, cfg)
        result = self.exported(name, self.deployed(name, cfg, checkpoint), 'int8')
        agreement, each = Agreement(), None
        if result['file']:
            segmenter = Segmenter(self.folder / result['file'])

            def each(runner: Runner, sample: SegDataSample, path: Path) -> None:
                agreement.add(segmenter(sample.img_path), sample.pred_sem_seg.data[0].cpu().numpy())

        (found,) = evaluate(
            prepare(copy.deepcopy(cfg), 'none'),
            Checkpoint.read(checkpoint),
            work_dir=str(self.place(name) / 'test'),
            each=each,
        ).values()
        result[MIOU_IN_TORCH] = float(found['mIoU'])
        if result['file']:
            result |= {AGREEMENT: agreement.percent, 'with': 'the network in torch'}
        return self.measured(result)


# ---- the steps


def _float(comparison: Comparison, name: str, *, hard: bool = False) -> Result:
    checkpoint = comparison.hard() if hard else comparison.checkpoint
    folder = comparison.deployed(name, comparison.cfg, checkpoint)
    return comparison.measured(comparison.exported(name, folder, 'fp32'))


def _bf16(comparison: Comparison, name: str) -> Result:
    comparison.result('float')
    return comparison.measured(comparison.exported(name, comparison.place('float') / 'deploy', 'bf16'), 'float')


def _calibrated(comparison: Comparison, name: str, *, reference: str = 'float', **options: Any) -> Result:
    comparison.result(reference)
    options |= {
        'calibration': comparison.folder / 'config.py',
        'calibration_images': comparison.calibration_images,
        'max_drop': comparison.max_drop,
    }
    result = comparison.exported(name, comparison.place(reference) / 'deploy', 'int8', **options)
    return comparison.measured(result, reference)


def _insert_bn(comparison: Comparison, name: str) -> Result:
    comparison.result('float')
    place = comparison.place(name) / 'bn'
    if not (place / 'model.py').is_file():
        insert_bn(comparison.place('float') / 'deploy', comparison.folder / 'config.py', place)
    return comparison.trained_for_int8(name, comparison.with_fake_quantization(load_config(place / 'model.py')))


def _qat(comparison: Comparison, name: str, *, hard: bool = False) -> Result:
    weights = comparison.hard() if hard else comparison.checkpoint.resolve()
    return comparison.trained_for_int8(name, comparison.with_fake_quantization(comparison.cfg, weights))


def _from_scratch(comparison: Comparison, name: str, *, model: dict[str, Any]) -> Result:
    cfg = copy.deepcopy(comparison.cfg)
    cfg.merge_from_dict({'model.backbone.init_cfg': None, **model})
    folder = comparison.deployed(name, cfg, comparison.trained(name, cfg))
    return comparison.measured(comparison.exported(name, folder, 'fp32'))


STEPS: dict[str, Callable[[Comparison, str], Result]] = {
    'float': _float,
    'bf16': _bf16,
    'ptq-openvino': _calibrated,
    'ptq-onnx': partial(_calibrated, to='onnx'),
    'insert-bn': _insert_bn,
    'qat': _qat,
    'hard-float': partial(_float, hard=True),
    'hard-ptq': partial(_calibrated, reference='hard-float'),
    'hard-accuracy-control': partial(_calibrated, reference='hard-float', accuracy_control=True),
    'hard-qat': partial(_qat, hard=True),
    'custom-l2': partial(_from_scratch, model={'model.custom_l2': CUSTOM_L2}),
    'custom-l2-ptq': partial(_calibrated, reference='custom-l2'),
    'qarepvgg': partial(_from_scratch, model={'model.backbone.block': 'qarepvgg'}),
    'qarepvgg-ptq': partial(_calibrated, reference='qarepvgg'),
}
FROM_SCRATCH = [name for name in STEPS if name.startswith(('custom-l2', 'qarepvgg'))]
