"""Export a converted segmentor to one file that runs without this package, and prove that it is the same function.

    python tools/export.py work_dirs/demo --to onnx
    python tools/export.py work_dirs/demo/deploy --to openvino --size 512x1024 --precision bf16
    python tools/export.py work_dirs/demo --to openvino --precision int8 --calibration configs/pspnet_repvgg_a0_demo.py

The model is a folder that tools/convert_deploy.py wrote, or a work directory or checkpoint of a training, which is
converted into its folder `deploy` before.

The file takes uint8 images (N, H, W, C), of three channels in RGB, and returns class indices (N, H, W); classes,
palette, size, versions and the hash of the weights are inside it. Beside it, FILE.report.json tells how far it is from
the original; a file that is further off than it may be is not written. docs/quantization.md tells about int8.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from PIL import ExifTags, Image
from torch import nn

from .. import files
from ..cli import image_size
from ..deploy.convert import is_deployed
from ..deploy.export import TARGETS, export_segmentor
from ..deploy.quantize import MAX_DROP, MIN_AGREEMENT, Calibration
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..runtime.backends import KINDS
from ..runtime.images import SUFFIXES, read_image
from ..runtime.metadata import DYNAMIC, FITS, INTERPOLATIONS, OUTPUTS, Fit, Output, Preparation
from ..runtime.precision import PRECISIONS
from ..weights.checkpoint_io import read_checkpoint
from ..weights.pretrained import load_weights
from .check_dataset import check_data, spread
from .config import add_cfg_options, build_segmentor, find_checkpoint, is_config, load_config
from .convert_deploy import convert_segmentor_checkpoint
from .test import evaluate_file

Size = tuple[int, int]  # (H, W)

CALIBRATION_IMAGES = 300  # at most, unless another number is asked for


def export_model(
    model_dir: str | Path,
    to: str,
    *,
    size: Size | None = None,
    image_size: Size | None = None,
    batch: int | None = 1,
    precision: str = 'fp32',
    output: Output = 'classes',
    fit: Fit = 'test',
    images: str | Path | None = None,
    out: str | Path | None = None,
    cfg_options: dict[str, Any] | None = None,
    calibration: str | Path | None = None,
    calibration_images: int | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    keep_float: Sequence[str] = (),
    accuracy_control: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Export the model in `model_dir`, see `export_segmentor`; return the path of the file, and the report.

    A work directory, or a checkpoint of it, is converted first. `cfg_options` change the config.

    `size` is by default what the config's test pipeline makes of images of `image_size`, or else of most images of the
    val set, of which the report then has the `sizes`. `out` is model.SUFFIX in `model_dir` with the precision in its
    name unless that is fp32, and `images` is an image file or a folder of them that joins the comparison.

    int8 is calibrated with `calibration_images` of `calibration`, a folder, or a config, whose training images are
    taken; on its val set the mIoU may fall by `max_drop`, 1 point by default. Of a folder, which has no labels,
    `min_agreement` of the pixels, 90 % by default, must keep their class. The rest: see `Calibration`. A model that was
    trained with fake quantization needs no calibration.

    Raises:
        FileNotFoundError: the folder, a file in it, or the images are not there.
        ImportError: a package that writes or runs such files is not installed.
        ValueError: the folder holds something else, or see `export_segmentor`. Nothing has been written then.
    """
    asked = _calibration(dict(locals()))
    given, model_dir = Path(model_dir), converted(model_dir, cfg_options)
    # Of a training they are in the converted config already, which has no part that only training reads.
    cfg, segmentor, meta, source = load_deployed(model_dir, cfg_options if model_dir == given else None)
    if to in TARGETS and out is None:
        name = 'model' if precision == 'fp32' else f'model_{precision}'
        out = Path(model_dir, name + TARGETS[to].suffix)
    path = Path(out or model_dir)
    preparation = read_preparation(cfg, fit)
    sizes: dict[Size, float] = {}
    if size is None and image_size is not None and preparation.stride is None:
        size = preparation.resized(image_size)
    elif size is None:
        sizes = sizes_of_val(cfg, preparation) if preparation.stride is None else {}
        size = max(sizes, key=lambda size: sizes[size]) if sizes else default_size(cfg)
    if preparation.stride is not None and size != tuple(cfg.model.test_cfg.crop_size):
        preparation = replace(preparation, stride=None)  # the file's windows are of another size
    report = export_segmentor(
        segmentor,
        path,
        to=to,
        size=size,
        image_size=image_size,
        batch=batch,
        precision=precision,
        output=output,
        classes=meta.get('classes') or (),
        palette=meta.get('palette') or (),
        source=source,
        preparation=preparation,
        fit=fit,
        images=[read_image(path) for path in _image_files(images)],
        calibration=asked,
    )
    return path, report | {'sizes': sizes}


def _calibration(options: dict[str, Any]) -> Calibration | None:
    """Return what int8 is calibrated and judged with, of the arguments of `export_model`."""
    path, drop, agreement = options['calibration'], options['max_drop'], options['min_agreement']
    given = [name for name in INT8_OPTIONS if options[name] not in (None, (), [], False)]
    if options['precision'] != 'int8' or options['precision'] not in TARGETS[options['to']].precisions:
        if given and options['precision'] != 'int8':
            raise ValueError(f'{_flag(given[0])} is for --precision int8, and {options["precision"]} was asked for')
        return None
    if path is None:  # which a model needs none for that was trained with fake quantization
        if given:
            raise ValueError(f'{_flag(given[0])} is about images to calibrate with, and --calibration names none')
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
        images = [str(image) for image in _image_files(path)]
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
        command=_command(options),
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


INT8_OPTIONS = (
    'calibration', 'calibration_images', 'max_drop', 'min_agreement', 'keep_float', 'accuracy_control'
)  # fmt: skip


def _flag(name: str) -> str:
    return '--' + name.replace('_', '-')


def _command(options: dict[str, Any]) -> str:
    """Return the command line that calls `export_model` with `options`, but for the layers that are kept in float."""
    usual = {name: parameter.default for name, parameter in inspect.signature(export_model).parameters.items()}
    words = ['repvgg-seg', 'export', str(options['model_dir'])]
    for name, value in options.items():
        if name not in ('model_dir', 'keep_float') and value not in (usual[name], {}):
            words += [_flag(name), *([] if value is True else _words(value))]
    return shlex.join(words)


def _words(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return ['x'.join(map(str, value))]
    if isinstance(value, dict):
        return [f'{key}={part}'.replace(' ', '') for key, part in value.items()]
    return [DYNAMIC if value is None else str(value)]


def converted(path: str | Path, options: dict[str, Any] | None = None) -> Path:
    """Return the folder of the deployed model: `path` itself or, of a training, its folder `deploy`, made if need be.

    Raises:
        FileNotFoundError, ValueError: see `convert_segmentor_checkpoint`; or an exported file was named.
    """
    path = Path(path)
    if path.suffix.lower() in KINDS:
        raise ValueError(
            f'{path} is an exported file, of which no other is made: name the folder, work directory or checkpoint '
            'that it was exported from'
        )
    if not (path.is_file() or (path / 'last_checkpoint').is_file()):
        return path
    folder = (path if path.is_dir() else path.parent) / 'deploy'
    try:
        report = json.loads((folder / 'report.json').read_text())
        same_options = report['options'] == json.loads(json.dumps(options or {}))
        if same_options and report['source']['sha256'] == files.sha256(find_checkpoint(path)):
            return folder
    except (OSError, ValueError, LookupError, TypeError):
        pass  # it is written anew
    convert_segmentor_checkpoint(None, path, folder, options)
    return folder


def load_deployed(
    model_dir: str | Path, options: dict[str, Any] | None = None
) -> tuple[Config, nn.Module, dict[str, Any], dict[str, str]]:
    """Read what `convert_checkpoint` wrote: config, segmentor, its meta data, and name and hash of the weights.

    Raises:
        FileNotFoundError: a part of it is not there.
        ValueError: the folder holds something else, or a part of it was changed or cut short.
    """
    folder = Path(model_dir)
    config, weights, report_file = (folder / name for name in ('deploy.py', 'deploy.pth', 'report.json'))
    cure = 'name a folder that tools/convert_deploy.py wrote for a segmentor'
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder: {cure}')
    if weights.is_file() and not config.is_file():
        raise ValueError(f'{folder} holds no deploy.py beside its deploy.pth, so it is a classifier: {cure}')
    if missing := [path.name for path in (config, weights, report_file) if not path.is_file()]:
        raise FileNotFoundError(f'{folder} holds no {" and no ".join(missing)}: {cure}')
    try:
        report = json.loads(report_file.read_text())
        proven = {weights: report['deployed']['sha256']}
        if 'config' in report:  # older ones hold the weights' hash alone
            proven[config] = report['config']['sha256']
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{report_file} cannot be read: convert the model again') from error
    for path, digest in proven.items():
        if files.sha256(path) != digest:
            raise ValueError(f'{path} is not the file that {report_file} proves right: copy it again, or convert again')
    cfg = load_config(config, options)
    if (cfg.model.get('data_preprocessor') or {}).get('test_cfg'):
        raise ValueError(
            f'{config} pads images for the test (data_preprocessor.test_cfg), which the inference graph does not: '
            'remove that, and export a size that needs no padding'
        )
    segmentor = build_segmentor(cfg)
    if not is_deployed(segmentor):
        raise ValueError(f'{config} does not describe a deployed model: {cure}')
    load_weights(segmentor, weights)
    meta = (read_checkpoint(weights).get('meta') or {}).get('dataset_meta') or {}
    return cfg, segmentor, meta, {'file': weights.name, 'sha256': proven[weights]}


def steps_of_test(cfg: Config) -> Sequence[Mapping[str, Any]]:
    """Return the steps that prepare images for the test."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:  # in a wrapper
        dataset = dataset['dataset']
    return dataset.get('pipeline') or cfg.get('test_pipeline') or ()


def read_preparation(cfg: Config, fit: Fit = 'test') -> Preparation:
    """Return how `cfg` prepares images for the test.

    Raises:
        ValueError: in a way that `fit='test'` is not able to.
    """
    found: dict[str, Any] = {}
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        found['stride'] = tuple(cfg.model.test_cfg.stride)
    unable = []
    for step in steps_of_test(cfg):
        kind = str(step['type']).rpartition('.')[2]
        if kind.startswith(('LoadImage', 'LoadCachedImage')):
            colour = step.get('color_type', 'color')
            found['upright'] = colour == 'color'
            unable += [] if colour in ('color', 'color_ignore_orientation', 'unchanged') else [f'{kind} of {colour}']
        elif kind == 'Resize' and 'scale' not in found and step.get('scale') and step.get('backend', 'cv2') == 'cv2':
            width, height = step['scale'] if isinstance(step['scale'], Sequence) else [step['scale']] * 2
            found |= {'scale': (int(height), int(width)), 'keep_ratio': bool(step.get('keep_ratio'))}
            found['interpolation'] = step.get('interpolation', 'bilinear')
            unable += [] if found['interpolation'] in INTERPOLATIONS else [f'{kind} by {found["interpolation"]}']
        elif not kind.startswith(('Load', 'PackSegInputs')):
            unable.append(kind)
    if unable and fit == 'test':
        raise ValueError(
            f'the test pipeline has {" and ".join(unable)}, which no exported file repeats: its masks would not be '
            'those that were measured. Remove it and measure again, or choose --fit resize or --fit tile'
        )
    return Preparation(**found)


def sizes_of_val(cfg: Config, preparation: Preparation) -> dict[Size, float]:
    """Return each (H, W) that the test makes of images of the val set, with its share; {} where they are not here.

    Only the heads of files are read.
    """
    register_all_modules()
    dataset = cfg.get('val_dataloader') or cfg.get('test_dataloader')
    try:
        data: Any = DATASETS.build(dataset['dataset']) if dataset else ()
        paths = [data.get_data_info(index)['img_path'] for index in range(len(data))]
        sizes = Counter(preparation.resized(_shape(path, preparation.upright)) for path in paths)
    except (OSError, ValueError):  # the data is of the training, which may have been elsewhere
        return {}
    return {size: count / len(paths) for size, count in sizes.most_common()}


def _shape(path: str, upright: bool) -> Size:
    """Return the (H, W) of an image file."""
    with Image.open(path) as image:
        turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def default_size(cfg: Config) -> Size:
    """Return the (H, W) of the windows of the test of `cfg`, or else of the box that its images fit into, or its crops.

    Raises:
        ValueError: it tells none.
    """
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        return tuple(cfg.model.test_cfg.crop_size)
    for step in steps_of_test(cfg):
        if step['type'] == 'Resize' and isinstance(step.get('scale'), (list, tuple)):
            width, height = step['scale']
            return int(height), int(width)
    if size := (cfg.model.get('data_preprocessor') or {}).get('size'):
        return tuple(size)
    raise ValueError('the config tells no size of images: give one with --size HEIGHTxWIDTH')


def _image_files(images: str | Path | None) -> Sequence[Path]:
    if images is None:
        return []
    path = Path(images)
    found = list(files.walk(path, SUFFIXES)) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f'{path} holds no image')
    return found


def batch(text: str) -> int | None:
    """Read a number of images, or DYNAMIC.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if text == DYNAMIC:
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor {DYNAMIC!r}')
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'model_dir', metavar='MODEL', help='folder of convert-deploy, or a work directory or checkpoint of a training'
    )
    parser.add_argument('--to', required=True, choices=TARGETS, help='the kind of file')
    parser.add_argument(
        '--size',
        type=image_size,
        metavar='HEIGHTxWIDTH',
        help='what the network sees (default: what the test makes of --image-size, or of most images of the val set)',
    )
    parser.add_argument(
        '--image-size',
        type=image_size,
        metavar='HEIGHTxWIDTH',
        help='of the images, if the graph is to resize them to --size',
    )
    parser.add_argument(
        '--batch', type=batch, default=1, metavar='N', help=f'images at once, or {DYNAMIC} (default: 1)'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='(default: %(default)s)')
    parser.add_argument('--output', choices=OUTPUTS, default='classes', help='(default: %(default)s)')
    parser.add_argument(
        '--fit',
        choices=FITS,
        default='test',
        help='what a Segmenter does with images, unless told otherwise (default: as the test pipeline)',
    )
    parser.add_argument('--images', metavar='PATH', help='image, or folder of images, that joins the comparison')
    parser.add_argument(
        '--out', metavar='FILE', help='file to write (default: model.SUFFIX in the folder of the model)'
    )
    group = parser.add_argument_group('int8', 'what --precision int8 is calibrated and judged with')
    group.add_argument(
        '--calibration',
        metavar='CONFIG|FOLDER',
        help='a config: its training images, judged by the mIoU on its val set; or images without labels',
    )
    group.add_argument(
        '--calibration-images',
        type=int,
        metavar='N',
        help=f'of them (default: {CALIBRATION_IMAGES}, or all if there are fewer)',
    )
    group.add_argument(
        '--max-drop',
        type=float,
        metavar='POINTS',
        help=f'the mIoU, in percent, may fall by at most this (default: {MAX_DROP:g})',
    )
    group.add_argument(
        '--min-agreement',
        type=float,
        metavar='SHARE',
        help=f'of the pixels that must keep their class (default: {MIN_AGREEMENT:g} of images without labels)',
    )
    group.add_argument('--keep-float', nargs='+', default=(), metavar='NAME', help='layers that are not quantized')
    group.add_argument(
        '--accuracy-control', action='store_true', help='keep as many of the worst layers in float as it takes'
    )
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """Export, and print how far the file is from the original."""
    path, report = export_model(**vars(args))
    parity, shape, sizes = report['parity'], report['metadata']['input'], report['sizes']
    original = (
        'torch with the rounding it was trained with' if parity['tolerated']['max_rel'] is None else 'float32 torch'
    )
    print(f'wrote {path} ({report["bytes"] / 1e6:.1f} MB), images {"x".join(map(str, shape))}, {args.precision}')
    print(
        f'{parity["images"]} images through it: {parity["agreement"]:.4%} of the pixels as in {original}, '
        f'logits at most {parity["max_rel"]:.1e} off (relative)'
    )
    if sizes:
        shares = [f'{share:.0%} {h}x{w}' for (h, w), share in sizes.items()]
        others = f', and {len(shares) - 5} other sizes' if len(shares) > 5 else ''
        print(f'images of the val set are tested at {", ".join(shares[:5])}{others}; the file is exact for the first')
    elif args.size is None and args.image_size is None and report['metadata']['preparation']['stride'] is None:
        print("the val set is not here, so the size is the config's: name that of your images with --image-size")
    if 'decided' in parity:
        print(
            f'{parity["decided"]["share"]:.2%} of the pixels lead by more than rounding; '
            f'of those {parity["decided"]["agreement"]:.4%} agree'
        )
    if 'quantization' in report:
        print(_quantization(report['quantization']))
    if not PRECISIONS[args.precision].fast_on_this_cpu():
        print(f'this CPU has no {args.precision} instructions: the file may be slower here than one in fp32')


def _quantization(found: dict[str, Any]) -> str:
    lines = [
        f'int8 against the float32 file, {found["images"]} images of the calibration: {found["agreement"]:.2%} of the '
        f'pixels keep their class, logits at most {found["max_abs"]:.2g} off, on average {found["mean_abs"]:.2g}'
    ]
    if found['labels']:
        mean_iou = found['mIoU']
        lines.append(f'mIoU on the val set: {mean_iou["fp32"]:.2f} in float32, {mean_iou["int8"]:.2f} in int8')
    else:
        lines.append('no labels were seen: how right the masks are was not measured, only how alike')
    if found['keep_float']:
        lines.append(f'in float: {", ".join(found["keep_float"])}')
    return '\n'.join(lines)
