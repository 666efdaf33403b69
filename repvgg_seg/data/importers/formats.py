"""The label files of COCO, labelme, CVAT, Pascal VOC and YOLO, read into one form.

A reader takes the files of a source and returns its Labels. What is damaged, unknown or outside is left out and noted;
pixels of a class that nobody knows are not learnt (255) rather than taken for background. What is not understood at all
is an error.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...environment import optional
from ...files import read_text, walk
from ..masks import IGNORED, Color
from .shapes import LabelError, Labels, Mask, Notes, Patch, Record, Shape, polygon, unroll

SUFFIXES = frozenset({'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'})
BACKGROUND = frozenset({'background', '_background_', '__background__'})
VOID = frozenset({'__ignore__', 'ignore', 'ignored', 'void', 'unlabeled', 'unlabelled'})
# Folders that say what they hold or which split they are, not which video or place.
_CONTAINER = re.compile(r'(images?|imgs|jpegimages|labels|data|(train|val|valid|validation|test)\d*)', re.IGNORECASE)
_SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}
VOC_CLASSES = (
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
    'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
)  # fmt: skip
VOC_VOID = (224, 224, 192)
# Folders of Pascal VOC's masks, and of other pictures that have the names of the images.
_VOC_MASKS = ('SegmentationClass', 'SegmentationClassPNG')
_MASKS = frozenset({*_VOC_MASKS, 'SegmentationObject', 'SegmentationObjectPNG', 'SegmentationClassVisualization'})


def voc_color(index: int) -> Color:
    """Return the colour of a class in Pascal VOC's palette, which most tools use: its bits, dealt to the channels."""
    bits = [index >> bit & 1 for bit in range(24)]
    red, green, blue = (sum(bits[3 * i + channel] << (7 - i) for i in range(8)) for channel in range(3))
    return red, green, blue


def split_of(*paths: str | Path) -> str:
    """Return the split that the words of folders and files tell, such as instances_val2017.json: val."""
    words = [word for path in paths for word in re.findall('[a-z]+', str(path).lower())]
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), '')


def result_name(path: str | PurePosixPath | Path) -> str:
    """Return what an image is called in the result: its path, without suffix and folders that only sort by kind."""
    parts = [part for part in re.split(r'[/\\]', str(path)) if part not in ('', '.', '..') and ':' not in part]
    folders = [part for part in parts[:-1] if not _CONTAINER.fullmatch(part)]
    return '/'.join([*folders, PurePosixPath(parts[-1]).stem])


class Images:
    """The image files below a folder, found by what label files call them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = [path for path in walk(root, SUFFIXES) if _MASKS.isdisjoint(path.parts)]
        self._by_name: dict[str, list[Path]] = {}
        for path in self.paths:
            for name in (path.name, path.stem):
                self._by_name.setdefault(name, []).append(path)

    def find(self, name: str, near: Path) -> Path | None:
        """Return the file of this name, or path; of several the one with most of the path, then the one nearest."""
        wanted = [part for part in re.split(r'[/\\]', name) if part not in ('', '.', '..')]
        found = self._by_name.get(wanted[-1], []) if wanted else []

        def fit(path: Path) -> tuple[int, int]:
            tail = zip(reversed(path.parts[:-1]), reversed(wanted[:-1]), strict=False)
            head = zip(path.parts, near.parts, strict=False)
            return _equal(tail), _equal(head)

        return max(found, key=fit, default=None)


def _equal(pairs: Iterable[tuple[str, str]]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileError, LabelError: it cannot be read, or is none.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise LabelError(f'{path} is damaged or cut short ({error}): export it again') from error


# ---- which format is it


# What a JSON file of a tool has at its top, or in the first entry of the list or table that it is.
_JSON: Mapping[str, frozenset[str]] = {
    'coco': frozenset({'images', 'annotations', 'categories'}),
    'labelme': frozenset({'shapes', 'imagePath'}),
    'Label Studio': frozenset({'data', 'annotations'}),
    'Label Studio (min)': frozenset({'annotation_id', 'annotator'}),
    'the VGG Image Annotator': frozenset({'filename', 'regions'}),
    'the VGG Image Annotator (project)': frozenset({'_via_img_metadata'}),
    'Supervisely': frozenset({'size', 'objects'}),
    'Cityscapes': frozenset({'imgHeight', 'objects'}),
    'Labelbox': frozenset({'data_row'}),
    'BDD100K or Scalabel': frozenset({'name', 'labels'}),
    'Datumaro': frozenset({'items', 'categories'}),
    'CreateML': frozenset({'image', 'annotations'}),
    'GeoJSON (QuPath)': frozenset({'features'}),
    'V7 Darwin': frozenset({'item', 'annotations'}),
}


def json_format(content: Any) -> str:
    """Return which tool's a JSON file looks like, or ''."""
    first = content[0] if isinstance(content, list) and content else content
    nested = next(iter(content.values()), None) if isinstance(content, dict) else None
    for keys in (first, nested):
        for name, needed in _JSON.items():
            if isinstance(keys, dict) and needed <= set(keys):
                return name
    return ''


def detect(source: Path) -> str:
    """Return the format of a file or folder: a key of READERS.

    Raises:
        FileNotFoundError: it is not there.
        LabelError: it is of none of the formats; says which it looks like.
    """
    if not source.exists():
        raise FileNotFoundError(f'{source} does not exist: check the path')
    if source.is_file():
        return _format_of(source)
    if _voc_root(source):
        return 'voc'
    found = list(walk(source, {'.json', '.xml', '.yaml', '.yml', '.txt', '.zip'}))
    for suffix in ('.xml', '.yaml', '.yml', '.json'):
        errors = []
        for path in (path for path in found if path.suffix.lower() == suffix):
            try:
                return _format_of(path)
            except LabelError as error:
                errors.append(error)
                if len(errors) == 20:
                    break
        if errors and suffix == '.json':
            raise errors[0]
    if any(path.suffix == '.txt' and _is_yolo_label(path) for path in found):
        return 'yolo'
    zipped = next((path for path in found if path.suffix == '.zip'), None)
    hint = f'unpack {zipped} first' if zipped else f'name a file or folder of {", ".join(READERS)}'
    raise LabelError(f'{source} holds no label files of a known format: {hint}')


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == '.zip':
        raise LabelError(f'{path} is an archive: unpack it first, and name the folder')
    if suffix in ('.yaml', '.yml') and re.search('^names:', read_text(path), re.MULTILINE):
        return 'yolo'
    if suffix == '.xml':
        root = _xml(path)
        if root.tag == 'annotations' and root.find('image') is not None:
            return 'cvat'
        kind = {'annotation': 'Pascal VOC, which holds boxes: its masks are in SegmentationClass'}.get(root.tag)
        if root.tag == 'annotations':
            kind = 'CVAT for video: export the task as "CVAT for images 1.1" or as COCO'
        raise LabelError(f'{path} is no file of "CVAT for images 1.1"; it looks like {kind or "one of another tool"}')
    kind = json_format(load_json(path)) if suffix == '.json' else ''
    if kind in READERS:
        return kind
    cure = 'export the labels as COCO there, or name another file'
    raise LabelError(f'{path} is of none of {", ".join(READERS)}; it looks like {kind or "no label file"}: {cure}')


def _is_yolo_label(path: Path) -> bool:
    line = read_text(path).partition('\n')[0].split()
    return len(line) >= 5 and line[0].isdecimal() and all(re.fullmatch(r'[\d.e+-]+', word) for word in line)


# ---- COCO


def read_coco(source: Path, images: Images, notes: Notes) -> Labels:
    """Read polygons, RLE masks and panoptic labels of COCO; several files may be the splits of one data set."""
    files = [source]
    if source.is_dir():
        files = [p for p in walk(source, {'.json'}) if json_format(load_json(p)) == 'coco']
        files = [path for path in files if path.stem.startswith('instances')] or files
    labels = Labels({}, [])
    panoptic = [_read_coco(path, load_json(path), images, notes, labels) for path in files]
    if len(set(panoptic)) > 1:
        raise LabelError(f'{source} holds panoptic labels and others: name the file that you mean')
    labels.fills = not panoptic[0]
    return labels


def _read_coco(path: Path, content: Any, images: Images, notes: Notes, labels: Labels) -> bool:
    """Add what a file holds to `labels`; return whether it is panoptic."""
    names: dict[Any, str] = {}
    for category in _entries(content, 'categories', path):
        key, name = category.get('id'), str(category.get('name', ''))
        if not name or names.get(key, name) != name:
            raise LabelError(f'{path} has a category without a name, or two of the id {key!r}: export it again')
        names[key] = name
        labels.classes.setdefault(name, _color(category.get('color')))
    records: dict[Any, Record | None] = {}
    for entry in _entries(content, 'images', path):
        key, name = entry.get('id'), str(entry.get('file_name', ''))
        if key in records:
            raise LabelError(f'{path} has two images of the id {key!r}, so nobody knows whose the labels are')
        found = images.find(name, path)
        if found is None:
            notes.add('images that are not there', name)
            records[key] = None
            continue
        size = (entry['height'], entry['width']) if entry.get('height') and entry.get('width') else None
        split = split_of(path.relative_to(images.root) if path.is_relative_to(images.root) else path.name)
        records[key] = Record(result_name(found.relative_to(images.root)), found, size=size, split=split)
    annotations = _entries(content, 'annotations', path)
    panoptic = any('segments_info' in entry for entry in annotations)
    seen: dict[Any, Any] = {}
    for entry in annotations:
        key = entry.get('id')
        if key is not None and seen.setdefault(key, entry) is not entry:
            if seen[key] == entry:
                notes.add('labels that are there twice', f'{path}: label {key}')
                continue
            notes.add('different labels of one id (all are drawn)', f'{path}: label {key}')
        if entry.get('image_id') not in records:
            notes.add('labels of images that are not listed', f'{path}: image {entry.get("image_id")}')
            continue
        record = records[entry['image_id']]
        if record is None:
            continue
        try:
            if panoptic:
                record.mask = _panoptic(path, entry, names, notes)
            else:
                record.shapes.append(_coco_shape(entry, names, notes, path))
        except LabelError as error:
            notes.add(str(error), f'{path}: label {key}')
    for record in filter(None, records.values()):
        if panoptic and record.mask is None:
            notes.add('images whose mask is not there', record.image)
        else:
            labels.records.append(record)
    return panoptic


def _coco_class(entry: dict[str, Any], names: Mapping[Any, str], notes: Notes, path: Path) -> str | None:
    """Return the class of a label; None if it is unknown, or a crowd, which becomes 255."""
    label = names.get(entry.get('category_id'))
    if label is None:
        notes.add('labels of an unknown class, as 255', f'{path}: category {entry.get("category_id")}')
    if entry.get('iscrowd'):
        notes.add('crowds, as 255', f'{path}: label {entry.get("id")}')
        return None
    return label


def _coco_shape(entry: dict[str, Any], names: Mapping[Any, str], notes: Notes, path: Path) -> Shape:
    label = _coco_class(entry, names, notes, path)
    where = entry.get('segmentation')
    if isinstance(where, dict) and 'counts' in where and 'size' in where:
        return Shape(label, 'rle', where)
    if not isinstance(where, list) or not where:
        raise LabelError('labels without polygon or mask (boxes, keypoints)')
    return Shape(label, 'polygons', [polygon(ring) for ring in where])


def _panoptic(path: Path, entry: dict[str, Any], names: Mapping[Any, str], notes: Notes) -> Mask:
    colors: dict[Color, str | None] = {(0, 0, 0): None}
    try:
        segments = [(int(segment['id']), segment) for segment in entry['segments_info']]
        name = str(entry['file_name'])
    except (TypeError, ValueError, LookupError) as error:
        raise LabelError('damaged panoptic labels') from error
    for number, segment in segments:
        colors[number & 255, number >> 8 & 255, number >> 16] = _coco_class(segment, names, notes, path)
    folder = next((f for f in (path.with_suffix(''), path.parent) if (f / name).is_file()), path.parent)
    return Mask(folder / name, colors)


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise LabelError(f'{path} has no list of {key!r}: export it again')
    return found


def _color(value: Any) -> Color | None:
    if isinstance(value, str) and re.fullmatch('#[0-9a-fA-F]{6}', value):
        value = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None


# ---- labelme


def read_labelme(source: Path, images: Images, notes: Notes) -> Labels:
    """Read labelme's files, one an image; polygons, rectangles, circles and masks are areas, lines and points none."""
    labels = Labels({}, [])
    for path in [source] if source.is_file() else walk(source, {'.json'}):
        content = load_json(path)
        if json_format(content) != 'labelme':
            notes.add('JSON files of another kind', path)
            continue
        name = str(content['imagePath']).replace('\\', '/')
        beside = path.parent / name
        found = beside if beside.is_file() else images.find(name, path)
        inside = found is None and isinstance(content.get('imageData'), str)
        if found is None and not inside:
            notes.add('images that are not there', name)
            continue
        size = (content['imageHeight'], content['imageWidth']) if content.get('imageHeight') else None
        place = path.relative_to(images.root) if path.is_relative_to(images.root) else Path(path.name)
        record = Record(result_name(place), found or Path(name), size=size, split=split_of(place.parent))
        record.embedded = path if inside else None
        for entry in _entries(content, 'shapes', path):
            try:
                record.shapes.append(_labelme_shape(entry))
            except LabelError as error:
                notes.add(str(error), path)
        labels.records.append(record)
    for name in sorted({shape.label for record in labels.records for shape in record.shapes if shape.label}):
        labels.classes[name] = None
    return labels


def _labelme_shape(entry: dict[str, Any]) -> Shape:
    label, kind, points = str(entry.get('label', '')), entry.get('shape_type') or 'polygon', entry.get('points')
    if kind in ('polygon', 'oriented_rectangle'):
        return Shape(label, 'polygon', polygon(points))
    if kind not in ('rectangle', 'circle', 'mask'):
        raise LabelError(f'shapes that are not filled ({kind})')
    try:
        (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in points or ())
        if not all(math.isfinite(v) and abs(v) < 1e5 for v in (x1, y1, x2, y2)):
            raise ValueError('not a place')
        if kind == 'mask':
            mask = np.asarray(embedded_image(entry['mask']).convert('L')) > 0
            return Shape(label, 'patch', Patch(int(y1), int(x1), mask))
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise LabelError(f'damaged shapes ({kind})') from error
    return Shape(label, 'rectangle' if kind == 'rectangle' else 'circle', [x1, y1, x2, y2])


def embedded_image(text: str) -> Image.Image:
    """Return the image that a labelme file holds as text.

    Raises:
        OSError, ValueError: it is none.
    """
    return Image.open(io.BytesIO(base64.b64decode(text)))


# ---- CVAT


def read_cvat(source: Path, images: Images, notes: Notes) -> Labels:
    """Read "CVAT for images 1.1": polygons, boxes, ellipses and masks; z_order decides before the size does."""
    labels = Labels({}, [])
    for path in [source] if source.is_file() else walk(source, {'.xml'}):
        root = _xml(path)
        if root.tag != 'annotations':
            notes.add('XML files of another kind', path)
            continue
        for label in root.iterfind('meta//labels/label'):
            labels.classes.setdefault(label.findtext('name', ''), _color(label.findtext('color')))
        for image in root.iterfind('image'):
            name = image.get('name', '')
            found = images.find(name, path)
            if found is None:
                notes.add('images that are not there', name)
                continue
            size = (int(image.get('height', 0)), int(image.get('width', 0)))
            split = split_of(image.get('subset', ''), Path(name).parent)
            record = Record(result_name(name), found, size=size if all(size) else None, split=split)
            for shape in image:
                try:
                    record.shapes.append(_cvat_shape(shape, labels.classes, notes, path))
                except LabelError as error:
                    notes.add(str(error), f'{path}: {name}')
            labels.records.append(record)
    return labels


def _cvat_shape(shape: Any, classes: Mapping[str, Any], notes: Notes, path: Path) -> Shape:
    label: str | None = shape.get('label', '')
    if label not in classes:
        notes.add('labels of an unknown class, as 255', f'{path}: {label}')
        label = None
    layer = int(shape.get('z_order', 0))
    try:
        if shape.tag == 'mask':
            top, left, height, width = (int(shape.get(key)) for key in ('top', 'left', 'height', 'width'))
            mask = unroll([int(run) for run in shape.get('rle').split(',')], height, width)
            return Shape(label, 'patch', Patch(top, left, mask), layer)
        if shape.tag == 'polygon':
            points = [point.split(',') for point in shape.get('points').split(';')]
        elif shape.tag == 'box':
            x1, y1, x2, y2 = (float(shape.get(key)) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
            points = _turned([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], shape)
        elif shape.tag == 'ellipse':
            x, y, rx, ry = (float(shape.get(key)) for key in ('cx', 'cy', 'rx', 'ry'))
            angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
            points = _turned(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True), shape)
        else:
            raise LabelError(f'shapes that are not filled ({shape.tag})')
    except LabelError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelError(f'damaged shapes ({shape.tag})') from error
    return Shape(label, 'polygons', [polygon(points)], layer)


def _turned(points: Iterable[tuple[float, float]], shape: Any) -> Any:
    """Turn the corners of a box or ellipse around their centre, clockwise by CVAT's degrees."""
    xy, angle = np.array(list(points)), math.radians(float(shape.get('rotation', 0)))
    centre = (xy.min(0) + xy.max(0)) / 2
    matrix = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    return ((xy - centre) @ np.array(matrix) + centre).tolist()


def _xml(path: Path) -> Any:
    text = read_text(path)
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # which could unfold to gigabytes
        raise LabelError(f'{path} declares entities, which no label file needs: export it again')
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise LabelError(f'{path} is damaged or cut short ({error}): export it again') from error


# ---- Pascal VOC


def _voc_root(source: Path) -> Path | None:
    folders = [source, *sorted(source.glob('*')), *sorted(source.glob('*/*'))]
    return next((f for f in folders if any((f / name).is_dir() for name in _VOC_MASKS)), None)


def read_voc(source: Path, images: Images, notes: Notes) -> Labels:
    """Read the masks of Pascal VOC and of the tools that export them (CVAT, labelme): palettes, or colours."""
    root = _voc_root(source)
    if root is None:
        raise LabelError(f'{source} has no folder SegmentationClass: name the folder that holds it')
    folders = [folder for name in _VOC_MASKS if (folder := root / name).is_dir()]
    masks = [(path, path.relative_to(folder)) for folder in folders for path in walk(folder, {'.png'})]
    names, colors = _voc_classes(root)
    indices = {i: name for i, name in enumerate(names)} | {IGNORED: None}
    lists = root / 'ImageSets/Segmentation'
    listed = {
        line.strip(): _SPLITS[path.stem]
        for path in (walk(lists, {'.txt'}) if lists.is_dir() else ())
        if path.stem in _SPLITS
        for line in read_text(path).splitlines()
    }
    labels = Labels({name: next((c for c, n in colors.items() if n == name), None) for name in names}, [], False)
    for path, place in masks:
        name = place.with_suffix('').as_posix()
        image = images.find(name, root)
        if image is None:
            notes.add('images that are not there', name)
            continue
        mask = Mask(path, colors, None if (root / 'labelmap.txt').is_file() else indices)
        labels.records.append(Record(result_name(place), image, mask=mask, split=listed.get(name, '')))
    return labels


def _voc_classes(root: Path) -> tuple[list[str], dict[Color, str | None]]:
    """Return the classes by index, and by the colours of masks that are no palettes."""
    if (path := root / 'labelmap.txt').is_file():  # CVAT's: name:red,green,blue:parts:actions
        rows = [line.split(':') for line in read_text(path).splitlines() if ':' in line and not line.startswith('#')]
        try:
            table = [(name, tuple(int(value) for value in color.split(','))) for name, color, *_ in rows]
        except ValueError as error:
            raise LabelError(f'{path} is no list of name:red,green,blue ({error})') from error
        colors: dict[Color, str | None] = {(c[0], c[1], c[2]): name for name, c in table}
        return [name for name, _ in table], colors | {VOC_VOID: None}
    names = list(VOC_CLASSES)
    if (path := root / 'class_names.txt').is_file():  # labelme's
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return names, {voc_color(i): name for i, name in enumerate(names)} | {VOC_VOID: None}


# ---- YOLO


def read_yolo(source: Path, images: Images, notes: Notes) -> Labels:
    """Read YOLO's polygons: one .txt file an image, `class x1 y1 x2 y2 ...` in parts of its width and height."""
    root = source if source.is_dir() else source.parent
    names = _yolo_names(source if source.is_file() else None, root)
    labels = Labels(dict.fromkeys(names), [])
    # The last folder `images` becomes `labels`, as in Ultralytics' own loader.
    pairs = {re.sub(r'(.*)/images/', r'\1/labels/', path.with_suffix('.txt').as_posix()): path for path in images.paths}
    for path in walk(root, {'.txt'}):
        if path.as_posix() not in pairs and _is_yolo_label(path):
            notes.add('images that are not there', path)
    for text, path in pairs.items():
        record = Record(
            result_name(path.relative_to(images.root)), path, split=split_of(path.relative_to(images.root).parent)
        )
        if not Path(text).is_file():
            if not Path(text).parent.is_dir():
                continue  # of another data set
            notes.add('images without a label file, as background', path)
        else:
            record.shapes = list(_yolo_shapes(Path(text), names, path, notes))
        labels.records.append(record)
    return labels


def _yolo_names(file: Path | None, root: Path) -> list[str]:
    tables = [file] if file else [path for path in walk(root, {'.yaml', '.yml'})]
    for path in tables:
        yaml = optional('yaml', 'labels', f'reading {path}')
        try:
            names = (yaml.safe_load(read_text(path)) or {}).get('names')
        except (yaml.YAMLError, AttributeError) as error:
            raise LabelError(f'{path} is no YAML with "names" ({error})') from error
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            return [str(names[i]) for i in range(len(names))]
        if isinstance(names, list):
            return [str(name) for name in names]
    for name in ('classes.txt', 'obj.names', 'labels.txt'):
        if (root / name).is_file():
            return [line.strip() for line in read_text(root / name).splitlines() if line.strip()]
    raise LabelError(f'{file or root} does not tell the names of the classes: put a data.yaml with "names" there')


def _yolo_shapes(path: Path, names: Sequence[str], image: Path, notes: Notes) -> Iterator[Shape]:
    try:
        height, width = upright_size(image)
    except OSError:
        return  # which the drawing tells
    for line in filter(None, map(str.split, read_text(path).splitlines())):
        if len(line) == 5:
            notes.add('labels without polygon or mask (boxes, keypoints)', path)
            continue
        try:
            index = int(line[0])
            flat = polygon(line[1:])
            scaled = [value * (height if i % 2 else width) for i, value in enumerate(flat)]
            shape = Shape(names[index] if 0 <= index < len(names) else None, 'polygons', [polygon(scaled)])
        except LabelError as error:
            notes.add(str(error), path)
            continue
        except ValueError:
            notes.add('lines that are no labels', path)
            continue
        if shape.label is None:
            notes.add('labels of an unknown class, as 255', f'{path}: {index}')
        yield shape


def upright_size(path: Path) -> tuple[int, int]:
    """Return the (H, W) of an image file, turned as its EXIF orientation says, as tools show it and training reads it.

    Raises:
        OSError: it is not there or no image.
    """
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


READERS: Mapping[str, Callable[[Path, Images, Notes], Labels]] = {
    'coco': read_coco,
    'labelme': read_labelme,
    'cvat': read_cvat,
    'voc': read_voc,
    'yolo': read_yolo,
}


def image_root(source: Path, images: str | os.PathLike[str] | None) -> Path:
    """Return the folder that holds the images: as named, or the one of the labels.

    Raises:
        FileNotFoundError: it is not there.
    """
    root = Path(images) if images else source if source.is_dir() else source.parent
    if not images and root.name == 'annotations':
        root = root.parent
    if not root.is_dir():
        raise FileNotFoundError(f'there is no folder {root}: name the one that holds the images')
    return root
