import subprocess
import sys

import pytest
import torch
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

import repvgg_seg.openmmlab  # noqa: F401  (registers the backbones)
from repvgg_seg import RepVGG as Trunk
from repvgg_seg import RepVGGClassifier
from repvgg_seg.weights import pretrained
from repvgg_seg.weights.checkpoint_io import WeightsError
from repvgg_seg.weights.pretrained import Release, WeightFile
from tests.conftest import TINY, TINY_PLUS, randomise

register_all_modules()


def build(**kwargs):
    return MODELS.build({'type': 'RepVGG', 'arch': TINY, **kwargs})


def test_the_registered_backbone_is_the_trunk() -> None:
    backbone = randomise(build(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4))).eval()
    trunk = Trunk(TINY, strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)).eval()
    trunk.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 45, 70)
    for result, expected in zip(backbone(x), trunk(x), strict=True):
        assert torch.equal(result, expected)


def test_repvggplus_has_neither_auxiliary_classifiers_nor_linear_layer() -> None:
    with torch.device('meta'):
        backbone = MODELS.build({'type': 'RepVGGplus'})
    assert {name for name, _ in backbone.named_children()} == {
        'stage0',
        'stage1',
        'stage2',
        'stage3',
        'stage4',
    }
    assert backbone.variant.name == 'RepVGGplus-L2pse'


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_every_parameter_gets_a_gradient(out_indices) -> None:
    backbone = MODELS.build({'type': 'RepVGGplus', 'arch': TINY_PLUS, 'out_indices': out_indices})
    backbone(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_frozen_stages_neither_train_nor_update_statistics() -> None:
    backbone = build(frozen_stages=1).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    optimizer.step()
    changed = {
        name.split('.')[0] for name, value in backbone.state_dict().items() if not torch.equal(before[name], value)
    }
    assert changed == {'stage2', 'stage3', 'stage4'}


def test_norm_eval_keeps_statistics_and_trains_the_rest() -> None:
    backbone = build(norm_eval=True).train()
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.stage1.training
    assert all(p.requires_grad for p in backbone.parameters())


def test_norm_cfg_reaches_every_norm() -> None:
    backbone = build(norm_cfg={'type': 'SyncBN', 'eps': 1e-3, 'momentum': 0.2, 'requires_grad': False})
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {(isinstance(m, nn.SyncBatchNorm), m.eps, m.momentum, m.weight.requires_grad) for m in norms} == {
        (True, 1e-3, 0.2, False)
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'RepVGG-B9'}, "unknown arch 'RepVGG-B9'"),
        ({'frozen_stages': 5}, 'frozen_stages must be -1 to 4 for this backbone; got 5'),
        ({'out_indices': (0,), 'frozen_stages': 2}, 'frozen_stages must be -1 to 1 for this backbone; got 2'),
        ({'frozen_stages': 1.5}, 'frozen_stages must be -1 to 4 for this backbone; got 1.5'),
        ({'norm_cfg': {'type': 'GN'}}, "is not a batch norm, and no other can be folded: use type='BN' or 'SyncBN'"),
        ({'type': 'RepVGGplus', 'arch': 'RepVGG-A0'}, "RepVGG-A0 is not a RepVGGplus: build it with type='RepVGG'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_pretrained_weights_load_strictly(tmp_path) -> None:
    classifier = randomise(RepVGGClassifier(TINY, 10))
    torch.save(classifier.state_dict(), tmp_path / 'tiny.pth')
    backbone = build(init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'tiny.pth')})
    backbone.init_weights()
    state = classifier.state_dict()
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())


def test_the_bare_name_means_the_released_weights_of_the_arch(tmp_path, monkeypatch) -> None:
    state = randomise(RepVGGClassifier(TINY, 10)).state_dict()
    torch.save(state, tmp_path / 'tiny.pth')
    file = WeightFile('tiny.pth', None, '', None, 'here', 'MIT')
    monkeypatch.setattr(pretrained, 'manifest', lambda: {'tiny': Release('tiny', 0.0, 'a test', (file,))})
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', str(tmp_path))
    bare = {'type': 'Pretrained', 'checkpoint': 'repvgg://'}
    backbone = build(init_cfg=bare)
    backbone.init_weights()
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    with pytest.raises(WeightsError, match="no released weights named 'tiny-plus'"):
        build(type='RepVGGplus', arch=TINY_PLUS, init_cfg=bare).init_weights()


def test_pretrained_weights_of_another_network_are_an_error(tmp_path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / 'linear.pth')
    backbone = build(init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'linear.pth')})
    with pytest.raises(ValueError, match='these are not the weights of a RepVGG'):
        backbone.init_weights()
    backbone = build(init_cfg={'type': 'Pretrained', 'checkpoint': 'x.pth', 'prefix': 'backbone.'})
    with pytest.raises(ValueError, match=r"takes only a checkpoint here; remove \['prefix'\]"):
        backbone.init_weights()


def test_usable_from_any_directory_through_custom_imports(tmp_path) -> None:
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['repvgg_seg.openmmlab'])\n"
        "backbone = dict(type='RepVGG', arch='RepVGG-A0', init_cfg=None)\n"
    )
    script = (
        'from mmengine.config import Config; from mmseg.registry import MODELS; import torch\n'
        "with torch.device('meta'): print(type(MODELS.build(Config.fromfile('config.py').backbone)).__module__)\n"
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip().endswith('repvgg_seg.openmmlab.backbone'), done.stderr
