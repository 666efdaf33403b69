"""The tables of names are one-to-one, and checkpoints of every shape are understood or refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repvgg_seg.models.classifier import RepVGGClassifier
from repvgg_seg.models.trunk import RepVGG
from repvgg_seg.models.variants import VARIANTS
from repvgg_seg.weights.checkpoint_io import WeightsError
from repvgg_seg.weights.key_maps import DIALECTS, detect, from_official, shorten, to_official, unwrap
from tests.conftest import TINY, TINY_GROUPED, TINY_PLUS, TINY_SE

ONE = torch.ones(1)
OTHERS = [name for name in DIALECTS if name != 'official']
LEAVES = {'conv': ['weight'], 'bn': ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']}


def keys_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a different number under each key of `model`, so that no two can be exchanged unnoticed."""
    return {key: torch.tensor(float(n)) for n, key in enumerate(model.state_dict())}


def built(arch, deploy):
    return RepVGGClassifier(arch, 3, deploy=deploy)


@pytest.mark.parametrize('dialect', OTHERS)
@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('arch', [TINY, TINY_GROUPED, TINY_SE], ids=lambda v: v.name)
def test_there_and_back(dialect, arch, deploy):
    ours = keys_of(built(arch, deploy))
    theirs = from_official(ours, dialect)
    assert len(theirs) == len(ours) and not set(theirs) & set(ours)
    assert detect(theirs) == dialect
    assert to_official(theirs) == ours
    assert from_official(to_official(theirs), dialect) == theirs


@pytest.mark.parametrize('arch', ['RepVGG-A0', 'RepVGG-B1g4', 'RepVGG-D2se'])
def test_official_files_load_untranslated(arch):
    with torch.device('meta'):
        ours = keys_of(RepVGGClassifier(arch))
    assert detect(ours) == 'official' and to_official(ours) == ours and from_official(ours, 'official') == ours


def test_plus_files_split_the_third_stage():
    with torch.device('meta'):
        model = RepVGGClassifier('RepVGGplus-L2pse')
    ours = keys_of(model)
    official = from_official(ours, 'official')
    # Spelled out from repvggplus.py of the authors' repository.
    for name, key in {
        'stage0.rbr_dense.conv.weight': 'stage0.rbr_dense.conv.weight',
        'stage1.blocks.7.rbr_identity.running_var': 'stage1.7.rbr_identity.running_var',
        'stage3_first.blocks.11.post_se.down.weight': 'stage3.11.post_se.down.weight',
        'stage3_second.blocks.0.rbr_1x1.bn.bias': 'stage3.12.rbr_1x1.bn.bias',
        'stage3_second.blocks.11.post_se.up.bias': 'stage3.23.post_se.up.bias',
        'stage4.blocks.0.rbr_dense.bn.num_batches_tracked': 'stage4.0.rbr_dense.bn.num_batches_tracked',
        'stage1_aux.0.conv.weight': 'stage1_aux.0.conv.weight',
        'stage3_first_aux.3.bias': 'stage3_first_aux.3.bias',
        'linear.weight': 'linear.weight',
    }.items():
        assert official[name] == ours[key]
    assert len(official) == len(ours) and to_official(official) == ours
    assert from_official(to_official(official), 'official') == official


@pytest.mark.parametrize('deploy', [False, True])
def test_plus_deployed_there_and_back(deploy):
    ours = keys_of(built(TINY_PLUS, deploy))
    assert to_official(from_official(ours, 'official')) == ours
    for dialect in OTHERS:
        with pytest.raises(WeightsError, match=rf'the {dialect} dialect has no name for stage0\.post_se'):
            from_official(ours, dialect)


def test_names_as_the_projects_write_them():
    key = 'stage3.4.{}.weight'.format
    for ours, openmmlab, timm in [
        ('stage0.rbr_reparam.bias', 'backbone.stem.branch_reparam.bias', 'stem.reparam_conv.bias'),
        (
            key('rbr_dense.conv'),
            'backbone.stage_3.4.branch_3x3.conv.weight',
            'stages.2.4.conv_kxk.conv.weight',
        ),
        (key('rbr_1x1.bn'), 'backbone.stage_3.4.branch_1x1.norm.weight', 'stages.2.4.conv_1x1.bn.weight'),
        (key('rbr_identity'), 'backbone.stage_3.4.branch_norm.weight', 'stages.2.4.identity.weight'),
        (key('se.down'), 'backbone.stage_3.4.se_layer.conv1.conv.weight', 'stages.2.4.attn.fc1.weight'),
        (key('se.up'), 'backbone.stage_3.4.se_layer.conv2.conv.weight', 'stages.2.4.attn.fc2.weight'),
        ('linear.weight', 'head.fc.weight', 'head.fc.weight'),
    ]:
        state = {'stage0.rbr_dense.conv.weight': ONE * 0, ours: ONE}
        assert from_official(state, 'openmmlab')[openmmlab] is ONE
        assert from_official(state, 'timm')[timm] is ONE


block_keys = st.builds(
    lambda place, module, leaf: f'{place}.{module}.{leaf}',
    st.one_of(st.just('stage0'), st.builds('stage{}.{}'.format, st.integers(1, 4), st.integers(0, 99))),
    st.sampled_from(sorted(set(DIALECTS['timm'].modules))),
    st.sampled_from(LEAVES['bn']),
)


@given(st.sets(block_keys, min_size=1, max_size=8), st.sampled_from(sorted(OTHERS)), st.booleans())
def test_any_set_of_keys_translates_one_to_one(keys, dialect, segmentor):
    state = {key: torch.tensor(n) for n, key in enumerate(sorted(keys))}
    if segmentor:
        state = {f'backbone.{key}': value for key, value in state.items()} | {'decode_head.conv_seg.bias': ONE}
    theirs = from_official(state, dialect)
    assert len(theirs) == len(state)
    assert to_official(theirs) == state


@given(st.text('stagebnormcv_.0123x', max_size=40))
def test_text_that_is_no_key_is_never_translated(text):
    if not re.fullmatch(r'stage(0|[1-4]\.\d+)\.(rbr|se|post).*|(linear|stage\w+_aux).*', text):
        with pytest.raises(WeightsError, match='not the weights of a RepVGG'):
            to_official({text: ONE})


@pytest.mark.parametrize('dialect', DIALECTS)
def test_every_table_is_one_to_one_and_has_official_names(dialect):
    d, official = DIALECTS[dialect], DIALECTS['official']
    theirs = [d.stem, *d.stages, *d.modules.values(), *d.heads.values()]
    assert len(set(theirs)) == len(theirs)
    assert set(d.modules) <= set(official.modules) and set(d.heads) <= set(official.heads)


# --- segmentors and prefixes


def test_segmentors_keep_their_prefix_and_their_heads():
    trunk = keys_of(RepVGG(TINY))
    heads = {'decode_head.conv_seg.weight': ONE, 'auxiliary_head.conv_seg.weight': ONE}
    segmentor = {f'backbone.{key}': value for key, value in trunk.items()} | heads
    assert to_official(segmentor) == segmentor
    theirs = from_official(segmentor, 'openmmlab')
    assert 'backbone.stage_1.0.branch_3x3.conv.weight' in theirs and theirs.items() >= heads.items()
    assert to_official(theirs) == segmentor
    # A backbone alone has no use for the prefix.
    assert to_official({f'backbone.{key}': value for key, value in trunk.items()}) == trunk


def test_one_tensor_under_two_names_is_refused():
    with pytest.raises(WeightsError, match='name one tensor twice'):
        to_official({'backbone.stage0.rbr_reparam.bias': ONE, 'stage0.rbr_reparam.bias': ONE})
    with pytest.raises(WeightsError, match=r'holds linear\.bias twice'):
        unwrap({'module.linear.bias': ONE, 'linear.bias': ONE})


def test_unknown_keys_name_the_closest_dialect_and_both_lists():
    timm = from_official(keys_of(built(TINY, False)), 'timm')
    with pytest.raises(
        WeightsError, match=r'closest to the timm dialect, which does not know stem\.odd, layer9 beside stem'
    ):
        to_official(timm | {'stem.odd': ONE, 'layer9': ONE})
    resnet = {f'layer{n}.0.conv{m}.weight': ONE for n in range(1, 5) for m in range(1, 4)}
    with pytest.raises(
        WeightsError,
        match=r'no key is known in any dialect \(official, openmmlab, timm\); found layer1.*12 in all',
    ):
        to_official(resnet)
    with pytest.raises(WeightsError, match='no trunk weights'):
        to_official({'decode_head.conv_seg.bias': ONE})
    with pytest.raises(WeightsError, match="no dialect 'keras': choose one of official, openmmlab, timm"):
        from_official({}, 'keras')
    assert shorten('abcdef') == 'a, b, c, d, … (6 in all)'


# --- wrappers

PLAIN, AVERAGED = {'linear.bias': ONE}, {'linear.bias': ONE * 2}


@pytest.mark.parametrize(
    ('checkpoint', 'ema', 'expected'),
    [
        (PLAIN, None, PLAIN),
        ({'state_dict': PLAIN, 'meta': {'epoch': 1}}, None, PLAIN),
        ({'model': PLAIN, 'optimizer': {}}, None, PLAIN),
        ({'state_dict': {'module._orig_mod.linear.bias': ONE}}, None, PLAIN),
        ({'state_dict': {'model.linear.bias': ONE}}, None, PLAIN),  # Lightning
        ({'model': {'state_dict': PLAIN}}, None, PLAIN),
        ({'ema': AVERAGED}, None, AVERAGED),
        ({'model': PLAIN, 'ema': AVERAGED}, True, AVERAGED),
        ({'model': PLAIN, 'ema': AVERAGED}, False, PLAIN),
        ({'state_dict': PLAIN, 'state_dict_ema': AVERAGED}, True, AVERAGED),
        # mmengine stores the averaged weights, which it evaluates, as `state_dict`, the others beside.
        (
            {'state_dict': AVERAGED, 'ema_state_dict': {'steps': ONE, 'module.linear.bias': ONE}},
            None,
            AVERAGED,
        ),
        (
            {'state_dict': AVERAGED, 'ema_state_dict': {'steps': ONE, 'module.linear.bias': ONE}},
            True,
            AVERAGED,
        ),
        ({'state_dict': AVERAGED, 'ema_state_dict': {'steps': ONE, 'module.linear.bias': ONE}}, False, PLAIN),
    ],
)
def test_wrappers(checkpoint, ema, expected):
    found = unwrap(checkpoint, ema=ema)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ('checkpoint', 'ema', 'message'),
    [
        ({'model': PLAIN, 'ema': AVERAGED}, None, 'choose with ema=True or ema=False'),
        ({'model': PLAIN}, True, r'no averaged \(EMA\) weights: choose ema=False'),
        ({'ema': AVERAGED}, False, 'no plain weights: choose ema=True'),
        ({'state_dict': [1]}, None, 'holds a list where its weights should be'),
        ({'epoch': 3}, None, 'epoch is a int, not a tensor'),
    ],
)
def test_wrappers_that_leave_a_question(checkpoint, ema, message):
    with pytest.raises(WeightsError, match=message):
        unwrap(checkpoint, ema=ema)


def test_the_table_covers_every_variant():
    for variant in VARIANTS.values():
        small = dataclasses.replace(variant, widths=(0.25, 0.25, 0.25, 0.25))
        with torch.device('meta'):
            for deploy in (False, True):
                ours = keys_of(RepVGGClassifier(small, 2, deploy=deploy))
                assert to_official(from_official(ours, 'official')) == ours
