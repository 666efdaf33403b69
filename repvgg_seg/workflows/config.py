"""Reading configs, checking the options that change them, and building their segmentors."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmseg.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

from ..data.masks import read_classes
from ..image_files import forbid_ghostscript
from ..openmmlab.datasets import inner_data_sets
from ..openmmlab.runner import CONFIG_KEY, Runner, config_from_text
from ..weights.pretrained import Checkpoint

# The shipped configs: in a checkout beside the package, installed within it.
_PACKAGE = Path(__file__).resolve().parents[1]

CONFIGS = next(folder for folder in (_PACKAGE / 'configs', _PACKAGE.parent / 'configs') if folder.is_dir())


def find_config(name: str | Path) -> Path:
    """Return the file of a config: `name` itself, or the shipped config of that name, with or without `.py`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {config.stem: config for config in sorted(CONFIGS.glob('*.py'))}
    stem = path.name.removesuffix('.py')
    if stem in shipped and path.parent in (Path(), Path('configs')):
        return shipped[stem]
    near = difflib.get_close_matches(stem, shipped, 1)
    hint = f'did you mean {near[0]}?' if near else 'is neither a file nor a shipped config (`repvgg-seg configs`)'
    raise FileNotFoundError(f'there is no config {name}: {hint}')


def is_config(name: str | Path) -> bool:
    """Tell whether `name` is meant as a config: a .py file, or a shipped one."""
    try:
        return str(name).endswith('.py') or (not Path(name).exists() and bool(find_config(name)))
    except FileNotFoundError:
        return False


def load_config(
    path: str | Path, options: dict[str, Any] | None = None, *, kind: str = 'segmentor', part: str = 'backbone'
) -> Config:
    """Read a config, a file or the name of a shipped one, and merge `options` into it.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it is not the config of a `kind`, whose model has a `part`, or an option changes nothing in it.
    """
    path = find_config(path)
    forbid_ghostscript()  # in whatever reads the images of this config, in processes that are forked from this one too
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{error.filename or path}, line {error.lineno}: {error.msg}') from error
    if part not in (cfg.get('model') or {}):
        raise ValueError(f'{path} is not the config of a {kind}: it has no model.{part}')
    return merge_options(cfg, options or {}, str(path))


def merge_options(cfg: Config, options: dict[str, Any], name: str) -> Config:
    """Merge `options` into the config called `name`; `data_root` among them moves every data set at once.

    Raises:
        ValueError: an option changes nothing that is in it.
    """
    if any(key.startswith('randomness.') for key in options):
        cfg.setdefault('randomness', {})
    new = [part for key in options if len(part := _new_part(cfg, key)) > 1]
    for key in options:
        _check_root(cfg, key, name)
    cfg.merge_from_dict(options)
    for part in new:
        _check_argument(cfg, part, name)
    loaders = [cfg[key] for key in ('train_dataloader', 'val_dataloader', 'test_dataloader') if key in cfg]
    data_sets = [part for loader in loaders for part in inner_data_sets(loader.dataset)]
    if 'data_root' in options:
        for part in data_sets:
            part.data_root = str(options['data_root'])
    for part in data_sets:
        classes = Path(part.get('data_root') or '', part.get('classes_file', 'classes.json'))
        if part.type == 'FolderDataset' and classes.is_file():
            for head in heads(cfg):
                if not any(key.startswith(f'model.{head}.num_classes') for key in options):
                    cfg.model[head].num_classes = len(read_classes(classes).names)
    return cfg


# What this package reads of a config beside what mmengine's runner does.
OWN_KEYS = {'auto_scale_lr', 'compile', 'custom_imports', 'data_root', 'max_bad_share', 'max_skipped_steps', 'sync_bn',
            'test_pipeline', 'tta_model', 'tta_pipeline'}  # fmt: skip


def _check_root(cfg: Config, key: str, name: str) -> None:
    """Refuse an option that nothing reads, such as a variable of the config file: its value has been used already."""
    root = key.partition('.')[0]
    used = {*inspect.signature(Runner).parameters} | OWN_KEYS
    if root in used:
        return
    if places := [place for place in _paths(cfg, used) if place.split('.')[-1] == root]:
        hint = f': change {places[0]}' + (f' (and {len(places) - 1} more)' if len(places) > 1 else '')
    else:
        near = difflib.get_close_matches(root, used, 1)
        hint = f': did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'{name} has no {root!r} to change{hint}')


def _paths(cfg: Config, roots: Collection[str]) -> Iterator[str]:
    """Yield the dotted keys of all values below some roots."""
    trees = [(key, cfg[key]) for key in cfg if key in roots]
    while trees:
        path, value = trees.pop(0)
        yield path
        if isinstance(value, (Mapping, list, tuple)):
            parts = value.items() if isinstance(value, Mapping) else enumerate(value)
            trees += [(f'{path}.{key}', part) for key, part in parts]


def _new_part(cfg: Config, key: str) -> list[str]:
    """Return the parts of a dotted key up to the first one that is not in `cfg`; none if all are."""
    node: Any = cfg
    parts = key.split('.')
    for number, part in enumerate(parts, 1):
        if isinstance(node, (list, tuple)):
            node = {str(index): value for index, value in enumerate(node)}
        if not isinstance(node, (Mapping, Config)) or part not in node:
            return parts[:number]
        node = node[part]
    return []


def _check_argument(cfg: Config, key: list[str], name: str) -> None:
    """Refuse a key that did not stand in the config, unless what is built from the part it is in takes it.

    Raises:
        ValueError: it does not.
    """
    node: Any = cfg
    *path, last = key
    for part in path:
        node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
    if not isinstance(node, Mapping):
        return
    known = set(node) - {last}
    # The runner reads what no class is built from.
    arguments = set(inspect.signature(Runner.set_randomness).parameters) if path == ['randomness'] else None
    arguments = arguments or _arguments(node.get('type'))
    # Where the arguments are not known, a key is refused that looks like a slip of the pen.
    slip = arguments is None and difflib.get_close_matches(last, known, 1, cutoff=0.8)
    if slip or (arguments is not None and last not in arguments):
        near = difflib.get_close_matches(last, known | (arguments or set()), 1)
        hint = f': did you mean {".".join([*path, near[0]])}?' if near else ''
        raise ValueError(f'{name} has no {".".join(key)} to change{hint}')


def _arguments(kind: Any) -> set[str] | None:
    """Return the names of the arguments of a registered class; None if they are not known."""
    registries = [value for value in vars(mmseg.registry).values() if isinstance(value, Registry)]
    found = next((cls for registry in registries if isinstance(kind, str) and (cls := registry.get(kind))), None)
    if not inspect.isclass(found):
        return None
    names = {'type', '_scope_', 'init_cfg'}
    for cls in found.__mro__:
        if '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return names
    return None


def heads(cfg: Config) -> list[str]:
    """Return the names of the heads in the model of `cfg`; cascades are left out."""
    return [key for key in ('decode_head', 'auxiliary_head') if isinstance(cfg.model.get(key), Mapping)]


def recorded_config(checkpoint: Checkpoint, options: dict[str, Any] | None = None) -> Config:
    """Return the config that a checkpoint was trained with.

    Raises:
        ValueError: it holds no config, or an option changes nothing in it.
    """
    path, text = checkpoint.path, checkpoint.meta.get(CONFIG_KEY)
    if not isinstance(text, str):
        raise ValueError(f'{path} does not hold the config that it was trained with: name the config, too')
    try:
        cfg = config_from_text(text)
    except ValueError as error:
        raise ValueError(f'{path}: {error}; name the config, too') from error
    _require_plain(cfg, path)
    return merge_options(cfg, options or {}, str(path))


def _require_plain(cfg: Config, path: Path) -> None:
    """Refuse a recorded config that names code outside of the registries: the file may come from anyone.

    Raises:
        ValueError: it does.
    """
    imports = list((cfg.get('custom_imports') or {}).get('imports') or ())
    types = [value for value in _values(cfg.to_dict(), 'type') if not isinstance(value, str) or '.' in value]
    if foreign := [name for name in imports if name != 'repvgg_seg.openmmlab'] + types:
        raise ValueError(
            f'the config in {path} names code of its own, {foreign[0]!r}, which is not run from a checkpoint: '
            'name the config, too'
        )


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Yield what is under `key` at any depth of dictionaries and lists."""
    if isinstance(tree, Mapping):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        for part in tree:
            yield from _values(part, key)


# Hooks that have something to do in a training only, and would find no training in a test.
_OF_TRAINING = ('EMAHook', 'EarlyStoppingHook', 'ValidationPicturesHook')


def keep_only_test(cfg: Config) -> None:
    """Remove from `cfg` what mmengine's runner would build for a training or a validation."""
    for name in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader', 'val_cfg',
                 'val_evaluator'):  # fmt: skip
        cfg.pop(name, None)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if hook['type'] not in _OF_TRAINING]
    if 'visualizer' in cfg:
        cfg.visualizer.vis_backends = [{'type': 'LocalVisBackend'}]  # a test adds nothing to a training's curves


def build_segmentor(cfg: Config) -> nn.Module:
    """Build the segmentor of `cfg` for inference, with random weights.

    Raises:
        ValueError: the config does not fit the network.
    """
    register_all_modules()
    model = copy.deepcopy(cfg.model)
    model.backbone.init_cfg = None
    model.train_cfg = None
    return MODELS.build(model).eval()
