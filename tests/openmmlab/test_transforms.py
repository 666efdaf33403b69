"""Resize and crop in one operation against mmseg's two; albumentations: labels stay labels, seeds count."""

import copy
from pathlib import Path

import albumentations
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.runner import Runner
from mmseg.registry import TRANSFORMS
from mmseg.utils import register_all_modules

import repvgg_seg.openmmlab  # noqa: F401  (registers the transforms)

register_all_modules()

# OpenCV 4 rounds positions to 1/32 pixel, so that two neighbours can differ by 255/64 in each direction from exact.
ROUNDING = 1 if int(cv2.__version__.split('.')[0]) >= 5 else 9
FRAGMENTS = sorted((Path(__file__).parents[2] / 'configs/_base_/datasets').glob('*.py'))
SIDE = st.integers(8, 70)
SCALE = st.integers(24, 90)  # mmseg fails where no pixel is left of a side


def sample(height: int, width: int, seed: int = 0) -> dict:
    """Noise, the hardest image to interpolate, and a mask of blocks of 4 classes and void."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (height // 8 + 1, width // 8 + 1))
    return {
        'img': rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        'gt_seg_map': np.ascontiguousarray(np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]),
        'seg_fields': ['gt_seg_map'],
    }


def run(transforms: list[dict], results: dict, seed: int) -> tuple[dict, float]:
    """Return what the transforms make of `results`, and the random number that comes after them."""
    np.random.seed(seed)
    for transform in transforms:
        results = TRANSFORMS.build(transform)(results)
    return results, np.random.random()


@given(
    size=st.tuples(SIDE, SIDE), scale=st.tuples(SCALE, SCALE), crop=st.tuples(SIDE, SIDE),
    low=st.floats(0.3, 1.5), span=st.floats(0, 2), share=st.sampled_from([0.3, 0.75, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_one_operation_draws_the_crop_of_mmsegs_two(size, scale, crop, low, span, share, seed) -> None:
    options = {'scale': scale, 'ratio_range': (low, low + span)}
    two = [
        {'type': 'RandomResize', **options, 'keep_ratio': True},
        {'type': 'RandomCrop', 'crop_size': crop, 'cat_max_ratio': share},
    ]
    one = [{'type': 'ResizeAndCrop', **options, 'crop_size': crop, 'cat_max_ratio': share}]
    expected, after = run(two, sample(*size, seed), seed)
    result, then = run(one, sample(*size, seed), seed)
    assert then == after  # the same numbers were drawn
    assert np.array_equal(result['gt_seg_map'], expected['gt_seg_map'])
    assert result['img'].shape == expected['img'].shape
    assert np.abs(result['img'].astype(int) - expected['img']).max() <= ROUNDING
    for key in ('scale', 'scale_factor', 'keep_ratio', 'img_shape'):
        assert result[key] == expected[key]


@pytest.mark.parametrize('ratio', [0.5, 0.731, 1.0, 1.618, 2.0])
def test_the_same_holds_at_the_size_of_cityscapes(ratio: float) -> None:
    """Far from the origin a slightly wrong step would be pixels off."""
    big = {
        'img': np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8),
        'seg_fields': ['gt_seg_map'],
    }
    big['gt_seg_map'] = big['img'][..., 0].copy()
    options = {'scale': (2048, 1024), 'ratio_range': (ratio, ratio)}
    two = [{'type': 'RandomResize', **options, 'keep_ratio': True}, {'type': 'RandomCrop', 'crop_size': (512, 1024)}]
    one = [{'type': 'ResizeAndCrop', **options, 'crop_size': (512, 1024)}]
    expected, _ = run(two, dict(big), 3)
    result, _ = run(one, dict(big), 3)
    assert np.array_equal(result['gt_seg_map'], expected['gt_seg_map'])
    assert np.abs(result['img'].astype(int) - expected['img']).max() <= ROUNDING


@pytest.mark.parametrize('dtype', [np.int32, np.int64])
def test_labels_of_more_bits_are_cropped_alike(dtype: type) -> None:
    crop = [{'type': 'ResizeAndCrop', 'scale': (90, 60), 'ratio_range': (1, 2), 'crop_size': (16, 16),
             'cat_max_ratio': 0.4}]  # fmt: skip
    wide = sample(40, 60)
    wide['gt_seg_map'] = wide['gt_seg_map'].astype(dtype)
    (expected, after), (result, then) = run(crop, sample(40, 60), 5), run(crop, wide, 5)
    assert then == after and result['gt_seg_map'].dtype == dtype
    assert np.array_equal(result['gt_seg_map'], expected['gt_seg_map'])


def test_the_source_is_left_as_it_was() -> None:
    """It may be a memory map that the next reader shares."""
    results = sample(40, 60)
    before = copy.deepcopy(results)
    image, mask = results['img'], results['gt_seg_map']
    run([{'type': 'ResizeAndCrop', 'scale': (60, 40), 'ratio_range': (1, 1), 'crop_size': (16, 16)}], results, 0)
    assert np.array_equal(image, before['img']) and np.array_equal(mask, before['gt_seg_map'])


# ---- albumentations

ROTATE = {'type': 'SeededAlbu', 'transforms': [{'type': 'Rotate', 'limit': (40, 40), 'p': 1.0}]}


def test_image_and_mask_move_together_and_nothing_else_is_passed(monkeypatch) -> None:
    results = sample(48, 64)
    results['img'] = np.repeat(results['gt_seg_map'][..., None], 3, 2)  # the image shows the labels
    results |= {'img_path': 'a.png', 'label_map': None, 'img_shape': (48, 64)}
    passed = []
    call = albumentations.Compose.__call__
    monkeypatch.setattr(
        albumentations.Compose, '__call__', lambda *a, **data: passed.append(set(data)) or call(*a, **data)
    )
    shift = {'type': 'Affine', 'translate_px': {'x': 9, 'y': -5}, 'fill': 255, 'p': 1.0}
    flip = {'type': 'RandomRotate90', 'p': 1.0}
    moved, _ = run([{'type': 'SeededAlbu', 'transforms': [shift, flip]}], results, 1)
    assert passed == [{'image', 'mask'}]
    assert not np.array_equal(moved['gt_seg_map'], sample(48, 64)['gt_seg_map'])
    assert np.array_equal(moved['img'][..., 0], moved['gt_seg_map']) and moved['img_path'] == 'a.png'
    assert moved['img_shape'] == moved['img'].shape[:2] == moved['gt_seg_map'].shape


def test_pixels_from_beyond_the_border_are_ignored_by_default() -> None:
    results = sample(48, 64)
    results['gt_seg_map'][:] = 2
    nested = {'type': 'SeededAlbu', 'transforms': [{'type': 'OneOf', 'transforms': ROTATE['transforms'], 'p': 1.0}]}
    for albu in (ROTATE, nested):
        labels = run([albu], copy.deepcopy(results), 0)[0]['gt_seg_map']
        assert set(np.unique(labels)) == {2, 255} and labels[0, 0] == 255
    ours = {'type': 'SeededAlbu', 'transforms': [{**ROTATE['transforms'][0], 'fill_mask': 1}]}
    assert set(np.unique(run([ours], copy.deepcopy(results), 0)[0]['gt_seg_map'])) == {1, 2}


def test_a_transform_that_albumentations_lacks_is_reported() -> None:
    with pytest.raises(ValueError, match=r"albumentations .* has no transform 'Rotatte'"):
        TRANSFORMS.build({'type': 'SeededAlbu', 'transforms': [{'type': 'Rotatte'}]})


def test_the_transforms_of_one_image_are_independent() -> None:
    """albumentations' own seeding gives each transform the same numbers: all of p=0.5 would apply, or none."""
    common = {'type': 'RandomBrightnessContrast', 'contrast_limit': 0, 'p': 0.5}
    halves = [{**common, 'brightness_limit': (by, by)} for by in (0.1, 0.3)]
    albu = TRANSFORMS.build({'type': 'SeededAlbu', 'transforms': halves})
    np.random.seed(0)
    levels = {albu({'img': np.full((2, 2, 3), 50, np.uint8)})['img'][0, 0, 0] for _ in range(40)}
    assert len(levels) == 4  # neither, one, the other, both


def batches(data_root, seed: int, workers: int) -> list[np.ndarray]:
    """Return 8 images that a data loader makes of one sample."""
    jitter = {'type': 'RandomBrightnessContrast', 'p': 1.0}
    loader = {
        'batch_size': 1,
        'num_workers': workers,
        'sampler': {'type': 'InfiniteSampler', 'shuffle': False},
        'dataset': {
            'type': 'CityscapesDataset',
            'data_root': str(data_root),
            'data_prefix': {'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'},
            'indices': 1,
            'pipeline': [
                {'type': 'LoadImageFromFile'},
                {'type': 'LoadAnnotations'},
                {'type': 'SeededAlbu', 'transforms': [jitter]},
                {'type': 'PackSegInputs'},
            ],
        },
    }
    np.random.seed(seed)  # what the runner does for a loader without workers
    batch = iter(Runner.build_dataloader(loader, seed=seed))
    return [next(batch)['inputs'][0].numpy() for _ in range(8)]


@pytest.mark.parametrize('workers', [0, 2])
def test_the_seed_of_the_run_decides_what_is_drawn(demo_data, workers: int) -> None:
    first, again, other = (batches(demo_data, seed, workers) for seed in (0, 0, 5))
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))
    assert not any(np.array_equal(a, b) for i, a in enumerate(first) for b in first[:i])  # workers differ too


NO_DISTORTION = {'brightness_delta': 1, 'contrast_range': (1, 1), 'saturation_range': (1, 1), 'hue_delta': 1}


@pytest.mark.parametrize(
    'options',
    [
        {},
        {**NO_DISTORTION, 'brightness_delta': 80},
        {**NO_DISTORTION, 'contrast_range': (0.5, 1.2)},
        {**NO_DISTORTION, 'saturation_range': (0.1, 2.0)},
        {**NO_DISTORTION, 'hue_delta': 30},
    ],
)
def test_photometric_distortion_is_as_strong_as_mmsegs_with_the_same_arguments(options: dict) -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 200, (6, 8, 3), dtype=np.uint8), (32, 24))
    strength = []
    for name in ('PhotoMetricDistortion', 'AlbuPhotoMetricDistortion'):
        transform = TRANSFORMS.build({'type': name, **options})
        np.random.seed(0)
        drawn = np.stack([transform({'img': image.copy()})['img'] for _ in range(600)]).astype(float)
        strength.append((np.abs(drawn - image).mean(), drawn.mean()))
    assert strength[1] == pytest.approx(strength[0], rel=0.15)


@pytest.mark.parametrize('photometric', ['AlbuPhotoMetricDistortion', 'PhotoMetricDistortion'])
@pytest.mark.parametrize('path', FRAGMENTS, ids=lambda path: path.stem)
def test_the_shipped_pipelines_take_either_photometric_distortion(demo_data, path, photometric) -> None:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({'train_dataloader.dataset.pipeline.4.type': photometric})  # as --cfg-options does
    pipeline = cfg.train_dataloader.dataset.pipeline
    names = [transform['type'] for transform in pipeline]
    assert names[:3] == ['LoadCachedImage', 'LoadCachedAnnotations', 'ResizeAndCrop'] and photometric in names
    results = {
        'img_path': str(next(demo_data.rglob('*_leftImg8bit.png'))),
        'seg_map_path': str(next(demo_data.rglob('*_labelTrainIds.png'))),
        'reduce_zero_label': cfg.train_dataloader.dataset.get('reduce_zero_label', False),
        'label_map': None,
        'seg_fields': [],
    }
    np.random.seed(0)
    packed = Compose(pipeline)(results)
    height, width = packed['inputs'].shape[1:]
    assert packed['data_samples'].gt_sem_seg.shape == (height, width)
    assert height == cfg.crop_size[0] or width == cfg.crop_size[1] or max(height, width) < max(cfg.crop_size)
