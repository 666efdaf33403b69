"""What one watches a training by, and validation in mixed precision."""

import csv
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric

from repvgg_seg.apps.train import train
from repvgg_seg.models.trunk import RepVGG
from repvgg_seg.openmmlab import watching
from repvgg_seg.runtime.precision import Precision
from tests.conftest import fails, tool


def test_a_training_leaves_figures_and_the_same_pictures_of_each_validation(tiny_config, tmp_path, monkeypatch) -> None:
    pictured = []
    monkeypatch.setitem(watching.TRACKERS, 'fake', ('FakeVisBackend', 'json'))

    @watching.VISBACKENDS.register_module(force=True)
    class FakeVisBackend(watching.CSVVisBackend):
        def add_image(self, name, image, step=0, **kwargs) -> None:
            pictured.append((name, step, image.shape))

        def add_scalars(self, *args, **kwargs) -> None:
            pass

    cfg = Config.fromfile(tiny_config)
    cfg.train_cfg.update(val_interval=2)
    train(cfg, work_dir=str(tmp_path), trackers=['fake'], patience=1, data_check=False)
    with (tmp_path / 'scalars.csv').open() as file:
        rows = list(csv.DictReader(file))
    scores = {int(row['step']): float(row['value']) for row in rows if row['name'] == 'mIoU'}
    assert list(scores) == [2, 4] and all(np.isfinite(float(row['value'])) for row in rows)
    pictures = {step: sorted(path.name for path in (tmp_path / f'validation/{step:06d}').iterdir()) for step in (2, 4)}
    assert pictures[2] == pictures[4] and len(pictures[2]) == 4
    picture = cv2.imread(str(tmp_path / 'validation/000002' / pictures[2][0]))
    assert picture.shape == (64, 3 * 128, 3)  # image, truth, prediction
    assert not np.array_equal(picture[:, :128], picture[:, 128:256])
    assert [step for _, step, _ in pictured] == [2] * 4 + [4] * 4


def test_patience_ends_a_training_that_gets_no_better(tiny_config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(IoUMetric, 'compute_metrics', lambda self, results: {'mIoU': 5.0})
    cfg = Config.fromfile(tiny_config)
    cfg.train_cfg.update(val_interval=1)
    runner = train(cfg, work_dir=str(tmp_path), patience=2, data_check=False)
    assert runner.iter == 3  # the first validation is the best, and two more are no better


def test_what_cannot_be_watched_is_told_before_the_training(tiny_config, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(watching.TRACKERS, 'wandb', ('WandbVisBackend', 'a_package_that_is_not_there'))
    argv = [tiny_config, '--work-dir', tmp_path / 'work']
    message = fails(capsys, 'train', *argv, '--log', 'wandb')
    assert '--log wandb needs the package a_package_that_is_not_there: python -m pip install' in message
    assert '--patience 0 cannot be met' in fails(capsys, 'train', *argv, '--patience', '0')
    assert not (tmp_path / 'work').exists()


def test_mixed_precision_holds_for_the_evaluation_as_well(tiny_config, trained, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda self: True)
    enabled = []
    forward = RepVGG.forward
    monkeypatch.setattr(
        RepVGG, 'forward', lambda self, x: [enabled.append(torch.is_autocast_enabled('cpu')), forward(self, x)][1]
    )
    for options in ((), ('--amp',)):
        assert tool('test')([str(trained), '--work-dir', str(tmp_path), *options]) == 0
    assert set(enabled[: len(enabled) // 2]) == {False} and set(enabled[len(enabled) // 2 :]) == {True}
    assert 'leave --amp out' in fails(capsys, 'test', tiny_config, tmp_path / 'model.onnx', '--amp')


@pytest.mark.parametrize('terminal', [False, True])
def test_a_terminal_gets_a_progress_bar(terminal: bool, monkeypatch, capsys) -> None:
    hooks = []

    class FakeRunner:
        logger = type('', (), {'handlers': []})
        max_iters, iter = 10, 3

        def register_hook(self, hook, priority) -> None:
            hooks.append(hook)

    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal, raising=False)
    with watching.progress(FakeRunner()):
        for hook in hooks:
            hook.before_train(FakeRunner())
            hook.after_train_iter(FakeRunner(), 0, outputs={'loss': torch.tensor(1.5)})
            [task] = hook.bar.tasks
            assert (task.completed, task.total, task.fields['loss']) == (4, 10, '1.500')
    assert len(hooks) == terminal
