"""Released weights by name, and strict loading of any of them into any of our models."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..files import StrPath, sha256
from ..models.trunk import RepVGG
from ..models.variants import VARIANTS, Variant
from .checkpoint_io import WeightsError, read_checkpoint
from .download import download
from .key_maps import AUX_CLASSIFIERS, StateDict, is_segmentor, shorten, to_official, unwrap

logger = logging.getLogger(__name__)

Model = TypeVar('Model', bound=nn.Module)

SCHEME = 'repvgg://'
# Added to messages about weights that cannot be had.
WITHOUT = 'to train without them, pass --cfg-options model.backbone.init_cfg=None'


@dataclass(frozen=True)
class WeightFile:
    """One published file; `sha256` is whole, or its first digits where only those are published."""

    file: str
    bytes: int | None
    sha256: str
    url: str | None  # None: published through a web page only
    source: str
    licence: str

    def verify(self, path: Path) -> None:
        """Check that `path` is this file.

        Raises:
            WeightsError: its size or its SHA-256 is another.
        """
        size = path.stat().st_size
        if self.bytes not in (None, size):
            raise WeightsError(f'{path} has {size} bytes instead of {self.bytes}: delete it and get {self.file} again')
        digest = sha256(path)
        if not digest.startswith(self.sha256):
            raise WeightsError(
                f'{path} has SHA-256 {digest[: len(self.sha256)]} instead of {self.sha256}: '
                f'delete it and get {self.file} again'
            )


@dataclass(frozen=True)
class Release:
    """Released weights of one training: the files that hold them, the preferred first."""

    arch: str
    top1: float  # ImageNet top-1 accuracy in percent, as published
    recipe: str
    files: tuple[WeightFile, ...]


@cache
def manifest() -> Mapping[str, Release]:
    """Return all released weights by name, from manifest.json."""
    entries = json.loads(resources.files(__package__).joinpath('manifest.json').read_text('utf-8'))
    return {
        name: Release(**{**entry, 'files': tuple(WeightFile(**file) for file in entry['files'])})
        for name, entry in entries.items()
    }


def folders() -> list[Path]:
    """Return where weights are looked for, in order; what is downloaded goes to the first."""
    named = [Path(p).expanduser() for p in os.environ.get('REPVGG_SEG_WEIGHTS', '').split(os.pathsep) if p]
    checkout = Path(__file__).parents[2] / 'pretrained'
    cache_home = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    return [*named, *([checkout] if checkout.is_dir() else []), cache_home / 'repvgg_seg']


def resolve(source: StrPath) -> Path:
    """Return the local file that a path, a URL or `repvgg://NAME` means, downloaded if need be.

    Raises:
        WeightsError: there is no such file or name, it is not what was published, or it cannot be downloaded.
    """
    text = os.fspath(source)
    if text.startswith(SCHEME):
        return _resolve_name(text.removeprefix(SCHEME))
    if text.startswith(('http://', 'https://')):
        return _resolve_url(text)
    path = Path(text).expanduser()
    if not path.is_file():
        hint = f'; the released weights are {SCHEME}{path.name}' if path.name in manifest() else ''
        raise WeightsError(f'{path} {"is a folder" if path.is_dir() else "does not exist"}: name a weight file{hint}')
    return path


def find(name: str) -> tuple[WeightFile, Path] | None:
    """Return the file of a release that is on disk already, not yet verified."""
    candidates = ((file, folder / file.file) for folder in folders() for file in manifest()[name].files)
    return next(((file, path) for file, path in candidates if path.is_file()), None)


def _resolve_name(name: str) -> Path:
    if name not in manifest():
        if name in VARIANTS:
            raise WeightsError(f'nobody has released weights of {name}: {WITHOUT}')
        raise WeightsError(f'there are no released weights named {name!r}: choose one of {", ".join(manifest())}')
    if found := find(name):
        file, path = found
        file.verify(path)
        return path
    folder = folders()[0]
    files = manifest()[name].files
    online = next((file for file in files if file.url), None)
    if online is None or online.url is None:
        raise WeightsError(
            f'{name} has no direct download: get {files[0].file} from {files[0].source} in a browser '
            f'and put it into {folder}; {WITHOUT}'
        )
    mirror = os.environ.get('REPVGG_SEG_MIRROR')
    url = f'{mirror.rstrip("/")}/{online.file}' if mirror else online.url
    logger.info('downloading %s to %s', url, folder)
    try:
        download(url, folder / online.file, online.verify, online.bytes)
    except WeightsError as error:
        by_hand = ' or '.join(f'{file.file} from {file.url or file.source}' for file in files)
        raise WeightsError(
            f'{error}: get {by_hand} on another machine and put it into {folder}, or choose a folder with '
            f'REPVGG_SEG_WEIGHTS; {WITHOUT}'
        ) from error
    return folder / online.file


def _resolve_url(url: str) -> Path:
    """Download to a folder of its own, checked against the digits of its SHA-256 that its name may hold."""
    name = re.split('[?#]', url)[0].rpartition('/')[2] or 'weights'
    digits = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$', name)
    path = folders()[-1] / hashlib.sha256(url.encode()).hexdigest()[:12] / name
    file = WeightFile(name, None, digits[1] if digits else '', url, url, '')
    if path.exists():
        file.verify(path)
    elif digits:
        download(url, path, file.verify)
    else:
        download(url, path, read_checkpoint)  # no hash is published, but the file must be whole
    return path


@dataclass(frozen=True)
class Checkpoint:
    """A weight file that was read: `read` it once where its weights and its meta data are both needed."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, source: StrPath) -> Checkpoint:
        """Read a path, a URL or `repvgg://NAME`.

        Raises:
            WeightsError: it cannot be had or read.
        """
        path = resolve(source)
        return cls(path, read_checkpoint(path))

    @property
    def meta(self) -> dict[str, Any]:
        """What a training noted beside the weights."""
        meta = self.content.get('meta')
        return meta if isinstance(meta, dict) else {}


def read_weights(source: StrPath | Checkpoint, *, ema: bool | None = None) -> StateDict:
    """Return the tensors of a checkpoint, a path, a URL or `repvgg://NAME` in any dialect, under this package's names.

    Raises:
        WeightsError: the source cannot be had or read, is not of a RepVGG, or holds what cannot be weights.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.read(source)
    try:
        tensors = to_official(unwrap(checkpoint.content, ema=ema))
        for key, value in tensors.items():
            _check_value(key, value, torch.float32 if key.endswith(_FLOATING) else value.dtype)
        return tensors
    except WeightsError as error:
        raise WeightsError(f'{checkpoint.path}: {error}') from error


def load_weights(model: Model, source: StrPath | Checkpoint, *, ema: bool | None = None) -> Model:
    """Load weights in any dialect into a trunk, classifier, backbone or whole segmentor, and return it.

    `source` is a path, a URL, `repvgg://NAME` or a checkpoint that was read; `ema` as in `key_maps.unwrap`.
    The file must hold each tensor of the model in its shape. It may hold more only by name: the classifier, auxiliary
    heads and later stages that the model was built without and, for a trunk, the heads of a segmentor. Where anything
    does not fit, the model stays as it was.

    Raises:
        WeightsError: the source cannot be had or read, or does not fit the model; lists both sides.
    """
    tensors = read_weights(source, ema=ema)
    try:
        tensors = fitting(model, tensors)
    except WeightsError as error:
        raise WeightsError(f'{source.path if isinstance(source, Checkpoint) else source}: {error}') from error
    # Not strict, because old files lack `num_batches_tracked`, and only that.
    model.load_state_dict(tensors, strict=False)
    return model


def is_range(key: str) -> bool:
    """Tell whether `key` is of the range of a quantized layer."""
    return key.endswith(('.quantizer.low', '.quantizer.high'))


def fitting(model: nn.Module, tensors: StateDict) -> StateDict:
    """Return those of `tensors`, under official names, that `model` takes: the checks of `load_weights`.

    Raises:
        WeightsError: they do not fit; lists both sides.
    """
    trunk = model if isinstance(model, RepVGG) else getattr(model, 'backbone', None)
    if not isinstance(trunk, RepVGG):
        raise WeightsError(f'{type(model).__name__} is not a RepVGG, and has none as its backbone')
    if trunk is not model and not is_segmentor(tensors):
        raise WeightsError(
            f'these weights have no segmentation head but {shorten(tensors, 3)}: load them into model.backbone'
        )
    if trunk is model and is_segmentor(tensors):
        tensors = {k.removeprefix('backbone.'): v for k, v in tensors.items() if k.startswith('backbone.')}

    expected = model.state_dict()
    if _is_deployed(tensors) and not _is_deployed(expected):
        raise WeightsError('these are deployed weights but the model is train-time: build it with deploy=True')
    if _is_deployed(expected) and not _is_deployed(tensors):
        raise WeightsError(
            'these are train-time weights but the model is deployed: build it with deploy=False, '
            'or convert them with tools/convert_deploy.py'
        )
    optional = tuple(_optional_parts(trunk, expected, whole=trunk is not model))
    missing = [key for key in expected if key not in tensors and not key.endswith('num_batches_tracked')]
    if trunk is model:  # of ImageNet, which are not quantized
        missing = [key for key in missing if not is_range(key)]
    surplus = [key for key in tensors if key not in expected and not key.startswith(optional)]
    wrong = [
        f'{key} {tuple(tensors[key].shape)} for {tuple(value.shape)}'
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or surplus or wrong:
        sides = {'lack': missing, 'have, beyond the model,': surplus, 'have in another shape': wrong}
        listed = ', and '.join(f'{what} {shorten(keys, 3)}' for what, keys in sides.items() if keys)
        raise WeightsError(
            f'these weights do not fit: they {listed}; they are {_likeness(tensors)}, the model is {trunk.variant.name}'
        )
    taken = {key: tensors[key] for key in expected if key in tensors}
    for key, value in taken.items():
        _check_value(key, value, expected[key].dtype)
    return taken


_FLOATING = ('.weight', '.bias', '.running_mean', '.running_var')


def _check_value(key: str, value: Tensor, dtype: torch.dtype) -> None:
    """Check that a tensor holds numbers of the kind of `dtype`, all finite there."""
    plain = value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())
    if not plain or value.is_floating_point() != dtype.is_floating_point:
        raise WeightsError(f'{key} is of type {value.dtype}, which is not a weight: use the original file')
    if not value.to(dtype).isfinite().all():  # a float64 may overflow
        raise WeightsError(f'{key} is not finite everywhere: the training diverged, or the file is damaged')


def check_complete(tensors: StateDict) -> None:
    """Check that a RepVGG of any variant, under official names, lacks nothing up to its last stage and block.

    Raises:
        WeightsError: it does; says what.
    """
    keys = {name for key in tensors if (name := key.removeprefix('backbone.')).startswith('stage')}
    places = {m.groups() for key in keys if (m := re.match(r'stage([1-4])\.(\d+)\.', key))}
    blocks = [max(1, sum(stage == n for stage, _ in places)) for n in '1234']
    last = max((int(stage) for stage, _ in places), default=1)
    # Which names there are depends on nothing else.
    variant = Variant('like these', (*blocks,), (0.25,) * 4, se=_se(keys))
    with torch.device('meta'):
        expected = RepVGG(variant, deploy=_is_deployed(keys), out_indices=(last - 1,)).state_dict()
    if missing := [key for key in expected if key not in keys and not key.endswith('num_batches_tracked')]:
        raise WeightsError(
            f'these weights are incomplete: they lack {shorten(missing, 3)}; they are {_likeness(tensors)}'
        )


def _is_deployed(keys: Iterable[str]) -> bool:
    return any(key.endswith('.rbr_reparam.weight') for key in keys)


def _optional_parts(trunk: RepVGG, expected: Mapping[str, Tensor], *, whole: bool) -> Iterator[str]:
    """Yield the prefixes of keys that a file may have although the model does not."""
    parts = ['auxiliary_head'] if whole else ['linear', *AUX_CLASSIFIERS, 'stage2', 'stage3', 'stage4']
    for part in parts:
        if not any(key.startswith(f'{part}.') for key in expected):
            yield f'{part}.'


def _likeness(tensors: Mapping[str, Tensor]) -> str:
    """Say which variant tensors under official names are, or are nearest to."""
    pattern = re.compile(r'(?:backbone\.)?stage([1-4])\.(\d+)\.(?:rbr_dense\.conv|rbr_reparam)\.weight')
    kernels = {
        (int(m[1]), int(m[2])): v.shape for k, v in tensors.items() if (m := pattern.fullmatch(k)) and v.ndim == 4
    }
    if not kernels:
        return 'like no variant'
    blocks = [sum(stage == n for stage, _ in kernels) for n in (1, 2, 3, 4)]
    widths = [max((shape[0] for (stage, _), shape in kernels.items() if stage == n), default=0) for n in (1, 2, 3, 4)]
    groups = max((shape[0] // shape[1] for (_, block), shape in kernels.items() if block), default=1)
    se = _se(tensors)

    def distance(name: str) -> float:
        v = VARIANTS[name]
        return (
            sum(abs(a - b) for a, b in zip(blocks, v.blocks, strict=True) if a)
            + sum(abs(a / b - 1) for a, b in zip(widths, v.channels[1:], strict=True) if a)
            + abs(groups - v.groups)
            + (se != v.se)
        )

    nearest = min(VARIANTS, key=distance)
    return nearest if not distance(nearest) else f'nearest to {nearest}'


def _se(keys: Iterable[str]) -> Literal['pre', 'post'] | None:
    parts = {part for key in keys for part in key.split('.')}
    return 'post' if 'post_se' in parts else 'pre' if 'se' in parts else None
