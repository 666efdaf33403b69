"""A .pt2 file can run code when it is opened, so it needs a permission; no other file does."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from repvgg_seg import Segmenter
from repvgg_seg.files import FileError
from repvgg_seg.runtime.backends import open_model
from repvgg_seg.runtime.metadata import MAX_BYTES, ModelMetadata
from tests.conftest import fails, tool
from tests.local_graph import METADATA, images, truth

REFUSAL = r'can run any code of its author .* \.pt2 .* ONNX or OpenVINO .* trust=True \(--trust\)'


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rewrite(source: Path, path: Path, changed: dict[str, bytes]) -> Path:
    """Copy an archive with other members; their names are without the archive's folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w') as new:
        members = {name: old.read(name) for name in old.namelist()}
        members |= {f'local/{name}': data for name, data in changed.items()}
        for name, data in members.items():
            new.writestr(name, data)
    return path


@pytest.fixture(params=['sample inputs', 'pickled weights', 'opaque constant'])
def hostile(request, local_files, tmp_path) -> tuple[Path, Path]:
    """An exported archive that runs code when torch opens it: its path, and the file that its code writes."""
    marker, source = tmp_path / 'marker', local_files['.pt2']
    weights, constants = 'data/weights/model_weights_config.json', 'data/constants/model_constants_config.json'
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read(f'local/{weights}'))
    config['config']['stem.weight'] |= {'use_pickle': True}
    opaque = {'path_name': 'opaque_obj_0', 'is_param': False, 'use_pickle': True, 'tensor_meta': None}
    changed = {
        'sample inputs': {'data/sample_inputs/model.pt': saved(Payload(marker))},
        'pickled weights': {weights: json.dumps(config).encode(), 'data/weights/weight_0': saved(Payload(marker))},
        'opaque constant': {
            constants: json.dumps({'config': {'x': opaque}}).encode(),
            'data/constants/opaque_obj_0': pickle.dumps(Payload(marker)),
        },
    }
    return rewrite(source, tmp_path / 'hostile.pt2', changed[request.param]), marker


def test_nothing_in_a_pt2_file_runs_without_trust(hostile, tmp_path, capsys) -> None:
    path, marker = hostile
    Image.fromarray(images(64, 96)[0]).save(tmp_path / 'image.png')
    with pytest.raises(FileError, match=REFUSAL):
        Segmenter(path)
    with pytest.raises(FileError, match=REFUSAL):
        open_model(path, 'torch', 'cpu', 'latency')
    for name, argv in (
        ('predict', [path, tmp_path / 'image.png', '--out', tmp_path / 'out']),
        ('benchmark', ['runtime', path, '--samples', '0', '--squares']),
    ):
        assert 'say trust=True (--trust)' in fails(capsys, name, *argv)
    assert not marker.exists()
    with pytest.raises(FileError, match='damaged'):  # these archives do run code, or this test would prove nothing
        Segmenter(path, trust=True)
    assert marker.exists()


def test_a_trusted_pt2_file_opens_everywhere(local_files, tmp_path) -> None:
    path = str(local_files['.pt2'])
    image = images(64, 96)[0]
    assert (Segmenter(path, trust=True)(image) == truth(image)).all()
    path_of_image = tmp_path / 'image.png'
    Image.fromarray(image).save(path_of_image)
    assert tool('predict')([path, str(path_of_image), '--out', str(tmp_path / 'out'), '--trust']) == 0
    argv = ['runtime', path, '--trust', '--runs', '1', '--samples', '0', '--squares', '100']
    assert tool('benchmark')(argv) == 0


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
@pytest.mark.parametrize('options', [{}, {'trust': True}])
def test_files_that_run_nothing_need_no_trust_and_may_have_it(suffix, options, local_files) -> None:
    segmenter = Segmenter(local_files[suffix], **options)
    image = images(64, 96)[0]
    assert (segmenter(image) == truth(image)).all()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (' ' * (MAX_BYTES + 1), 'larger than'),
        (f'{METADATA.to_json():<{50 * MAX_BYTES}}', 'larger than'),
        ('[' * 200_000 + ']' * 200_000, 'nested deeper than 8 levels'),
        ('[' * 900 + ']' * 900, 'nested deeper than 8 levels'),
    ],
)
def test_metadata_is_bounded(text, message, local_files, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        ModelMetadata.from_json(text)
    path = rewrite(local_files['.pt2'], tmp_path / 'x.pt2', {'extra/repvgg_seg.json': text.encode()})
    with pytest.raises(FileError, match=rf'x\.pt2: the model metadata is {message}'):
        Segmenter(path, trust=True)
