"""What an exported model says about itself: the JSON inside each file, enough to run it without anything else."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .precision import PRECISIONS

KEY = 'repvgg_seg'  # in an ONNX file's metadata_props and an OpenVINO model's rt_info
ARCHIVE_NAME = f'{KEY}.json'  # among the extra files of a torch.export archive
FORMAT = 3
# What is larger or deeper was not written by tools/export.py: a thousand classes take 60 kB, in 3 levels.
MAX_BYTES = 2**20
MAX_DEPTH = 8

Output = Literal['classes', 'logits']
Fit = Literal['test', 'resize', 'tile']
OUTPUTS: tuple[Output, ...] = ('classes', 'logits')
FITS: tuple[Fit, ...] = ('test', 'resize', 'tile')
Decoder = Literal['cv2', 'pillow']
DECODERS: tuple[Decoder, ...] = ('cv2', 'pillow')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos')  # as mmcv calls those of OpenCV
DYNAMIC = 'dynamic'
# ImageNet's, which normalisation takes to zero: what mmseg fills crops with in training, and convolutions see beyond
# an image's border.
MEAN_COLOUR = (124, 116, 104)


@dataclass(frozen=True)
class Preparation:
    """How the config prepares images for the test.

    `scale`: the (H, W) that images are resized to, or with `keep_ratio` the box, upright or lying, that they are made
    to fit into; None leaves them as they are. `upright`: files are turned as their EXIF orientation says. `decoder`:
    what reads them, which makes other pixels of palettes, alpha and 16 bits. `stride`: the (H, W) between the windows
    that are segmented one by one, of the size of the file, and averaged where they overlap; None segments images as a
    whole.

    Raises:
        ValueError: a field is not what it has to be.
    """

    scale: tuple[int, int] | None = None
    keep_ratio: bool = False
    interpolation: str = 'bilinear'
    upright: bool = True
    decoder: Decoder = 'cv2'
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        rules = {
            'scale': self.scale is None or _is_size(self.scale),
            'keep_ratio': isinstance(self.keep_ratio, bool),
            'interpolation': self.interpolation in INTERPOLATIONS,
            'upright': isinstance(self.upright, bool),
            'decoder': self.decoder in DECODERS,
            'stride': self.stride is None or _is_size(self.stride),
        }
        _require('preparation', self, rules)

    def resized(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) that the test makes of an image of `shape`, rounded as mmcv rounds."""
        if self.scale is None:
            return shape
        if not self.keep_ratio:
            return self.scale
        factor = min(max(self.scale) / max(shape), min(self.scale) / min(shape))
        height, width = (max(1, int(n * factor + 0.5)) for n in shape)
        return height, width


@dataclass(frozen=True)
class ModelMetadata:
    """The facts about an exported graph; `to_json` and `from_json` are inverse to each other.

    The graph takes uint8 images (N, H, W, C), of three channels in RGB, and returns `output`: class indices (N, H, W),
    uint8 or above 256 classes uint16, or float32 logits (N, classes, H, W), where a sigmoid head has one channel. With
    `align_corners` these are resized so that the corners of both maps lie on one another, as the network does inside.

    Raises:
        ValueError: a field is not what it has to be.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB, one for each class
    batch: int | None  # None: any
    size: tuple[int, int]  # (H, W)
    output: Output
    precision: str  # of the arithmetic that the file asks for
    threshold: float | None  # above which a sigmoid head says class 1; None: a softmax
    align_corners: bool  # of the resizing of logits
    preparation: Preparation
    fit: Fit  # what a Segmenter does by default
    source: dict[str, str]  # 'file' and 'sha256' of the weights that were exported
    versions: dict[str, str]  # of the packages that wrote the file
    created: str  # ISO 8601
    mean: tuple[int, ...] = MEAN_COLOUR  # one for each of the C channels: what padding is filled with

    @property
    def channels(self) -> int:
        """C, the channels of the images."""
        return len(self.mean)

    def __post_init__(self) -> None:
        rules = {
            'classes': bool(self.classes) and all(isinstance(name, str) for name in self.classes),
            'palette': len(self.palette) == len(self.classes) and all(map(_is_colour, self.palette)),
            'batch': self.batch is None or _is_integer(self.batch, 1),
            'size': _is_size(self.size),
            'output': self.output in OUTPUTS,
            'precision': self.precision in PRECISIONS,
            'threshold': self.threshold is None or isinstance(self.threshold, (int, float)),
            'align_corners': isinstance(self.align_corners, bool),
            'fit': self.fit in FITS,
            'source': _is_text(self.source) and {'file', 'sha256'} <= set(self.source),
            'versions': _is_text(self.versions),
            'created': isinstance(self.created, str),
            'mean': bool(self.mean) and all(_is_integer(value, 0, 255) for value in self.mean),
        }
        _require('model metadata', self, rules)

    def to_json(self) -> str:
        """Return the text that goes into the file."""
        values = asdict(self)
        batch, size, mean = (values.pop(name) for name in ('batch', 'size', 'mean'))
        rgb = len(mean) == 3
        values |= {
            'format': FORMAT,
            'num_classes': len(self.classes),
            'colour_order': 'RGB' if rgb else None,
            'input': [DYNAMIC if batch is None else batch, *size, len(mean)],
        }
        if not rgb:
            values['mean'] = mean
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Read what `to_json` wrote.

        Files of earlier formats do not say all: see `_updated`.

        Raises:
            ValueError: it is not that, or of a format that this version does not know.
        """
        if len(text) > MAX_BYTES:
            raise ValueError(f'the model metadata is larger than {MAX_BYTES} bytes: export the model again')
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f'the model metadata is not JSON ({error}): export the model again') from None
        except RecursionError:
            values = None
        if values is None or _deeper(values, MAX_DEPTH):
            raise ValueError(f'the model metadata is nested deeper than {MAX_DEPTH} levels: export the model again')
        values = _updated(values)
        if not isinstance(values, dict) or values.get('format') != FORMAT:
            found = values.get('format') if isinstance(values, dict) else None
            raise ValueError(
                f'the model metadata is of format {found!r}, and this version reads 1 to {FORMAT}: '
                'export the model again, or use the version that wrote it'
            )
        fixed = {'format', 'num_classes', 'colour_order', 'input'}
        names = {field.name for field in fields(cls)} - {'batch', 'size', 'mean'}
        mean = _tuple(values.pop('mean', [*MEAN_COLOUR]))
        if different := set(values) ^ (names | fixed):
            raise ValueError(f'the model metadata lacks, or has too much, of: {", ".join(sorted(different))}')
        shape = values['input']
        order = 'RGB' if len(mean) == 3 else None
        if not (isinstance(shape, list) and shape[3:] == [len(mean)] and values['colour_order'] == order):
            raise ValueError(
                f'the model takes {values["colour_order"]} images of {shape}, not {order or "multichannel"} images '
                f'(N, H, W, {len(mean)})'
            )
        metadata = cls(
            batch=None if shape[0] == DYNAMIC else shape[0],
            size=tuple(shape[1:3]),
            mean=mean,
            classes=_tuple(values['classes']),
            palette=tuple(map(_tuple, _tuple(values['palette']))),
            preparation=_preparation(values['preparation']),
            **{name: values[name] for name in names - {'classes', 'palette', 'preparation'}},
        )
        if values['num_classes'] != len(metadata.classes):
            raise ValueError(f'the model has {values["num_classes"]} classes but names {len(metadata.classes)}')
        return metadata


def _updated(values: Any) -> Any:
    """Return metadata of an earlier format as of this one, with what it does not say filled in.

    Format 1 does not say how the test prepares images. They are stretched to the file's size, with a warning: that was
    never measured worse than the tiles into which they were cut when these files were written (docs/sizes.md).
    """
    if not isinstance(values, dict) or values.get('format') not in (1, 2):
        return values
    shape = values.get('input')
    size = shape[1:3] if isinstance(shape, list) else None
    if values['format'] == 1:
        warnings.warn(
            f'the file was written before files said how the test prepares images: images of other sizes than {size} '
            "are stretched to it, which may cost accuracy (until now they were cut into tiles: fit='tile'). Export the "
            'model again',
            stacklevel=2,
        )
        values = {'threshold': None, 'preparation': asdict(Preparation()) | {'scale': size}, 'fit': 'test', **values}
    preparation = values.get('preparation')
    if isinstance(preparation, dict):
        preparation = {'decoder': 'cv2', **preparation}
    return {'align_corners': False, **values, 'preparation': preparation, 'format': FORMAT}


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and dictionaries are nested in more levels; in a loop and not by recursion, as the file may come
    from anyone."""
    inner = [value]
    for _ in range(levels + 1):
        containers = [item for item in inner if isinstance(item, (list, dict))]
        inner = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return bool(inner)


def _preparation(values: Any) -> Preparation:
    names = {field.name for field in fields(Preparation)}
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f'the model metadata has no valid preparation: {values!r}')
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Preparation(**arguments)


def _require(what: str, owner: object, rules: dict[str, bool]) -> None:
    for name, holds in rules.items():
        if not holds:
            raise ValueError(f'the {what} has no valid {name}: {getattr(owner, name)!r}')


def _tuple(value: Any) -> tuple[Any, ...]:
    """Return a JSON list as a tuple, and of anything else one that no rule accepts."""
    return tuple(value) if isinstance(value, list) else (value,)


def _is_integer(value: object, low: int, high: int | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and low <= value and (high is None or value <= high)  # type: ignore[operator]


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_integer(n, 1) for n in value)


def _is_colour(value: tuple[int, ...]) -> bool:
    return len(value) == 3 and all(_is_integer(channel, 0, 255) for channel in value)


def _is_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)
