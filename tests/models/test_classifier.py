import pytest
import torch

from repvgg_seg import RepVGG, RepVGGClassifier, custom_l2, switch_to_deploy
from tests.conftest import TINY, TINY_PLUS, TINY_SE, TINY_VARIANTS, randomise, relative


@pytest.mark.parametrize('variant', TINY_VARIANTS, ids=lambda v: v.name)
def test_deployed_classifier_equals_train_time_classifier(variant) -> None:
    model = randomise(RepVGGClassifier(variant, 7)).eval()
    deployed = switch_to_deploy(model)
    x = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        assert relative(deployed(x), model(x)) < 1e-5
    fresh = RepVGGClassifier(variant, 7, deploy=True)
    fresh.load_state_dict(deployed.state_dict())
    assert not any('_aux' in key for key in fresh.state_dict())


def test_it_is_the_trunk_and_a_linear_layer() -> None:
    model = randomise(RepVGGClassifier(TINY, 7)).eval()
    trunk = RepVGG(TINY).eval()
    trunk.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('linear')})
    x = torch.randn(2, 3, 32, 64)
    pooled = torch.nn.functional.adaptive_avg_pool2d(trunk(x)[-1], 1).flatten(1)
    assert torch.allclose(model(x), model.linear(pooled), atol=1e-6)


def test_auxiliary_classifiers_tap_the_official_places() -> None:
    model = randomise(RepVGGClassifier(TINY_PLUS, 7)).eval()
    x = torch.randn(2, 3, 64, 64)
    logits = model.forward_aux(x)
    assert {name: tuple(t.shape) for name, t in logits.items()} == dict.fromkeys(
        ('stage1_aux', 'stage2_aux', 'stage3_first_aux', 'main'), (2, 7)
    )
    assert torch.equal(logits['main'], model(x))
    stage1 = model.stage1(model.stage0(x))
    half = model.stage3[:2](model.stage2(stage1))
    assert torch.equal(logits['stage1_aux'], model.stage1_aux(stage1))
    assert torch.equal(logits['stage3_first_aux'], model.stage3_first_aux(half))
    assert {'stage1_aux.0.conv.weight', 'stage1_aux.0.bn.weight', 'stage1_aux.3.weight'} <= set(model.state_dict())
    assert set(switch_to_deploy(model).forward_aux(x)) == {'main'}


def test_custom_l2_is_the_authors_formula() -> None:
    model = randomise(RepVGGClassifier(TINY_SE, 7)).double()
    expected = 0.0
    for block in model.modules():
        if hasattr(block, 'rbr_dense'):
            t3, t1 = (b.bn.weight / (b.bn.running_var + b.bn.eps).sqrt() for b in (block.rbr_dense, block.rbr_1x1))
            k3, k1 = block.rbr_dense.conv.weight, block.rbr_1x1.conv.weight
            for out in range(k3.shape[0]):
                outer = k3[out].square().sum() - k3[out, :, 1, 1].square().sum()
                centre = (k3[out, :, 1, 1] * t3[out] + k1[out, :, 0, 0] * t1[out]).square().sum()
                expected += (outer + centre / (t3[out] ** 2 + t1[out] ** 2)).item()
    penalty = custom_l2(model)
    assert penalty.shape == () and penalty.item() == pytest.approx(expected, rel=1e-12)
    penalty.backward()
    assert model.stage0.rbr_dense.conv.weight.grad.abs().sum() > 0
    assert model.stage0.rbr_dense.bn.weight.grad is None  # t is a constant


def test_custom_l2_without_an_affine_is_that_of_unit_gammas() -> None:
    plain = RepVGGClassifier(TINY, 7, norm_layer=lambda channels: torch.nn.BatchNorm2d(channels, affine=False))
    affine = RepVGGClassifier(TINY, 7)  # built with unit gammas
    affine.load_state_dict(plain.state_dict(), strict=False)
    assert torch.allclose(custom_l2(plain), custom_l2(affine))


def test_custom_l2_of_dead_channels_is_finite() -> None:
    model = RepVGGClassifier(TINY, 7)
    for branch in (model.stage0.rbr_dense, model.stage0.rbr_1x1):
        torch.nn.init.zeros_(branch.bn.weight)
    assert custom_l2(model).isfinite()


def test_custom_l2_of_a_deployed_model_is_refused() -> None:
    with pytest.raises(ValueError, match='needs a model with train-time RepVGG blocks; this one has none'):
        custom_l2(RepVGGClassifier(TINY, deploy=True))
