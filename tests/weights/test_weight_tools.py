"""tools/convert_weights.py and tools/download_weights.py, from the command line's point of view."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from repvgg_seg.files import sha256
from repvgg_seg.models.classifier import RepVGGClassifier
from repvgg_seg.models.trunk import RepVGG
from repvgg_seg.weights import pretrained
from repvgg_seg.weights.checkpoint_io import read_checkpoint, write_checkpoint
from repvgg_seg.weights.key_maps import detect, from_official
from repvgg_seg.weights.pretrained import Release, WeightFile, check_complete, load_weights
from tests.conftest import TINY, TINY_PLUS, TINY_SE, randomise, tool


def fails(capsys, name: str, *argv: object) -> str:
    assert tool(name)([str(arg) for arg in argv]) == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


@pytest.fixture
def official(tmp_path):
    """A RepVGG in an official file: the network and the path."""
    model = randomise(RepVGGClassifier(TINY, 5))
    write_checkpoint(from_official(model.state_dict(), 'official'), tmp_path / 'official.pth')
    return model, tmp_path / 'official.pth'


def same(path, state) -> bool:
    found = read_checkpoint(path)
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize('to', ['openmmlab', 'timm', 'safetensors'])
def test_there_and_back_are_identical(official, tmp_path, capsys, to):
    model, path = official
    out, back = tmp_path / f'{to}.safetensors', tmp_path / 'back.pth'
    assert tool('convert_weights')([str(path), str(out), '--to', to]) == 0
    assert f'wrote {out}: {len(model.state_dict())} tensors from {path}\n' == capsys.readouterr().out
    assert detect(read_checkpoint(out)) == ('official' if to == 'safetensors' else to)
    assert tool('convert_weights')([str(out), str(back), '--to', 'official']) == 0
    assert same(back, read_checkpoint(path))


def test_a_plus_file_comes_back_with_its_third_stage_split(tmp_path):
    state = from_official(randomise(RepVGGClassifier(TINY_PLUS, 5)).state_dict(), 'official')
    assert any(key.startswith('stage3_second.blocks.1.') for key in state)
    write_checkpoint({'model': state}, tmp_path / 'plus.pth')
    ours, back = tmp_path / 'ours.safetensors', tmp_path / 'back.pth'
    assert tool('convert_weights')([str(tmp_path / 'plus.pth'), str(ours), '--to', 'safetensors']) == 0
    assert tool('convert_weights')([str(ours), str(back), '--to', 'official']) == 0
    assert same(back, state)


def test_of_a_segmentor_others_get_the_backbone(tmp_path, capsys):
    trunk = randomise(RepVGG(TINY))
    state = {f'backbone.{key}': value for key, value in trunk.state_dict().items()}
    write_checkpoint({'state_dict': state | {'decode_head.conv_seg.bias': torch.ones(2)}}, tmp_path / 'seg.pth')
    assert tool('convert_weights')([str(tmp_path / 'seg.pth'), str(tmp_path / 'timm.pth'), '--to', 'timm']) == 0
    assert '; 1 tensors of segmentation heads were left out' in capsys.readouterr().out
    loaded = load_weights(RepVGG(TINY), tmp_path / 'timm.pth')
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert tool('convert_weights')([str(tmp_path / 'seg.pth'), str(tmp_path / 'mm.pth'), '--to', 'openmmlab']) == 0
    assert {'decode_head.conv_seg.bias', 'backbone.stem.branch_1x1.norm.bias'} <= read_checkpoint(
        tmp_path / 'mm.pth'
    ).keys()


def test_what_cannot_be_converted(official, tmp_path, capsys, write_malicious):
    _, path = official
    out = tmp_path / 'out.pth'
    assert 'does not exist: name a weight file' in fails(
        capsys, 'convert_weights', tmp_path / 'no', out, '--to', 'timm'
    )
    assert 'give it a name that ends in .safetensors' in fails(
        capsys, 'convert_weights', path, out, '--to', 'safetensors'
    )
    assert 'cannot be written' in fails(capsys, 'convert_weights', path, path / 'x.pth', '--to', 'timm')
    write_checkpoint({'layer1.conv.weight': torch.ones(1)}, tmp_path / 'other.pth')
    message = fails(capsys, 'convert_weights', tmp_path / 'other.pth', out, '--to', 'timm')
    assert f'{tmp_path / "other.pth"}: these are not the weights of a RepVGG' in message
    malicious, marker = write_malicious()
    assert 'could run code' in fails(capsys, 'convert_weights', malicious, out, '--to', 'timm')
    assert not marker.exists() and not out.exists()


def without(state, part):
    return {key: value for key, value in state.items() if part not in key}


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda s: s | {'linear.bias': s['linear.bias'] * torch.nan}, r'linear\.bias is not finite everywhere'),
        (lambda s: s | {'linear.bias': s['linear.bias'].double() + 1e300}, r'linear\.bias is not finite everywhere'),
        (lambda s: s | {'linear.bias': torch.ones(5, device='meta')}, r'linear\.bias is of type'),
        (lambda s: s | {'linear.bias': torch.ones(5).to_sparse()}, r'linear\.bias is of type'),
        (lambda s: dict(list(s.items())[::2]), r'these weights are incomplete: they lack stage0'),
        (lambda s: without(s, 'stage3.1.'), r'these weights are incomplete: they lack stage3\.1'),
        (lambda s: without(s, 'stage2.'), r'these weights are incomplete: they lack stage2\.0'),
    ],
)
def test_damaged_weights_are_not_converted(official, tmp_path, capsys, damage, message):
    write_checkpoint(damage(read_checkpoint(official[1])), tmp_path / 'bad.pth')
    for out in (tmp_path / 'out.pth', tmp_path / 'out.safetensors'):
        text = fails(capsys, 'convert_weights', tmp_path / 'bad.pth', out, '--to', 'timm')
        assert re.search(message, text) and str(tmp_path / 'bad.pth') in text and not out.exists()


def test_a_part_of_a_larger_storage_is_written_alone(official, tmp_path):
    state = read_checkpoint(official[1])
    write_checkpoint(state | {'linear.bias': torch.zeros(1_000_000)[:5]}, tmp_path / 'view.pth')
    assert (tmp_path / 'view.pth').stat().st_size < official[1].stat().st_size + 10_000


@pytest.mark.parametrize('arch', [TINY, TINY_PLUS, TINY_SE], ids=lambda v: v.name)
@pytest.mark.parametrize('deploy', [False, True])
def test_whole_weights_are_complete(arch, deploy):
    check_complete(RepVGGClassifier(arch, 5, deploy=deploy).state_dict())
    check_complete(RepVGG(arch, deploy=deploy, out_indices=(0, 1)).state_dict())


def test_ema_is_chosen(official, tmp_path, capsys):
    state = read_checkpoint(official[1])
    write_checkpoint({'model': state, 'ema': {k: v + 1 for k, v in state.items()}}, tmp_path / 'both.pth')
    out = tmp_path / 'out.pth'
    assert 'choose with ema=True' in fails(capsys, 'convert_weights', tmp_path / 'both.pth', out, '--to', 'official')
    assert tool('convert_weights')([str(tmp_path / 'both.pth'), str(out), '--to', 'official', '--no-ema']) == 0
    assert same(out, state)


@pytest.fixture
def released(official, tmp_path, monkeypatch):
    """repvgg://tiny, which is here, and repvgg://far, which cannot be downloaded."""
    path = official[1]
    here = WeightFile(path.name, path.stat().st_size, sha256(path), None, 'https://example.org', 'MIT')
    far = WeightFile('far.pth', 1, '0' * 8, 'http://127.0.0.1:9/far.pth', 'https://example.org', 'MIT')
    releases = {
        'tiny': Release('tiny', 50.0, 'some', (here,)),
        'far': Release('tiny', 60.0, 'others', (far,)),
    }
    monkeypatch.setattr(pretrained, 'manifest', lambda: releases)
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', str(tmp_path))
    return path


def test_list_download_and_verify(released, capsys):
    assert tool('download_weights')(['--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ['tiny', '50.00', 'some', str(released)]
    assert lines[2].split() == ['far', '60.00', 'others', '-']
    for argv in (['tiny'], ['repvgg://tiny'], ['--verify'], ['--verify', 'tiny']):
        assert tool('download_weights')(argv) == 0
        assert capsys.readouterr().out == f'tiny: {released}\n'


def test_what_cannot_be_downloaded_or_verified(released, capsys):
    message = fails(capsys, 'download_weights', 'far', 'tiny')
    assert 'far: failed' in message and 'http://127.0.0.1:9/far.pth cannot be downloaded' in message
    assert 'cannot be downloaded' in fails(capsys, 'download_weights', '--all')
    assert "no released weights named 'none'" in fails(capsys, 'download_weights', 'none')
    assert 'far is not here: download it first' in fails(capsys, 'download_weights', '--verify', 'far')
    released.write_bytes(released.read_bytes()[:-1] + b'?')
    assert 'has SHA-256' in fails(capsys, 'download_weights', '--verify')


@pytest.mark.parametrize('name', ['convert_weights', 'download_weights'])
def test_help_works_from_anywhere(repo, tmp_path, name):
    command = [sys.executable, str(repo / 'tools' / f'{name}.py'), '--help']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={'PYTHONPATH': str(repo)})
    assert done.returncode == 0 and f'python tools/{name}.py' in done.stdout
