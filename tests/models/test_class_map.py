import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repvgg_seg.models import class_map as module
from repvgg_seg.models.class_map import cells_along, class_map

sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
sizes = st.one_of(
    st.tuples(st.integers(1, 29), st.integers(1, 29)),  # of any ratio, smaller ones too
    st.tuples(st.integers(3, 8), st.integers(3, 8)).map(lambda s: (-s[0], -s[1])),  # times the small map
)
cases = st.fixed_dictionaries(
    {
        'batch': st.integers(1, 3),
        'classes': st.sampled_from([1, 2, 19, 150, 300]),
        'small': sides,
        'size': sizes,
        'align_corners': st.booleans(),
        'through': st.one_of(st.none(), st.tuples(st.integers(1, 24), st.integers(1, 24))),
        'whole': st.booleans(),  # small whole numbers: corners tie often
        'elements': st.sampled_from([100, 2**24]),  # bands of single rows, or one
        'dtype': st.sampled_from([torch.float32, torch.float64]),
        'seed': st.integers(0, 9),
    }
)


def shortfall(logits: Tensor, sizes: list[tuple[int, int]], align_corners: bool, classes: Tensor) -> Tensor:
    """Return how much less than the largest logit of a pixel that of its class is."""
    dense = logits.double()
    for size in sizes:
        dense = F.interpolate(dense, size, mode='bilinear', align_corners=align_corners)
    return dense.amax(1) - dense.gather(1, classes.long()[:, None])[:, 0]


@settings(deadline=None, max_examples=150)
@given(cases)
def test_it_is_the_argmax_of_the_enlarged_logits(case: dict) -> None:
    h, w = case['small']
    size = tuple(n if n > 0 else -n * m for n, m in zip(case['size'], (h, w), strict=True))
    generator = torch.Generator().manual_seed(case['seed'])
    shape = (case['batch'], case['classes'], h, w)
    if case['whole']:
        logits = torch.randint(-2, 3, shape, generator=generator).to(case['dtype'])
    else:
        logits = torch.randn(shape, generator=generator).to(case['dtype'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'PIXELS', 1)  # never the dense form
        patch.setattr(module, 'ELEMENTS', case['elements'])
        classes = class_map(logits, size, case['align_corners'], case['through'])
    assert classes.dtype == (torch.uint8 if case['classes'] <= 256 else torch.int32)
    assert classes.shape == (case['batch'], *size)
    # Of classes that differ by rounding either is right.
    tolerated = 1e-12 if case['dtype'] == torch.float64 else 1e-5
    steps = [case['through'], size] if case['through'] else [size]
    assert shortfall(logits, steps, case['align_corners'], classes).max() <= tolerated


@pytest.mark.parametrize('align_corners', [False, True])
def test_the_lowest_class_wins_ties(align_corners: bool) -> None:
    # By powers of two, so that nothing is rounded: ties are ties in the dense form as well.
    logits = torch.randint(0, 2, (2, 5, 9, 5)).double()
    size = (65, 33) if align_corners else (72, 40)
    dense = F.interpolate(logits, size, mode='bilinear', align_corners=align_corners)
    assert torch.equal(class_map(logits, size, align_corners).long(), dense.argmax(1))


@pytest.mark.parametrize('size', [(48, 64), (41, 50)])
def test_only_cells_with_a_boundary_are_computed(size: tuple[int, int], monkeypatch) -> None:
    computed = []
    enlarged = module._enlarged

    def counted(nodes: Tensor, *args) -> Tensor:
        computed.append(nodes.shape[2])
        return enlarged(nodes, *args)

    monkeypatch.setattr(module, '_enlarged', counted)
    logits = torch.zeros(1, 3, 6, 8)
    logits[:, 2] = 1
    assert class_map(logits, size).eq(2).all() and computed == [0]
    logits[:, 0, 2, 3] = 4  # one corner of four cells
    classes = class_map(logits, size)
    assert computed == [0, 4]
    assert torch.equal(classes.long(), F.interpolate(logits, size, mode='bilinear').argmax(1))


def test_values_that_are_not_numbers_win_in_the_cells_they_belong_to() -> None:
    logits = torch.randn(1, 4, 5, 6)
    expected = class_map(logits, (40, 48))
    expected[:, 4:20, 4:20] = 2
    logits[0, 2, 1, 1] = math.nan
    assert torch.equal(class_map(logits, (40, 48)), expected)
    assert class_map(torch.full((1, 4, 5, 6), math.nan), (40, 48)).eq(0).all()


def test_small_cells_and_equal_sizes_are_computed_densely() -> None:
    logits = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(class_map(logits, (8, 8)).long(), logits.argmax(1))
    dense = F.interpolate(logits, (16, 16), mode='bilinear')
    assert torch.equal(class_map(logits, (16, 16)).long(), dense.argmax(1))


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=2).map(sorted), st.integers(1, 60), st.booleans())
def test_cells_hold_each_output_once_with_the_weights_of_the_resizing(
    lengths: list[int], length: int, align_corners: bool
) -> None:
    axis = cells_along((*lengths, length), align_corners)
    assert len(set(axis.places)) == len(axis.places) == length
    ramp = torch.randn(1, 1, lengths[0], dtype=torch.float64)
    expected = ramp
    for step in (*lengths[1:], length):
        expected = F.interpolate(expected, step, mode='linear', align_corners=align_corners)
    nodes, weights = ramp[0, 0, torch.tensor(axis.nodes)], torch.tensor(axis.weights, dtype=torch.float64)
    table = torch.einsum('kc,cpk->cp', nodes, weights)
    assert torch.allclose(table.flatten()[list(axis.places)], expected[0, 0], atol=1e-6)
    assert weights.min() >= 0 and len(axis.nodes) <= 1 + len(lengths)
    if not align_corners and lengths[0] > 1 and all(b % a == 0 for a, b in itertools.pairwise([*lengths, length])):
        # of one value there is no whole cell
        assert len(set(axis.weights)) == 1 and axis.places[-1] - axis.places[0] == length - 1  # one constant, a slice
