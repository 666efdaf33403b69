"""Trainings that are killed, stopped or starved, each in a new process.

Not in a forked one: it would inherit the locks of thread pools that other tests have started here, and could wait for
them for ever.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from repvgg_seg.models import variants
from repvgg_seg.openmmlab import loops
from tests.conftest import TINY, latest, tool

CONFIG = """
_base_ = ['{base}']
train_pipeline = [
    dict(type='LoadCachedImage'),
    dict(type='LoadCachedAnnotations'),
    dict(type='ResizeAndCrop', scale=(128, 64), ratio_range=(0.5, 2.0), crop_size=(32, 64), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='AlbuPhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(data_preprocessor=dict(size=(32, 64)), backbone=dict(arch='tiny'))
custom_hooks = [dict(type='ChannelsLastHook'), dict(type='EMAHook', update_buffers=True)]
train_cfg = dict(max_iters=8, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=1))
"""
WORKERS = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
BFLOAT16 = ('optim_wrapper.type=AutocastOptimWrapper',)
Step = Callable[[int], None]


@pytest.fixture(scope='module')
def config(tiny_config, tmp_path_factory) -> Path:
    """A tiny network, whose training has whatever can be random, averages its weights, and keeps one checkpoint."""
    path = tmp_path_factory.mktemp('config') / 'faults.py'
    text = CONFIG.format(base=tiny_config)
    path.write_text(text)
    epochs = text.replace('train_cfg = dict(max_iters=8, val_interval=4)', 'train_cfg = dict(_delete_=True, TYPE)')
    path.with_name('epochs.py').write_text(
        epochs.replace('TYPE', "type='EpochBasedTrainLoop', max_epochs=2, val_interval=1")
        .replace('interval=3', 'by_epoch=True, interval=1')
        .replace('train_dataloader = dict(', "train_dataloader = dict(sampler=dict(type='DefaultSampler'), ")
    )
    return path


def send(at: int, signum: int, iteration: int) -> None:
    """Send this process a signal if this is the iteration."""
    if iteration == at:
        os.kill(os.getpid(), signum)


def kill(at: int, signum: int = signal.SIGKILL) -> Step:
    """Return what sends the process it is called in a signal in an iteration."""
    return partial(send, at, signum)


def train(words: list[str], before: Step | None) -> None:
    """Train, in this process."""
    variants.VARIANTS = {**variants.VARIANTS, 'tiny': TINY}
    step = loops.Resumable.run_iter

    def run_iter(self: loops.Resumable, *args: object) -> None:
        if before:
            before(self._iter + 1)
        step(self, *args)

    loops.Resumable.run_iter = run_iter  # type: ignore[method-assign]
    os._exit(tool('train')(words))


def run(config: Path, work_dir: Path, *argv: str, options: tuple[str, ...] = (), before: Step | None = None) -> int:
    """Train in a new process and return its status, negative after a signal; `before` is called in each step."""
    words = [str(config), '--work-dir', str(work_dir), '--no-data-check', *argv]
    child = get_context('spawn').Process(
        target=train, args=([*words, *(['--cfg-options', *options] * bool(options))], before)
    )
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def tensors(tree: object, name: str = '') -> dict[str, torch.Tensor]:
    """Return the tensors in dictionaries and lists by their paths."""
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return {key: value for part, child in parts for key, value in tensors(child, f'{name}.{part}').items()}


def state(work_dir: Path) -> dict[str, torch.Tensor]:
    """Return weights, averages and momenta of the last checkpoint."""
    checkpoint = torch.load(latest(work_dir), weights_only=False)
    found = {key: tensors(checkpoint[key]) for key in ('state_dict', 'ema_state_dict', 'optimizer')}
    assert all(found.values())
    return {f'{kind}{name}': value for kind, part in found.items() for name, value in part.items()}


def assert_same(work_dir: Path, other: Path) -> None:
    one, two = state(work_dir), state(other)
    assert one.keys() == two.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, two[name])]


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory) -> Path:
    """The work directory of a training that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp('whole')
    assert run(config, work_dir) == 0
    return work_dir


def test_a_signal_saves_and_the_resumed_training_ends_in_the_same_weights(config, whole, tmp_path, capfd) -> None:
    work_dir = tmp_path / 'w'
    assert run(config, work_dir, before=kill(5, signal.SIGTERM), options=WORKERS) == 128 + signal.SIGTERM
    assert latest(work_dir).name == 'iter_5.pth' and {p.name for p in work_dir.glob('iter_*')} == {'iter_5.pth'}
    told = capfd.readouterr().err
    assert f'stopped by SIGTERM; saved {work_dir}/iter_5.pth; go on with\n' in told
    assert told.rstrip().endswith('--resume') and f'train {config} --work-dir {work_dir}' in told
    # Other data workers, another seed and another order of hooks' calls change nothing.
    assert run(config, work_dir, '--resume', options=('randomness.seed=7',)) == 0
    assert_same(work_dir, whole)


@pytest.mark.faults
@pytest.mark.parametrize('name', ['workers', 'bfloat16', 'epochs', 'accumulated'])
def test_kill_9_at_random_and_the_resumed_training_ends_in_the_same_weights(config, tmp_path, name: str) -> None:
    options = {
        'workers': WORKERS,
        'bfloat16': (*WORKERS, *BFLOAT16),
        'epochs': ('train_dataloader.num_workers=1',),
        'accumulated': ('optim_wrapper.accumulative_counts=2',),
    }[name]
    file = config.with_name('epochs.py') if name == 'epochs' else config
    assert run(file, tmp_path / 'whole', options=options) == 0
    generator = random.Random(name)
    for trial in range(int(os.environ.get('FAULT_TRIES', '2'))):
        work_dir = tmp_path / f'killed{trial}'
        first = ()
        for _ in range(2):  # killed twice, by a signal of any kind
            at, signum = generator.randint(2, 8), generator.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
            status = run(file, work_dir, *first, options=options, before=kill(at, signum))
            assert status in (0, -signum, 128 + signum)
            first = ('--resume',)
        assert run(file, work_dir, '--resume', options=options) == 0
        assert_same(work_dir, tmp_path / 'whole')
