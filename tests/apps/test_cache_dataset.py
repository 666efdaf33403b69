"""The cache of decoded files: the same pixels as mmseg's loaders give, also where it or the data set changes."""

import itertools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from mmseg.utils import register_all_modules
from PIL import Image

from repvgg_seg.apps import cache_dataset
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.openmmlab import image_cache
from repvgg_seg.workflows.config import load_config
from tests.conftest import tool

register_all_modules()

IMAGES, MASKS = 'leftImg8bit/train/*/*.png', 'gtFine/train/*/*_labelTrainIds.png'


@pytest.fixture
def data(demo_data, tmp_path, monkeypatch):
    """A copy of the tiny demo data set, to be broken."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's loggers hold the stderr of an earlier test
    image_cache._tell_invalid.cache_clear()
    return Path(shutil.copytree(demo_data, tmp_path / 'demo'))


@pytest.fixture
def argv(repo, data) -> list[str]:
    return [str(repo / 'configs/pspnet_repvgg_b2_cityscapes.py'), '--cfg-options', f'data_root={data}']


def plan(argv: list[str], **kwargs) -> cache_dataset.Plan:
    return cache_dataset.plan_cache(load_config(argv[0], {'data_root': argv[2].partition('=')[2]}), **kwargs)


def load(name: str, image: Path, mask: Path | None = None, **context) -> dict:
    """Return what the loader NAME makes of a sample."""
    sample = {'img_path': str(image), 'seg_map_path': str(mask), 'seg_fields': [], 'reduce_zero_label': False}
    return TRANSFORMS.build({'type': name})(sample | context)


def is_cached(path: Path, loader: str = 'LoadCachedImage') -> bool:
    return image_cache.read(str(path), TRANSFORMS.build({'type': loader}).decoding) is not None


def entry(data: Path, source: Path) -> Path:
    return data / '.decoded' / f'{source.relative_to(data)}.raw'


def test_cached_files_are_what_mmseg_decodes(data, argv, capsys) -> None:
    assert tool('cache_dataset')(argv) == 0
    message = capsys.readouterr().out
    assert '0 files are cached, 16 are not and will take 0.00 GB' in message and 'all 16 files are cached' in message
    for image, mask in zip(sorted(data.glob(IMAGES)), sorted(data.glob(MASKS)), strict=True):
        assert is_cached(image) and is_cached(mask, 'LoadCachedAnnotations')
        ours, theirs = load('LoadCachedImage', image), load('LoadImageFromFile', image)
        assert np.array_equal(ours.pop('img'), theirs.pop('img')) and ours == theirs
        ours, theirs = load('LoadCachedAnnotations', image, mask), load('LoadAnnotations', image, mask)
        assert np.array_equal(ours.pop('gt_seg_map'), theirs.pop('gt_seg_map')) and ours == theirs
    sizes = [path.stat().st_size for path in (data / '.decoded').rglob('*.raw')]
    assert sum(sizes) == 8 * (2 * 4096 + 128 * 64 * (3 + 1))
    assert tool('cache_dataset')(argv) == 0
    assert '16 files are cached, 0 are not' in capsys.readouterr().out


@pytest.mark.parametrize('cached', [False, True])
@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 255, 1: 0, 2: 1, 10: 10, 13: 1}])
def test_labels_are_reduced_and_renamed_as_mmseg_does(data, argv, cached, reduce_zero_label, label_map) -> None:
    mask = sorted(data.glob(MASKS))[0]
    cv2.imwrite(str(mask), np.arange(128 * 64, dtype=np.int32).reshape(64, 128).astype(np.uint8))  # every label
    if cached:
        cache_dataset.build_cache(plan(argv))
    context = {'reduce_zero_label': reduce_zero_label, 'label_map': label_map}
    expected = load('LoadAnnotations', mask, mask, **context)['gt_seg_map']
    result = load('LoadCachedAnnotations', mask, mask, **context)['gt_seg_map']
    assert result.dtype == np.uint8 and np.array_equal(result, expected)
    result[:] = 7  # what is mapped is the reader's own
    assert np.array_equal(load('LoadCachedAnnotations', mask, mask, **context)['gt_seg_map'], expected)


def test_palettes_stay_indices_and_turned_photographs_are_turned(data, argv) -> None:
    image, mask = sorted(data.glob(IMAGES))[0], sorted(data.glob(MASKS))[0]
    palette = Image.open(mask).convert('P')
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).save(image, exif=exif)
    expected = load('LoadAnnotations', mask, mask)['gt_seg_map'], load('LoadImageFromFile', image)['img']
    cache_dataset.build_cache(plan(argv))
    assert is_cached(image) and is_cached(mask, 'LoadCachedAnnotations')
    assert np.array_equal(load('LoadCachedAnnotations', mask, mask)['gt_seg_map'], expected[0])
    assert load('LoadCachedImage', image)['img_shape'] == (128, 64)
    assert np.array_equal(load('LoadCachedImage', image)['img'], expected[1])


def test_what_cannot_be_cached_is_reported_and_the_rest_is_cached(data, argv, capsys) -> None:
    broken, deep = sorted(data.glob(IMAGES))[:2]
    broken.write_bytes(b'no image')
    cv2.imwrite(str(deep), np.full((64, 128, 3), 40000, np.uint16))
    assert tool('cache_dataset')([*argv, 'train_dataloader.dataset.pipeline.0.color_type=unchanged']) == 2
    message = capsys.readouterr().err
    assert '2 of 16 files cannot be decoded, first ' in message and 'all others are cached' in message
    assert f'{broken} (failed to load image' in message or f'{deep} (uint16, not 8 bits a channel)' in message
    assert len(list((data / '.decoded').rglob('*.raw'))) == 14
    other = sorted(data.glob(IMAGES))[2]
    assert not is_cached(other)  # with alpha and depth, not as the colours that the loader here asks for
    with pytest.raises(ValueError, match=r'1 of 8 files cannot be decoded, first .* \(failed to load image'):
        cache_dataset.build_cache(plan(argv))
    assert is_cached(other)


def test_a_changed_source_is_decoded_and_then_cached_anew(data, argv, caplog) -> None:
    cache_dataset.build_cache(plan(argv))
    image = sorted(data.glob(IMAGES))[0]
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    assert np.array_equal(load('LoadCachedImage', image)['img'], cv2.imread(str(image)))
    renewed = plan(argv)
    assert list(renewed.missing) == [str(image)] and renewed.present == 15
    cache_dataset.build_cache(renewed)
    assert is_cached(image) and not plan(argv).missing


def test_hashes_find_what_size_and_time_do_not(data, argv, capsys) -> None:
    cache_dataset.build_cache(plan(argv))
    image, other, mask = *sorted(data.glob(IMAGES))[:2], sorted(data.glob(MASKS))[0]
    state = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b'x')  # another file of the same size, dated back
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    with open(entry(data, other), 'r+b') as file:  # a disk that forgets
        file.seek(5000)
        file.write(b'\x00\xff\x00\xff')
    entry(data, mask).write_bytes(entry(data, mask).read_bytes()[:-1])
    assert list(plan(argv).missing) == [str(mask)]
    assert sorted(plan(argv, verify=True).missing) == sorted(map(str, (image, other, mask)))
    assert tool('cache_dataset')([argv[0], '--verify', *argv[1:]]) == 0
    assert '13 files are cached, 3 are not' in capsys.readouterr().out
    assert np.array_equal(load('LoadCachedImage', other)['img'], cv2.imread(str(other)))


@pytest.mark.parametrize('damage', [b'', b'{}', b'[]', b'\xff' * 9000, json.dumps({'format': 0}).encode()])
def test_a_damaged_entry_is_as_good_as_none(data, argv, damage, monkeypatch) -> None:
    cache_dataset.build_cache(plan(argv))
    image = sorted(data.glob(IMAGES))[0]
    entry(data, image).write_bytes(damage)
    told = []
    monkeypatch.setattr(image_cache, 'print_log', lambda message, **_: told.append(message))
    for _ in range(2):
        assert np.array_equal(load('LoadCachedImage', image)['img'], cv2.imread(str(image)))
    assert len(told) == 1 and f'{data / ".decoded"} has entries that do not fit' in told[0]
    assert list(plan(argv).missing) == [str(image)]


def test_without_a_cache_nothing_is_logged(data, monkeypatch) -> None:
    monkeypatch.setattr(image_cache, 'print_log', lambda *_, **__: pytest.fail('nothing is wrong'))
    image = sorted(data.glob(IMAGES))[0]
    assert np.array_equal(load('LoadCachedImage', image)['img'], cv2.imread(str(image)))


def build_and_die(plan: cache_dataset.Plan) -> None:
    """Be killed while the sixth entry is written: its header is made when the temporary file is open."""
    headers = itertools.count(1)
    dumps = lambda header: json.dumps(header) if next(headers) < 6 else os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    cache_dataset.json = SimpleNamespace(dumps=dumps, loads=json.loads)
    cache_dataset.build_cache(plan, workers=1)


def test_killed_while_it_writes_it_goes_on(data, argv) -> None:
    """What was finished is kept, what was not is neither seen nor left behind."""
    process = multiprocessing.get_context('fork').Process(target=build_and_die, args=(plan(argv),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    folder = data / '.decoded'
    assert len(list(folder.rglob('*.raw'))) == 5
    (abandoned,) = folder.rglob('*.tmp')
    rest = plan(argv)
    assert (rest.present, len(rest.missing)) == (5, 11)
    cache_dataset.build_cache(rest)
    assert not plan(argv, verify=True).missing and abandoned.exists()  # it may be of a process that still runs
    os.utime(abandoned, (0, time.time() - 2 * cache_dataset.ABANDONED_S))
    cache_dataset.build_cache(plan(argv))
    assert not list(folder.rglob('*.tmp'))


def test_several_processes_may_build_it_at_once(data, argv) -> None:
    plans = [plan(argv) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cache_dataset.build_cache, plans))
    assert not plan(argv, verify=True).missing
    assert len([path for path in (data / '.decoded').rglob('*') if path.is_file()]) == 16


def test_a_disk_without_room_is_reported_before_anything_is_written(data, argv, capsys, monkeypatch) -> None:
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=100_000))
    assert tool('cache_dataset')(argv) == 2
    message = capsys.readouterr().err
    assert (
        '.decoded would take 0.0 GB more, but its disk has 0.0 GB free: make room, or make that folder a link'
        in message
    )
    assert not (data / '.decoded').exists()


def test_the_cache_may_be_a_link_to_another_disk(data, argv, tmp_path) -> None:
    (tmp_path / 'elsewhere').mkdir()
    (data / '.decoded').symlink_to(tmp_path / 'elsewhere')
    cache_dataset.build_cache(plan(argv))
    assert len(list((tmp_path / 'elsewhere').rglob('*.raw'))) == 16
    assert is_cached(sorted(data.glob(IMAGES))[0])


def test_a_pipeline_that_would_not_read_it_is_reported(repo, data, capsys) -> None:
    argv = [str(repo / 'configs/pspnet_repvgg_a0_demo.py'), '--cfg-options', f'data_root={data}']
    assert tool('cache_dataset')(argv) == 2
    assert (
        'would not read a cache: let it begin with LoadCachedImage and LoadCachedAnnotations' in capsys.readouterr().err
    )


def test_the_benchmark_shows_mmsegs_pipeline_beside_ours(data, argv, tmp_path, capsys) -> None:
    small = ['train_dataloader.batch_size=1', 'train_dataloader.dataset.pipeline.2.scale=(128,64)']
    options = ['--samples', '2', '--rounds', '1', '--workers', '1', '--json', str(tmp_path / 'data.json')]
    assert tool('benchmark')(['data', argv[0], *options, *argv[1:], *small]) == 0
    assert 'not measured: (there is no cache of these images' in capsys.readouterr().out
    cache_dataset.build_cache(plan(argv))
    assert tool('benchmark')(['data', argv[0], *options, *argv[1:], *small]) == 0
    rows = Report.read((tmp_path / 'data.json').read_text()).rows
    stages = {row.metric for row in rows if row.unit == 'ms' and row.metric != 'total'}
    assert stages == {'image', 'mask', 'resize and crop', 'flip', 'photometric', 'pack'}
    value = {(row.variant, row.metric): row.value for row in rows}
    for name in ('mmseg', 'ours', 'ours, cached'):
        assert value[name, 'total'] == pytest.approx(sum(value[name, stage] for stage in stages))
        assert value[name, 'throughput'] > 0
        if name != 'mmseg':
            assert value[name, 'speed-up, total'] == pytest.approx(value['mmseg', 'total'] / value[name, 'total'])
    assert rows[0].extra['size'] == '64x128'
    assert tool('benchmark')(['data', argv[0], '--samples', '0', *argv[1:]]) == 2
    assert 'there is nothing to time with 0 samples' in capsys.readouterr().err
    demo = argv[0].replace('pspnet_repvgg_b2_cityscapes', 'pspnet_repvgg_a0_demo')
    assert tool('benchmark')(['data', demo, *argv[1:]]) == 2
    assert "mmseg's own transforms: there is nothing to compare" in capsys.readouterr().err


def test_joined_data_sets_are_all_cached(data, argv) -> None:
    cfg = load_config(argv[0], {'data_root': str(data)})
    part = cfg.train_dataloader.dataset
    other = {**part, 'data_prefix': cfg.val_dataloader.dataset.data_prefix}
    half = {'type': 'RepeatDataset', 'times': 2, 'dataset': part}
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [half, other]}
    assert len(cache_dataset.plan_cache(cfg).missing) == 2 * (8 + 4)
