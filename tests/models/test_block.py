import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repvgg_seg import RepVGGBlock
from repvgg_seg.models.block import SEBlock, fuse_conv_bn
from tests.conftest import randomise, relative

blocks = st.fixed_dictionaries(
    {
        'channels': st.sampled_from([(8, 8), (8, 16), (4, 12)]),
        'stride': st.sampled_from([1, 2]),
        'dilation': st.sampled_from([1, 2, 4]),
        'groups': st.sampled_from([1, 2, 4]),
        'se': st.sampled_from([None, 'pre', 'post']),
        'post_norm': st.booleans(),
    }
)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17))


def build(options: dict, **kwargs) -> RepVGGBlock:
    options = dict(options)
    in_channels, out_channels = options.pop('channels')
    return randomise(RepVGGBlock(in_channels, out_channels, se_ratio=4, **options, **kwargs)).eval()


def batch_norm(x: Tensor, bn: nn.Module) -> Tensor:
    if isinstance(bn, nn.Identity):
        return x
    mean, var, weight, bias = (t.reshape(1, -1, 1, 1) for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / (var + bn.eps).sqrt() * weight + bias


def reference(block: RepVGGBlock, x: Tensor) -> Tensor:
    """The three branches as the paper's figure 2 and equation 3 have them, the 1x1 with its own stride.

    Of QARepVGG as its paper has them: a norm behind their sum, and of the branches' only that of the 3x3 convolution.
    """
    assert [isinstance(norm, nn.BatchNorm2d) for norm in (block.rbr_dense.bn, block.rbr_1x1.bn, block.bn)] in (
        [True, True, False],
        [True, False, True],
    )
    geometry = dict(stride=block.stride, groups=block.groups)
    out = batch_norm(
        F.conv2d(x, block.rbr_dense.conv.weight, padding=block.dilation, dilation=block.dilation, **geometry),
        block.rbr_dense.bn,
    )
    out = out + batch_norm(F.conv2d(x, block.rbr_1x1.conv.weight, **geometry), block.rbr_1x1.bn)
    if block.in_channels == block.out_channels and block.stride == 1:
        out = out + batch_norm(x, block.rbr_identity)
    out = batch_norm(out, block.bn)
    return block.post_se(F.relu(block.se(out)))


@settings(deadline=None, max_examples=60)
@given(blocks, sizes)
def test_the_fused_block_is_the_same_function(options: dict, size: tuple) -> None:
    block = build(options).double()
    x = torch.randn(size[0], block.in_channels, *size[1:], dtype=torch.float64)
    with torch.no_grad():
        expected = reference(block, x)
        assert torch.allclose(block(x), expected, rtol=0, atol=1e-12)
        block.switch_to_deploy()
        assert block.deploy and not hasattr(block, 'rbr_dense')
        assert torch.allclose(block(x), expected, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(blocks)
def test_a_block_built_deployed_takes_the_converted_weights(options: dict) -> None:
    block = build(options)
    x = torch.randn(2, block.in_channels, 9, 13)
    block.switch_to_deploy()
    fresh = build(options, deploy=True)
    fresh.load_state_dict(block.state_dict())
    assert torch.equal(fresh(x), block(x))


@pytest.mark.parametrize(
    'norm', [nn.BatchNorm2d, nn.SyncBatchNorm, lambda c: nn.BatchNorm2d(c, affine=False, eps=1e-2)]
)
def test_any_batch_norm_fuses(norm) -> None:
    block = randomise(RepVGGBlock(6, 6, norm_layer=norm)).eval()
    x = torch.randn(2, 6, 7, 5)
    expected = block(x)
    block.switch_to_deploy()
    assert relative(block(x), expected) < 1e-6


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_weights_are_fused_in_float32_and_cast_last(dtype: torch.dtype) -> None:
    block = randomise(RepVGGBlock(8, 8)).eval().to(dtype)
    exact = copy.deepcopy(block).double()
    exact.switch_to_deploy()
    kernel, bias = block.get_equivalent_kernel_bias()
    assert kernel.dtype == bias.dtype == torch.float32
    block.switch_to_deploy()
    assert block.rbr_reparam.weight.dtype == dtype
    # One rounding of the exact kernel, not several.
    assert torch.equal(block.rbr_reparam.weight, exact.rbr_reparam.weight.float().to(dtype))


def test_the_equivalent_kernel_is_differentiable() -> None:
    block = randomise(RepVGGBlock(4, 4)).double().eval()
    kernel, bias = block.get_equivalent_kernel_bias()
    (kernel.square().sum() + bias.square().sum()).backward()
    branches = [p for name, p in block.named_parameters() if name.startswith('rbr_')]
    assert len(branches) == 8 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in branches)


def test_converting_twice_changes_nothing() -> None:
    block = randomise(RepVGGBlock(4, 4)).eval()
    block.switch_to_deploy()
    before = copy.deepcopy(block.state_dict())
    block.switch_to_deploy()
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


def test_state_dict_keys_are_the_official_ones() -> None:
    bn = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    branches = {f'rbr_{name}.conv.weight' for name in ('dense', '1x1')} | {
        f'{name}.{key}' for name in ('rbr_dense.bn', 'rbr_1x1.bn', 'rbr_identity') for key in bn
    }
    se = {f'{layer}.{kind}' for layer in ('down', 'up') for kind in ('weight', 'bias')}
    assert set(RepVGGBlock(16, 16).state_dict()) == branches
    assert set(RepVGGBlock(16, 16, se='pre').state_dict()) == branches | {f'se.{key}' for key in se}
    assert set(RepVGGBlock(16, 16, se='post').state_dict()) == branches | {f'post_se.{key}' for key in se}
    assert set(RepVGGBlock(16, 16, deploy=True).state_dict()) == {'rbr_reparam.weight', 'rbr_reparam.bias'}


def test_squeeze_and_excitation_pools_the_whole_map() -> None:
    se = SEBlock(8, 2)
    x = torch.randn(2, 8, 5, 11)
    gate = torch.sigmoid(se.up(F.relu(se.down(F.adaptive_avg_pool2d(x, 1)))))
    assert torch.allclose(se(x), x * gate, atol=1e-6)


def test_a_norm_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(ValueError, match='GroupNorm cannot be folded into a convolution: RepVGG needs a batch norm'):
        RepVGGBlock(4, 4, norm_layer=lambda channels: nn.GroupNorm(2, channels))
    with pytest.raises(ValueError, match='BatchNorm2d without running statistics cannot be folded'):
        RepVGGBlock(4, 4, norm_layer=lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))
    with pytest.raises(ValueError, match='cannot fuse BatchNorm2d: it keeps no running statistics'):
        fuse_conv_bn(torch.ones(4, 4, 1, 1), nn.BatchNorm2d(4, track_running_stats=False))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'dilation': 0}, 'must be positive; got channels 4 and 4, stride 1, dilation 0, groups 1'),
        ({'in_channels': 0}, 'must be positive; got channels 0 and 4'),
        ({'se': 'Pre'}, "se must be None, 'pre' or 'post'; got 'Pre'"),
    ],
)
def test_arguments_that_make_no_block_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepVGGBlock(**{'in_channels': 4, 'out_channels': 4, **arguments})


def test_the_fused_convolution_keeps_layout_and_frozenness() -> None:
    block = RepVGGBlock(4, 8).to(memory_format=torch.channels_last).requires_grad_(False)
    block.switch_to_deploy()
    assert block.rbr_reparam.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in block.parameters())


def test_weights_of_the_other_form_are_refused_by_any_loader() -> None:
    train, deployed = RepVGGBlock(4, 4), RepVGGBlock(4, 4, deploy=True)
    with pytest.raises(
        ValueError, match=r'these are train-time weights .* but the model is deployed: convert the checkpoint'
    ):
        deployed.load_state_dict(train.state_dict(), strict=False)
    with pytest.raises(
        ValueError, match=r'these are deployed weights .* but the model is train-time: build the model with'
    ):
        train.load_state_dict(deployed.state_dict(), strict=False)


def test_channels_last_training_of_a_stem_does_not_crash() -> None:
    # torch's own strided 1x1 convolution corrupts memory here: RepVGGBlock.forward says how it is avoided.
    stem = RepVGGBlock(3, 48, stride=2).to(memory_format=torch.channels_last)
    for _ in range(3):
        stem(torch.randn(2, 3, 65, 97).to(memory_format=torch.channels_last)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in stem.parameters())
