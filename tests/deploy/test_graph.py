import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvgg_seg.deploy.convert import convert_segmentor, synthetic_images
from repvgg_seg.deploy.graph import InferenceGraph, fold_norms
from tests.conftest import TINY, TINY_GROUPED, TINY_PLUS, TINY_SE, randomise, relative
from tests.segmentors import segmentor

DILATED = dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4))


@pytest.mark.parametrize(
    ('head', 'variant', 'backbone'),
    [
        ('PSPHead', TINY, DILATED),
        ('PSPHead', TINY_SE, {}),
        ('UPerHead', TINY_GROUPED, {}),
        ('UPerHead', TINY_PLUS, {}),
        ('FoldedPSPHead', TINY, DILATED),
        ('FoldedUPerHead', TINY, {}),
        ('DepthwiseSeparableFCNHead', TINY, {}),
    ],
)
def test_no_norm_is_left_and_the_function_is_the_same(head: str, variant, backbone) -> None:
    original = segmentor(head, variant, **backbone).double()
    graph = InferenceGraph(fold_norms(convert_segmentor(original)))
    assert any(isinstance(m, _BatchNorm) for m in original.decode_head.modules())  # which stays as it was
    images = synthetic_images((97, 131))
    with torch.no_grad():
        assert relative(graph.logits(images), InferenceGraph(original).logits(images)) < 1e-10
        program = torch.export.export(graph, (images,))
    called = {str(node.target).removeprefix('aten.').partition('.')[0] for node in program.graph.nodes}
    assert 'conv2d' in called and not {name for name in called if 'norm' in name}


@pytest.mark.parametrize(
    ('options', 'folds'),
    [
        (dict(norm_cfg=dict(type='BN')), True),
        (dict(norm_cfg=dict(type='SyncBN')), True),
        (dict(norm_cfg=dict(type='BN', eps=0.1), bias=True, groups=2, padding_mode='circular'), True),
        (dict(norm_cfg=dict(type='BN'), order=('act', 'conv', 'norm')), True),
        (dict(norm_cfg=dict(type='BN', affine=False), padding_mode='reflect'), True),
        (dict(norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act')), False),  # zeros pad what the norm has shifted
        (dict(norm_cfg=dict(type='BN'), conv_cfg=dict(type='ConvWS')), False),  # normalises its weight as it runs
        (dict(norm_cfg=dict(type='GN', num_groups=2)), False),
        (dict(norm_cfg=None), False),
    ],
)
def test_only_what_is_exact_is_folded(options: dict, folds: bool) -> None:
    module = randomise(ConvModule(4, 6, 3, padding=1, **options)).double().eval()
    folded = fold_norms(nn.Sequential(module))
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        assert relative(folded(x), module(x)) < 1e-12
    assert isinstance(folded[0].norm, nn.Identity) == folds
    assert not (folds and folded[0].with_norm) and module.with_norm == (options['norm_cfg'] is not None)


def test_folding_works_in_the_weights_dtype_and_keeps_the_original() -> None:
    module = ConvModule(4, 6, 1, norm_cfg=dict(type='BN')).half()
    before = module.conv.weight.clone()
    folded = fold_norms(module)
    assert folded.conv.bias.dtype == torch.float16 and torch.equal(module.conv.weight, before)
    assert not folded.training and module.training


def test_images_of_another_size_are_resized_in_front_and_classes_behind() -> None:
    model = segmentor().double()
    images = synthetic_images((50, 70))
    small = F.interpolate(images.permute(0, 3, 1, 2).double(), (32, 64), mode='bilinear', align_corners=False)
    with torch.no_grad():
        maps = model.backbone((small - model.data_preprocessor.mean) / model.data_preprocessor.std)
        logits = F.interpolate(model.decode_head(maps), (32, 64), mode='bilinear', align_corners=False)
        expected = F.interpolate(logits, (50, 70), mode='bilinear', align_corners=False)
        graph = InferenceGraph(model, resize_to=(32, 64), output='logits')
        assert relative(graph(images), expected) < 1e-10


def test_half_precision_keeps_normalisation_and_logits_in_float32() -> None:
    graph = InferenceGraph(fold_norms(convert_segmentor(segmentor()))).cast(torch.bfloat16)
    assert graph.mean.dtype == torch.float32 and graph.backbone.stage0.rbr_reparam.weight.dtype == torch.bfloat16
    with torch.no_grad():
        assert graph.logits(synthetic_images((32, 64))).dtype == torch.float32


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown output 'boxes': it is one of classes, logits"):
        InferenceGraph(segmentor(), output='boxes')
