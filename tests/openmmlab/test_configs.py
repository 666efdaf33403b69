"""Every shipped config: what it names, what it builds, that it trains a step and that its deployed form is equal."""

import argparse
import copy
import dataclasses
import functools
import itertools
import re
from pathlib import Path

import mmseg.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from repvgg_seg import VARIANTS, RepVGGBlock
from repvgg_seg.apps.config import add_config
from repvgg_seg.deploy.convert import convert_segmentor, verify_segmentor
from repvgg_seg.weights.pretrained import SCHEME, manifest
from repvgg_seg.workflows.config import load_config
from repvgg_seg.workflows.deployed import deployed_config
from tests.conftest import CONFIGS, randomise

register_all_modules()

NAME = re.compile(
    r'(pspnet|upernet|fastseg)_(repvgg(?:plus)?)_(\w+?)(_fast)?(_paper)?(?:_half|_full)?_(cityscapes|ade20k|camvid|demo|folder)'
)
BACKBONES = ['a0', 'a1', 'a2', 'b0', 'b1', 'b1g2', 'b1g4', 'b2', 'b2g4', 'b3', 'b3g4', 'd2se', 'l2pse']

every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


@functools.cache
def config(path: Path) -> Config:
    """Return a config, read once and not to be changed."""
    return load_config(path)


def shrunken(cfg: Config) -> Config:
    """Return `cfg` with an eighth of the trunk's width, as deep as it was, and narrow heads."""
    cfg = copy.deepcopy(cfg)
    variant = VARIANTS[cfg.model.backbone.arch]
    variant = dataclasses.replace(variant, widths=tuple(width / 8 for width in variant.widths))
    cfg.model.backbone.update(arch=variant, init_cfg=None)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.channels = 4
    return cfg


def test_every_row_of_the_matrix_has_its_config() -> None:
    names = {path.stem for path in CONFIGS}
    slugs = [f'repvggplus_{b}' if b == 'l2pse' else f'repvgg_{b}' for b in BACKBONES]
    assert {'_'.join(row) for row in itertools.product(('pspnet', 'upernet'), slugs, ('cityscapes', 'ade20k'))} <= names
    fast = itertools.product(('a0', 'a1', 'b0'), ('cityscapes', 'ade20k', 'camvid', 'folder'))
    assert {f'fastseg_repvgg_{x}_{data}' for x, data in fast} <= names
    assert {f'pspnet_repvgg_{x}_fast_cityscapes' for x in ('b1g2', 'b2')} <= names
    assert {f'pspnet_repvgg_{x}_paper_cityscapes' for x in ('b1g2', 'b1g2_fast', 'b2', 'b2_fast')} <= names


@every_config
def test_a_config_is_what_its_name_says(path) -> None:
    head, family, backbone, _, paper, data = NAME.fullmatch(path.stem).groups()
    cfg = config(path)
    arch = cfg.model.backbone.arch
    assert arch in VARIANTS and arch.lower() == f'{family}-{backbone}'
    assert cfg.model.backbone.type == ('RepVGGplus' if family == 'repvggplus' else 'RepVGG')
    assert {'pspnet': 'PSPHead', 'upernet': 'UPerHead', 'fastseg': 'FastHead'}[head] in cfg.model.decode_head.type
    classes = {'cityscapes': 19, 'demo': 19, 'ade20k': 150, 'camvid': 11, 'folder': 19}[data]  # those of classes.json
    assert {cfg.model.decode_head.num_classes, cfg.model.auxiliary_head.num_classes} == {classes}
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if 'crop_size' in t)['crop_size']
    assert tuple(crop) == tuple(cfg.model.data_preprocessor.size) == tuple(cfg.crop_size)
    assert cfg.train_dataloader.drop_last  # a last batch of one image has nothing to normalise over
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size
    if data == 'ade20k':
        assert all(cfg[f'{split}_dataloader'].dataset.reduce_zero_label for split in ('train', 'val', 'test'))
        assert (tuple(crop), cfg.train_dataloader.batch_size, cfg.train_cfg.max_iters) == ((512, 512), 16, 160000)
    if paper:
        optimizer, [poly] = cfg.optim_wrapper.optimizer, cfg.param_scheduler
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('SGD', 0.01, 1e-4)
        assert (poly.type, poly.power, poly.end, poly.convert_to_iter_based) == ('PolyLR', 0.9, 40, True)
        assert (tuple(crop), cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == ((713, 713), 16, 40)
        assert cfg.train_dataloader.sampler.type == 'DefaultSampler'  # an epoch of the other one never ends
    if data in ('cityscapes', 'ade20k'):  # the data set's base says what they share
        assert len(path.read_text().splitlines()) <= 4


def names(tree: object) -> set[str]:
    """Return what a config names to be built: the values of `type`, `ema_type` and the like."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    own = (
        {v for k, v in tree.items() if k.split('_')[-1] == 'type' and isinstance(v, str)}
        if isinstance(tree, dict)
        else set()
    )
    return own.union(*map(names, children))


@every_config
def test_whatever_a_config_names_can_be_built(path) -> None:
    """Hooks, loops and schedulers, too, which are built when a training starts."""
    registries = [r for r in vars(mmseg.registry).values() if isinstance(r, Registry)]
    for registry in registries:
        registry.import_from_location()
    known = set().union(*(r.module_dict for own in registries for r in (own, own.parent) if r))
    assert names({key: value for key, value in config(path).items() if key != 'dataset_type'}) <= known


@every_config
def test_a_config_builds_both_forms_at_full_size(path) -> None:
    cfg = config(path)
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
        deployed = MODELS.build(copy.deepcopy(deployed_config(cfg).model))
    if path.stem.endswith(('cityscapes', 'ade20k', 'folder')):
        [weights] = model.backbone.pretrained
        assert weights == SCHEME + cfg.model.backbone.arch and weights.removeprefix(SCHEME) in manifest()
    else:
        assert not model.backbone.pretrained
    assert not deployed.backbone.pretrained
    blocks = [module for module in deployed.modules() if isinstance(module, RepVGGBlock)]
    of_head = 3 if path.stem.startswith('fastseg') else 0
    assert len(blocks) == 1 + sum(VARIANTS[cfg.model.backbone.arch].blocks) + of_head
    assert all(block.deploy for block in blocks)
    if stated := re.search(r'([\d.]+) M parameters, ([\d.]+) M deployed', path.read_text()):
        counts = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, deployed)]
        assert [float(number) for number in stated.groups()] == [round(count, 1) for count in counts]


@pytest.mark.parametrize(
    ('options', 'weights'),
    [
        (['arch=RepVGG-A2'], ['repvgg://RepVGG-A2']),
        (['arch=RepVGG-A2', 'init_cfg=None'], []),
        (['init_cfg.checkpoint=mine.pth'], ['mine.pth']),
    ],
)
def test_another_backbone_brings_its_weights_and_what_is_named_wins(options: list[str], weights: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_config(parser)
    words = [f'model.backbone.{option}' for option in options]
    args = parser.parse_args(['pspnet_repvgg_b2_cityscapes', '--cfg-options', *words])
    with torch.device('meta'):
        model = MODELS.build(load_config(args.config, args.cfg_options).model)
    assert model.backbone.pretrained == weights


def kinds() -> list:
    """One config of each network: data sets differ in the number of classes, and some variants in widths only."""
    networks = {}
    for path in CONFIGS:
        head, family, backbone, fast, paper, data = NAME.fullmatch(path.stem).groups()
        if data in ('cityscapes', 'demo'):
            variant = next(v for name, v in VARIANTS.items() if name.lower() == f'{family}-{backbone}')
            structure = variant.blocks, variant.groups, variant.se
            networks.setdefault((head, structure, fast, bool(paper), data == 'demo'), path)
    return list(networks.values())


@pytest.mark.parametrize('path', kinds(), ids=lambda path: path.stem)
def test_a_network_trains_a_step_and_its_deployed_form_is_equal(path) -> None:
    head, _, _, fast, paper, data = NAME.fullmatch(path.stem).groups()
    cfg = shrunken(config(path))
    model = MODELS.build(copy.deepcopy(cfg.model)).train()
    size = (41, 57) if paper else (40, 56)
    images, labels = torch.randn(2, 3, *size), torch.randint(0, cfg.model.decode_head.num_classes, (2, 1, *size))
    losses = model.loss(images, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    stride = 16 if data == 'demo' else 8 if head == 'pspnet' else 32
    assert model.backbone(images)[-1].shape[2:] == torch.Size(-(-n // stride) for n in size)
    dilations = [block.rbr_dense.conv.dilation[0] for stage in model.backbone.stages[2:] for block in stage]
    if data != 'demo':
        depth = len(dilations)
        assert [d > 1 for d in dilations] == [head == 'pspnet' and (not fast or i >= depth - 5) for i in range(depth)]
        assert dilations[-2:] == ([2, 4] if head == 'pspnet' else [1, 1])

    original = randomise(model).eval()
    converted = convert_segmentor(original)
    verify_segmentor(original, converted, sizes=[(41, 64)])
    with torch.device('meta'):
        deployed = MODELS.build(deployed_config(cfg).model)
    deployed.load_state_dict(converted.state_dict(), assign=True)
