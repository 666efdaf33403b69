"""Export a converted segmentor to one file that runs without this package, and prove that it is the same function.

    python tools/export.py work_dirs/demo/deploy --to onnx
    python tools/export.py work_dirs/demo/deploy --to openvino --size 512x1024 --precision bf16

The file takes uint8 images (N, H, W, C), of three channels in RGB, and returns class indices (N, H, W); classes,
palette, size, versions and the hash of the weights are inside it. Beside it, FILE.report.json tells how far it is from
the original; a file that is further off than it may be is not written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from .. import files
from ..cli import image_size
from ..deploy.convert import is_deployed
from ..deploy.export import TARGETS, export_segmentor
from ..runtime.images import SUFFIXES, read_image
from ..runtime.metadata import DYNAMIC, OUTPUTS, Output
from ..runtime.precision import PRECISIONS
from ..weights.checkpoint_io import read_checkpoint
from ..weights.pretrained import load_weights
from .config import build_segmentor, load_config

Size = tuple[int, int]  # (H, W)


def export_model(
    model_dir: str | Path,
    to: str,
    *,
    size: Size | None = None,
    image_size: Size | None = None,
    batch: int | None = 1,
    precision: str = 'fp32',
    output: Output = 'classes',
    images: str | Path | None = None,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Export the model in `model_dir`, see `export_segmentor`; return the path of the file, and the report.

    `size` is by default that of the config's test pipeline, `out` is model.SUFFIX in `model_dir` with the precision in
    its name unless that is fp32, and `images` is an image file or a folder of them that joins the comparison.

    Raises:
        FileNotFoundError: the folder, a file in it, or the images are not there.
        ImportError: a package that writes or runs such files is not installed.
        ValueError: the folder holds something else, or see `export_segmentor`. Nothing has been written then.
    """
    cfg, segmentor, meta, source = load_deployed(model_dir)
    if to in TARGETS and out is None:
        name = 'model' if precision == 'fp32' else f'model_{precision}'
        out = Path(model_dir, name + TARGETS[to].suffix)
    path = Path(out or model_dir)
    report = export_segmentor(
        segmentor,
        path,
        to=to,
        size=size or default_size(cfg),
        image_size=image_size,
        batch=batch,
        precision=precision,
        output=output,
        classes=meta.get('classes') or (),
        palette=meta.get('palette') or (),
        source=source,
        images=[read_image(path) for path in _image_files(images)],
    )
    return path, report


def load_deployed(model_dir: str | Path) -> tuple[Config, nn.Module, dict[str, Any], dict[str, str]]:
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
        recorded = json.loads(report_file.read_text())['deployed']['sha256']
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{report_file} cannot be read: convert the model again') from error
    digest = files.sha256(weights)
    if digest != recorded:
        raise ValueError(f'{weights} is not the file that {report_file} proves right: copy it again, or convert again')
    cfg = load_config(config)
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
    return cfg, segmentor, meta, {'file': weights.name, 'sha256': digest}


def default_size(cfg: Config) -> Size:
    """Return the (H, W) for which `cfg` prepares images in the test, or else in training.

    Raises:
        ValueError: it tells none.
    """
    if cfg.model.get('test_cfg', {}).get('mode') == 'slide':
        return tuple(cfg.model.test_cfg.crop_size)
    for step in cfg.get('test_pipeline') or ():
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
    parser.add_argument('model_dir', help='folder that tools/convert_deploy.py wrote')
    parser.add_argument('--to', required=True, choices=TARGETS, help='the kind of file')
    parser.add_argument(
        '--size',
        type=image_size,
        metavar='HEIGHTxWIDTH',
        help='what the network sees (default: as the test pipeline resizes)',
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
    parser.add_argument('--images', metavar='PATH', help='image, or folder of images, that joins the comparison')
    parser.add_argument('--out', metavar='FILE', help='file to write (default: model.SUFFIX in MODEL_DIR)')


def main(args: argparse.Namespace) -> None:
    """Export, and print how far the file is from the original."""
    path, report = export_model(**vars(args))
    parity, shape = report['parity'], report['metadata']['input']
    print(f'wrote {path} ({report["bytes"] / 1e6:.1f} MB), images {"x".join(map(str, shape))}, {args.precision}')
    print(
        f'{parity["images"]} images through it: {parity["agreement"]:.4%} of the pixels as in float32 torch, '
        f'logits at most {parity["max_rel"]:.1e} off (relative)'
    )
    if 'decided' in parity:
        print(
            f'{parity["decided"]["share"]:.2%} of the pixels lead by more than rounding; '
            f'of those {parity["decided"]["agreement"]:.4%} agree'
        )
