import copy

import pytest
import torch
from torch import nn

from repvgg_seg import VARIANTS, RepVGG, RepVGGBlock, switch_to_deploy
from tests.conftest import TINY, TINY_VARIANTS, randomise, relative


@pytest.mark.parametrize('variant', TINY_VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize('size', [(64, 96), (37, 51), (1, 1), (33, 5)], ids=str)
def test_deployed_trunk_equals_train_time_trunk(variant, size: tuple) -> None:
    model = randomise(
        RepVGG(variant, dilations=(1, 1, (1, 2, 4, 8)[: variant.blocks[2]], 2), strides=(2, 2, 1, 1))
    ).eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        for result, expected in zip(switch_to_deploy(model)(x), model(x), strict=True):
            assert relative(result, expected) < 1e-5
        model, x = model.double(), x.double()
        for result, expected in zip(switch_to_deploy(model)(x), model(x), strict=True):
            assert relative(result, expected) < 1e-12


def test_output_stride_8_is_the_authors_surgery_on_the_classification_trunk() -> None:
    ours = randomise(RepVGG('RepVGG-A0', strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4))).eval()
    surgery = RepVGG('RepVGG-A0').eval()
    surgery.load_state_dict(ours.state_dict())
    for stage, dilation in ((surgery.stage3, 2), (surgery.stage4, 4)):
        for block in stage:
            block.stride = 1
            conv = block.rbr_dense.conv
            conv.dilation, conv.padding, conv.stride = (dilation, dilation), (dilation, dilation), (1, 1)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for result, expected in zip(ours(x), surgery(x), strict=True):
            assert torch.equal(result, expected)


def test_stages_beyond_the_last_out_index_are_not_built() -> None:
    model = RepVGG(TINY, out_indices=(0, 2))
    maps = model(torch.randn(2, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [TINY.channels[1], TINY.channels[3]]
    assert not hasattr(model, 'stage4')


@pytest.mark.parametrize('variant', TINY_VARIANTS, ids=lambda v: v.name)
def test_every_parameter_gets_a_gradient(variant) -> None:
    model = RepVGG(variant, in_channels=4)
    sum(m.square().mean() for m in model(torch.randn(2, 4, 64, 64))).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_recomputation_gives_the_same_gradients_and_updates_statistics_once() -> None:
    plain = randomise(RepVGG(TINY))
    checkpointed = RepVGG(TINY, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    for momentum, model in ((m, model) for m in (0.1, None) for model in (plain, checkpointed)):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        model(x)[-1].square().mean().backward()
    for (key, expected), result in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(result, expected), key
    assert plain.stage0.rbr_dense.bn.num_batches_tracked == 2
    for expected, result in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(result.grad, expected.grad, atol=1e-7)


def test_recomputation_stores_fewer_activations() -> None:
    def saved_bytes(with_cp: bool) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            RepVGG(TINY, with_cp=with_cp)(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    assert saved_bytes(True) < saved_bytes(False) / 4


@pytest.mark.parametrize('with_cp', [False, True])
def test_compiles(with_cp: bool) -> None:
    model = RepVGG(TINY, with_cp=with_cp)
    eager = copy.deepcopy(model)
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    compiled(x)[-1].square().mean().backward()
    eager(x)[-1].square().mean().backward()
    for result, expected in zip(model.state_dict().values(), eager.state_dict().values(), strict=True):
        assert torch.allclose(result, expected, atol=1e-5)
    for result, expected in zip(model.parameters(), eager.parameters(), strict=True):
        assert torch.allclose(result.grad, expected.grad, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_runs_in_low_precision(dtype: torch.dtype) -> None:
    model = randomise(RepVGG(TINY)).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        expected = model(x)[-1]
        deployed = switch_to_deploy(model.to(dtype))
        assert {p.dtype for p in deployed.parameters()} == {dtype}
        assert relative(deployed(x.to(dtype))[-1].float(), expected) < 0.1


def test_channels_last_gives_the_same_maps_and_gradients() -> None:
    plain = randomise(RepVGG(TINY))
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 33, 47)
    for model in (plain, last):
        model(x)[-1].square().mean().backward()
    for result, expected in zip(last.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(result.grad, expected.grad, atol=1e-5)


def test_deepcopies_share_nothing() -> None:
    model = RepVGG(TINY)
    twin = copy.deepcopy(model)
    switch_to_deploy(twin, inplace=True)
    assert not any(m.deploy for m in model.modules() if isinstance(m, RepVGGBlock))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'out_indices': ()}, r'out_indices must be ascending stage indices out of 0, 1, 2, 3; got \(\)'),
        ({'out_indices': (3, 1)}, r'got \(3, 1\)'),
        ({'out_indices': (4,)}, r'got \(4,\)'),
        ({'strides': (2, 2, 2)}, 'strides must be four values of 1 or 2'),
        ({'strides': (2, 2, 3, 1)}, 'strides must be four values of 1 or 2'),
        ({'dilations': (1, 1)}, 'dilations must have four entries'),
        ({'dilations': 2}, 'dilations must have four entries, one per stage; got 2'),
        ({'strides': 2}, 'strides must be four values of 1 or 2, one per stage; got 2'),
        ({'dilations': (1, 1, 0, 1)}, r'dilations must be positive integers; stage 3 has \(0, 0, 0\)'),
        ({'dilations': (1, 1, (1, 2), 1), 'out_indices': (0,)}, 'stage 3 has 3 blocks but 2 dilations'),
        ({'dilations': (1, 1, (1, 2), 1)}, r'stage 3 has 3 blocks but 2 dilations: \(1, 2\)'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepVGG(TINY, **arguments)


def test_fast_models_dilate_the_last_five_layers_only() -> None:
    blocks = VARIANTS['RepVGG-B1g2'].blocks[2]
    with torch.device('meta'):
        model = RepVGG('RepVGG-B1g2', strides=(2, 2, 1, 1), dilations=(1, 1, (1,) * (blocks - 4) + (2,) * 4, 4))
    dilations = [block.dilation for stage in model.stages for block in stage]
    assert dilations == [1] * (4 + 6 + 12) + [2] * 4 + [4]
