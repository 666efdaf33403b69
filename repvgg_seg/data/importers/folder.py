"""Labels of other tools, written as the folder layout that training reads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...files import FileError, StrPath, whole_folder, write_text
from ...parallel import parallel_map
from ..masks import IGNORED, MAX_CLASSES, Classes, read_classes
from .formats import (
    BACKGROUND,
    READERS,
    SUFFIXES,
    VOID,
    Images,
    detect,
    embedded_image,
    image_root,
    load_json,
    upright_size,
    voc_color,
)
from .shapes import LabelError, Labels, Notes, Record, draw

REPORT = 'import.json'


@dataclass(frozen=True)
class Import:
    """What `import_labels` wrote and what it left out."""

    format: str
    classes: tuple[str, ...]
    images: dict[str, int]  # split -> how many
    pixels: dict[str, int]  # class, and '' for 255 -> how many
    split: str  # how train and val were told apart
    notes: Notes

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        left = [
            {'what': reason, 'count': count, 'examples': self.notes.examples[reason]}
            for reason, count in self.notes.counts.most_common()
        ]
        facts = {'format': self.format, 'classes': self.classes, 'images': self.images, 'split': self.split}
        return {**facts, 'pixels': self.pixels, 'left_out': left}


def import_labels(
    source: StrPath,
    out: StrPath,
    *,
    format: str = 'auto',
    images: StrPath | None = None,
    classes_file: StrPath | None = None,
    val: float | None = None,
    group: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> Import:
    """Write the labels of `source` to `out` as classes.json, images/{train,val} and masks/{train,val}.

    `format` is one of READERS. `images` is the folder that holds the images, where the labels do not lie among them.
    `classes_file` is a classes.json that fixes order and colours of the classes; others are then unknown.

    The splits are the source's own, if it has train and val. Else, or if `val` is given, about this share (0.2) of the
    images becomes val, in whole groups, the same in every call. A group is a folder or, in a single one, the images
    whose names are equal but for the number at their end, as frames of a video are; with `group`, a regular expression,
    it is what its first bracket, or all of it, finds in the path of an image. Where all images are one group, its last
    ones become val.

    Everything appears at once: an import that is interrupted leaves nothing.

    Raises:
        FileNotFoundError: the source, its images or `classes_file` are not there.
        FileError: `out` holds something already; with `overwrite` it is replaced if an import made it.
        ImportError: pycocotools, or for YOLO a reader of YAML, is not installed.
        LabelError, MaskError: the source is of no known format, or nothing of it can be used.
    """
    source, out = Path(source), Path(os.path.abspath(out))
    if val is not None and not 0 < val < 1:
        raise LabelError(f'a share of {val:g} of the images cannot become val: name one between 0 and 1, such as 0.2')
    if format != 'auto' and format not in READERS:
        raise LabelError(f'there is no format {format!r}: choose one of {", ".join(READERS)}')
    _require_room(out, overwrite)
    found = detect(source) if format == 'auto' else format
    notes = Notes()
    labels = READERS[found](source, Images(image_root(source, images)), notes)
    classes = _classes(labels, read_classes(classes_file) if classes_file else None, notes)
    records = _named(labels.records, notes)
    with whole_folder(out) as parts:
        written, pixels = _write(records, classes, labels.fills, parts, notes, workers)
        if not written:
            raise LabelError(f'nothing of {source} can be used: {_reasons(notes)}')
        how, splits = _split(written, val, group)
        for record in written:
            for kind, suffix in (('images', record.image.suffix.lower()), ('masks', '.png')):
                target = parts / kind / splits[record.name] / f'{record.name}{suffix}'
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(parts / 'all' / f'{record.name}.{kind}', target)
        shutil.rmtree(parts / 'all')
        done = Import(found, classes.names, dict(Counter(splits.values())), pixels, how, notes)
        names = [{'name': n, 'color': list(c)} for n, c in zip(classes.names, classes.colors, strict=True)]
        write_text(json.dumps({'classes': names}, indent=2) + '\n', parts / 'classes.json')
        write_text(json.dumps({'source': str(source), **done.data()}, indent=2) + '\n', parts / REPORT)
    return done


def _require_room(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / REPORT).is_file():
        raise FileError(f'{out} holds something that this did not write: name a folder that is empty or new')
    if not overwrite:
        raise FileError(f'{out} holds an import already: name another folder, or --overwrite it')


def _reasons(notes: Notes) -> str:
    reasons = [
        f'{count} {reason}, such as {notes.examples[reason][0]}' for reason, count in notes.counts.most_common(3)
    ]
    return '; '.join(reasons) or 'it holds no labelled image'


def _classes(labels: Labels, given: Classes | None, notes: Notes) -> Classes:
    """Return the classes of the result; what is none of them, or is there to be ignored, becomes None in `labels`."""
    names = [name for name in labels.classes if name.casefold() not in VOID]
    if labels.fills and not any(name.casefold() in BACKGROUND for name in names):
        names.insert(0, 'background')
    used = {shape.label for record in labels.records for shape in record.shapes}
    if given is not None:
        for name in sorted(filter(None, used - set(given.names))):
            notes.add('classes that the file of classes lacks, as 255', name)
        if labels.fills and not any(name.casefold() in BACKGROUND for name in given.names):
            raise LabelError('the file of classes has no "background", the class of what no shape covers: add it')
        return given
    if not 2 <= len(names) <= MAX_CLASSES:
        raise LabelError(f'the labels have {len(names)} classes, and 2 to {MAX_CLASSES} can be told apart')
    colors = [labels.classes.get(name) or voc_color(i) for i, name in enumerate(names)]
    if len(set(colors)) < len(colors):
        colors = [voc_color(i) for i in range(len(names))]
    return Classes(tuple(names), tuple(colors))


def _named(records: Iterable[Record], notes: Notes) -> list[Record]:
    """Return the records by name, each image once; different images of one name get a number."""
    unique: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: (record.name, record.split, record.image.as_posix())):
        name, number = record.name, 2
        while name in unique and unique[name].image != record.image:
            name, number = f'{record.name}_{number}', number + 1
        if name in unique:
            notes.add('images that are listed twice (all their labels are drawn)', record.image)
            unique[name].shapes += record.shapes
        else:
            record.name = name
            unique[name] = record
    return list(unique.values())


@dataclass(frozen=True)
class _Drawn:
    png: bytes  # empty: the image is left out
    notes: list[str]
    pixels: dict[int, int]


def _write(
    records: list[Record], classes: Classes, fills: bool, parts: Path, notes: Notes, workers: int | None
) -> tuple[list[Record], dict[str, int]]:
    """Write images and masks below `parts`/all; return what was written, and the pixels of each class."""
    indices = {name: index for index, name in enumerate(classes.names)}
    base = next((index for name, index in indices.items() if name.casefold() in BACKGROUND), IGNORED)
    work = partial(_draw, indices, base if fills else IGNORED)
    written, pixels = [], Counter[int]()
    results = parallel_map(work, records, workers=workers, description='Drawing masks')
    for record, result in zip(records, results, strict=True):
        notes.update((reason, record.image) for reason in result.notes)
        if not result.png:
            continue
        target = parts / 'all' / record.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(f'{target}.masks').write_bytes(result.png)
        _copy(record, Path(f'{target}.images'))
        written.append(record)
        pixels.update(result.pixels)
    return written, {('' if i == IGNORED else classes.names[i]): count for i, count in sorted(pixels.items())}


def _copy(record: Record, target: Path) -> None:
    """Put an image into the result without taking room for it, where the system can."""
    if record.embedded:
        embedded_image(load_json(record.embedded)['imageData']).convert('RGB').save(target, 'PNG')
        record.image = record.image.with_suffix('.png')
        return
    try:
        os.link(os.path.realpath(record.image), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(record.image, target)


def _draw(indices: Mapping[str, int], base: int, record: Record) -> _Drawn:
    """Return the mask of an image as a PNG file."""
    try:
        if record.embedded:
            image = embedded_image(load_json(record.embedded)['imageData'])
            size = (image.height, image.width)
        elif record.image.suffix.lower() not in SUFFIXES:
            raise LabelError('images of a kind that training does not read')
        else:
            size = upright_size(record.image)
        if record.size is not None and record.size != size:
            raise LabelError('images of another size than their labels say')
        mask, notes = draw(record, indices, base, size)
    except LabelError as error:
        return _Drawn(b'', [str(error)], {})
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return _Drawn(b'', ['images that cannot be read'], {})
    file = io.BytesIO()
    Image.fromarray(mask).save(file, 'PNG')
    values, counts = np.unique(mask, return_counts=True)
    return _Drawn(file.getvalue(), notes, dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _split(records: list[Record], val: float | None, group: str | None) -> tuple[str, dict[str, str]]:
    """Return how train and val are told apart, and the split of each record."""
    own = {record.split for record in records}
    if val is None and group is None and {'train', 'val'} <= own and '' not in own:
        return "the source's own", {record.name: record.split for record in records}
    names = [record.name for record in records]
    groups, what = _groups(names, group)
    wanted = max(1, round((0.2 if val is None else val) * len(names)))
    if len(groups) == 1:
        chosen = set(sorted(names)[len(names) - min(wanted, len(names) - 1) :])
        return f'the last {len(chosen)} images', {n: 'val' if n in chosen else 'train' for n in names}
    chosen = set()
    # In the order of their hashes, so that a group stays where it is when others come.
    order = sorted(groups, key=lambda key: hashlib.sha256(key.encode(errors='surrogateescape')).digest())
    for key in [key for key in order if len(groups[key]) <= wanted] or [min(order, key=lambda k: len(groups[k]))]:
        if not chosen or len(chosen) + len(groups[key]) <= wanted:
            chosen |= set(groups[key])
    return f'{len(groups)} {what}', {n: 'val' if n in chosen else 'train' for n in names}


def _groups(names: list[str], pattern: str | None) -> tuple[dict[str, list[str]], str]:
    """Return the images of each group, and what a group is."""

    def by(key: Any) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(key(name), []).append(name)
        return groups

    if pattern is not None:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise LabelError(f'{pattern!r} is no regular expression ({error})') from error

        def found(name: str) -> str:
            match = expression.search(name)
            return name if match is None else match[1 if expression.groups else 0] or ''

        return by(found), f'groups by {pattern!r}'
    folders = by(lambda name: PurePosixPath(name).parent.as_posix())
    if len(folders) > 1:
        return folders, 'folders'
    return by(lambda name: re.sub(r'\d+$', '', name)), 'names but for their last number'


def describe(done: Import) -> Iterable[str]:
    """Yield the lines that tell what was imported and what was left out."""
    splits = ', '.join(f'{count} {split}' for split, count in sorted(done.images.items()))
    yield f'{done.format}: {splits} images (by {done.split}), {len(done.classes)} classes'
    total = sum(done.pixels.values())
    for name, count in done.pixels.items():
        yield f'{count / total:9.3%}  {name or "(255: not learnt)"}'
    for reason, count in done.notes.counts.most_common():
        yield f'{count:9,}  {reason}, such as {done.notes.examples[reason][0]}'
