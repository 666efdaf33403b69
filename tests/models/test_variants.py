import pytest
import torch

from repvgg_seg import VARIANTS, RepVGG, RepVGGClassifier
from repvgg_seg.models.variants import get_variant

# Parameters with 1000 classes, train-time and deployed, counted in the authors' code.
OFFICIAL_PARAMETERS = {
    'RepVGG-A0': (9_108_968, 8_309_384),
    'RepVGG-A1': (14_092_264, 12_789_864),
    'RepVGG-A2': (28_210_600, 25_499_944),
    'RepVGG-B0': (15_817_960, 14_339_048),
    'RepVGG-B1': (57_415_016, 51_829_480),
    'RepVGG-B1g2': (45_782_376, 41_360_104),
    'RepVGG-B1g4': (39_966_056, 36_125_416),
    'RepVGG-B2': (89_022_376, 80_315_112),
    'RepVGG-B2g2': (70_846_376, 63_956_712),
    'RepVGG-B2g4': (61_758_376, 55_777_512),
    'RepVGG-B3': (123_085_288, 110_960_872),
    'RepVGG-B3g2': (96_911_848, 87_404_776),
    'RepVGG-B3g4': (83_825_128, 75_626_728),
    'RepVGG-D2se': (133_334_836, 120_387_572),
    'RepVGGplus-L2pse': (146_062_864, 127_151_960),
}


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_published_variant_is_in_the_table() -> None:
    assert list(VARIANTS) == list(OFFICIAL_PARAMETERS)


@pytest.mark.parametrize('arch', VARIANTS)
def test_parameter_counts_are_the_official_ones(arch: str) -> None:
    with torch.device('meta'):
        counts = tuple(parameters(RepVGGClassifier(arch, deploy=deploy)) for deploy in (False, True))
    assert counts == OFFICIAL_PARAMETERS[arch]


def test_repvggplus_without_its_auxiliary_classifiers() -> None:
    with torch.device('meta'):
        model = RepVGGClassifier('RepVGGplus-L2pse')
    aux = sum(parameters(child) for name, child in model.named_children() if name.endswith('_aux'))
    assert parameters(model) - aux == 140_099_224


@pytest.mark.parametrize('arch', VARIANTS)
def test_channels_are_those_of_the_maps(arch: str) -> None:
    with torch.device('meta'):
        maps = RepVGG(arch)(torch.empty(1, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == VARIANTS[arch].channels[1:]
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_b2_channels() -> None:
    assert VARIANTS['RepVGG-B2'].channels == (64, 160, 320, 640, 2560)
    assert VARIANTS['RepVGG-A0'].channels == (48, 48, 96, 192, 1280)


def test_groups_belong_to_every_second_layer_counted_over_all_stages() -> None:
    with torch.device('meta'):
        model = RepVGG('RepVGG-B1g4')
    groups = [block.groups for stage in model.stages for block in stage]
    assert groups == [4 if layer % 2 == 0 else 1 for layer in range(1, 28)]
    assert model.stage0.groups == 1


def test_the_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        VARIANTS['RepVGG-X'] = VARIANTS['RepVGG-A0']  # type: ignore[index]


def test_an_unknown_arch_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown arch 'A0': use the full official name, one of RepVGG-A0, .*L2pse"):
        get_variant('A0')
