import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repvgg_seg.models import folding
from repvgg_seg.models.folding import convolve_enlarged, fold_maps, folded_cost, plain_cost, pool_pyramid, tap_matrix
from tests.conftest import relative

sides = st.tuples(st.integers(1, 13), st.integers(1, 13))
cases = st.fixed_dictionaries(
    {
        'batch': st.integers(1, 2),
        'small': st.lists(sides, min_size=1, max_size=3),  # bins, strides' maps, and maps larger than the output
        'size': st.tuples(st.integers(1, 29), st.integers(1, 29)),
        'kernel': st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (5, 3)]),
        'align_corners': st.booleans(),
        'tile': st.sampled_from([2, 5, 32]),
    }
)


def reference(maps: list[Tensor], weight: Tensor, bias: Tensor | None, size: tuple, align_corners: bool) -> Tensor:
    enlarged = [F.interpolate(m, size, mode='bilinear', align_corners=align_corners) for m in maps]
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(torch.cat(enlarged, 1), weight, bias, padding=padding)


def draw(case: dict, requires_grad: bool = False) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = [2 + i for i in range(len(case['small']))]

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)

    maps = [make(case['batch'], c, *small) for c, small in zip(channels, case['small'], strict=True)]
    return maps, make(5, sum(channels), *case['kernel']), make(5)


@settings(deadline=None, max_examples=80)
@given(cases)
def test_folding_is_exact_for_any_kernel_size_and_ratio(case: dict) -> None:
    maps, weight, _ = draw(case)
    tile, folding.TILE = folding.TILE, case['tile']
    try:
        result = fold_maps(maps, weight.split([m.shape[1] for m in maps], 1), case['size'], case['align_corners'])
    finally:
        folding.TILE = tile
    expected = reference(maps, weight, None, case['size'], case['align_corners'])
    assert torch.allclose(result, expected, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(cases, st.sampled_from([(), (0,), (1,), (0, 1, 2)]), st.booleans())
def test_the_convolution_is_the_same_for_all_choices_of_folding(case: dict, fold: tuple, with_bias: bool) -> None:
    maps, weight, bias = draw(case)
    maps.insert(0, torch.randn(case['batch'], 1, *case['size'], dtype=torch.float64))  # as large as the output
    weight = torch.cat([torch.randn(5, 1, *case['kernel'], dtype=torch.float64), weight], 1)
    pays = iter(range(len(maps)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, 'folding_pays', lambda *_: next(pays) in fold)
        result = convolve_enlarged(
            maps, weight, bias if with_bias else None, size=case['size'], align_corners=case['align_corners']
        )
    expected = reference(maps, weight, bias if with_bias else None, case['size'], case['align_corners'])
    assert torch.allclose(result, expected, rtol=0, atol=1e-10)


def test_maps_that_are_all_folded_still_get_the_bias() -> None:
    maps = [torch.randn(2, 64, 2, 3, dtype=torch.float64)]
    weight, bias = torch.randn(64, 64, 3, 3, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, 'conv2d', None)  # nothing is convolved at full size
        result = convolve_enlarged(maps, weight, bias, size=(80, 121))
    assert torch.allclose(result, reference(maps, weight, bias, (80, 121), False), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(cases)
def test_gradients_are_those_of_the_plain_convolution(case: dict) -> None:
    maps, weight, _ = draw(case, requires_grad=True)
    expected = reference(maps, weight, None, case['size'], case['align_corners'])
    result = fold_maps(maps, weight.split([m.shape[1] for m in maps], 1), case['size'], case['align_corners'])
    grad = torch.randn_like(expected)
    grads = (torch.autograd.grad(output, [*maps, weight], grad) for output in (result, expected))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [(64, 128), (7, 5), (3, 4), (1, 9)])
def test_pooling_in_one_go_is_adaptive_pooling(layout: torch.memory_format, size: tuple, monkeypatch) -> None:
    monkeypatch.setattr(folding, 'pooling_pays', lambda *_: True)
    x = torch.randn(2, 5, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    bins = [(1, 1), (2, 2), (3, 3), (6, 6), (2, 5)]
    result, expected = pool_pyramid(x, bins), [F.adaptive_avg_pool2d(x, b) for b in bins]
    for a, b in zip(result, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad(sum(p.square().sum() for p in pooled), x)[0] for pooled in (result, expected)]
    assert torch.allclose(*grads, rtol=0, atol=1e-12)


def test_tap_matrix_of_a_small_case() -> None:
    # Two cells to four pixels: 1 0, .75 .25, .25 .75, 0 1; taps read the pixel before, at and after, or padding.
    expected = [
        [0, 1, 0.75, 0, 0, 0.25],
        [1, 0.75, 0.25, 0, 0.25, 0.75],
        [0.75, 0.25, 0, 0.25, 0.75, 1],
        [0.25, 0, 0, 0.75, 1, 0],
    ]
    assert torch.equal(tap_matrix(2, 4, 3), torch.tensor(expected, dtype=torch.float64))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match='only a kernel of odd sides keeps the size of a map; this one has 2x3'):
        convolve_enlarged([torch.ones(1, 1, 2, 2)], torch.ones(1, 1, 2, 3), size=(4, 4))


@pytest.mark.parametrize(
    ('channels', 'small', 'large', 'pays'),
    [
        (512, (6, 6), (64, 128), True),  # PSPNet at output stride 8, 512x1024
        (512, (64, 128), (128, 256), True),  # UPerNet, stride 8 to 4
        (128, (64, 128), (128, 256), False),  # the same with few channels: 49 ms folded, 43 plain, in bfloat16
        (128, (32, 64), (128, 256), True),
        (128, (6, 6), (16, 32), False),  # the demo, whose maps are small: 0.95x when it was folded
        (64, (45, 60), (90, 120), False),  # CamVid
        (64, (12, 15), (90, 120), True),
    ],
)
def test_what_was_slower_folded_is_left_plain(channels: int, small: tuple, large: tuple, pays: bool) -> None:
    assert folding.folding_pays((channels, channels, 3, 3), small, large) == pays


def test_in_int8_convolutions_are_fast_so_folding_pays_less_often() -> None:
    weight, large = (512, 512, 3, 3), (128, 256)  # of a UPerNet
    pays = [folding.folding_pays(weight, small, large, int8=True) for small in ((64, 128), (32, 64), (16, 32))]
    assert pays == [False, True, True]


def test_the_cost_model_counts_what_is_done() -> None:
    # 3x3, 512 to 512 channels: 9 * 512 * 512 multiply-adds a pixel of 128x256, or a cell of 16x32.
    plain, folded = (cost((512, 512, 3, 3), (16, 32), (128, 256)) for cost in (plain_cost, folded_cost))
    assert plain.operations == 2 * 9 * 512 * 512 * 128 * 256 and plain.contractions == 0
    assert folded.operations == 2 * 9 * 512 * 512 * 16 * 32 and folded < plain
    # 128 rows read 16 * 3 products in each of 32 * 3 columns, then 256 columns 32 * 3 of these in each row.
    assert folded.contractions == 2 * 512 * (128 * 48 * 96 + 128 * 256 * 96)
    # A few pixels are not worth the additional calls.
    assert plain_cost((64, 64, 3, 3), (1, 1), (4, 8)) < folded_cost((64, 64, 3, 3), (1, 1), (4, 8))
    # Where there are few channels to sum over, moving the products costs more than it saves.
    assert plain_cost((64, 8, 3, 3), (64, 128), (128, 256)) < folded_cost((64, 8, 3, 3), (64, 128), (128, 256))


@pytest.mark.parametrize(('size', 'pays'), [((64, 128), True), ((45, 60), True), ((16, 32), False)])
def test_small_maps_are_pooled_one_by_one(size: tuple, pays: bool) -> None:
    assert folding.pooling_pays(1280, size, [(1, 1), (2, 2), (3, 3), (6, 6)]) == pays


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(40, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, 8, H, W)
        pooled = [p.repeat(1, 4, 1, 1) for p in pool_pyramid(x, [(2, 2)])]
        return convolve_enlarged([x, *pooled], self.conv.weight, self.conv.bias, size=folding.map_size(x))


@pytest.fixture
def folded(monkeypatch) -> tuple[Folded, Tensor, Tensor]:
    monkeypatch.setattr(folding, 'folding_pays', lambda *_: True)
    monkeypatch.setattr(folding, 'pooling_pays', lambda *_: True)
    folding._cached_constant.cache_clear()
    module, x = Folded().eval(), torch.randn(2, 8, 30, 41)
    maps = [x, F.adaptive_avg_pool2d(x, 2).repeat(1, 4, 1, 1)]
    return module, x, reference(maps, module.conv.weight, module.conv.bias, (30, 41), False)


def check_that_training_works(module: nn.Module, x: Tensor, expected: Tensor) -> None:
    """What the cache holds by now must be of use to anybody."""
    assert folding._cached_constant.cache_info().currsize
    result = module(x.requires_grad_())
    result.sum().backward()
    assert x.grad is not None and relative(result, expected) < 1e-5


@pytest.mark.parametrize('strict', [True, False])
def test_export_holds_the_matrices_as_constants_and_leaves_the_cache_clean(folded, strict: bool) -> None:
    module, x, expected = folded
    program = torch.export.export(module, (x,), strict=strict)
    assert relative(program.module()(x), expected) < 1e-5
    assert len(program.constants) == 4  # two of pooling, two of the folded map
    assert not [n for n in program.graph.nodes if 'eye' in str(n.target) or 'upsample' in str(n.target)]
    check_that_training_works(module, x, expected)


@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning', 'error::torch.jit.TracerWarning')
def test_tracing_holds_the_matrices_as_constants_and_leaves_the_cache_clean(folded) -> None:
    module, x, expected = folded
    traced = torch.jit.trace(module, x)
    assert relative(traced(x), expected) < 1e-5
    assert 'aten::eye' not in str(traced.graph)
    check_that_training_works(module, x, expected)


def test_inference_mode_leaves_the_cache_clean(folded) -> None:
    module, x, expected = folded
    with torch.inference_mode():
        assert relative(module(x), expected) < 1e-5
    check_that_training_works(module, x, expected)


def test_a_compiled_module_is_one_graph_at_every_size(folded) -> None:
    module, x, expected = folded
    torch._dynamo.reset()
    compiled = torch.compile(module, backend='aot_eager', fullgraph=True, dynamic=True)
    assert relative(compiled(x), expected) < 1e-5
    other = torch.randn(2, 8, 29, 17)
    assert relative(compiled(other), module(other)) < 1e-5
    check_that_training_works(compiled, x, expected)


def test_a_module_that_ran_can_be_copied_and_pickled_and_its_state_is_its_own(folded) -> None:
    module, x, _ = folded
    module(x)
    assert set(module.state_dict()) == {'conv.weight', 'conv.bias'}
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 30)] * 2), st.booleans())
def test_resizing_by_products_is_bilinear_interpolation(old, new, align_corners: bool) -> None:
    x = torch.randn(2, 3, *old, dtype=torch.float64)
    expected = F.interpolate(x, new, mode='bilinear', align_corners=align_corners)
    assert (folding.resize(x, new, align_corners) - expected).abs().max() < 1e-12
