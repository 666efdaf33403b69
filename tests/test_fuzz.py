"""Whatever bytes a file holds, reading it ends in a result or in one sentence: `make fuzz` looks for longer."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from repvgg_seg import Segmenter
from repvgg_seg.data.masks import convert_masks, read_classes
from repvgg_seg.data.samples import damage, examine
from repvgg_seg.data.train_ids import convert
from repvgg_seg.files import claim
from repvgg_seg.runtime.images import read_image
from repvgg_seg.runtime.metadata import ModelMetadata
from repvgg_seg.weights.checkpoint_io import read_checkpoint, write_checkpoint
from tests.local_graph import METADATA, images

fuzz = settings(
    max_examples=int(os.environ.get('FUZZ_EXAMPLES', '20')),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Some bytes of a file replaced, inserted or left out, or its end."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 64]))
        data[place : place + length] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@st.composite
def changed(draw, whole: dict) -> str:
    """JSON with some of its values, at any depth, replaced."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        inner = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(inner[key], (dict, list)) or draw(st.booleans()):
                inner[key] = draw(JSON)
                break
            inner = inner[key]
    return json.dumps(value)


def picture(kind: str, mode: str = 'RGB') -> bytes:
    file = io.BytesIO()
    Image.fromarray(images(12, 16)[0]).convert(mode).save(file, kind)
    return file.getvalue()


@fuzz
@given(text=st.text() | changed(json.loads(METADATA.to_json())))
def test_metadata(text) -> None:
    try:
        metadata = ModelMetadata.from_json(text)
    except ValueError as error:
        assert len(str(error)) < 500
    else:
        assert ModelMetadata.from_json(metadata.to_json()) == metadata
        assert np.prod(metadata.input.shape[1:]) <= 2**30


CLASSES = {'classes': [{'name': 'a', 'color': [0, 0, 0]}, {'name': 'b', 'color': [9, 9, 9]}], 'ignore': [[1, 2, 3]]}


@fuzz
@given(content=st.binary() | damaged(json.dumps(CLASSES).encode()) | changed(CLASSES).map(str.encode))
def test_classes(content, tmp_path) -> None:
    (tmp_path / 'classes.json').write_bytes(content)
    try:
        classes = read_classes(tmp_path / 'classes.json')
    except ValueError:
        return
    assert len(classes.names) == len(classes.colors) >= 2


@fuzz
@given(content=st.binary() | changed({'a': 1, 'b': [1, 2]}).map(str.encode))
def test_settings(content, tmp_path) -> None:
    (tmp_path / 'made.json').write_bytes(content)
    try:
        claim(tmp_path / 'made.json', {'a': 1, 'b': [1, 2]}, lambda _: ())
    except ValueError as error:
        assert str(tmp_path) in str(error)


OPTIONAL = {'WEBP': 'webp', 'AVIF': 'avif', 'JPEG2000': 'jpg_2000'}
FORMATS = [
    'BMP',
    'GIF',
    'JPEG',
    'PNG',
    'PPM',
    'TIFF',
    *(kind for kind, name in OPTIONAL.items() if features.check(name)),
]


@fuzz
@given(data=st.data(), kind=st.sampled_from(FORMATS))
def test_images(data, kind, tmp_path) -> None:
    path = tmp_path / 'x'
    path.write_bytes(data.draw(damaged(picture(kind))))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = read_image(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
    else:
        assert image.dtype == np.uint8 and image.shape[2:] == (3,)


@fuzz
@given(data=st.data(), kind=st.sampled_from(['PNG', 'BMP', 'TIFF']), mode=st.sampled_from(['P', 'L', 'RGB', '1']))
def test_masks(data, kind, mode, tmp_path) -> None:
    path = tmp_path / 'in/x.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(damaged(picture(kind, mode))))
    (tmp_path / 'classes.json').write_text(json.dumps(CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        sample = examine((str(path), str(path)))
        assert sample.image_fault or sample.image_size > (0, 0)
        damage(str(path))
        for work in (
            lambda: convert_masks(tmp_path / 'classes.json', path.parent, tmp_path / 'out', overwrite=True, workers=1),
            lambda: convert(str(path)),
        ):
            try:
                work()
            except ValueError as error:
                assert str(path) in str(error)


POLYGONS = {'imgWidth': 8, 'imgHeight': 4, 'objects': [{'label': 'road', 'polygon': [[0, 0], [5, 0], [5, 3]]}]}


@fuzz
@example(text=json.dumps({**POLYGONS, 'imgWidth': 0}))
@given(text=changed(POLYGONS))
def test_polygons(text, tmp_path) -> None:
    path = tmp_path / 'x_polygons.json'
    path.write_text(text)
    try:
        assert convert(str(path))
    except ValueError as error:
        assert str(path) in str(error)


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp('weights')
    state = {'state_dict': {'a.weight': torch.ones(2, 3), 'b': torch.arange(3)}, 'meta': {'epoch': 1, 'name': 'x'}}
    write_checkpoint(state, folder / 'zip.pth')
    write_checkpoint(state['state_dict'], folder / 'x.safetensors')
    torch.save(state, folder / 'legacy.pth', _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz
@given(data=st.data(), name=st.sampled_from(['zip.pth', 'legacy.pth', 'x.safetensors']))
def test_weights(data, name, weights, tmp_path) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(weights[name])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert isinstance(read_checkpoint(path), dict)
    except ValueError as error:
        assert str(path) in str(error)


@fuzz
@given(data=st.data(), place=st.sampled_from([('.onnx', 'onnxruntime'), ('.onnx', 'openvino'), ('.xml', 'openvino')]))
def test_exported_files(data, place, local_files, tmp_path) -> None:
    suffix, backend = place
    path = tmp_path / f'local{suffix}'
    path.write_bytes(data.draw(damaged(local_files[suffix].read_bytes())))
    (tmp_path / 'local.bin').write_bytes(local_files['.bin'].read_bytes())
    try:
        mask = Segmenter(path, backend=backend, device='cpu')(images(64, 96)[0])
    except ValueError as error:
        assert path.name in str(error)
    else:
        assert mask.shape == (64, 96) and mask.max() < 4


def test_what_this_suite_takes_for_files_are_files(tmp_path, local_files, weights) -> None:
    """Or damage would be all that it ever sees."""
    for kind in FORMATS:
        (tmp_path / 'x').write_bytes(picture(kind))
        assert read_image(tmp_path / 'x').shape == (12, 16, 3)
    for name, content in weights.items():
        Path(tmp_path, name).write_bytes(content)
        assert read_checkpoint(tmp_path / name)
    (tmp_path / 'x_polygons.json').write_text(json.dumps(POLYGONS))
    assert convert(str(tmp_path / 'x_polygons.json'))
