"""Trainings of a toy: what is not finite, what is saved and removed when, and what ends a training from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from repvgg_seg.interruption import Interrupted
from repvgg_seg.openmmlab.runner import Runner
from repvgg_seg.weights.checkpoint_io import read_checkpoint


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x: list[torch.Tensor], name: list[str], mode: str = 'tensor') -> dict[str, torch.Tensor]:
        return {'loss': self.layer(self.norm(torch.stack(list(x)))).square().mean()}


class Data:
    """Six samples, of which some are not finite."""

    metainfo: dict = {}  # noqa: RUF012

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            'x': torch.randn(2) if index not in self.bad else torch.tensor([1.0, torch.nan]),
            'name': f'{index}.png',
        }


class Each(Hook):
    """Calls a function after each step."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.function(runner)


def runner(work_dir: Path, *bad: int, each: Any = None, **more: Any) -> Runner:
    torch.manual_seed(0)
    Runner.count = getattr(Runner, 'count', 0) + 1  # type: ignore[attr-defined]
    options: dict[str, Any] = {
        'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        'default_hooks': dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=1)),
        'train_cfg': dict(by_epoch=False, max_iters=6),
        **more,
    }
    return Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Data(*bad), batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        custom_hooks=[Each(each)] if each else [],
        randomness=dict(seed=0),
        experiment_name=f'loops-{Runner.count}',  # type: ignore[attr-defined]
        default_scope='mmengine',
        **options,
    )


def test_gradients_that_are_not_finite_stop_the_training_before_the_step(tmp_path) -> None:
    message = (
        r'gradients became nan in iteration 2 \(2\.png, 3\.png\): the last good checkpoint is .*/iter_1\.pth; look'
    )
    with pytest.raises(ValueError, match=message):
        runner(tmp_path, 3).train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_1.pth']


@pytest.mark.parametrize('accumulated', [1, 3])
def test_so_many_steps_may_be_left_out_with_what_they_did_to_statistics(tmp_path, accumulated: int) -> None:
    options = {
        'cfg': {'max_skipped_steps': 2},
        'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=accumulated),
    }
    training = runner(tmp_path / 'a', 3, **options)
    training.train()  # the batch comes twice
    assert all(value.isfinite().all() for value in training.model.state_dict().values())
    assert training.message_hub.get_info('skipped_steps') == 2
    log = next((tmp_path / 'a').rglob('*.log')).read_text()
    assert re.search(r'\(.*2\.png, 3\.png.*\): this step is left out, 2 of max_skipped_steps=2', log)
    options['cfg'] = {'max_skipped_steps': 1}
    with pytest.raises(ValueError, match='gradients became nan in iteration'):
        runner(tmp_path / 'b', 3, **options).train()


def test_the_norm_of_the_gradients_is_logged_and_can_be_limited(tmp_path) -> None:
    norms: list[float] = []
    clip = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1e-3))

    def note(training: Runner) -> None:
        assert training.message_hub.get_scalar('train/grad_norm').current() > 1e-3  # of before they were limited
        total = sum(float(p.grad.square().sum()) for p in training.model.parameters() if p.grad is not None)
        norms.append(total)

    training = runner(tmp_path, each=note, optim_wrapper=clip)
    training.train()
    assert len(training.message_hub.get_scalar('train/grad_norm').data[0]) == 6  # once a step


def test_weights_that_are_not_finite_are_not_saved(tmp_path) -> None:
    def spoil(training: Runner) -> None:
        if training.iter == 2:
            training.model.norm.running_var.fill_(torch.inf)

    with pytest.raises(ValueError, match=r'state_dict\.norm\.running_var is not finite.*iteration 3: .*/iter_2\.pth'):
        runner(tmp_path, each=spoil).train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']


def test_a_checkpoint_is_removed_once_the_next_is_there(tmp_path, monkeypatch) -> None:
    save = Runner.save_checkpoint

    def fail(self: Runner, *args: Any, **kwargs: Any) -> None:
        if self.iter == 3:
            raise OSError(28, 'No space left on device')
        save(self, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', fail)
    message = rf'{tmp_path} cannot be written \(No space left on device\): make room, .*; the last good .*/iter_3\.pth'
    with pytest.raises(ValueError, match=message):
        runner(tmp_path).train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_3.pth')


def test_a_signal_saves_after_the_step_and_resuming_ends_in_the_same_weights(tmp_path, request) -> None:
    def kill(training: Runner) -> None:
        if training.iter == 2:
            os.kill(os.getpid(), signal.SIGHUP)

    options = {
        'default_hooks': dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)),
        'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), accumulative_counts=2),
    }
    runner(tmp_path / 'whole', **options).train()
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where the tests run under nohup
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, inherited))
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(Interrupted, match=r'stopped by SIGHUP; saved .*/iter_4\.pth') as stop:
        runner(tmp_path / 'w', each=kill, **options).train()  # the step is taken after two iterations
    assert stop.value.signum == signal.SIGHUP and signal.getsignal(signal.SIGHUP) == before
    resumed = runner(tmp_path / 'w', resume=True, **options)
    resumed.train()
    whole = read_checkpoint(tmp_path / 'whole/iter_6.pth')['state_dict']
    assert all(torch.equal(value, whole[key]) for key, value in resumed.model.state_dict().items())


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '), 'lower train_dataloader.num_workers'),
        (ConnectionResetError(104, 'Connection reset by peer'), 'probably for lack of memory'),
        (RuntimeError('[gloo/pair.cc:1] Connection closed by peer [::1]:1'), 'another process of this training'),
        (None, r'was removed while this training wrote to it; there is no checkpoint yet'),
    ],
)
def test_what_ends_a_training_from_outside_is_told(tmp_path, error: Exception | None, message: str) -> None:
    def happen(training: Runner) -> None:
        if training.iter == 3:
            if error:
                raise error
            shutil.rmtree(training.work_dir)
            raise FileNotFoundError(2, 'No such file or directory')

    with pytest.raises(ValueError, match=message) as told:
        runner(tmp_path / 'w', each=happen).train()
    assert re.search('last good checkpoint is .*/iter_3.pth' if error else 'no checkpoint', str(told.value))
