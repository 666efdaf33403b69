"""Exported files that do not do what they say: told in one sentence, when they are opened or before a mask is wrong."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from repvgg_seg import Segmenter
from repvgg_seg.files import FileError
from repvgg_seg.runtime import tiling
from repvgg_seg.runtime.metadata import ARCHIVE_NAME, KEY, ModelMetadata
from tests.local_graph import METADATA, images, in_openvino, truth


def renamed(path: Path, folder: Path, text: str) -> Path:
    """Copy an exported file with other metadata."""
    target = folder / path.name
    if path.suffix == '.onnx':
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {KEY: text})
        onnx.save(model, target)
    elif path.suffix == '.xml':
        model = openvino.Core().read_model(path)
        model.set_rt_info(text, KEY)
        openvino.save_model(model, target, compress_to_fp16=False)
    else:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, 'w') as new:
            for name in old.namelist():
                new.writestr(name, text if name.endswith(ARCHIVE_NAME) else old.read(name))
    return target


LARGE = {'classes': tuple(f'{n}' for n in range(300)), 'palette': ((0, 0, 0),) * 300}
TAKES = 'the graph takes uint8 (1, 64, 96, 3), and its metadata promises '


@pytest.mark.parametrize(('suffix', 'backend'), [('.onnx', 'onnxruntime'), ('.xml', 'openvino'), ('.pt2', 'torch')])
def test_metadata_of_another_graph_is_refused_at_opening(suffix, backend, local_files, tmp_path) -> None:
    for change, message in (
        ({'batch': None}, f'{TAKES}uint8 (any, 64, 96, 3)'),
        ({'batch': 2}, f'{TAKES}uint8 (2, 64, 96, 3)'),
        ({'size': (64, 128)}, f'{TAKES}uint8 (1, 64, 128, 3)'),
        ({'mean': (0,)}, f'{TAKES}uint8 (1, 64, 96, 1)'),
        ({'output': 'logits'}, 'the graph returns uint8 (1, 64, 96), and its metadata promises float32 (1, 4, 64, 96)'),
        (LARGE, 'the graph returns uint8 (1, 64, 96), and its metadata promises uint16 (1, 64, 96)'),
    ):
        path = renamed(local_files[suffix], tmp_path, replace(METADATA, **change).to_json())
        with pytest.raises(FileError, match=re.escape(f'{path.name}: {message}')):
            Segmenter(path, backend=backend, trust=True)
    two = replace(METADATA, classes=('road', 'tree'), palette=((0, 0, 0), (1, 1, 1)))
    path = renamed(local_files[suffix], tmp_path, two.to_json())
    segmenter = Segmenter(path, backend=backend, trust=True)
    with pytest.raises(FileError, match=rf'{path.name} returned class [23], and names 2: export the model again'):
        segmenter(images(64, 96)[0])


def test_logits_of_another_number_of_classes_are_refused_at_opening(tmp_path) -> None:
    model = in_openvino(4, 'logits').clone()
    model.set_rt_info(replace(METADATA, output='logits', batch=None, **LARGE).to_json(), KEY)
    openvino.save_model(model, tmp_path / 'x.xml')
    with pytest.raises(FileError, match=r'returns float32 \(any, 4, .* promises float32 \(any, 300, 64, 96\)'):
        Segmenter(tmp_path / 'x.xml')


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        ({'batch': 10**9}, 'batch'),
        ({'batch': 10**20}, 'batch'),
        ({'size': (2**27, 4)}, 'size'),
        ({'mean': (0,) * 10**6}, 'batch'),
        ({'threshold': float('nan')}, 'threshold'),
        ({'threshold': 2.0}, 'threshold'),
        ({'preparation': replace(METADATA.preparation, stride=(65, 1))}, 'preparation'),
    ],
)
def test_no_number_of_the_metadata_is_without_a_bound(change, name) -> None:
    with pytest.raises(ValueError, match=f'the model metadata has no valid {name}: .{{1,210}}$'):
        replace(METADATA, **change)


def test_metadata_of_one_million_names_is_short_in_its_message() -> None:
    with pytest.raises(ValueError, match='lacks, or has too much') as raised:
        ModelMetadata.from_json('{"format": 2, "' + 'x' * 10**6 + '": 0}')
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(('suffix', 'backend'), [('.xml', 'openvino'), ('.onnx', 'openvino'), ('.onnx', 'onnxruntime')])
def test_metadata_that_is_no_text_is_told_with_the_name_of_the_file(suffix, backend, local_files, tmp_path) -> None:
    path = tmp_path / f'x{suffix}'
    path.write_bytes(local_files[suffix].read_bytes().replace(b'deploy.pth', b'\xff\xfe\xff.pth'))
    (tmp_path / 'x.bin').write_bytes(local_files['.bin'].read_bytes())
    with pytest.raises(FileError, match=rf'x{suffix} is damaged'):
        Segmenter(path, backend=backend)


def test_an_image_for_which_memory_is_too_small_is_left_out_alone(local_files, monkeypatch) -> None:
    resize = tiling.cv2.resize

    def small(image, *args, **options):
        if len(image) == 30:
            raise tiling.cv2.error('Insufficient memory')
        return resize(image, *args, **options)

    monkeypatch.setattr(tiling.cv2, 'resize', small)
    failed = []
    sources = [images(64, 96)[0], images(30, 30)[0], images(64, 96)[0]]
    segmenter = Segmenter(local_files['.xml'], fit='resize')
    results = list(segmenter.stream(sources, on_error=lambda source, error: failed.append((len(source), str(error)))))
    assert [np.array_equal(result.mask, truth(sources[0])) for result in results] == [True, True]
    assert failed == [(30, 'Insufficient memory')]
    with pytest.raises(tiling.cv2.error, match='Insufficient memory'):
        segmenter(sources[1])


def test_a_masked_array_is_no_image(local_files) -> None:
    with pytest.raises(ValueError, match=r'masked array .* pass image\.filled\(0\)'):
        Segmenter(local_files['.xml'])(np.ma.masked_equal(images(64, 96)[0], 7))
