"""Export of what `tools/convert_deploy.py` wrote: the part that needs configs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from .. import files
from ..deploy.export import TARGETS, export_segmentor
from ..runtime.images import SUFFIXES, read_image
from ..runtime.metadata import Output, Precision
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
    precision: Precision = 'fp32',
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
    if not cfg.model.backbone.get('deploy'):
        raise ValueError(f'{config} does not describe a deployed model: {cure}')
    if (cfg.model.get('data_preprocessor') or {}).get('test_cfg'):
        raise ValueError(
            f'{config} pads images for the test (data_preprocessor.test_cfg), which the inference graph does not: '
            'remove that, and export a size that needs no padding'
        )
    segmentor = load_weights(build_segmentor(cfg), weights)
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
    found = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f'{path} holds no image')
    return found
