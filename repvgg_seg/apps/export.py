"""Export a converted segmentor to one file that runs without this package, and prove that it is the same function.

    python tools/export.py work_dirs/demo --to onnx
    python tools/export.py work_dirs/demo/deploy --to openvino --size 512x1024 --precision bf16
    python tools/export.py work_dirs/demo --to openvino --precision int8 --calibration configs/pspnet_repvgg_a0_demo.py

The model is a folder that tools/convert_deploy.py wrote, or a work directory or checkpoint of a training, which is
first converted into its folder `deploy`.

The file takes uint8 images (N, H, W, C), three channels in RGB, and returns class indices (N, H, W); classes,
palette, size, versions and the hash of the weights are inside it. FILE.report.json beside it says how far it is from
the original; a file that is too far off is not written. docs/quantization.md explains int8.
"""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..cli import image_size
from ..deploy.export import TARGETS, export_segmentor
from ..deploy.python_model import load_python_model
from ..deploy.quantize import MAX_DROP, MIN_AGREEMENT
from ..runtime.images import read_image
from ..runtime.metadata import DYNAMIC, FITS, OUTPUTS, Fit, Output
from ..runtime.precision import PRECISIONS
from ..terminal import say
from ..workflows.calibration import CALIBRATION_IMAGES, image_files, read_calibration
from ..workflows.deployed import converted, load_deployed
from ..workflows.preparation import Size, default_size, read_preparation, sizes_of_val
from .config import add_cfg_options


def export_model(
    model_dir: str | Path,
    to: str,
    *,
    size: Size | None = None,
    image_size: Size | None = None,
    batch: int | None = 1,
    precision: str = 'fp32',
    output: Output | None = None,
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
    python: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Export the model in `model_dir`, see `export_segmentor`; return the path of the file, and the report.

    A work directory, or a checkpoint of it, is converted first. `cfg_options` change the config. `python` is the
    module:factory of a model that was converted as one.

    `size` is by default what the config's test pipeline makes of images of `image_size`, or else of most images of the
    val set, of which the report then has the `sizes`. `output` is by default 'logits' where images are cut into windows
    or tiles, which are averaged where they overlap, and 'classes' elsewhere. `out` is model.SUFFIX in `model_dir`
    with the precision in its name unless that is fp32, and `images` is an image file or a folder of them that joins the
    comparison.

    int8 is calibrated with `calibration_images` of `calibration`, a folder, or a config, whose training images are
    taken; on its val set the mIoU may fall by `max_drop`, 1 point by default. Of a folder, which has no labels,
    `min_agreement` of the pixels, 90 % by default, must keep their class. The rest: see `Calibration`. A model that was
    trained with fake quantization needs no calibration.

    Raises:
        FileNotFoundError: the folder, a file in it, or the images are not there.
        ImportError: a package that writes or runs such files is not installed.
        ValueError: the folder holds something else, or see `export_segmentor`. Nothing has been written then.
    """
    arguments = dict(locals())
    asked = read_calibration(arguments, _command(arguments))
    if python is not None:
        cfg = Config({'model': {}})  # nothing is known of the test
        segmentor, meta, source = load_python_model(model_dir, python)
    else:
        given, model_dir = Path(model_dir), converted(model_dir, cfg_options)
        # The converted config of a training has them already, and lacks the parts that only training reads.
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
        output=output or ('classes' if preparation.stride is None and fit != 'tile' else 'logits'),
        classes=meta.get('classes') or (),
        palette=meta.get('palette') or (),
        source=source,
        preparation=preparation,
        fit=fit,
        images=[read_image(path) for path in image_files(images)],
        calibration=asked,
    )
    return path, report | {'sizes': sizes}


def _command(options: dict[str, Any]) -> str:
    """Return the command line that calls `export_model` with `options`, but for the layers that are kept in float."""
    usual = {name: parameter.default for name, parameter in inspect.signature(export_model).parameters.items()}
    words = ['repvgg-seg', 'export', str(options['model_dir'])]
    for name, value in options.items():
        if name not in ('model_dir', 'keep_float') and value not in (usual[name], {}):
            words += ['--' + name.replace('_', '-'), *([] if value is True else _words(value))]
    return shlex.join(words)


def _words(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return ['x'.join(map(str, value))]
    if isinstance(value, dict):
        return [f'{key}={part}'.replace(' ', '') for key, part in value.items()]
    return [DYNAMIC if value is None else str(value)]


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
    parser.add_argument(
        '--precision', choices=PRECISIONS, default='fp32', help='of the arithmetic (default: %(default)s)'
    )
    parser.add_argument(
        '--output',
        choices=OUTPUTS,
        help='what the file returns (default: classes, or logits where images are cut into windows or tiles)',
    )
    parser.add_argument(
        '--fit',
        choices=FITS,
        default='test',
        help='what a Segmenter does with images by default (default: as the test pipeline)',
    )
    parser.add_argument('--images', metavar='PATH', help='image, or folder of images, that joins the comparison')
    parser.add_argument(
        '--out', metavar='FILE', help='file to write (default: model.SUFFIX in the folder of the model)'
    )
    parser.add_argument('--python', metavar='MODULE:FACTORY', help='of a model that was converted with it')
    group = parser.add_argument_group('int8', 'what --precision int8 is calibrated and judged with')
    group.add_argument(
        '--calibration',
        metavar='CONFIG|DIR',
        help='a config: its training images, judged by the mIoU on its val set; or images without labels',
    )
    group.add_argument(
        '--calibration-images',
        type=int,
        metavar='N',
        help=f'how many images of it (default: {CALIBRATION_IMAGES}, or all if there are fewer)',
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
        help=f'of the pixels must keep their class (default: {MIN_AGREEMENT:g} for images without labels)',
    )
    group.add_argument('--keep-float', nargs='+', default=(), metavar='NAME', help='layers that are not quantized')
    group.add_argument(
        '--accuracy-control',
        action='store_true',
        help='keep the layers in float that lose most, until it is good enough',
    )
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """Export, and print how far the file is from the original."""
    path, report = export_model(**vars(args))
    parity, shape, sizes = report['parity'], report['metadata']['input'], report['sizes']
    original = (
        'torch with the rounding it was trained with' if parity['tolerated']['max_rel'] is None else 'float32 torch'
    )
    say(f'wrote {path} ({report["bytes"] / 1e6:.1f} MB), images {"x".join(map(str, shape))}, {args.precision}')
    say(
        f'{parity["images"]} images through it: {parity["agreement"]:.4%} of the pixels as in {original}, '
        f'logits at most {parity["max_rel"]:.1e} off (relative)'
    )
    if sizes:
        shares = [f'{share:.0%} {h}x{w}' for (h, w), share in sizes.items()]
        others = f', and {len(shares) - 5} other sizes' if len(shares) > 5 else ''
        say(f'images of the val set are tested at {", ".join(shares[:5])}{others}; the file is exact for the first')
    elif args.size is None and args.image_size is None and report['metadata']['preparation']['stride'] is None:
        say("the val set is not here, so the size is the config's: name that of your images with --image-size")
    if 'decided' in parity:
        say(
            f'{parity["decided"]["share"]:.2%} of the pixels lead by more than rounding; '
            f'of those {parity["decided"]["agreement"]:.4%} agree'
        )
    if 'quantization' in report:
        say(*_quantization(report['quantization']).splitlines())
    if not PRECISIONS[args.precision].fast_on_this_cpu():
        say(f'this CPU has no {args.precision} instructions: the file may be slower here than one in fp32')


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
