"""Unreadable files: skipped, listed and counted in training, an error in validation."""

import re
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.utils import register_all_modules

from repvgg_seg import cli
from repvgg_seg.apps import make_train_ids
from repvgg_seg.openmmlab.skip_unreadable import LIST, GuardedPipeline, GuardedRunner, Ledger
from repvgg_seg.workflows.config import load_config
from tests.conftest import fails, latest, tool


def images(data: Path, split: str = 'train') -> list[Path]:
    return sorted((data / 'leftImg8bit' / split).rglob('*.png'))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


@pytest.fixture
def data(demo_data, tmp_path) -> Path:
    return shutil.copytree(demo_data, tmp_path / 'data')


@pytest.fixture
def cfg(tiny_config, data, tmp_path) -> Config:
    register_all_modules()
    cfg = load_config(tiny_config, {'data_root': str(data), 'max_bad_share': 0.5})
    cfg.work_dir = str(tmp_path / 'work')
    cfg.train_dataloader.update(num_workers=2, batch_size=2)
    return cfg


class Loads(GuardedRunner):
    """A runner without a network, which only loads data."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.registered: list[object] = []
        Path(self.work_dir).mkdir(exist_ok=True)

    work_dir = property(lambda self: self.cfg.work_dir)

    def register_hook(self, hook: object) -> None:
        self.registered.append(hook)

    def load(self, *, training: bool = True, batches: int = 8) -> set[str]:
        """Return the images that a data loader with two workers yields."""
        self._training = training
        name = 'train_dataloader' if training else 'val_dataloader'
        loader = self.build_dataloader(self.cfg[name], seed=0)
        return {sample.img_path for _, batch in zip(range(batches), loader) for sample in batch['data_samples']}  # noqa: B905


def test_a_training_survives_a_damaged_image_and_says_so_once(tiny_config, data, tmp_path) -> None:
    bad = images(data)[3]
    argv = [str(tiny_config), '--work-dir', str(tmp_path / 'work'), '--cfg-options', f'data_root={data}']
    options = ['train_dataloader.num_workers=2', 'train_cfg.val_interval=4']
    damage(bad)
    assert tool('train')([*argv, *options]) == 0
    assert latest(tmp_path / 'work').name == 'iter_4.pth'  # 8 samples: each is met once
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert (
        len(re.findall(rf'skipped: {bad} image file is truncated .*\(1 of 8 samples; 1 may be unreadable\)', log)) == 1
    )
    assert '1 of 8 training samples were skipped' in log
    assert (tmp_path / 'work' / LIST).read_text().startswith(f'{bad}\t')


def test_workers_count_together_and_stop_with_a_list_beyond_the_share(cfg, data, tmp_path) -> None:
    bad = images(data)[1:5]  # half of the eight: as many as allowed
    for path in bad:
        damage(path)
    runner = Loads(cfg)
    assert runner.load() == {str(p) for p in images(data)} - set(map(str, bad))
    assert runner.registered[0].ledger.files().keys() == set(map(str, bad))  # type: ignore[attr-defined]
    damage(images(data)[6])
    with pytest.raises(
        ValueError, match=r'5 of 8 training samples cannot be read, more than max_bad_share=0\.5'
    ) as stop:
        Loads(cfg).load()
    assert all(f'{path} image file is truncated' in str(stop.value) for path in [*bad, images(data)[6]])
    assert f'{tmp_path / "work" / LIST} lists them: copy them again or remove them' in str(stop.value)


def test_a_share_of_0_tolerates_none_and_any_other_one_file_at_least(tmp_path) -> None:
    def allowed(samples: int, share: float) -> int:
        return Ledger(tmp_path / LIST, samples, share).allowed

    assert [allowed(8, 0), allowed(8, 0.01), allowed(300, 0.01), allowed(8, 1)] == [0, 1, 3, 8]


def test_a_resumed_training_forgets_the_files_that_were_repaired(cfg, data) -> None:
    bad = images(data)[:2]
    whole = bad[0].read_bytes()
    for path in bad:
        damage(path)
    ledger = Ledger(Path(cfg.work_dir, LIST), 8, 0.5)
    Loads(cfg).load()
    assert ledger.files().keys() == set(map(str, bad))
    bad[0].write_bytes(whole)
    ledger.begin(resumed=True)
    assert ledger.files().keys() == {str(bad[1])}
    ledger.begin(resumed=False)
    assert ledger.files() == {}


def test_a_missing_or_damaged_mask_is_skipped_like_an_image(cfg, data) -> None:
    masks = sorted((data / 'gtFine/train').rglob('*_labelTrainIds.png'))
    masks[0].unlink()
    damage(masks[1])
    runner = Loads(cfg)
    assert len(runner.load()) == 6
    files = runner.registered[0].ledger.files()  # type: ignore[attr-defined]
    assert files[str(masks[0])] == 'No such file or directory' and 'truncated' in files[str(masks[1])]


def test_a_fault_of_the_pipeline_is_none_of_the_files(cfg, data) -> None:
    def fault(info: dict) -> None:
        raise RuntimeError('a fault of the pipeline')

    info = {'img_path': str(images(data)[0])}
    ledger = Ledger(Path(cfg.work_dir, LIST), 8, 0.5)
    with pytest.raises(RuntimeError, match='a fault of the pipeline'):
        GuardedPipeline(Compose([fault]), ledger)(info)
    assert not ledger.path.exists()


def test_wrapped_data_sets_are_guarded_as_well(cfg, data) -> None:
    damage(images(data)[0])
    dataset = cfg.train_dataloader.dataset
    half = dict(type='RepeatDataset', times=2, dataset=dataset)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[half, dataset])
    cfg.train_dataloader.num_batch_per_epoch = 12
    runner = Loads(cfg)
    assert len(runner.load(batches=12)) == 7
    assert runner.registered[0].ledger.samples == 16  # type: ignore[attr-defined]


def test_validation_and_test_name_the_damaged_file(cfg, tiny_config, trained, data, tmp_path, capsys) -> None:
    bad = images(data, 'val')[0]
    damage(bad)
    with pytest.raises(ValueError, match=rf'{bad} cannot be read \(image file is truncated.*\), and without it'):
        Loads(cfg).load(training=False)
    argv = [tiny_config, trained, '--work-dir', tmp_path / 'test', '--cfg-options', f'data_root={data}']
    assert f'{bad} cannot be read' in fails(capsys, 'test', *argv)


def test_the_error_of_a_worker_is_reported_like_any_other(capsys, monkeypatch) -> None:
    def main(args: object) -> None:
        raise ValueError(
            'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
            '  File "x.py", line 1, in <module>\nValueError: 2 of 8 training samples cannot be read: a; b\n'
        )

    monkeypatch.setattr(make_train_ids, 'main', main)
    assert cli.main(['make-train-ids', 'x']) == 2
    assert capsys.readouterr().err == 'error: 2 of 8 training samples cannot be read: a; b\n'
