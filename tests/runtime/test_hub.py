"""Models that are handed on: published to a folder, and opened from it or from a stand-in of the hub."""

import json
import logging
import pickle
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repvgg_seg import Segmenter
from repvgg_seg.deploy import publish as publishing
from repvgg_seg.deploy.publish import publish
from repvgg_seg.files import FileError, sha256
from repvgg_seg.runtime.hub import MANIFEST, located
from tests.conftest import fails, tool

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
COMMIT = 'c0ffee' * 6 + 'abcd'


@pytest.fixture
def published(local_files, tmp_path):
    return tmp_path / 'out', publish(local_files['.xml'], tmp_path / 'out', license='mit', data='streets')


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """The client of the hub, with one repository of one commit; returns what was asked for."""
    asked = []

    def download(repo_id, filename, *, revision=None):
        asked.append((filename, revision))
        if repo_id != 'me/streets' or revision not in (None, 'v1', COMMIT):
            raise OSError('404 Client Error. Repository Not Found')
        cached = tmp_path / 'cache/snapshots' / COMMIT / filename
        cached.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(published[0] / filename, cached))

    monkeypatch.setitem(sys.modules, 'huggingface_hub', SimpleNamespace(hf_hub_download=download))
    return asked


def test_a_published_folder_has_all_that_a_stranger_needs(published, local_files) -> None:
    folder, written = published
    names = {path.name for path in folder.iterdir()}
    model = local_files['.xml'].name
    assert {model, model.replace('.xml', '.bin'), 'README.md', 'classes.json', MANIFEST} <= names == set(written)
    assert all(sha256(folder / name) == digest for name, digest in written.items())
    card = (folder / 'README.md').read_text()
    segmenter = Segmenter(folder.as_uri())
    assert card.startswith('---\nlicense: mit\nlibrary_name: repvgg-seg\npipeline_tag: image-segmentation\ntags:\n')
    assert '| trained on | streets |' in card and '| mIoU | not measured |' in card
    assert ', '.join(segmenter.classes) in card
    assert np.array_equal(segmenter(IMAGE), Segmenter(local_files['.xml'])(IMAGE))


def test_weights_and_measured_figures_are_published_where_they_are_known(local_files, tmp_path, monkeypatch) -> None:
    folder = tmp_path / 'work/deploy'
    shutil.copytree(local_files['.onnx'].parent, folder, ignore=lambda _, names: [n for n in names if 'onnx' not in n])
    torch.save({'meta': {}, 'state_dict': {'a': torch.ones(2)}}, folder / 'deploy.pth')
    metadata = Segmenter(local_files['.onnx']).metadata
    source = {'file': 'deploy.pth', 'sha256': sha256(folder / 'deploy.pth')}
    opened = SimpleNamespace(metadata=replace(metadata, source=source))  # as exported from these weights
    monkeypatch.setattr(publishing, 'open_model', lambda *_, **__: ('onnxruntime', opened))
    (tmp_path / 'results.json').write_text(json.dumps({'results': {'deployed': {'mIoU': 61.5}}}))
    written = publish(tmp_path / 'work', tmp_path / 'out', results=tmp_path / 'results.json')
    assert 'model.safetensors' in written
    safetensors = pytest.importorskip('safetensors.torch')
    assert safetensors.load_file(tmp_path / 'out/model.safetensors')['a'].tolist() == [1, 1]
    assert '| mIoU | 61.50 (deployed) |' in (tmp_path / 'out/README.md').read_text()


def test_the_hub_is_asked_for_one_commit_and_its_files_are_checked(published, hub, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        segmenter = Segmenter('hf://me/streets')
    assert (
        f'names no revision, so it may be another model tomorrow: today it is hf://me/streets@{COMMIT}' in caplog.text
    )
    assert hub[0] == (MANIFEST, None) and {revision for _, revision in hub[1:]} == {COMMIT}
    assert not any(name.endswith(('.safetensors', '.md')) for name, _ in hub)  # only what is run
    caplog.clear()
    masks = [
        model(IMAGE) for model in (segmenter, Segmenter('hf://me/streets@v1'), pickle.loads(pickle.dumps(segmenter)))
    ]
    assert all(np.array_equal(mask, masks[0]) for mask in masks) and not caplog.text
    file = next(published[0].glob('*.bin'))
    file.write_bytes(file.read_bytes() + b'x')
    with pytest.raises(FileError, match=r'is not the file that hf://me/streets@v1 published'):
        located('hf://me/streets@v1')


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('hf://me', 'is no address of a model: write hf://user/name@revision'),
        ('hf://me/other@v1', r'cannot be had (404 Client Error): check the name, the revision'),
        ('hf://me/streets@v2', 'cannot be had'),
        ('file:///nowhere', 'has no repvgg_seg.json'),
    ],
)  # fmt: skip
def test_what_is_no_published_model_is_one_sentence(hub, address: str, message: str) -> None:
    with pytest.raises((FileError, FileNotFoundError), match=re.escape(message)):
        located(address)


@pytest.mark.parametrize('content', ['{"model": "../x.onnx", "files": {"../x.onnx": ""}}', '[]', '{"model": "a"}', '{'])
def test_a_manifest_of_a_stranger_names_files_of_its_folder_only(tmp_path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(FileError, match=r'repvgg_seg\.json of file://.* is damaged'):
        located(tmp_path.as_uri())


def test_without_the_client_or_a_file_the_cure_is_named(tmp_path, monkeypatch, capsys, published) -> None:
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match=r'hf://me/streets needs huggingface_hub'):
        located('hf://me/streets')
    assert 'has no exported file: `repvgg-seg export' in fails(capsys, 'publish', tmp_path, tmp_path / 'new')
    assert 'is there already' in fails(capsys, 'publish', next(published[0].glob('*.xml')), published[0])
    assert tool('publish')([str(published[0]), str(tmp_path / 'again')]) == 0
    assert 'README.md has no licence yet' in capsys.readouterr().out
