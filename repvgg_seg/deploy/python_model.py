"""Models of other libraries with branches to be fused: timm's, segmentation_models.pytorch's, mmpretrain's, your own.

A model is named as `module:factory`, a function of a Python module that returns it without weights. It takes normalised
RGB images (N, 3, H, W) and returns logits, (N, classes, H', W') or of a classifier (N, classes).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import sha256
from ..weights.checkpoint_io import read_checkpoint
from ..weights.key_maps import shorten, unwrap
from .convert import (
    VERIFY_SIZES,
    make_folder,
    switch_to_deploy,
    verify_classifier,
    verify_segmentor,
    write_deployed,
)  # fmt: skip

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of values from 0 to 1
# Encoders and decoders that meet again need sizes that each halving divides.
SIZES = (VERIFY_SIZES[0], (96, 160))


class PythonSegmentor(nn.Module):
    """A model under the names by which InferenceGraph knows a segmentor, with its normalisation in front.

    `mean` and `std` are of RGB values from 0 to 1, as timm and segmentation_models.pytorch give them.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.data_preprocessor = _Normalisation(mean, std)
        self.backbone = nn.Identity()
        self.decode_head = _Whole(model)


class _Normalisation(nn.Module):
    _channel_conversion = _enable_normalize = True  # images are RGB

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer('mean', 255 * torch.tensor(mean), False)
        self.register_buffer('std', 255 * torch.tensor(std), False)


class _Whole(nn.Module):
    align_corners, threshold = False, 0.5

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def build(name: str) -> nn.Module:
    """Return the model that `module:factory` makes; the module is also looked for in the working directory.

    Raises:
        ValueError: there is no such function, or it returns no model.
    """
    module, _, factory = name.partition(':')
    if not (module and factory):
        raise ValueError(f'{name} names no factory: write module:factory, such as mymodel:build of a file mymodel.py')
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'{name} cannot be imported ({error}): check the names, and the working directory') from error
    model = make()
    if not isinstance(model, nn.Module):
        raise ValueError(f'{name} returns a {type(model).__name__}, and not a torch module')
    return model.eval()


def convert_python_checkpoint(
    name: str,
    source: str | Path,
    out_dir: str | Path,
    *,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> dict[str, Any]:
    """Write `deploy.pth` and `report.json` for the model `name` with the weights `source`; return the report.

    `deploy.pth` loads into `switch_to_deploy(factory())`. `classes`, `palette`, `mean` and `std` are for the export.

    Raises:
        ValueError: the model has nothing to fuse, the weights don't fit it, or the two forms are not equal. Nothing
            has been written then.
    """
    original = _load(build(name), source)
    converted = switch_to_deploy(original)
    with torch.no_grad():
        outputs = original(torch.zeros(1, 3, *SIZES[0]))
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 4):
        raise ValueError(f'{name} returns no logits (N, classes, H, W) or (N, classes): let the factory wrap the model')
    if outputs.ndim == 4:
        if classes and outputs.shape[1] not in (len(classes), 1):
            raise ValueError(f'{name} returns {outputs.shape[1]} classes, and {len(classes)} have names')
        deviations = verify_segmentor(
            PythonSegmentor(original, mean, std), PythonSegmentor(converted, mean, std), SIZES
        )
    else:
        deviations = verify_classifier(original, converted, SIZES)
    switch_to_deploy(build(name)).load_state_dict(converted.state_dict())
    meta = {
        'python': name,
        'output': 'map' if outputs.ndim == 4 else 'vector',
        'normalisation': {'mean': list(mean), 'std': list(std)},
        'dataset_meta': {'classes': list(classes), 'palette': [list(colour) for colour in palette]},
    }
    folder = make_folder(out_dir)
    return write_deployed(folder, original, converted, deviations, model=name, source=Path(source), meta=meta)


def _load(model: nn.Module, source: str | Path) -> nn.Module:
    tensors = unwrap(read_checkpoint(source))
    expected = model.state_dict()
    missing, others = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or others:
        raise ValueError(
            f'{source} does not fit the model: it lacks {shorten(missing) or "nothing"}, and has '
            f'{shorten(others) or "nothing"} that the model lacks'
        )
    if shapes := [key for key, value in expected.items() if value.shape != tensors[key].shape]:
        raise ValueError(f'{source} does not fit the model: {shorten(shapes)} are of other shapes')
    model.load_state_dict(tensors)
    return model


def load_python_model(folder: str | Path, name: str) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """Return the deployed segmentor of a folder of `convert_python_checkpoint`, classes and palette, and its source.

    The factory is named by the caller, since a folder of a stranger must not choose what code runs.

    Raises:
        FileNotFoundError: a file of the folder is not there.
        ValueError: it is another model's, or was changed.
    """
    weights, report = (Path(folder, name) for name in ('deploy.pth', 'report.json'))
    if missing := [path for path in (weights, report) if not path.is_file()]:
        raise FileNotFoundError(f'{missing[0]} does not exist: name a folder of convert-deploy --python')
    try:
        digest = json.loads(report.read_text())['deployed']['sha256']
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{report} cannot be read: convert the model again') from error
    if sha256(weights) != digest:
        raise ValueError(f'{weights} is not the file that {report} proves right: copy it again, or convert again')
    checkpoint = read_checkpoint(weights)
    meta = checkpoint.get('meta') or {}
    if meta.get('python') != name:
        raise ValueError(f'{folder} was converted from {meta.get("python") or "no Python model"}, and not from {name}')
    if meta['output'] != 'map':
        raise ValueError(f'{name} is a classifier, and a file of class maps is what is exported: keep deploy.pth')
    model = _load(switch_to_deploy(build(name)), weights)
    return PythonSegmentor(model, **meta['normalisation']).eval(), meta['dataset_meta'], {
        'file': weights.name, 'sha256': digest,
    }  # fmt: skip
