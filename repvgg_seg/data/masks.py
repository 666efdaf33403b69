"""Masks of your own data set: the classes in classes.json, and masks of colours made into class indices.

    {
      "classes": [
        {"name": "background", "color": [0, 0, 0]},
        {"name": "crack", "color": [255, 255, 255]}
      ],
      "ignore": [[128, 128, 128]]
    }

A class's place in the list, from 0, is its index in the masks; colours are red, green, blue. Pixels of the colours in
"ignore", which may be left out, become 255: they are neither trained nor counted.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import FileError, atomic_write, claim, read_text, walk
from ..parallel import parallel_map

Color = tuple[int, int, int]  # red, green, blue

IGNORED = 255
MAX_CLASSES = 255
IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# In the folder of converted masks: what they were converted with.
MARKER = '.converted_with.json'


class MaskError(ValueError):
    """Classes or masks that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set; a name's and a colour's place is the index in the masks."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore: tuple[Color, ...] = ()  # colours of pixels that are not labelled


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """Read classes.json.

    Raises:
        FileNotFoundError: there is none.
        FileError: it is not text in a known encoding.
        MaskError: it is not of the form above; says what is wrong.
    """
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{path} does not exist: write the classes there, such as {{"classes": [{{"name": "background", '
            '"color": [0, 0, 0]}, {"name": "crack", "color": [255, 255, 255]}]}'
        ) from None
    except FileError:
        raise
    except ValueError as error:
        raise MaskError(f'{path} is not JSON: {error}') from error
    try:
        return _parse(content)
    except MaskError as error:
        raise MaskError(f'{path}: {error}') from None


def _parse(content: Any) -> Classes:
    if not isinstance(content, dict) or not isinstance(content.get('classes'), list):
        raise MaskError('there is no list "classes"')
    _refuse_others(content, 'classes', 'ignore')
    names, colors = [], []
    for index, entry in enumerate(content['classes']):
        if not isinstance(entry, dict) or not isinstance(entry.get('name'), str) or not entry['name'].strip():
            raise MaskError(f'class {index} has no "name"')
        _refuse_others(entry, 'name', 'color')
        names.append(entry['name'])
        colors.append(_color(entry.get('color'), f'class {entry["name"]!r}'))
    ignore = content.get('ignore', [])
    if not isinstance(ignore, list):
        raise MaskError('"ignore" is not a list of colours')
    ignored = [_color(color, '"ignore"') for color in ignore]
    if not 2 <= len(names) <= MAX_CLASSES:
        raise MaskError(
            f'there are {len(names)} classes, but 2 to {MAX_CLASSES} can be told apart: what is none of the objects '
            'is a class as well, such as "background"'
        )
    for what, values in (('name', names), ('color', [*colors, *ignored])):
        if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
            raise MaskError(f'the {what} {repeated[0]!r} is there twice')
    return Classes(tuple(names), tuple(colors), tuple(ignored))


def _refuse_others(entry: dict[str, Any], *known: str) -> None:
    if others := sorted(set(entry) - set(known)):
        raise MaskError(f'{others[0]!r} means nothing here, only {" and ".join(known)} do')


def _color(value: Any, where: str) -> Color:
    if not (isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)):
        raise MaskError(f'{where} has the color {value!r}: give red, green and blue, [0, 0, 0] to [255, 255, 255]')
    return value[0], value[1], value[2]


def find_images(folder: Path) -> dict[str, Path]:
    """Return the image files below `folder` by their path in it, without suffix.

    Raises:
        MaskError: two of them differ in the suffix only.
    """
    found: dict[str, Path] = {}
    for path in walk(folder, IMAGE_SUFFIXES) if folder.is_dir() else ():
        key = path.relative_to(folder).with_suffix('').as_posix()
        if key in found:
            raise MaskError(f'{found[key]} and {path} have one name but for the suffix: rename or remove one')
        found[key] = path
    return found


@dataclass(frozen=True)
class Conversion:
    """What `convert_masks` did."""

    converted: int
    kept: int  # were there already, newer than their sources
    ignored_pixels: int  # of colours that no class has, with ignore_unknown


def convert_masks(
    classes_file: str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    ignore_unknown: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
) -> Conversion:
    """Turn masks of the colours of classes.json into 8-bit PNG files of class indices under the same names.

    Masks that are in `target` already and not older than their sources are kept, so an interrupted conversion goes
    on where it was. Pixels of colours that no class has become 255 with `ignore_unknown`, and are an error without.

    Raises:
        FileNotFoundError: classes.json or the folder `source` does not exist.
        MaskError: a mask has colours that no class has or cannot be read (the others are converted).
        FileError: `target` holds something else than masks of these classes.
    """
    source, target = Path(source), Path(target)
    classes = read_classes(classes_file)
    if not source.is_dir():
        raise FileNotFoundError(f'there is no folder {source}: name the one that holds the masks of colours')
    if source.resolve() == target.resolve() or source.resolve() in target.resolve().parents:
        raise MaskError(f'{target} is the folder of the masks of colours or in it: choose another for the new ones')
    masks = find_images(source)
    if not masks:
        raise MaskError(f'{source} holds no images ({", ".join(IMAGE_SUFFIXES)}), so there is nothing to convert')
    outputs = {path: target / f'{name}.png' for name, path in masks.items()}
    settings = {**asdict(classes), 'ignore_unknown': ignore_unknown}
    claim(target / MARKER, settings, lambda _: outputs.values(), overwrite=overwrite)
    todo = [path for path, output in outputs.items() if not _newer(output, path)]
    unknown: dict[int, list[tuple[Path, int]]] = {}  # colour -> masks with it, and the pixels there
    indexed: list[Path] = []
    broken: list[str] = []
    convert = partial(_convert, classes, ignore_unknown)
    results = parallel_map(convert, todo, workers=workers, description='Converting masks')
    for path, result in zip(todo, results, strict=True):
        if isinstance(result, str):
            broken.append(f'{path} {result}')
            continue
        for code, pixels in result.unknown.items():
            unknown.setdefault(code, []).append((path, pixels))
        if result.png is None:
            indexed += [path] if result.indexed else []
            continue
        with atomic_write(outputs[path]) as file:
            file.write(result.png)

    bad = {path for found in unknown.values() for path, _ in found} if not ignore_unknown else set()
    done = len(todo) - len(broken) - len(bad)
    if broken or bad:
        reasons = broken[:3] + ([f'and {len(broken) - 3} more like it'] if len(broken) > 3 else [])
        if indexed and len(indexed) == len(bad):
            reasons.append(f'{indexed[0]} holds class indices already, not colours: such masks are used as they are')
        elif bad:
            reasons.append('; '.join(_describe(classes, unknown)))
            reasons.append(
                'give these colours a class or list them in "ignore", or leave them out with --ignore-unknown'
            )
        raise MaskError(f'{len(broken) + len(bad)} masks were not converted ({done} were): ' + '; '.join(reasons))
    pixels = sum(count for found in unknown.values() for _, count in found)
    return Conversion(converted=len(todo), kept=len(outputs) - len(todo), ignored_pixels=pixels)


def _newer(output: Path, source: Path) -> bool:
    return output.is_file() and output.stat().st_mtime_ns >= source.stat().st_mtime_ns


@dataclass(frozen=True)
class _Result:
    png: bytes | None  # None: it has unknown colours
    unknown: dict[int, int]  # colour -> pixels
    indexed: bool = False  # it looks as if it held class indices, not colours


@cache
def _table(classes: Classes) -> np.ndarray:
    """Return the index of every colour, -1 where it has none: (2 ** 24,) int16."""
    table = np.full(1 << 24, -1, np.int16)
    for index, color in [*enumerate(classes.colors), *((IGNORED, color) for color in classes.ignore)]:
        table[_code(np.array(color))] = index
    return table


def _code(rgb: np.ndarray) -> np.ndarray:  # (..., 3) -> (...)
    return rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _convert(classes: Classes, ignore_unknown: bool, path: Path) -> _Result | str:
    """Return a mask of colours as a PNG file of class indices, or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of them for damaged files
        return f'cannot be read ({error})'
    if image.mode.startswith(('I', 'F')):
        return f'has more than 8 bits a pixel (mode {image.mode}): masks of colours have 8 a channel'
    codes = _code(np.asarray(image.convert('RGB')))  # (H, W)
    indices = _table(classes)[codes]
    missing = indices < 0
    unknown: dict[int, int] = {}
    if missing.any():
        values, counts = np.unique(codes[missing], return_counts=True)
        most = np.argsort(-counts, kind='stable')[:1000]
        unknown = {int(value): int(count) for value, count in zip(values[most], counts[most], strict=True)}
        if not ignore_unknown:
            raw = np.asarray(image)
            indexed = image.mode in ('L', 'P') and bool(((raw < len(classes.names)) | (raw == IGNORED)).all())
            return _Result(None, unknown, indexed)
        indices = np.where(missing, IGNORED, indices)
    file = io.BytesIO()
    Image.fromarray(indices.astype(np.uint8)).save(file, 'PNG')
    return _Result(file.getvalue(), unknown)


def _describe(classes: Classes, unknown: dict[int, list[tuple[Path, int]]], most: int = 5) -> Iterator[str]:
    """Say of the most frequent unknown colours where they are and which class's colour is nearest."""
    totals = {code: sum(pixels for _, pixels in found) for code, found in unknown.items()}
    for code in sorted(totals, key=lambda code: -totals[code])[:most]:
        color = (code >> 16, code >> 8 & 255, code & 255)
        distances = [sum((a - b) ** 2 for a, b in zip(color, known, strict=True)) for known in classes.colors]
        nearest = min(range(len(distances)), key=distances.__getitem__)
        yield (
            f'no class has the color {list(color)} ({totals[code]:,} pixels in {len(unknown[code])} masks, such as '
            f'{unknown[code][0][0]}; nearest is {classes.names[nearest]}, {list(classes.colors[nearest])})'
        )
    if len(totals) > most:
        yield f'and {len(totals) - most} more colours (does a lossy format such as JPEG hold the masks?)'
