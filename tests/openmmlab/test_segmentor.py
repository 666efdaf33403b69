"""The segmentor: channels that follow from the arch, the custom L2 loss, and weight decay as the authors apply it."""

import copy
import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.runner import checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import nn

import repvgg_seg.openmmlab  # noqa: F401  (registers the segmentor)
from repvgg_seg import RepVGGBlock, custom_l2, switch_to_deploy
from repvgg_seg.deploy.convert import convert_segmentor, is_deployed, synthetic_images, verify_segmentor
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.weights.checkpoint_io import WeightsError
from repvgg_seg.weights.pretrained import fitting
from repvgg_seg.workflows.config import load_config
from repvgg_seg.workflows.deployed import deployed_config
from tests import segmentors as segmentors  # registers neck and head
from tests.conftest import TINY, TINY_SE, randomise, tool

register_all_modules()

HEAD = {'type': 'FCNHead', 'channels': 8, 'num_convs': 1, 'concat_input': False, 'norm_cfg': {'type': 'BN'}}


def build(arch=TINY, **model) -> nn.Module:
    cfg = ConfigDict(
        type='RepVGGSegmentor',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 64)),
        backbone=dict(type='RepVGG', arch=arch),
        decode_head={**HEAD, 'num_classes': 3},
        auxiliary_head={**HEAD, 'num_classes': 3, 'in_index': 2},
    )
    return MODELS.build({**cfg, **model})


def of_blocks(kind: str) -> dict:
    """The config of a segmentor with RepVGG blocks in backbone, neck and decode head."""
    head = {'num_classes': 3, 'in_channels': TINY.channels[4], 'in_index': 3, 'channels': 8, 'align_corners': False}
    return dict(
        type=kind,
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True),
        backbone=dict(type='RepVGG', arch=TINY),
        neck=dict(type='BlockNeck', channels=[*TINY.channels[1:]]),
        decode_head=dict(type='BlockHead', **head),
        auxiliary_head={**HEAD, **head},
        test_cfg=dict(mode='whole'),
    )


def optimizer(model: nn.Module, **cfg) -> torch.optim.Optimizer:
    sgd = {'type': 'SGD', 'lr': 0.1, 'weight_decay': 5e-4, 'momentum': 0.9}
    constructor = 'RepVGGOptimWrapperConstructor'
    return build_optim_wrapper(
        model, ConfigDict(type='OptimWrapper', constructor=constructor, optimizer=sgd, **cfg)
    ).optimizer


def decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the weight decay of every parameter that is optimised, by name."""
    of = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def batch(size=(32, 64)):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, *size)))) for _ in range(2)]
    return torch.randn(2, 3, *size), samples


# ---- channels


def test_channels_follow_from_the_arch_and_the_maps_that_a_head_reads() -> None:
    model = build(auxiliary_head=[{**HEAD, 'num_classes': 3, 'in_index': 0}, {**HEAD, 'num_classes': 3, 'in_index': 1}])
    assert model.decode_head.in_channels == TINY.channels[4]
    assert [head.in_channels for head in model.auxiliary_head] == [TINY.channels[1], TINY.channels[2]]
    backbone = {'type': 'RepVGG', 'arch': TINY, 'out_indices': (1, 2)}
    head = {'type': 'UPerHead', 'channels': 8, 'num_classes': 3, 'in_index': (0, 1)}
    model = build(backbone=backbone, decode_head=head, auxiliary_head=None)
    assert model.decode_head.in_channels == [TINY.channels[2], TINY.channels[3]]


def test_channels_that_a_config_states_must_be_those_of_the_arch() -> None:
    assert build(decode_head={**HEAD, 'num_classes': 3, 'in_channels': TINY.channels[4]})
    with pytest.raises(ValueError, match=r'decode_head has in_channels 512, but tiny has 64 there: leave in_channels'):
        build(decode_head={**HEAD, 'num_classes': 3, 'in_channels': 512})
    with pytest.raises(ValueError, match='auxiliary_head reads in_index 4, but the backbone returns 4 maps'):
        build(auxiliary_head={**HEAD, 'num_classes': 3, 'in_index': 4})


def test_with_a_neck_or_another_backbone_the_config_states_the_channels() -> None:
    neck = {'type': 'FPN', 'in_channels': list(TINY.channels[1:]), 'out_channels': 24, 'num_outs': 4}
    head = {**HEAD, 'num_classes': 3, 'in_channels': 24}
    assert build(neck=neck, decode_head=head, auxiliary_head=None).decode_head.in_channels == 24
    model = build(
        backbone={'type': 'ResNet', 'depth': 18}, decode_head={**head, 'in_channels': 512}, auxiliary_head=None
    )
    assert model.decode_head.in_channels == 512


# ---- the deployed form


@pytest.mark.parametrize('kind', ['RepVGGSegmentor', 'EncoderDecoder'])
def test_a_deployed_config_takes_the_weights_wherever_the_blocks_are(kind: str) -> None:
    cfg = Config({'model': of_blocks(kind)})
    original = randomise(MODELS.build(copy.deepcopy(cfg.model))).eval()
    converted = convert_segmentor(original)
    verify_segmentor(original, converted, [(33, 47)])
    deployed = MODELS.build(deployed_config(cfg).model)
    blocks = {name: block.deploy for name, block in deployed.named_modules() if isinstance(block, RepVGGBlock)}
    assert {name.partition('.')[0] for name in blocks} == {'backbone', 'neck', 'decode_head'} and all(blocks.values())
    assert type(deployed).__name__ == kind and not deployed.training and not deployed.with_auxiliary_head
    deployed.load_state_dict(converted.state_dict())
    images = synthetic_images((33, 47))
    with torch.no_grad():
        assert torch.equal(InferenceGraph(deployed).logits(images), InferenceGraph(converted).logits(images))


def test_a_model_is_deployed_if_all_its_blocks_are() -> None:
    model = MODELS.build(ConfigDict(of_blocks('EncoderDecoder')))
    assert not is_deployed(model)
    switch_to_deploy(model.backbone, inplace=True)
    assert not is_deployed(model)  # the neck's and the head's are not
    assert is_deployed(switch_to_deploy(model)) and not is_deployed(model.decode_head.conv_seg)


def test_a_segmentor_without_blocks_has_no_deployed_form() -> None:
    model = of_blocks('EncoderDecoder')
    del model['neck']
    model |= {
        'backbone': {'type': 'ResNet', 'depth': 18},
        'decode_head': {**HEAD, 'in_channels': 512, 'num_classes': 3},
    }
    with pytest.raises(ValueError, match='EncoderDecoder contains no RepVGG block: there is nothing to convert'):
        MODELS.build(deployed_config(Config({'model': model})).model)


# ---- weight decay


def test_every_parameter_of_a_segmentor_has_the_decay_of_the_recipes() -> None:
    model = build(TINY_SE)
    found = decays(model, optimizer(model))
    assert set(found) == {name for name, _ in model.named_parameters()}
    decayed = r'backbone\..*(conv\.weight|rbr_identity\.weight|se\.(down|up)\.weight)|\w+_head\..*conv(_seg)?\.weight'
    free = r'backbone\..*(bn\.weight|bias)|\w+_head\..*(bn\.(weight|bias)|conv_seg\.bias)'
    for name, decay in found.items():
        assert bool(re.fullmatch(decayed, name)) != bool(re.fullmatch(free, name)), name
        assert decay == (5e-4 if re.fullmatch(decayed, name) else 0), name


def test_weight_decay_needs_two_groups() -> None:
    model = build()
    groups = optimizer(model).param_groups
    assert [group['weight_decay'] for group in groups] == [5e-4, 0]


def test_the_rates_of_paramwise_cfg_stay_as_they_are() -> None:
    model = build()
    optim = optimizer(model, paramwise_cfg={'custom_keys': {'head': {'lr_mult': 10}}})
    rate = {id(p): group['lr'] for group in optim.param_groups for p in group['params']}
    rates = {name: rate[id(p)] for name, p in model.named_parameters()}
    assert all(rates[name] == (1.0 if 'head' in name else 0.1) for name in rates)
    assert decays(model, optim) == decays(model, optimizer(model))


def test_a_wrapped_model_has_the_same_decay() -> None:
    model = build()
    wrapped = nn.Module()
    wrapped.module = model
    assert decays(model, optimizer(wrapped)) == decays(model, optimizer(model))


# ---- custom L2


def test_the_custom_l2_is_a_loss_and_its_kernels_are_not_decayed() -> None:
    model = randomise(build(TINY_SE, custom_l2=5e-4))
    losses = model.loss(*batch())
    assert losses['loss_custom_l2'].item() == pytest.approx(0.5 * 5e-4 * custom_l2(model).item(), rel=1e-6)
    total, log = model.parse_losses(losses)
    assert log['loss_custom_l2'] == losses['loss_custom_l2']
    assert total.item() == pytest.approx(sum(v.item() for k, v in losses.items() if 'loss' in k), rel=1e-6)
    losses['loss_custom_l2'].backward()
    penalised = {name for name, p in model.named_parameters() if p.grad is not None}
    found = decays(model, optimizer(model))
    plain = build(TINY_SE)
    ordinary = decays(plain, optimizer(plain))
    assert {name for name in found if found[name] != ordinary[name]} == penalised
    assert {found[name] for name in penalised} == {0}
    assert all(re.search(r'rbr_(dense|1x1)\.conv\.weight$', name) for name in penalised)


def test_without_custom_l2_there_is_no_such_loss() -> None:
    assert 'loss_custom_l2' not in build().loss(*batch())
    with pytest.raises(ValueError, match='custom_l2 is a weight decay, such as 1e-4; got -1'):
        build(custom_l2=-1)


def test_the_custom_l2_is_float32_under_autocast() -> None:
    model = randomise(build(custom_l2=5e-4))
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(*batch())
    assert losses['loss_custom_l2'].dtype == torch.float32
    assert losses['loss_custom_l2'].item() == (0.5 * 5e-4 * custom_l2(model)).item()


def test_the_custom_l2_trains_when_distributed(tmp_path) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = build(custom_l2=0.5)
        wrapped = MMDistributedDataParallel(model, device_ids=None)
        optim = build_optim_wrapper(
            wrapped,
            ConfigDict(constructor='RepVGGOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.1, weight_decay=1)),
        )
        images, samples = batch()
        log = wrapped.train_step({'inputs': list(images), 'data_samples': samples}, optim)
        assert log['loss_custom_l2'] > 0
    finally:
        torch.distributed.destroy_process_group()


def test_the_fragment_adds_it_to_any_config_and_the_result_trains_and_converts(repo, tiny_config, tmp_path) -> None:
    path = tmp_path / 'finetune.py'
    path.write_text(
        f"_base_ = ['{tiny_config}', '{repo}/configs/_base_/custom_l2.py']\n"
        'model = _base_.custom_l2\n'
        'train_cfg = dict(max_iters=1, val_interval=1)\n'
    )
    cfg = load_config(path)
    assert (
        cfg.model.custom_l2
        == load_config(repo / 'configs/pspnet_repvgg_b2_cityscapes.py').optim_wrapper.optimizer.weight_decay
    )
    work = tmp_path / 'work'
    assert tool('train')([str(path), '--work-dir', str(work)]) == 0
    log = next(work.rglob('*.log')).read_text()
    assert re.search(r'Iter\(train\).*loss_custom_l2: [\d.]+', log)
    assert tool('convert_deploy')([str(path), str(work), str(tmp_path / 'deploy')]) == 0
    assert 'custom_l2' not in Config.fromfile(tmp_path / 'deploy/deploy.py').model


# ---- int8


def test_a_quantized_segmentor_begins_with_a_float_checkpoint() -> None:
    plain, quantized = randomise(build()), build(quantized=8, train_cfg={})
    checkpoint.load_state_dict(quantized, plain.state_dict())  # mmengine's, as `load_from` does
    images, samples = batch()
    losses = quantized.train().loss(images, samples)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantized.parameters())
    state, before = quantized.state_dict(), plain.state_dict()
    assert all(state[key].equal(before[key]) for key in before if 'running' in key and 'auxiliary' not in key)
    ranges = [key for key in state if key not in before]
    assert len(ranges) == 2 * (1 + sum(TINY.blocks) + 2) and not [key for key in ranges if 'auxiliary' in key]
    # What was trained is complete.
    with pytest.raises(WeightsError, match=r'they lack backbone\.stage0\.quantizer\.low'):
        fitting(build(quantized=8), before)
    assert len(fitting(build(quantized=8), state)) == len(state)
    with pytest.raises(ValueError, match='to 8 bits, or to 7 for CPUs without VNNI, not to True'):
        build(quantized=True)


def test_inserted_norms_and_the_block_of_qarepvgg_are_built_and_converted() -> None:
    for options in (dict(inserted_norms=True), dict(backbone=dict(type='RepVGG', arch=TINY, block='qarepvgg'))):
        model = randomise(build(**options)).eval()
        assert isinstance(model.backbone.stage1[0].bn, nn.BatchNorm2d) and not is_deployed(model)
        converted = convert_segmentor(model)
        verify_segmentor(model, converted, [(33, 49)])
        config = ConfigDict(
            type='RepVGGSegmentor', data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 64)),
            backbone=dict(type='RepVGG', arch=TINY), decode_head={**HEAD, 'num_classes': 3},
        )  # fmt: skip
        deployed = MODELS.build(deployed_config(Config(dict(model={**config, **options}))).model)
        deployed.load_state_dict(converted.state_dict())
    with pytest.raises(WeightsError, match='these weights do not fit: they lack'):  # a plain block's
        fitting(model, build().state_dict())
    with pytest.raises(ValueError, match="block must be one of repvgg, qarepvgg; got 'vgg'"):
        build(backbone=dict(type='RepVGG', arch=TINY, block='vgg'))
