"""What a checkpoint names is not removed when a run resumes from it, unless it is that run's own."""

import shutil
from pathlib import Path

import pytest
import torch

from repvgg_seg.openmmlab import checkpoints
from repvgg_seg.weights.checkpoint_io import WeightsError, read_checkpoint, write_checkpoint
from tests.conftest import latest, tool


def resume(config: Path, checkpoint: Path, work_dir: Path) -> None:
    """Go on for two iterations, after which the weights are evaluated."""
    argv = [str(config), '--no-data-check', '--work-dir', str(work_dir), '--resume', str(checkpoint)]
    assert tool('train')([*argv, '--cfg-options', 'train_cfg.max_iters=6']) == 0


def change(path: Path, **info: object) -> None:
    """Rewrite the checkpoint; any score is better than the best that it remembers."""
    checkpoint = read_checkpoint(path)
    checkpoint['message_hub']['runtime_info'] |= {'best_score': -1.0, **info}
    torch.save(checkpoint, path)


@pytest.fixture
def first(trained, tmp_path) -> Path:
    """A finished training, moved from where it ran."""
    return Path(shutil.copytree(trained, tmp_path / 'first'))


def best(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.glob('best_*'))


def test_a_resumed_run_replaces_its_own_best_after_a_move_too(tiny_config, trained, first) -> None:
    change(latest(first))
    [old], other = best(first), best(trained)
    resume(tiny_config, latest(first), first)
    assert len(best(first)) == 1 and best(first) != [old]
    assert best(trained) == other == [old]


def test_the_best_score_is_remembered(tiny_config, first) -> None:
    change(latest(first), best_score=101.0)
    before = best(first)
    resume(tiny_config, latest(first), first)
    assert best(first) == before


def test_resuming_elsewhere_leaves_the_files_of_the_first_run(tiny_config, first, tmp_path) -> None:
    change(latest(first))
    before = sorted(path.name for path in first.rglob('*.pth'))
    second = tmp_path / 'second'
    change(latest(first), keep_ckpt_ids=[1, 2, 4])
    resume(tiny_config, latest(first), second)
    assert sorted(path.name for path in first.rglob('*.pth')) == before
    assert best(second)


@pytest.mark.parametrize('kind', ['relative', 'symlink', 'folder'])
def test_a_checkpoint_that_names_any_file_removes_nothing(kind, tiny_config, first, tmp_path) -> None:
    victim = tmp_path / 'best_thesis.pth'
    victim.write_text('years of work')
    inside = first / {'symlink': 'best_link.pth', 'folder': 'best_folder', 'relative': 'notes.txt'}[kind]
    if kind == 'symlink':
        inside.symlink_to(victim)
    elif kind == 'folder':
        inside.mkdir()
    else:
        inside.write_text('notes')
    name = first / '../best_thesis.pth' if kind == 'relative' else inside
    change(latest(first), best_ckpt=str(name), keep_ckpt_ids=['../best_thesis', '4/../../x'])
    resume(tiny_config, latest(first), first)
    assert victim.read_text() == 'years of work' and inside.exists()


def test_of_what_a_training_noted_numbers_remain_and_checkpoints_beside(tmp_path) -> None:
    info = {
        'iter': 4, 'best_score': torch.tensor(0.5), 'lr': float('nan'), 'text': 'a', 'list': [1],
        'keep_ckpt_ids': [2, '../4', True, 4], 'best_ckpt': '/etc/passwd', 'best_ckpt_acc': '../../best_acc.pth',
        'last_ckpt': 5,
    }  # fmt: skip
    write_checkpoint({'message_hub': {'runtime_info': info}}, tmp_path / 'x.pth')
    found = checkpoints._read(tmp_path / 'x.pth')['message_hub']['runtime_info']
    assert found == {
        'iter': 4, 'best_score': 0.5, 'keep_ckpt_ids': [2, 4], 'best_ckpt': str(tmp_path / 'passwd'),
        'best_ckpt_acc': str(tmp_path / 'best_acc.pth'), 'last_ckpt': 5,
    }  # fmt: skip


@pytest.mark.parametrize(('key', 'value'), [('iter', '4'), ('epoch', -1), ('seed', 2**40), ('iter', 1.5)])
def test_counters_are_whole_numbers(key, value, tmp_path) -> None:
    write_checkpoint({'meta': {key: value}}, tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=f'no whole number for its {key}'):
        checkpoints._read(tmp_path / 'x.pth')
