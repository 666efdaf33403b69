"""Weights load into what they fit, completely, or not at all; timm's own networks are the reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from repvgg_seg.models.classifier import RepVGGClassifier
from repvgg_seg.models.trunk import RepVGG
from repvgg_seg.models.variants import VARIANTS, Variant
from repvgg_seg.weights import pretrained
from repvgg_seg.weights.checkpoint_io import WeightsError, read_checkpoint, write_checkpoint
from repvgg_seg.weights.key_maps import from_official, to_official
from repvgg_seg.weights.pretrained import fitting, folders, load_weights, manifest, resolve
from tests.conftest import TINY, TINY_GROUPED, TINY_PLUS, TINY_SE, randomise, relative


@pytest.fixture
def classifier() -> RepVGGClassifier:
    return randomise(RepVGGClassifier(TINY, 5)).eval()


def save(state, path: Path) -> Path:
    write_checkpoint(state, path)
    return path


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    a_state, b_state = a.state_dict(), b.state_dict()
    assert a_state.keys() == b_state.keys()
    assert all(torch.equal(a_state[key], b_state[key]) for key in a_state)


class Segmentor(nn.Module):
    """As much of mmseg's EncoderDecoder as a state dict shows."""

    def __init__(self, arch: Variant, auxiliary: bool = True, **kwargs) -> None:
        super().__init__()
        self.backbone = RepVGG(arch, **kwargs)
        self.decode_head = nn.Conv2d(arch.channels[-1], 3, 1)
        if auxiliary:
            self.auxiliary_head = nn.Conv2d(arch.channels[-2], 3, 1)


# --- timm as the reference

SMALL = ((2, 2, 4, 1), (0.5, 0.25, 0.25, 0.25))


@pytest.mark.parametrize('deployed', [False, True], ids=['train-time', 'deployed'])
@pytest.mark.parametrize(
    ('name', 'variant'),
    [
        ('repvgg_a0', Variant('plain', *SMALL)),
        ('repvgg_b1g4', Variant('grouped', *SMALL, groups=4)),
        ('repvgg_d2se', Variant('se', *SMALL, se='pre')),
    ],
)
def test_timm_networks_compute_the_same(tmp_path, name, variant, deployed):
    """timm's own blocks with its own settings for the variant, but few channels."""
    byobnet = pytest.importorskip('timm.models.byobnet', reason='timm is not installed')
    config = dataclasses.replace(
        byobnet.model_cfgs[name],
        stem_chs=32,
        blocks=byobnet._rep_vgg_bcfg(d=variant.blocks, wf=variant.widths, groups=variant.groups),
    )
    theirs = randomise(byobnet.ByobNet(config, num_classes=7)).eval()
    images = torch.randn(2, 3, 65, 97)
    if deployed:
        reference = theirs(images)
        for module in theirs.modules():
            if hasattr(module, 'reparameterize'):
                module.reparameterize()
        assert relative(theirs(images), reference) < 1e-4
    path = save(theirs.state_dict(), tmp_path / 'timm.safetensors')
    ours = load_weights(RepVGGClassifier(variant, 7, deploy=deployed).eval(), path)
    with torch.inference_mode():
        assert relative(ours(images), theirs(images)) < 1e-5
    back = from_official(ours.state_dict(), 'timm')
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize('name', ['repvgg_a0', 'repvgg_b1g4', 'repvgg_d2se'])
def test_timm_released_variants_have_our_keys_and_shapes(name):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    with torch.device('meta'):
        theirs = to_official(timm.create_model(name).state_dict())
        arch = next(arch for arch in VARIANTS if arch.lower().replace('-', '_') == name)
        ours = RepVGGClassifier(arch).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_timm_a0_computes_the_same(tmp_path):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    theirs = randomise(timm.create_model('repvgg_a0')).eval()
    ours = load_weights(RepVGGClassifier('RepVGG-A0').eval(), save(theirs.state_dict(), tmp_path / 'a0.pth'))
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        assert relative(ours(images), theirs(images)) < 1e-5


# --- what loads into what


@pytest.mark.parametrize('dialect', ['official', 'openmmlab', 'timm'])
@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('arch', [TINY, TINY_GROUPED, TINY_SE], ids=lambda v: v.name)
def test_classifiers_round_trip_through_every_dialect(tmp_path, arch, deploy, dialect):
    original = randomise(RepVGGClassifier(arch, 5, deploy=deploy))
    path = save(from_official(original.state_dict(), dialect), tmp_path / 'x.pth')
    loaded = load_weights(RepVGGClassifier(arch, 5, deploy=deploy), path)
    assert_equal(loaded, original)
    back = from_official(loaded.state_dict(), dialect)
    assert back.keys() == read_checkpoint(path).keys()
    assert all(torch.equal(back[key], value) for key, value in read_checkpoint(path).items())


@pytest.mark.parametrize('out_indices', [(0, 1), (1, 3)])
def test_a_trunk_takes_its_part_of_a_classifier(tmp_path, out_indices):
    for arch in (TINY, TINY_PLUS):
        original = randomise(RepVGGClassifier(arch, 5))
        path = save(from_official(original.state_dict(), 'official'), tmp_path / 'x.pth')
        trunk = load_weights(RepVGG(arch, out_indices=out_indices), path)
        assert all(torch.equal(value, original.state_dict()[key]) for key, value in trunk.state_dict().items())


def test_a_plus_classifier_keeps_its_auxiliary_classifiers(tmp_path):
    original = randomise(RepVGGClassifier(TINY_PLUS, 5))
    path = save({'model': from_official(original.state_dict(), 'official')}, tmp_path / 'x.pth')
    assert_equal(load_weights(RepVGGClassifier(TINY_PLUS, 5), path), original)


def test_segmentors(tmp_path):
    original = Segmentor(TINY)
    randomise(original)
    path = save({'meta': {}, 'state_dict': original.state_dict()}, tmp_path / 'seg.pth')
    assert_equal(load_weights(Segmentor(TINY), path), original)
    assert_equal(load_weights(RepVGG(TINY), path), original.backbone)
    without = load_weights(Segmentor(TINY, auxiliary=False), path)
    assert torch.equal(without.decode_head.weight, original.decode_head.weight)
    with pytest.raises(WeightsError, match=r'they lack auxiliary_head\.weight, auxiliary_head\.bias'):
        load_weights(Segmentor(TINY), save(without.state_dict(), tmp_path / 'x.pth'))
    with pytest.raises(WeightsError, match=r'they lack linear\.weight, linear\.bias'):
        load_weights(RepVGGClassifier(TINY, 3), path)


def test_old_files_without_num_batches_tracked(tmp_path, classifier):
    state = {k: v for k, v in classifier.state_dict().items() if not k.endswith('num_batches_tracked')}
    loaded = load_weights(RepVGGClassifier(TINY, 5), save(state, tmp_path / 'x.pth'))
    assert torch.equal(loaded.stage4[0].rbr_dense.bn.running_var, classifier.stage4[0].rbr_dense.bn.running_var)


def test_ema_is_chosen(tmp_path, classifier):
    other = {key: value * 2 for key, value in classifier.state_dict().items()}
    path = save({'model': other, 'ema': classifier.state_dict()}, tmp_path / 'x.pth')
    assert_equal(load_weights(RepVGGClassifier(TINY, 5), path, ema=True), classifier)
    with pytest.raises(WeightsError, match=rf'{path}: this file holds averaged \(EMA\) and plain weights'):
        load_weights(RepVGGClassifier(TINY, 5), path)


# --- what does not fit


def half(state):
    return dict(list(state.items())[: len(state) // 2])


def poisoned(state, value):
    state = {key: tensor.clone() for key, tensor in state.items()}
    state['stage4.0.rbr_1x1.bn.running_var'][-1] = value
    return state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (half, r'they lack stage3\.\d.*\(\d+ in all\)'),
        (
            lambda s: s | {'stage4.1.rbr_dense.conv.weight': torch.ones(1)},
            r'beyond the model, stage4\.1\.rbr_dense',
        ),
        (
            lambda s: s | {'linear.weight': torch.ones(9, 64)},
            r'another shape linear\.weight \(9, 64\) for \(5, 64\)',
        ),
        (lambda s: poisoned(s, float('nan')), r'stage4\.0\.rbr_1x1\.bn\.running_var is not finite'),
        (lambda s: poisoned(s, float('inf')), r'stage4\.0\.rbr_1x1\.bn\.running_var is not finite'),
        (
            lambda s: s | {'linear.bias': torch.ones(5, dtype=torch.int8)},
            r'linear\.bias is of type torch\.int8',
        ),
        (lambda s: s | {'linear.bias': torch.ones(5).to_sparse()}, r'linear\.bias is of type'),
        (lambda s: {}, 'no trunk weights in this file'),
        (
            lambda s: s | {'extra': torch.ones(1)},
            'closest to the official dialect, which does not know extra',
        ),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(tmp_path, classifier, change, message):
    path = save(change(classifier.state_dict()), tmp_path / 'x.pth')
    model = randomise(RepVGGClassifier(TINY, 5), seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_wrong_variant_is_named():
    with torch.device('meta'):
        weights = {arch: RepVGG(arch).state_dict() for arch in ('RepVGG-B1g4', 'RepVGG-D2se')}
        weights['nearly'] = RepVGG(Variant('odd', (4, 6, 15, 1), (2, 2, 2, 4))).state_dict()
        model = RepVGG('RepVGG-B1')
    with pytest.raises(WeightsError, match='they are RepVGG-B1g4, the model is RepVGG-B1'):
        fitting(model, weights['RepVGG-B1g4'])
    with pytest.raises(WeightsError, match='they are RepVGG-D2se, the model is RepVGG-B1'):
        fitting(model, weights['RepVGG-D2se'])
    with pytest.raises(WeightsError, match=r'they lack stage3\.15\..*; they are nearest to RepVGG-B1, the model is'):
        fitting(model, weights['nearly'])


def test_deployed_and_train_time_weights_are_distinguished(tmp_path, classifier):
    train_time = save(classifier.state_dict(), tmp_path / 'train.pth')
    deployed = save(RepVGGClassifier(TINY, 5, deploy=True).state_dict(), tmp_path / 'deployed.pth')
    with pytest.raises(WeightsError, match='deployed weights but the model is train-time: build it with deploy=True'):
        load_weights(classifier, deployed)
    with pytest.raises(WeightsError, match=r'train-time weights but the model is deployed: .*convert_deploy\.py'):
        load_weights(RepVGG(TINY, deploy=True), train_time)


def test_weights_and_models_of_other_kinds(tmp_path, classifier):
    path = save(classifier.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=r'no segmentation head but stage0.*: load them into model\.backbone'):
        load_weights(Segmentor(TINY), path)
    with pytest.raises(WeightsError, match='Linear is not a RepVGG, and has none as its backbone'):
        load_weights(nn.Linear(1, 1), path)


def test_malicious_weights_do_not_run(write_malicious):
    path, marker = write_malicious()
    with pytest.raises(WeightsError, match='could run code'):
        load_weights(RepVGG(TINY), path)
    assert not marker.exists()


# --- names


def test_the_manifest_names_every_variant_that_has_weights():
    assert {release.arch for release in manifest().values()} == set(VARIANTS) - {'RepVGG-B2g2', 'RepVGG-B3g2'}
    files = [file for release in manifest().values() for file in release.files]
    assert len({file.file for file in files}) == len(files)
    for file in files:
        assert set(file.sha256) <= set('0123456789abcdef') and len(file.sha256) == (8 if file.url else 64)
        assert file.url is None or (file.url.endswith(f'{file.sha256}.pth') and file.url.endswith(file.file))
        assert file.licence in ('MIT', 'Apache-2.0')
    for name, release in manifest().items():
        assert name.startswith(release.arch)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('repvgg://RepVGG-B2g2', 'nobody has released weights of RepVGG-B2g2: to train without them, pass'),
        ('repvgg://RepVGG-C9', "no released weights named 'RepVGG-C9': choose one of RepVGG-A0"),
        (
            'repvgg://RepVGGplus-L2pse',
            r'get RepVGGplus-L2pse-train256-acc84\.06\.pth from https://drive\S+ in a browser',
        ),
        ('RepVGG-A0', 'RepVGG-A0 does not exist: .* the released weights are repvgg://RepVGG-A0'),
        ('/', 'is a folder: name a weight file'),
    ],
)
def test_names_that_cannot_be_resolved(tmp_path, monkeypatch, source, message):
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', str(tmp_path / 'mine'))
    with pytest.raises(WeightsError, match=message):
        resolve(source)
    assert not (tmp_path / 'mine').exists()


def test_folders_are_searched_in_order(tmp_path, monkeypatch, repo):
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', f'{tmp_path / "a"}:{tmp_path / "b"}')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert folders() == [
        tmp_path / 'a',
        tmp_path / 'b',
        repo / 'pretrained',
        tmp_path / 'cache' / 'repvgg_seg',
    ]


def test_a_file_put_there_by_hand_is_found_and_checked(tmp_path, monkeypatch, classifier):
    path = save(classifier.state_dict(), tmp_path / 'b' / 'tiny-train.pth')
    real = pretrained.WeightFile('tiny-train.pth', path.stat().st_size, pretrained.sha256(path), None, 'a page', 'MIT')
    release = pretrained.Release('tiny', 50.0, 'none', (real,))
    monkeypatch.setattr(pretrained, 'manifest', lambda: {'tiny': release})
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', f'{tmp_path / "a"}:{tmp_path / "b"}')
    assert resolve('repvgg://tiny') == path
    assert_equal(load_weights(RepVGGClassifier(TINY, 5), 'repvgg://tiny'), classifier)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=rf'has {len(content) - 1} bytes instead of {len(content)}: delete it'):
        resolve('repvgg://tiny')
    path.write_bytes(content[:-1] + b'?')
    with pytest.raises(WeightsError, match=f'has SHA-256 [0-9a-f]{{64}} instead of {real.sha256}: delete it'):
        resolve('repvgg://tiny')
