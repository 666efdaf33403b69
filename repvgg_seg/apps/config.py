"""Reading configs, building their segmentors, and finding the checkpoints that belong to them."""

from __future__ import annotations

import argparse
import copy
import difflib
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmseg.registry
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

from ..data.masks import read_classes
from ..image_files import forbid_ghostscript
from ..openmmlab.datasets import inner_data_sets
from ..openmmlab.runner import CONFIG_KEY, Runner, config_from_text
from ..weights.checkpoint_io import read_checkpoint
from ..weights.pretrained import resolve


def option(text: str) -> str:
    """Read one KEY=VALUE of --cfg-options.

    Raises:
        ArgumentTypeError: it has no `=`.
    """
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form KEY=VALUE')
    return text


class _Options(DictAction):
    """mmengine's reading of values, which leaves paths as they are written, whatever characters they hold."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip('\'"')
        value = DictAction._parse_iterable(val) if _balanced(val) else text
        if isinstance(value, (list, tuple)):
            return text if os.path.lexists(text) else value
        return text if isinstance(value, str) or ' ' in text else value


def _balanced(text: str) -> bool:
    return all(text.count(left) == text.count(right) for left, right in ('()', '[]'))


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Declare --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=option,
        action=_Options,
        default={},
        metavar='KEY=VALUE',
        help='change config values, e.g. data_root=DIR train_cfg.max_iters=100',
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare CONFIG and --cfg-options."""
    parser.add_argument('config', help='config file, or the name of a shipped one: see `repvgg-seg configs`')
    add_cfg_options(parser)


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
        ValueError: it is none of a `kind`, whose models have a `part`, or an option changes nothing that is in it.
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
OWN_KEYS = {'auto_scale_lr', 'compile', 'custom_imports', 'data_root', 'max_bad_share', 'sync_bn', 'test_pipeline',
            'tta_model', 'tta_pipeline'}  # fmt: skip


def _check_root(cfg: Config, key: str, name: str) -> None:
    """Refuse an option that nothing reads: what a config file calls by a name of its own has done its work."""
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
    arguments = _arguments(node.get('type'))
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
    """Return the names of the heads in the model of `cfg`, each of one head alone."""
    return [key for key in ('decode_head', 'auxiliary_head') if isinstance(cfg.model.get(key), Mapping)]


def recorded_config(checkpoint: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Return the config that a checkpoint, or the one a work directory stands for, was trained with.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it holds no config, or an option changes nothing in it.
    """
    path = find_checkpoint(checkpoint)
    text = (read_checkpoint(resolve(path)).get('meta') or {}).get(CONFIG_KEY)
    if not isinstance(text, str):
        raise ValueError(f'{path} does not hold the config that it was trained with: name the config, too')
    try:
        cfg = config_from_text(text)
    except ValueError as error:
        raise ValueError(f'{path}: {error}; name the config, too') from error
    _require_plain(cfg, path)
    return merge_options(cfg, options or {}, str(path))


def _require_plain(cfg: Config, path: str) -> None:
    """Refuse a recorded config that names code outside of the registries: it may come from anybody.

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


def keep_only_test(cfg: Config) -> None:
    """Remove from `cfg` what mmengine's runner would build for a training or a validation."""
    for name in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader', 'val_cfg',
                 'val_evaluator'):  # fmt: skip
        cfg.pop(name, None)


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


def find_checkpoint(path: str | Path, *, best: bool = True) -> str:
    """Return `path`, or for a work directory its best checkpoint (unless not `best`) or else its latest.

    A folder that tools/convert_deploy.py wrote stands for its deploy.pth.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    pointer = folder / 'last_checkpoint'  # mmengine writes a path here; only its name survives moving the directory
    latest = folder / Path(pointer.read_text().strip()).name if pointer.is_file() else folder / 'deploy.pth'
    if not latest.is_file():
        raise FileNotFoundError(f'{folder} holds no checkpoint: name a .pth file, or train first with tools/train.py')
    # A best checkpoint from beyond the latest is of an earlier, longer run in the same directory.
    candidates = [p for p in folder.glob('best_*.pth') if _step(p) <= _step(latest)] if best else []
    return str(max(candidates, key=lambda p: p.stat().st_mtime, default=latest))


def _step(checkpoint: Path) -> int:
    """Return the iteration or epoch in the name of a checkpoint."""
    numbers = re.findall(r'\d+', checkpoint.stem)
    return int(numbers[-1]) if numbers else 0


def begin_work_dir(work_dir: str | Path, *, overwrite: bool) -> None:
    """Let a training start in `work_dir`, which holds no checkpoints, or ones that `overwrite` removes.

    Raises:
        ValueError: it holds checkpoints of another training, which would be mixed with those of this one.
    """
    patterns = ('iter_*.pth', 'epoch_*.pth', 'best_*.pth', 'last_checkpoint')
    found = sorted(path for pattern in patterns for path in Path(work_dir).glob(pattern))
    if found and not overwrite:
        raise ValueError(
            f'{work_dir} holds {found[0].name} of another training: go on with it by --resume, choose another '
            '--work-dir, or remove its checkpoints by --overwrite'
        )
    for path in found:
        path.unlink(missing_ok=True)


def default_work_dir(cfg: Config) -> str:
    """Return work_dirs/NAME_OF_CONFIG, or what the config says."""
    return cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))


def resume_from(cfg: Config, resume: str | None) -> None:
    """Let `cfg` go on from `resume`: a checkpoint file, 'latest' of its work directory, or None for nothing.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not resume:
        return
    cfg.resume = True
    fresh = resume == 'latest' and not Path(cfg.work_dir, 'last_checkpoint').is_file()
    cfg.load_from = None if fresh else find_checkpoint(cfg.work_dir if resume == 'latest' else resume, best=False)
    if cfg.load_from and not Path(cfg.load_from).is_file():
        raise FileNotFoundError(f'there is no checkpoint {cfg.load_from} to resume from')
