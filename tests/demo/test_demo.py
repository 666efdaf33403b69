"""The demo data set: layout, labels, determinism, completion and refusals."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repvgg_seg.demo import FEATURES, LABELS, TRAIN_IDS, DemoDatasetError, demo_sample, draw_scene, write_demo_dataset
from repvgg_seg.files import FileError

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'make_demo_data.py'
SMALL: dict[str, Any] = {'train': 3, 'val': 2, 'size': (64, 32), 'workers': 1}
TRAIN_CLASSES = (
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation',
    'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle',
)  # fmt: skip


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_dataset(tmp_path_factory.mktemp('demo') / 'set', **SMALL)


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    """A set of one's own in `tmp_path`, without drawing it anew."""
    return shutil.copytree(demo, tmp_path, dirs_exist_ok=True)


def test_table_is_that_of_cityscapes() -> None:
    assert [row.id for row in LABELS] == list(range(34))
    trained = {row.train_id: row.name for row in LABELS if row.train_id != 255}
    assert tuple(trained[i] for i in range(19)) == TRAIN_CLASSES
    assert TRAIN_IDS[[7, 26, 33, 1, 4, 34]].tolist() == [0, 13, 18, 255, 255, 255]


def test_layout(demo: Path) -> None:
    files = set(content(demo))
    images = {f for f in files if f.startswith('leftImg8bit/')}
    assert 'leftImg8bit/train/ahornstadt/ahornstadt_000000_000019_leftImg8bit.png' in images
    assert [sum(f.startswith(f'leftImg8bit/{s}/') for f in images) for s in ('train', 'val')] == [3, 2]
    expected = {'demo.json', *images}
    for image in images:
        _, split, city, name = image.split('/')
        assert name.startswith(f'{city}_')
        stem = name.removesuffix('_leftImg8bit.png')
        expected |= {f'gtFine/{split}/{city}/{stem}_gtFine_label{kind}.png' for kind in ('Ids', 'TrainIds')}
    assert files == expected
    assert json.loads((demo / 'demo.json').read_text())['size'] == [64, 32]


def test_files_hold_image_and_consistent_labels(demo: Path) -> None:
    names = {row.id: row.train_id for row in LABELS}
    for image in demo.rglob('*_leftImg8bit.png'):
        stem = str(image).replace('leftImg8bit/', 'gtFine/').removesuffix('_leftImg8bit.png')
        ids, train_ids = (read(Path(f'{stem}_gtFine_label{kind}.png')) for kind in ('Ids', 'TrainIds'))
        assert read(image).shape == (32, 64, 3)
        assert ids.shape == train_ids.shape == (32, 64) and ids.dtype == train_ids.dtype == np.uint8
        assert set(np.unique(ids).tolist()) <= names.keys()
        np.testing.assert_array_equal(np.vectorize(names.get)(ids), train_ids)
    pixels, ids = demo_sample(0, 'train', 0, (64, 32))
    first = 'ahornstadt/ahornstadt_000000_000019'
    np.testing.assert_array_equal(read(demo / f'leftImg8bit/train/{first}_leftImg8bit.png')[..., ::-1], pixels)
    np.testing.assert_array_equal(read(demo / f'gtFine/train/{first}_gtFine_labelIds.png'), ids)


def test_bytes_depend_on_seed_split_and_index_alone(demo: Path, tmp_path: Path) -> None:
    more = content(write_demo_dataset(tmp_path / 'more', train=5, val=3, size=(64, 32), workers=2))
    few = content(demo)
    assert {k: v for k, v in few.items() if k != 'demo.json'}.items() <= more.items()
    other = content(write_demo_dataset(tmp_path / 'other', **SMALL, seed=1))
    assert other.keys() == few.keys()
    assert not [k for k in few if 'leftImg8bit' in k and few[k] == other[k]]
    assert not np.array_equal(demo_sample(0, 'train', 0, (64, 32))[0], demo_sample(0, 'val', 0, (64, 32))[0])


@pytest.mark.parametrize('split, count', [('train', 24), ('val', 24)])
def test_default_set_shows_every_class(split: str, count: int) -> None:
    pixels = np.zeros(256, int)
    for i in range(count):
        pixels += np.bincount(TRAIN_IDS[demo_sample(0, split, i, (128, 64))[1]].ravel(), minlength=256)
        absent = [name for name, seen in zip(TRAIN_CLASSES, pixels, strict=False) if seen < 20]
        if not absent and pixels[255]:
            break
    assert not absent
    assert pixels[255] > 0


@pytest.mark.parametrize('feature', FEATURES)
def test_feature_is_shown(feature: str) -> None:
    wanted = next(row.id for row in LABELS if row.name == feature)
    for seed in range(2):
        labels = draw_scene(np.random.default_rng(seed), (128, 64), feature)[1]
        assert (labels == wanted).sum() >= 10, f'seed {seed}'


@settings(max_examples=8, deadline=None)
@given(width=st.integers(64, 200), height=st.integers(32, 160), seed=st.integers(0, 2**32))
def test_any_size(width: int, height: int, seed: int) -> None:
    image, labels = draw_scene(np.random.default_rng(seed), (width, height))
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert labels.shape == (height, width) and labels.dtype == np.uint8
    assert image.std() > 5 and len(np.unique(labels)) > 3


def test_labels_lie_on_the_image() -> None:
    # A class boundary is where the image changes, so its contrast is highest with the labels in place.
    scenes = [demo_sample(0, 'train', i, (256, 128)) for i in range(4)]

    def contrast(shift: int, axis: int) -> float:
        total = 0.0
        for image, labels in scenes:
            moved = np.roll(labels, shift, axis)[16:-16, 16:-16]
            grey = image.mean(2)[16:-16, 16:-16]
            total += np.abs(np.diff(grey, axis=axis))[np.diff(moved.astype(int), axis=axis) != 0].mean()
        return total

    for axis in (0, 1):
        assert max((contrast(shift, axis), shift) for shift in range(-4, 5))[1] == 0


def test_sky_is_above_and_road_below() -> None:
    labels = np.stack([demo_sample(0, 'val', i, (64, 32))[1] for i in range(8)])
    assert (labels[:, :4] == 23).mean() > 0.15 and (labels[:, :4] == 7).sum() == 0
    assert (labels[:, 22:28] == 7).mean() > 0.4 and (labels[:, 22:28] == 23).sum() == 0


def test_complete_set_is_left_alone(copy: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.rglob('*')}
    write_demo_dataset(copy, **SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in copy.rglob('*')}


def test_interrupted_set_is_completed(demo: Path, copy: Path) -> None:
    kept = next(copy.rglob('*_leftImg8bit.png'))
    stamp = kept.stat().st_mtime_ns
    gone = sorted(p for p in copy.rglob('*.png') if kept.name[:20] not in p.name)[::3]
    for path in gone:
        path.unlink()
    gone[0].with_name(f'.{gone[0].name}.tmp').write_bytes(b'half a file')
    write_demo_dataset(copy, **SMALL)
    assert content(copy) == content(demo)
    assert kept.stat().st_mtime_ns == stamp


def test_other_parameters_need_overwrite(copy: Path) -> None:
    (copy / 'notes.txt').write_text('mine')
    before = content(copy)
    with pytest.raises(FileError, match=r'other settings \(seed 0 instead of 5\).*--overwrite'):
        write_demo_dataset(copy, **SMALL, seed=5)
    assert content(copy) == before
    write_demo_dataset(copy, **{**SMALL, 'train': 1}, seed=5, overwrite=True)
    after = content(copy)
    # Of the old set's training images nothing is left.
    assert sum('leftImg8bit' in name for name in after) == 3
    assert after['notes.txt'] == b'mine'


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_files_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    real = tmp_path / 'leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png'
    real.parent.mkdir(parents=True)
    real.write_bytes(b'real')
    with pytest.raises(FileError, match=r'this did not write \(such as leftImg8bit\): choose a folder'):
        write_demo_dataset(tmp_path, **SMALL, overwrite=overwrite)
    assert content(tmp_path) == {real.relative_to(tmp_path).as_posix(): b'real'}


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_files_among_ours(copy: Path, overwrite: bool) -> None:
    (copy / 'gtFine/val/mine.png').write_bytes(b'mine')
    before = content(copy)
    with pytest.raises(FileError, match=r'such as gtFine/val/mine.png'):
        write_demo_dataset(copy, **SMALL, overwrite=overwrite)
    assert content(copy) == before


@pytest.mark.parametrize(
    'text', ['{', '[]', '{"generator": "other"}', '{"generator": "repvgg_seg.demo", "train": "x"}']
)
def test_damaged_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / 'demo.json').write_text(text)
    with pytest.raises(FileError, match=r'does not describe a demo set|is damaged'):
        write_demo_dataset(tmp_path, **SMALL, overwrite=True)
    assert content(tmp_path) == {'demo.json': text.encode()}


@pytest.mark.parametrize(
    'change, message',
    [
        ({'size': (63, 32)}, 'size 32x63 is out of range'),
        ({'size': (64, 5000)}, 'size 5000x64 is out of range'),
        ({'train': -1}, '-1 train and 2 val images'),
        ({'train': 0, 'val': 0}, 'at least one in all'),
        ({'seed': -1}, 'must not be negative'),
        ({'workers': 0}, 'at least one process'),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DemoDatasetError, match=message):
        write_demo_dataset(tmp_path / 'set', **{**SMALL, **change})
    assert not (tmp_path / 'set').exists()


def test_unknown_feature() -> None:
    with pytest.raises(ValueError, match="unknown feature 'boat': choose one of train"):
        draw_scene(np.random.default_rng(0), (64, 32), 'boat')


def test_command_line(tmp_path: Path, demo: Path) -> None:
    command = [sys.executable, str(TOOL), '--out', 'here', '--train', '3', '--val', '2', '--size', '32x64']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    last = f'3 train and 2 val images of 32x64 pixels are in {tmp_path.resolve() / "here"}.'
    assert done.stdout.splitlines()[-1] == last
    assert content(tmp_path / 'here') == content(demo)


@pytest.mark.parametrize(
    'options, message',
    [
        (('--size', '512'), "'512' is not a size"),
        (('--size', '8x8'), 'size 8x8 is out of range'),
        (('--out', 'file'), 'file is a file'),
    ],
)
def test_command_line_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / 'file').write_text('')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--train', '1', '--val', '1', *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, '')
    assert message in err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ['file']
