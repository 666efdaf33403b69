import itertools
import json

import pytest
import torch
from torch import nn

from repvgg_seg import RepVGG, RepVGGBlock, RepVGGClassifier, Variant, switch_to_deploy
from repvgg_seg.deploy import convert
from repvgg_seg.deploy.convert import (
    VerificationError,
    convert_classifier_checkpoint,
    convert_segmentor,
    synthetic_images,
    verify_classifier,
    verify_segmentor,
)
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.models.block import fuse_conv_bn
from tests.conftest import TINY, TINY_PLUS, TINY_SE, randomise


class Head(nn.Module):
    """As much of an mmseg decode head as the inference graph reads."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1)
        self.align_corners = False
        self.threshold = 0.3

    def forward(self, maps: tuple) -> torch.Tensor:
        return self.conv(maps[-1])


def shifted_1x1(block: RepVGGBlock, kernel: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pointwise, _ = fuse_conv_bn(block.rbr_1x1.conv.weight, block.rbr_1x1.bn)
    return kernel + nn.functional.pad(pointwise, (0, 2, 1, 1)) - nn.functional.pad(pointwise, (1, 1, 1, 1)), bias


def forgotten_bias(block: RepVGGBlock, kernel: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return kernel, bias - fuse_conv_bn(block.rbr_dense.conv.weight, block.rbr_dense.bn)[1]


def scaled_channel(block: RepVGGBlock, kernel: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    factor = torch.ones_like(bias)
    factor[3] = 1.001
    return kernel * factor.reshape(-1, 1, 1, 1), bias


class Preprocessor(nn.Module):
    def __init__(self, bgr_to_rgb: bool = True, normalise: bool = True, channels: int = 3) -> None:
        super().__init__()
        self._channel_conversion, self._enable_normalize = bgr_to_rgb, normalise
        if normalise:
            mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
            for name, values in (('mean', mean), ('std', std)):
                values = values if channels == 3 else [10.0 * (index + 3) for index in range(channels)]
                self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)


class Segmentor(nn.Module):
    def __init__(self, variant=TINY, classes: int = 5, channels: int = 3, **preprocessing) -> None:
        super().__init__()
        self.data_preprocessor = Preprocessor(channels=channels, **preprocessing)
        self.backbone = RepVGG(variant, in_channels=channels)
        self.decode_head = Head(variant.channels[-1], classes)
        self.auxiliary_head = Head(variant.channels[-2], classes)


def images(height: int = 33, width: int = 47) -> torch.Tensor:
    return torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)


def test_a_model_without_repvgg_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match='Sequential contains no RepVGG block: there is nothing to convert'):
        switch_to_deploy(nn.Sequential(nn.Conv2d(3, 3, 3)))


def test_the_original_is_left_alone_unless_inplace() -> None:
    model = RepVGG(TINY)
    converted = switch_to_deploy(model)
    assert model.training and not model.stage0.deploy
    assert not converted.training and converted.stage0.deploy
    assert switch_to_deploy(model, inplace=True) is model and model.stage0.deploy


def test_blocks_inside_any_module_are_found() -> None:
    model = nn.ModuleDict({'a': nn.Sequential(RepVGGBlock(4, 4), nn.Conv2d(4, 4, 1)), 'b': RepVGG(TINY_SE)})
    assert all(m.deploy for m in switch_to_deploy(model).modules() if isinstance(m, RepVGGBlock))


def test_a_deployed_model_can_be_converted_again() -> None:
    once = switch_to_deploy(randomise(RepVGG(TINY)))
    twice = switch_to_deploy(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


@pytest.mark.parametrize('variant', [TINY, TINY_SE, TINY_PLUS], ids=lambda v: v.name)
def test_a_converted_segmentor_verifies_and_has_no_auxiliary_head(variant) -> None:
    segmentor = randomise(Segmentor(variant))
    converted = convert_segmentor(segmentor)
    assert not hasattr(converted, 'auxiliary_head') and hasattr(segmentor, 'auxiliary_head')
    deviations = verify_segmentor(segmentor, converted)
    assert [d.check for d in deviations] == ['algebra', 'algebra', 'weights', 'weights', 'float32', 'float32']
    assert max(d.max_rel for d in deviations if d.check == 'algebra') < 1e-12
    assert max(d.max_rel for d in deviations if d.check == 'weights') < 1e-6
    assert max(d.max_rel for d in deviations) < 1e-5
    assert min(d.agreement for d in deviations) > 0.999


def fit_norms(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Give the norms the statistics of these images: the state after one training step of momentum 1."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


@pytest.fixture(scope='module')
def deep() -> nn.Module:
    """A network of 48 SE blocks whose statistics fit, which amplifies each rounding thousands of times."""
    torch.manual_seed(0)
    variant = Variant('deep', (8, 14, 24, 1), (0.125,) * 4, se='pre')
    return fit_norms(RepVGGClassifier(variant, 5), synthetic_images(DEEP).permute(0, 3, 1, 2).sub(116).div(57))


DEEP = (33, 49)  # (H, W)


def test_a_right_conversion_of_a_network_that_amplifies_rounding_passes(deep) -> None:
    deviations = verify_classifier(deep, switch_to_deploy(deep), [DEEP])
    algebra, weights, single = deviations
    assert weights.max_rel > 1e-5 and single.rounding > 1e-5  # what no other network is allowed
    assert all(d.max_rel <= d.allowed < 100 * single.rounding for d in deviations)
    assert algebra.allowed <= 1e-10 and single.allowed <= 0.1


def one_tap_off(block: RepVGGBlock) -> None:
    block.rbr_reparam.weight[:] = block.rbr_reparam.weight.roll(1, -1)


def without_bias(block: RepVGGBlock) -> None:
    block.rbr_reparam.bias.zero_()


def one_gamma_off(block: RepVGGBlock) -> None:
    block.rbr_reparam.weight[3] *= 1.001


def one_bias_off(block: RepVGGBlock) -> None:
    block.rbr_reparam.bias[3] += 1e-4


@pytest.mark.parametrize('fault', [one_tap_off, without_bias, one_gamma_off, one_bias_off])
@pytest.mark.parametrize('place', ['stage0', 'stage4.0'])
def test_one_wrong_block_of_48_is_refused_though_the_network_amplifies_rounding(deep, fault, place) -> None:
    wrong = switch_to_deploy(deep)
    with torch.no_grad():
        fault(wrong.get_submodule(place))
    with pytest.raises(VerificationError, match=rf"check 'weights'\): {place}\.rbr_reparam\.\w+ is .* times as far"):
        verify_classifier(deep, wrong, [DEEP])


@pytest.mark.parametrize('fault', [shifted_1x1, forgotten_bias, scaled_channel])
def test_wrong_algebra_in_one_block_of_48_is_refused(deep, fault, monkeypatch) -> None:
    right = RepVGGBlock.get_equivalent_kernel_bias
    blocks = itertools.count()

    def wrong(block: RepVGGBlock) -> tuple[torch.Tensor, torch.Tensor]:
        kernel, bias = right(block)
        return fault(block, kernel, bias) if next(blocks) % 48 == 20 else (kernel, bias)

    monkeypatch.setattr(RepVGGBlock, 'get_equivalent_kernel_bias', wrong)
    with pytest.raises(VerificationError, match="check 'algebra'"):
        verify_classifier(deep, switch_to_deploy(deep), [DEEP])


def test_what_float32_cannot_compute_is_refused_for_that_reason(deep, monkeypatch) -> None:
    monkeypatch.setattr(convert, 'MAX_ROUNDING', 1e-9)
    with pytest.raises(
        VerificationError, match=r'where 1e-(05|04|10) is allowed, as float32 changes the original itself'
    ):
        verify_classifier(deep, switch_to_deploy(deep), [DEEP])


def test_verification_refuses_a_conversion_that_is_a_little_wrong() -> None:
    segmentor = randomise(Segmentor())
    converted = convert_segmentor(segmentor)
    with torch.no_grad():
        converted.backbone.stage2[0].rbr_reparam.weight *= 1.001
    with pytest.raises(
        VerificationError, match=r"check 'weights'.*backbone.stage2.0.rbr_reparam.weight is .*Nothing was written"
    ):
        verify_segmentor(segmentor, converted)


def test_verification_runs_the_graph_also_where_all_weights_are_right(monkeypatch) -> None:
    segmentor = randomise(Segmentor())
    converted = convert_segmentor(segmentor)
    converted.backbone.stage2[0].nonlinearity = nn.Identity()
    with pytest.raises(VerificationError, match=r"check 'weights', input 128x256.*where 1e-05 is allowed"):
        verify_segmentor(segmentor, converted)


def test_verification_refuses_values_that_are_not_finite() -> None:
    model = randomise(RepVGGClassifier(TINY, 5))
    with torch.no_grad():
        model.stage1[0].rbr_dense.conv.weight[0, 0] = float('nan')
    with pytest.raises(
        VerificationError, match=r'deviation is nan, .* Check the checkpoint for NaN or infinite values'
    ):
        verify_classifier(model, switch_to_deploy(model))


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
@pytest.mark.parametrize('normalise', [True, False])
def test_the_graph_normalises_as_the_preprocessor_does(bgr_to_rgb: bool, normalise: bool) -> None:
    segmentor = randomise(Segmentor(bgr_to_rgb=bgr_to_rgb, normalise=normalise)).eval()
    rgb = images()
    x = rgb.permute(0, 3, 1, 2).float()
    x = x if bgr_to_rgb else x[:, [2, 1, 0]]  # mmseg reads BGR and swaps only if told to
    if normalise:
        x = (x - segmentor.data_preprocessor.mean) / segmentor.data_preprocessor.std
    logits = nn.functional.interpolate(
        segmentor.decode_head(segmentor.backbone(x)), size=(33, 47), mode='bilinear', align_corners=False
    )
    graph = InferenceGraph(segmentor)
    with torch.no_grad():
        assert torch.allclose(graph.logits(rgb), logits, atol=1e-5)
        assert torch.equal(graph(rgb), logits.argmax(1).to(torch.uint8))


@pytest.mark.parametrize(('classes', 'dtype'), [(5, torch.uint8), (256, torch.uint8), (300, torch.uint16)])
def test_class_maps_have_room_for_all_classes(classes: int, dtype: torch.dtype) -> None:
    assert InferenceGraph(Segmentor(classes=classes).eval())(images()).dtype == dtype


def test_a_sigmoid_head_separates_two_classes_by_its_threshold() -> None:
    graph = InferenceGraph(Segmentor(classes=1).eval())
    logits = torch.tensor([-2.0, -0.8, 0.5]).reshape(1, 1, 1, 3)  # sigmoid 0.12, 0.31, 0.62
    assert graph.classes(logits).tolist() == [[[0, 1, 1]]]


def test_the_graph_refuses_what_is_not_a_segmentor() -> None:
    with pytest.raises(
        ValueError, match='RepVGG is not a segmentor with a data preprocessor, a backbone and one decode head'
    ):
        InferenceGraph(RepVGG(TINY))
    four = Segmentor()
    four.backbone = RepVGG(TINY, in_channels=4)
    with pytest.raises(
        ValueError, match=r'backbone takes 4 channels, but data_preprocessor\.mean has 3 entries: give one for each'
    ):
        InferenceGraph(four)


@pytest.mark.parametrize('channels', [1, 4, 13])
@pytest.mark.parametrize('normalise', [True, False])
def test_a_segmentor_of_other_channels_than_rgb_verifies_and_none_is_swapped(channels: int, normalise: bool) -> None:
    segmentor = randomise(Segmentor(channels=channels, normalise=normalise, bgr_to_rgb=False)).eval()
    images = synthetic_images((33, 47), channels)
    x = images.permute(0, 3, 1, 2).float()
    if normalise:
        x = (x - segmentor.data_preprocessor.mean) / segmentor.data_preprocessor.std
    with torch.no_grad():
        logits = nn.functional.interpolate(segmentor.decode_head(segmentor.backbone(x)), (33, 47), mode='bilinear')
        assert torch.allclose(InferenceGraph(segmentor).logits(images), logits, atol=1e-5 * logits.abs().max().item())
    assert len(verify_segmentor(segmentor, convert_segmentor(segmentor), [(33, 47)])) == 3


def test_a_classifier_checkpoint_becomes_a_verified_deployed_one(tmp_path) -> None:
    model = randomise(RepVGGClassifier('RepVGG-A0', 10)).eval()
    torch.save({'state_dict': {f'module.{k}': v for k, v in model.state_dict().items()}}, tmp_path / 'a0.pth')
    report = convert_classifier_checkpoint('RepVGG-A0', str(tmp_path / 'a0.pth'), tmp_path / 'out')
    assert report == json.loads((tmp_path / 'out/report.json').read_text())
    assert 0 < report['amplification'] < 1000
    assert report['parameters'] == {
        'train': sum(p.numel() for p in model.parameters()),
        'deploy': sum(p.numel() for p in switch_to_deploy(model).parameters()),
    }
    checkpoint = torch.load(tmp_path / 'out/deploy.pth', weights_only=True)
    fresh = RepVGGClassifier(checkpoint['meta']['arch'], checkpoint['meta']['num_classes'], deploy=True).eval()
    fresh.load_state_dict(checkpoint['state_dict'])
    x = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        assert torch.allclose(fresh(x), model(x), atol=1e-4)


def test_a_failed_verification_writes_nothing(tmp_path) -> None:
    model = RepVGGClassifier('RepVGG-A0', 10)
    with torch.no_grad():
        model.stage1[0].rbr_dense.bn.running_var.fill_(-1)  # no square root: NaN
    torch.save(model.state_dict(), tmp_path / 'a0.pth')
    with pytest.raises(ValueError, match='NaN'):
        convert_classifier_checkpoint('RepVGG-A0', str(tmp_path / 'a0.pth'), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
