"""The names that different projects give to the same RepVGG tensors, and the translation between them.

The official names (github.com/DingXiaoH/RepVGG) are this package's own, but for the stages of RepVGGplus:
plain lists here, wrapped in official files, the third split in two. A segmentor's trunk is under `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from .checkpoint_io import WeightsError

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Dialect:
    """What one project calls the parts of a RepVGG; modules and heads are keyed by their official names."""

    stem: str
    stages: tuple[str, str, str, str]
    modules: Mapping[str, str]  # parts of a block
    heads: Mapping[str, str]  # parts outside the trunk
    prefix: str = ''  # before the keys of the trunk


AUX_CLASSIFIERS = ('stage1_aux', 'stage2_aux', 'stage3_first_aux')  # RepVGGplus, ImageNet training only

_OFFICIAL = Dialect(
    stem='stage0',
    stages=('stage1', 'stage2', 'stage3', 'stage4'),
    modules={
        'rbr_dense.conv': 'rbr_dense.conv',
        'rbr_dense.bn': 'rbr_dense.bn',
        'rbr_1x1.conv': 'rbr_1x1.conv',
        'rbr_1x1.bn': 'rbr_1x1.bn',
        'rbr_identity': 'rbr_identity',
        'rbr_reparam': 'rbr_reparam',
        'bn': 'bn',  # behind the sum of the branches: of QARepVGG
        'quantizer': 'quantizer',  # ours
        'se.down': 'se.down',
        'se.up': 'se.up',
        'post_se.down': 'post_se.down',
        'post_se.up': 'post_se.up',
    },
    heads={'linear': 'linear'}
    | {f'{a}.{part}': f'{a}.{part}' for a in AUX_CLASSIFIERS for part in ('0.conv', '0.bn', '3')},
)

# Source: mmpretrain/models/backbones/repvgg.py of github.com/open-mmlab/mmpretrain. It has no RepVGGplus.
_OPENMMLAB = Dialect(
    stem='stem',
    stages=('stage_1', 'stage_2', 'stage_3', 'stage_4'),
    modules={
        'rbr_dense.conv': 'branch_3x3.conv',
        'rbr_dense.bn': 'branch_3x3.norm',
        'rbr_1x1.conv': 'branch_1x1.conv',
        'rbr_1x1.bn': 'branch_1x1.norm',
        'rbr_identity': 'branch_norm',
        'rbr_reparam': 'branch_reparam',
        'se.down': 'se_layer.conv1.conv',
        'se.up': 'se_layer.conv2.conv',
    },
    heads={'linear': 'head.fc'},
    prefix='backbone.',
)

# Source: timm/models/byobnet.py of github.com/huggingface/pytorch-image-models. It has no RepVGGplus.
_TIMM = Dialect(
    stem='stem',
    stages=('stages.0', 'stages.1', 'stages.2', 'stages.3'),
    modules={
        'rbr_dense.conv': 'conv_kxk.conv',
        'rbr_dense.bn': 'conv_kxk.bn',
        'rbr_1x1.conv': 'conv_1x1.conv',
        'rbr_1x1.bn': 'conv_1x1.bn',
        'rbr_identity': 'identity',
        'rbr_reparam': 'reparam_conv',
        'se.down': 'attn.fc1',
        'se.up': 'attn.fc2',
    },
    heads={'linear': 'head.fc'},
)

DIALECTS: Mapping[str, Dialect] = {'official': _OFFICIAL, 'openmmlab': _OPENMMLAB, 'timm': _TIMM}

_BACKBONE = 'backbone.'
# What mmseg's EncoderDecoder has beside its backbone.
_SEGMENTOR_PARTS = ('neck.', 'decode_head.', 'auxiliary_head.')
_WRAPPERS, _EMA = ('state_dict', 'model'), ('ema', 'model_ema', 'state_dict_ema')
_COUNTERS = ('steps', 'n_averaged')  # what averaging wrappers count in
_LEAF = 'weight|bias|running_mean|running_var|num_batches_tracked|low|high'


def unwrap(checkpoint: Mapping[str, Any], *, ema: bool | None = None) -> StateDict:
    """Return the state dict in a checkpoint, without wrappers, their prefixes and counters of averaging.

    `ema` chooses between averaged weights (True) and those of the last step (False) where a file holds both.
    mmengine keeps the averaged ones, which it also evaluates, as `state_dict`: there they are the default.

    Raises:
        WeightsError: the choice is left open or cannot be met, or there is more than tensors inside.
    """
    if 'ema_state_dict' in checkpoint:  # mmengine's EMAHook swaps the two when it saves
        averaged, plain = checkpoint.get('state_dict'), checkpoint['ema_state_dict']
        ema = ema is not False
    else:
        averaged = next((checkpoint[key] for key in _EMA if key in checkpoint), None)
        plain = next((checkpoint[key] for key in _WRAPPERS if key in checkpoint), None)
        if averaged is None and plain is None:
            plain = checkpoint
        if ema is None:
            if averaged is not None and plain is not None:
                raise WeightsError(
                    'this file holds averaged (EMA) and plain weights: choose with ema=True or ema=False'
                )
            ema = averaged is not None
    chosen = averaged if ema else plain
    if chosen is None:
        raise WeightsError(f'this file holds no {"averaged (EMA)" if ema else "plain"} weights: choose ema={not ema}')
    if not isinstance(chosen, Mapping):
        raise WeightsError(f'this file holds a {type(chosen).__name__} where its weights should be')
    for _ in range(2):  # wrappers in wrappers
        chosen = next((inner for key in _WRAPPERS if isinstance(inner := chosen.get(key), Mapping)), chosen)
    tensors: StateDict = {}
    for key, value in chosen.items():
        name = re.sub(r'^(?:module\.|model\.|_orig_mod\.)+', '', str(key))
        if name in _COUNTERS:
            continue
        if not isinstance(value, Tensor):
            raise WeightsError(f'{name} is a {type(value).__name__}, not a tensor: this is not a state dict')
        if name in tensors:
            raise WeightsError(f'this file holds {name} twice, with and without the prefix of a wrapper')
        tensors[name] = value
    return tensors


def is_segmentor(keys: Iterable[str]) -> bool:
    """Whether a state dict is that of a whole mmseg segmentor."""
    return any(key.startswith(_SEGMENTOR_PARTS) for key in keys)


def detect(state_dict: Mapping[str, Any]) -> str:
    """Return the name of the dialect that all trunk and classifier keys of `state_dict` are in.

    Raises:
        WeightsError: there is no such dialect; says which comes closest.
    """
    keys = list(_join_plus(_trunk(state_dict)))
    if not keys:
        raise WeightsError('there are no trunk weights in this file')
    unknown = {name: [key for key in keys if _rename(key, name, 'official') is None] for name in DIALECTS}
    closest = min(unknown, key=lambda name: len(unknown[name]))
    if not unknown[closest]:
        return closest
    if len(unknown[closest]) == len(keys):
        raise WeightsError(
            f'these are not the weights of a RepVGG: no key is known in any dialect ({", ".join(DIALECTS)}); '
            f'found {shorten(keys)}'
        )
    known = [key for key in keys if key not in set(unknown[closest])]
    raise WeightsError(
        f'these keys come closest to the {closest} dialect, which does not know {shorten(unknown[closest])} '
        f'beside {shorten(known)}: is this a RepVGG?'
    )


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Return the same tensors under the names this package uses, from any dialect.

    A segmentor keeps its `backbone.` prefix and its heads; anything else loses the prefix.

    Raises:
        WeightsError: a key that no dialect knows, or two keys for one tensor.
    """
    dialect = detect(state_dict)
    heads, trunk = _heads(state_dict), _join_plus(_trunk(state_dict))
    prefix = _BACKBONE if heads else ''
    renamed = {f'{prefix}{_rename(key, dialect, "official")}': value for key, value in trunk.items()}
    if len(renamed) + len(heads) != len(state_dict):
        raise WeightsError('these weights name one tensor twice, with and without `backbone.`: keep one of the two')
    return renamed | heads


def from_official(state_dict: Mapping[str, Tensor], dialect: str) -> StateDict:
    """Return tensors under this package's names in the names of `dialect`, a key of DIALECTS.

    Raises:
        WeightsError: `dialect` is unknown, or has no name for some tensor.
    """
    if dialect not in DIALECTS:
        raise WeightsError(f'there is no dialect {dialect!r}: choose one of {", ".join(DIALECTS)}')
    heads, trunk = _heads(state_dict), _trunk(state_dict)
    names = {key: _rename(key, 'official', dialect) for key in trunk}
    if homeless := [key for key, name in names.items() if name is None]:
        raise WeightsError(f'the {dialect} dialect has no name for {shorten(homeless)}: keep the official names')
    prefix = _BACKBONE if heads else DIALECTS[dialect].prefix
    outside = tuple(DIALECTS[dialect].heads.values())
    renamed = {name if name.startswith(outside) else prefix + name: trunk[key] for key, name in names.items() if name}
    return (_split_plus(renamed) if dialect == 'official' else renamed) | heads


def shorten(keys: Iterable[str], limit: int = 4) -> str:
    """Return the first few keys and how many there are, for an error message."""
    names = list(keys)
    more = f', … ({len(names)} in all)' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _heads(state_dict: Mapping[str, Tensor]) -> StateDict:
    return {key: value for key, value in state_dict.items() if key.startswith(_SEGMENTOR_PARTS)}


def _trunk(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Return what belongs to trunk or classifier, without `backbone.`."""
    return {k.removeprefix(_BACKBONE): v for k, v in state_dict.items() if not k.startswith(_SEGMENTOR_PARTS)}


@cache
def _names(dialect: str) -> dict[str, str]:
    """Return official name -> the dialect's name, for all parts."""
    d = DIALECTS[dialect]
    stages = {f'stage{number}': name for number, name in enumerate(d.stages, 1)}
    return {'stage0': d.stem} | stages | dict(d.modules) | dict(d.heads)


@cache
def _pattern(dialect: str) -> re.Pattern[str]:
    """Return what matches a key of a dialect: stem, or stage and block, then module, leaf; or head, leaf."""
    d = DIALECTS[dialect]
    lists = (d.stages, d.modules.values(), d.heads.values())
    stages, modules, heads = ('|'.join(map(re.escape, names)) for names in lists)
    place = rf'(?:({re.escape(d.stem)})|({stages})(\.\d+))'
    return re.compile(rf'{place}\.({modules})\.({_LEAF})|({heads})\.({_LEAF})')


def _rename(key: str, source: str, target: str) -> str | None:
    """Translate one key without prefix; None where it means nothing in either dialect."""
    match = _pattern(source).fullmatch(key)
    if not match:
        return None
    official = {other: name for name, other in _names(source).items()}
    stem, stage, block, module, leaf, head, head_leaf = match.groups()
    parts = [_names(target).get(official[part], '') for part in (stem, stage, module, head) if part]
    if not all(parts):
        return None
    return '.'.join([parts[0] + (block or ''), *parts[1:], leaf or head_leaf])


_PLUS = re.compile(r'stage(?:([124])|3_(first|second))\.blocks\.(\d+)\.(.+)')


def _join_plus(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Give the blocks of an official RepVGGplus file this package's numbers; other keys stay as they are."""
    matches = {key: _PLUS.fullmatch(key) for key in state_dict}
    half = 1 + max((int(m[3]) for m in matches.values() if m and m[2] == 'first'), default=-1)
    joined = {}
    for key, value in state_dict.items():
        if m := matches[key]:
            key = f'stage{m[1] or 3}.{int(m[3]) + (half if m[2] == "second" else 0)}.{m[4]}'
        joined[key] = value
    return joined


def _split_plus(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Number the blocks of a RepVGGplus as its official files do; other keys stay as they are."""
    if not any('post_se.' in key for key in state_dict):
        return dict(state_dict)
    matches = {key: re.fullmatch(r'(backbone\.)?stage([1-4])\.(\d+)\.(.+)', key) for key in state_dict}
    half = (1 + max((int(m[3]) for m in matches.values() if m and m[2] == '3'), default=-1)) // 2
    split = {}
    for key, value in state_dict.items():
        if m := matches[key]:
            block = int(m[3])
            stage = m[2] if m[2] != '3' else '3_first' if block < half else '3_second'
            key = f'{m[1] or ""}stage{stage}.blocks.{block - half if stage == "3_second" else block}.{m[4]}'
        split[key] = value
    return split
