"""What an exported model says about itself: the JSON inside each file, enough to run it without anything else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .precision import PRECISIONS

KEY = 'repvgg_seg'  # in an ONNX file's metadata_props and an OpenVINO model's rt_info
ARCHIVE_NAME = f'{KEY}.json'  # among the extra files of a torch.export archive
FORMAT = 1

Output = Literal['classes', 'logits']
OUTPUTS: tuple[Output, ...] = ('classes', 'logits')
DYNAMIC = 'dynamic'


@dataclass(frozen=True)
class ModelMetadata:
    """The facts about an exported graph; `to_json` and `from_json` are inverse to each other.

    The graph takes uint8 images (N, H, W, 3) in RGB and returns `output`: class indices (N, H, W), uint8 or above 256
    classes uint16, or float32 logits (N, classes, H, W), where a sigmoid head has one channel.

    Raises:
        ValueError: a field is not what it has to be.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB, one for each class
    batch: int | None  # None: any
    size: tuple[int, int]  # (H, W)
    output: Output
    precision: str  # of the arithmetic that the file asks for
    source: dict[str, str]  # 'file' and 'sha256' of the weights that were exported
    versions: dict[str, str]  # of the packages that wrote the file
    created: str  # ISO 8601

    def __post_init__(self) -> None:
        rules = {
            'classes': bool(self.classes) and all(isinstance(name, str) for name in self.classes),
            'palette': len(self.palette) == len(self.classes) and all(map(_is_colour, self.palette)),
            'batch': self.batch is None or _is_integer(self.batch, 1),
            'size': len(self.size) == 2 and all(_is_integer(n, 1) for n in self.size),
            'output': self.output in OUTPUTS,
            'precision': self.precision in PRECISIONS,
            'source': _is_text(self.source) and {'file', 'sha256'} <= set(self.source),
            'versions': _is_text(self.versions),
            'created': isinstance(self.created, str),
        }
        for name, holds in rules.items():
            if not holds:
                raise ValueError(f'the model metadata has no valid {name}: {getattr(self, name)!r}')

    def to_json(self) -> str:
        """Return the text that goes into the file."""
        values = asdict(self)
        batch, size = values.pop('batch'), values.pop('size')
        values |= {
            'format': FORMAT,
            'num_classes': len(self.classes),
            'colour_order': 'RGB',
            'input': [DYNAMIC if batch is None else batch, *size, 3],
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not that, or of a format that this version does not know.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f'the model metadata is no JSON ({error}): export the model again') from None
        if not isinstance(values, dict) or values.get('format') != FORMAT:
            found = values.get('format') if isinstance(values, dict) else None
            raise ValueError(
                f'the model metadata is of format {found!r}, and this version reads {FORMAT}: '
                'export the model again, or use the version that wrote it'
            )
        fixed = {'format', 'num_classes', 'colour_order', 'input'}
        names = {field.name for field in fields(cls)} - {'batch', 'size'}
        if different := set(values) ^ (names | fixed):
            raise ValueError(f'the model metadata lacks, or has too much, of: {", ".join(sorted(different))}')
        shape = values['input']
        if not (isinstance(shape, list) and len(shape) == 4 and shape[3] == 3 and values['colour_order'] == 'RGB'):
            raise ValueError(f'the model takes {values["colour_order"]} images of {shape}, not RGB images (N, H, W, 3)')
        metadata = cls(
            batch=None if shape[0] == DYNAMIC else shape[0],
            size=tuple(shape[1:3]),
            classes=_tuple(values['classes']),
            palette=tuple(map(_tuple, _tuple(values['palette']))),
            **{name: values[name] for name in names - {'classes', 'palette'}},
        )
        if values['num_classes'] != len(metadata.classes):
            raise ValueError(f'the model has {values["num_classes"]} classes but names {len(metadata.classes)}')
        return metadata


def _tuple(value: Any) -> tuple[Any, ...]:
    """Return a JSON list as a tuple, and of anything else one that no rule accepts."""
    return tuple(value) if isinstance(value, list) else (value,)


def _is_integer(value: object, low: int, high: int | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and low <= value and (high is None or value <= high)  # type: ignore[operator]


def _is_colour(value: tuple[int, ...]) -> bool:
    return len(value) == 3 and all(_is_integer(channel, 0, 255) for channel in value)


def _is_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)
