import re

import pytest
import torch
from torch import nn

from repvgg_seg import RepVGG, RepVGGBlock, RepVGGClassifier, custom_l2
from repvgg_seg.models.weight_decay import undecayed
from tests.conftest import TINY, TINY_PLUS, TINY_SE, TINY_VARIANTS

# Every name that a parameter can have, and whether weight decay applies to it.
DECAYED = {
    r'(stage\d\.)?(\d+\.)?rbr_dense\.conv\.weight': True,
    r'(stage\d\.)?(\d+\.)?rbr_1x1\.conv\.weight': True,
    r'(stage\d\.)?(\d+\.)?rbr_(dense|1x1)\.bn\.(weight|bias)': False,
    r'stage\d\.\d+\.rbr_identity\.weight': True,
    r'stage\d\.\d+\.rbr_identity\.bias': False,
    r'stage\d(\.\d+)?\.(post_)?se\.(down|up)\.weight': True,
    r'stage\d(\.\d+)?\.(post_)?se\.(down|up)\.bias': False,
    r'stage\d(_first)?_aux\.0\.conv\.weight': True,
    r'stage\d(_first)?_aux\.0\.bn\.(weight|bias)': False,
    r'(linear|stage\d(_first)?_aux\.3)\.weight': True,
    r'(linear|stage\d(_first)?_aux\.3)\.bias': False,
}


def is_decayed(name: str) -> bool:
    [decayed] = {decayed for pattern, decayed in DECAYED.items() if re.fullmatch(pattern, name)}
    return decayed


@pytest.mark.parametrize('variant', TINY_VARIANTS, ids=lambda v: v.name)
def test_every_parameter_has_the_decay_of_the_recipes(variant) -> None:
    model = RepVGGClassifier(variant, 10)
    free = undecayed(model)
    assert {name: name not in free for name, _ in model.named_parameters()} == {
        name: is_decayed(name) for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize('variant', [TINY, TINY_SE, TINY_PLUS], ids=lambda v: v.name)
def test_both_recipes_as_the_authors_write_them_choose_the_same(variant) -> None:
    model = RepVGGClassifier(variant, 10)
    named = dict(model.named_parameters())
    paper = {name for name in named if 'bias' in name or 'bn' in name}
    plus = {name for name, p in named.items() if (p.ndim == 1 or 'bias' in name) and 'identity.weight' not in name}
    assert undecayed(model) == paper == plus


def test_custom_l2_takes_the_decay_off_the_kernels_that_it_penalises_and_no_others() -> None:
    model = nn.Sequential(RepVGG(TINY_SE), nn.Conv2d(16, 4, 3))
    custom_l2(model).backward()
    penalised = {name for name, p in model.named_parameters() if p.grad is not None}
    assert undecayed(model, custom_l2=True) - undecayed(model) == penalised
    assert '1.weight' not in penalised and '1.bias' in undecayed(model)


def test_names_hold_for_a_bare_block_and_a_deployed_one() -> None:
    block = RepVGGBlock(4, 4)
    assert 'rbr_identity.weight' not in undecayed(block)
    block.switch_to_deploy()
    assert undecayed(block, custom_l2=True) == {'rbr_reparam.bias'}


def test_weights_of_other_norms_are_free_and_of_others_identities_too() -> None:
    model = nn.ModuleDict({'rbr_identity': nn.GroupNorm(2, 4), 'conv': nn.Conv2d(4, 4, 1)})
    model.scale = nn.Parameter(torch.ones(()))
    assert undecayed(model) == {'rbr_identity.weight', 'rbr_identity.bias', 'conv.bias', 'scale'}
