"""Fake quantization: what is rounded, how the ranges come about, and which parameters it trains."""

import copy

import pytest
import torch
from torch import nn

from repvgg_seg import RepVGG, RepVGGBlock, switch_to_deploy
from repvgg_seg.models.quantized import fake_quantize, quantizers, round_kernels, without_rounding
from repvgg_seg.models.quantizer import FakeQuantizer
from tests.conftest import TINY_GROUPED, TINY_SE, randomise


def observed(low: float, high: float, **options) -> FakeQuantizer:
    quantizer = FakeQuantizer(**options)
    quantizer.observe([torch.tensor([low, high])])
    return quantizer.eval()


def test_an_input_has_256_steps_one_of_which_is_zero_and_is_cut_off_at_the_range() -> None:
    quantizer = observed(-1.0, 3.0)
    x = torch.linspace(-2, 4, 10_001)
    rounded = quantizer(x)
    assert len(rounded.unique()) == 256 and quantizer(torch.zeros(1)) == 0
    inside = (x > -1) & (x < 3)
    assert (rounded - x)[inside].abs().max() <= 4 / 255 and rounded.min() > -1.02 and rounded.max() < 3.02
    assert observed(2.0, 3.0)(torch.tensor(1.0)) == pytest.approx(1, abs=0.006)  # zero belongs to any range


@pytest.mark.parametrize(('bits', 'steps'), [(8, 127), (7, 63)])
def test_a_kernel_has_its_own_symmetric_steps_in_each_channel(bits: int, steps: int) -> None:
    kernel = torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 100.0, 0.0]).reshape(-1, 1, 1, 1)
    rounded, _ = FakeQuantizer(bits).kernel_bias(kernel, None)
    scale = kernel.abs().amax((1, 2, 3), True).clamp_min(1e-12) / steps
    numbers = rounded / scale
    assert (numbers - numbers.round()).abs().max() < 1e-3 and numbers.abs().amax((1, 2, 3))[:3].round().eq(steps).all()
    assert ((rounded - kernel).abs() <= 0.51 * scale).all() and not rounded[3].any()


def test_a_bias_has_steps_of_input_times_kernel_and_32_bits() -> None:
    quantizer, kernel = (
        observed(0.0, 2.55),
        torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 1.0, 1e-9, 0.0])[:, None, None, None],
    )
    bias = torch.randn(4)
    rounded_kernel, rounded = quantizer.kernel_bias(kernel, bias)
    # The input has steps of 0.01. The last two kernels are next to nothing beside their biases.
    sizes = quantizer.kernel_steps(kernel, bias) * 0.01
    assert sizes[:2] == pytest.approx(kernel[:2].abs().amax((1, 2, 3)) / 127 * 0.01)
    steps = rounded / sizes
    assert (steps - steps.round()).abs()[:2].max() < 0.02 and (rounded - bias).abs()[:2].max() > 1e-7
    assert steps.abs().max() <= 2**30 and torch.allclose(rounded, bias, atol=1e-3) and not rounded_kernel[3].any()
    again = quantizer.kernel_bias(rounded_kernel, rounded)
    assert torch.allclose(again[0], rounded_kernel) and torch.allclose(again[1], rounded)  # they are rounded already
    bias.requires_grad_()
    quantizer.kernel_bias(kernel, bias)[1].sum().backward()
    assert bias.grad.eq(1).all()


def test_the_range_follows_the_batches_and_gradients_pass_inside_of_it() -> None:
    quantizer = FakeQuantizer()
    quantizer(torch.tensor([-1.0, 1.0]))
    assert (quantizer.low, quantizer.high) == (-1, 1)
    quantizer(torch.tensor([-3.0, 1.0]))
    assert quantizer.low == pytest.approx(-1.02) and quantizer.high == 1
    quantizer.eval()
    x = torch.tensor([-2.0, 0.3, 2.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0] and quantizer.low == pytest.approx(-1.02)
    with pytest.raises(ValueError, match='a quantized layer has no range yet, which training gives it'):
        FakeQuantizer().eval()(x)


@pytest.mark.parametrize('options', [dict(arch=TINY_GROUPED), dict(arch=TINY_SE, block='qarepvgg')])
def test_the_equivalent_kernel_is_rounded_and_the_deployed_network_is_the_same(options: dict) -> None:
    net = randomise(RepVGG(**options, dilations=(1, 1, 2, 1)))
    plain = copy.deepcopy(net).eval()
    fake_quantize(net)
    x = torch.randn(2, 3, 33, 49)
    with torch.no_grad():
        net.train()(x)
        statistics = {key: value for key, value in net.state_dict().items() if 'running' in key}
        assert all(value.equal(plain.state_dict()[key]) for key, value in statistics.items())  # they stay
        expected, exact = net.eval()(x), plain(x)
        assert 1e-4 < (expected[-1] - exact[-1]).abs().max() / exact[-1].abs().max() < 0.2
        assert torch.allclose(without_rounding(net)(x)[-1], exact[-1]) and net.stage0.quantizer.enabled
        deployed = switch_to_deploy(net)
        round_kernels(deployed)
        for stage, reference in zip(deployed(x), expected, strict=True):
            assert torch.allclose(stage, reference, rtol=1e-3, atol=1e-3 * float(reference.abs().max()))
        block = deployed.stage4[0]
        steps = block.rbr_reparam.weight / (block.rbr_reparam.weight.abs().amax((1, 2, 3), True) / 127)
        assert (steps - steps.round()).abs().max() < 1e-3
        # Without the rounding of inputs it is a float network with the same weights.
        assert without_rounding(deployed)(x)[-1].isfinite().all()
    net.train()(x)[-1].sum().backward()
    assert all(parameter.grad is not None for name, parameter in net.named_parameters() if 'se.' not in name)


class Pair(nn.Module):
    """What mmcv's ConvModule looks like."""

    order = ('conv', 'norm', 'act')
    norm_name = 'bn'
    with_norm = True

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    @property
    def norm(self) -> nn.Module:
        return self.bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        return (self.bn(out) if self.with_norm else out).relu()


def test_a_convolution_rounds_its_kernel_with_the_norm_behind_it() -> None:
    pair, last = randomise(Pair()).eval(), nn.Conv2d(6, 2, 1)
    net = nn.Sequential(pair, last)
    keys, x = list(net.state_dict()), torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        expected = net(x)
        fake_quantize(net)
        assert [key for key in net.state_dict() if 'quantizer' not in key] == keys
        net.train()(x)
        copied = copy.deepcopy(net.eval())  # whose convolution computes along the copied norm
        for model in (net, copied):
            assert 1e-4 < (model(x) - expected).abs().max() < 0.1
        assert torch.allclose(without_rounding(net)(x), expected, atol=1e-5)
        copied[0].bn.weight.zero_()
        copied[0].bn.bias.fill_(1)
        assert copied[0](x).eq(1).all() and not net[0](x).eq(1).all()
        state = {key: value for key, value in net.state_dict().items() if 'quantizer' not in key}
        copied.load_state_dict(state)  # of a float network: the ranges stay as they are
        assert copied[0].conv.quantizer.observed
    assert len(quantizers(net)) == 2


def test_what_cannot_be_quantized() -> None:
    net = nn.Sequential(RepVGGBlock(4, 4))
    with pytest.raises(ValueError, match='to 8 bits, or to 7 for CPUs without VNNI, not to 4'):
        fake_quantize(net, 4)
    fake_quantize(net)
    with pytest.raises(ValueError, match='is quantized already'):
        fake_quantize(net)
