import copy
import pickle
import re
import runpy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import PSPHead, UPerHead
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from repvgg_seg.models import folding
from repvgg_seg.openmmlab import FoldedPSPHead, FoldedUPerHead, fold_heads
from repvgg_seg.runtime.backends import openvino_core
from repvgg_seg.workflows.config import build_segmentor, load_config
from tests.conftest import randomise, relative

register_all_modules()

CHANNELS = (4, 6, 8, 12)
MAPS = {  # odd sizes that bins and strides don't divide, and those of a usual image
    'odd': ((37, 50), (19, 25), (10, 13), (5, 7)),
    'even': ((32, 64), (16, 32), (8, 16), (4, 8)),
}


def build(kind: str, **kwargs) -> nn.Module:
    upper = 'UPer' in kind
    arguments = dict(
        type=kind,
        in_channels=list(CHANNELS) if upper else CHANNELS[-1],
        in_index=[0, 1, 2, 3] if upper else 3,
        channels=16,
        num_classes=5,
        norm_cfg=dict(type='BN'),
    )
    return randomise(MODELS.build({**arguments, **kwargs}))


def inputs(sizes=MAPS['odd'], batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, *s, generator=generator).to(dtype) for c, s in zip(CHANNELS, sizes, strict=True)]


def fold(monkeypatch, pays: bool = True) -> None:
    """Fold and pool by products everything, or nothing, whatever it costs."""
    for name in ('folding_pays', 'pooling_pays'):
        monkeypatch.setattr(folding, name, lambda *_: pays)


@pytest.fixture(params=['model', 'all', 'none'])
def choice(request, monkeypatch) -> str:
    """What is folded: what the cost model says, everything, nothing."""
    if request.param != 'model':
        fold(monkeypatch, request.param == 'all')
    return request.param


@pytest.mark.parametrize('kind', ['PSPHead', 'UPerHead'])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sizes', MAPS)
@pytest.mark.filterwarnings('ignore:When align_corners=True')
def test_folded_heads_have_mmsegs_keys_and_output(kind: str, align_corners: bool, sizes: str, choice) -> None:
    plain = build(kind, align_corners=align_corners).double().eval()
    folded = build(f'Folded{kind}', align_corners=align_corners).double().eval()
    assert list(folded.state_dict()) == list(plain.state_dict())
    folded.load_state_dict(plain.state_dict())
    plain.load_state_dict(folded.state_dict())  # and back
    maps = inputs(MAPS[sizes])
    with torch.no_grad():
        assert relative(folded(maps), plain(maps)) < 1e-10


@pytest.mark.parametrize(
    'variant',
    [
        dict(pool_scales=(1, 5)),
        dict(pool_scales=((2, 3),)),
        dict(norm_cfg=None),
        dict(norm_cfg=None, act_cfg=None),
        dict(act_cfg=dict(type='LeakyReLU')),
    ],
    ids=str,
)
@pytest.mark.parametrize('kind', ['PSPHead', 'UPerHead'])
def test_every_configuration_gives_mmsegs_output(kind: str, variant: dict, monkeypatch) -> None:
    fold(monkeypatch)
    plain = build(kind, **variant).double().eval()
    folded = build(f'Folded{kind}', **variant).double().eval()
    folded.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert relative(folded(inputs()), plain(inputs())) < 1e-10


@pytest.mark.parametrize('kernel', [1, 5])
def test_a_bottleneck_of_another_odd_kernel_is_folded_too(kernel: int, monkeypatch) -> None:
    fold(monkeypatch)
    plain = build('PSPHead')
    wide = ConvModule(CHANNELS[-1] + 4 * 16, 16, kernel, padding=kernel // 2, norm_cfg=dict(type='BN'))
    plain.bottleneck = randomise(wide)
    plain.double().eval()
    folded = copy.deepcopy(plain)
    assert fold_heads(folded)[0].folded
    with torch.no_grad():
        assert relative(folded(inputs()), plain(inputs())) < 1e-10


@pytest.mark.parametrize('kind', ['PSPHead', 'UPerHead'])
def test_a_training_step_is_mmsegs(kind: str, choice) -> None:
    plain = build(kind, dropout_ratio=0).double()
    folded = copy.deepcopy(plain)
    assert fold_heads(folded)[0].folded
    grads = []
    for head in (plain, folded):
        maps = [m.requires_grad_() for m in inputs()]
        head(maps).square().mean().backward()
        used = maps if kind == 'UPerHead' else maps[-1:]
        grads.append([*(p.grad for p in head.parameters()), *(m.grad for m in used)])
    for a, b in zip(*grads, strict=True):
        assert (a - b).abs().max() < 1e-8
    for a, b in zip(plain.buffers(), folded.buffers(), strict=True):  # batch statistics
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_in_channels_last_is_as_near_as_mmsegs(dtype: torch.dtype, monkeypatch) -> None:
    fold(monkeypatch)
    exact = build('UPerHead').eval()
    folded = copy.deepcopy(exact).to(memory_format=torch.channels_last)
    fold_heads(folded)
    plain = copy.deepcopy(exact).to(memory_format=torch.channels_last)
    maps = [m.to(memory_format=torch.channels_last) for m in inputs(dtype=torch.float32)]
    expected = exact(maps)
    with torch.autocast('cpu', dtype):
        outputs = [head(maps) for head in (plain, folded)]
    assert outputs[1].dtype is dtype
    deviations = [relative(out.float(), expected) for out in outputs]
    assert deviations[1] < 2 * deviations[0]
    outputs[1].float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in folded.parameters())


def test_a_head_whose_batch_norms_are_fused_into_its_convolutions_is_folded_too() -> None:
    plain = build('PSPHead').double().eval()
    folded = build('FoldedPSPHead').double().eval()
    folded.load_state_dict(plain.state_dict())
    bottleneck = folded.bottleneck
    bottleneck.conv = torch.nn.utils.fuse_conv_bn_eval(bottleneck.conv, bottleneck.bn)
    bottleneck.bn = nn.Identity()
    with torch.no_grad():
        assert relative(folded(inputs()), plain(inputs())) < 1e-10


class Segmentor(nn.Module):
    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        for name, head in heads.items():
            self.add_module(name, head)


class LossOfItsOwn(PSPHead):
    def loss_by_feat(self, *args, **kwargs):
        return {'loss_mine': 1}


class Bicubic(UPerHead):
    def _forward_feature(self, inputs):
        return nn.functional.interpolate(super()._forward_feature(inputs), scale_factor=2, mode='bicubic')


def test_fold_heads_folds_any_model_in_place_and_reports() -> None:
    arguments = dict(in_channels=12, in_index=3, channels=16, num_classes=5, norm_cfg=dict(type='BN'))
    model = Segmentor(
        decode_head=build('UPerHead'),
        auxiliary_head=build('PSPHead'),
        mine=randomise(LossOfItsOwn(**arguments)),
        fcn=build('FCNHead', in_channels=12),
    ).double()
    model.eval()
    parameters = {name: id(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        before = [head(inputs()) for head in model.children()]
        reports = fold_heads(model)
        after = [head(inputs()) for head in model.children()]
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert max(relative(a, b) for a, b in zip(after, before, strict=True)) < 1e-10
    assert type(model.decode_head) is FoldedUPerHead and type(model.auxiliary_head) is FoldedPSPHead
    assert isinstance(model.mine, LossOfItsOwn) and model.mine.loss_by_feat() == {'loss_mine': 1}
    assert [(r.name, r.type, r.folded) for r in reports] == [
        ('decode_head', 'UPerHead', True),
        ('auxiliary_head', 'PSPHead', True),
        ('mine', 'LossOfItsOwn', True),
        ('fcn', 'FCNHead', False),
    ]
    assert reports[3].reason == 'it is neither a PSPHead nor a UPerHead'
    assert {r.reason for r in fold_heads(model)[:3]} == {'it is folded already'}


def test_a_folded_head_of_anothers_class_is_pickled_and_copied() -> None:
    head = randomise(LossOfItsOwn(in_channels=12, in_index=3, channels=16, num_classes=5)).double().eval()
    fold_heads(head)
    copies = [copy.deepcopy(head), pickle.loads(pickle.dumps(head))]
    with torch.no_grad():
        for other in copies:
            assert type(other) is type(head) and torch.equal(other(inputs()), head(inputs()))


def changed(change) -> nn.Module:
    head = build('PSPHead')
    change(head)
    return head


def replace_conv(**arguments):
    def change(head: nn.Module) -> None:
        head.bottleneck.conv = nn.Conv2d(12 + 4 * 16, 16, **{'kernel_size': 3, 'padding': 1, **arguments})

    return change


def bicubic_pyramid(head: nn.Module) -> None:
    head.psp_modules.__class__ = type('PPM', (type(head.psp_modules),), {'forward': lambda self, x: [x]})


@pytest.mark.parametrize(
    ('head', 'reason'),
    [
        (
            lambda: Bicubic(in_channels=list(CHANNELS), in_index=[0, 1, 2, 3], channels=8, num_classes=5),
            'its _forward_feature is not that of UPerHead',
        ),
        (lambda: changed(bicubic_pyramid), 'its psp_modules pool or resize in a way of their own'),
        (
            lambda: changed(lambda head: head.psp_modules[0].__setitem__(0, nn.AdaptiveMaxPool2d(1))),
            'its psp_modules hold AdaptiveMaxPool2d where',
        ),
        (lambda: changed(lambda head: setattr(head, 'bottleneck', nn.Conv2d(76, 16, 3))), 'its bottleneck is a Conv2d'),
        (lambda: build('PSPHead', conv_cfg=dict(type='ConvWS')), 'its bottleneck convolves with ConvWS2d'),
        (lambda: changed(replace_conv(dilation=2, padding=2)), r'its bottleneck has dilation \(2, 2\)'),
        (lambda: changed(replace_conv(groups=4)), 'its bottleneck has groups 4'),
        (lambda: changed(replace_conv(padding_mode='reflect')), 'its bottleneck has padding mode reflect'),
        (
            lambda: changed(lambda head: setattr(head.bottleneck, 'order', ('act', 'conv', 'norm'))),
            'its bottleneck has the order act-conv-norm',
        ),
        (lambda: changed(replace_conv(stride=2)), r'its bottleneck has stride \(2, 2\)'),
        (lambda: changed(replace_conv(padding=0)), r'its bottleneck has kernel \(3, 3\) with padding \(0, 0\)'),
        (
            lambda: changed(lambda head: setattr(head.psp_modules, 'align_corners', True)),
            'its psp_modules resize with another align_corners',
        ),
        (
            lambda: changed(lambda head: head.bottleneck.register_forward_hook(lambda *_: None)),
            'its bottleneck has hooks, which would no longer be called',
        ),
        (
            lambda: changed(lambda head: head.bottleneck.conv.register_full_backward_hook(lambda *_: None)),
            r'its bottleneck\.conv has hooks',
        ),
        (
            lambda: changed(lambda head: head.psp_modules[1][0].register_forward_pre_hook(lambda *_: None)),
            r'its psp_modules\[1\]\[0\] has hooks',
        ),
        (
            lambda: changed(lambda head: setattr(head, 'forward', lambda x: x)),
            'its forward is not that of PSPHead',
        ),
    ],
)
def test_heads_that_compute_something_else_are_left_alone(head, reason: str) -> None:
    head = head()
    kind = type(head)
    (report,) = fold_heads(head)
    assert type(head) is kind and not report.folded
    assert re.search(reason, report.reason)


def test_a_config_that_cannot_be_folded_is_refused_with_the_cure() -> None:
    with pytest.raises(
        ValueError,
        match=r"cannot be folded: its bottleneck convolves with ConvWS2d\. Use type='PSPHead', which computes",
    ):
        build('FoldedPSPHead', conv_cfg=dict(type='ConvWS'))


def test_distributed_training_reduces_the_gradient_of_every_parameter(monkeypatch) -> None:
    fold(monkeypatch)
    torch.distributed.init_process_group('gloo', rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        head = nn.parallel.DistributedDataParallel(build('FoldedUPerHead').double())
        for _ in range(2):  # the second pass raises if the first left a parameter out
            head(inputs()).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in head.parameters())


class OneByOne(nn.Module):
    """A head that takes its maps as arguments, as exported graphs do."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *maps: Tensor) -> Tensor:
        return self.head(maps)


@pytest.fixture
def exported(monkeypatch) -> tuple[nn.Module, tuple, Tensor]:
    fold(monkeypatch)
    plain, maps = build('UPerHead').eval(), tuple(inputs(batch=1, dtype=torch.float32))
    folded = copy.deepcopy(plain)
    fold_heads(folded)
    return OneByOne(folded).eval(), maps, plain(list(maps)).detach()


def test_openvino_runs_it_in_float_and_quantized_with_no_constant_on_the_left(exported) -> None:
    openvino, nncf = pytest.importorskip('openvino'), pytest.importorskip('nncf')
    head, maps, expected = exported
    arrays = {i: m.numpy() for i, m in enumerate(maps)}
    deviations = {}
    for name, source in {'exported': torch.export.export(head, maps), 'traced': head}.items():
        arguments = {} if name == 'exported' else {'example_input': maps, 'input': [list(m.shape) for m in maps]}
        model = openvino.convert_model(source, **arguments)
        products = [op for op in model.get_ops() if op.get_type_name() == 'MatMul']
        assert products and not any('Constant' in str(op.input_value(0).get_node()) for op in products)
        run = openvino_core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        deviations[name] = relative(torch.from_numpy(run(arrays)[0]), expected)
    quantized = nncf.quantize(model, nncf.Dataset([arrays]), subset_size=1)
    deviations['int8'] = relative(
        torch.from_numpy(openvino_core().compile_model(quantized, 'CPU')(arrays)[0]), expected
    )
    assert deviations['exported'] < 1e-5 and deviations['traced'] < 1e-5 and deviations['int8'] < 0.2


def test_onnxruntime_runs_it(exported) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    head, maps, expected = exported
    program = torch.onnx.export(head, maps, dynamo=True, verbose=False)
    assert not {node.op_type for node in program.model_proto.graph.node} & {'EyeLike', 'Range', 'AveragePool'}
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=['CPUExecutionProvider'])
    feed = {x.name: m.numpy() for x, m in zip(session.get_inputs(), maps, strict=True)}
    assert relative(torch.from_numpy(session.run(None, feed)[0]), expected) < 1e-5


def test_a_trained_and_a_deployed_config_hold_the_folded_head_and_stock_ones_take_their_weights(
    tiny_config, trained, deployed
) -> None:
    cfg = load_config(deployed / 'deploy.py')
    assert cfg.model.decode_head.type == 'FoldedPSPHead'
    weights = torch.load(deployed / 'deploy.pth', weights_only=True)['state_dict']
    folded = build_segmentor(cfg)
    cfg.model.decode_head.type = 'PSPHead'
    plain = build_segmentor(cfg)
    for model in (folded, plain):
        model.load_state_dict(weights)
    image = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        assert type(plain.decode_head) is PSPHead and relative(folded(image), plain(image)) < 1e-5


def test_the_example_folds_a_stock_pspnet(repo, capsys) -> None:
    runpy.run_path(str(repo / 'docs/fold_pspnet_r50.py'))
    message = capsys.readouterr().out
    assert float(re.search(r'largest relative deviation: (\S+)', message)[1]) < 1e-5
    plain, folded = (float(gflop) for gflop in re.findall(r'(\d+) GFLOP', message))
    assert folded < 0.8 * plain
