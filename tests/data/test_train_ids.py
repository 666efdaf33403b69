"""Cityscapes' training masks from label ids and from polygons."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from repvgg_seg.data.train_ids import make_train_ids, rasterise
from tests.conftest import fails, tool


def masks(root: Path) -> dict[str, np.ndarray]:
    return {
        str(path.relative_to(root)): cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in root.rglob('*_labelTrainIds.png')
    }


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def annotation(*objects: dict) -> bytes:
    return json.dumps({'imgWidth': 20, 'imgHeight': 10, 'objects': objects}).encode()


def test_the_official_masks_are_made_from_the_official_label_ids(repo, tmp_path) -> None:
    source = repo / '../shared/data/samples/cityscapes'
    if not source.is_dir():
        pytest.skip('the Cityscapes sample is not here')
    shutil.copytree(source, tmp_path / 'data')
    official = masks(tmp_path / 'data')
    for path in (tmp_path / 'data').rglob('*_labelTrainIds.png'):
        path.unlink()
    assert make_train_ids(tmp_path / 'data', workers=1) == (len(official), len(official)) == (1, 1)
    made = masks(tmp_path / 'data')
    assert made.keys() == official.keys()
    for name, mask in made.items():
        # Both files of the sample were shrunk on their own, so a few pixels along the edges disagree.
        assert (mask == official[name]).mean() > 0.995
        for label in np.unique(mask):
            assert np.bincount(official[name][mask == label]).argmax() == label


def test_masks_of_the_demo_are_made_again_where_they_are_missing(demo_data, tmp_path, capsys) -> None:
    shutil.copytree(demo_data, tmp_path / 'data')
    expected = masks(tmp_path / 'data')
    kept, *removed = sorted((tmp_path / 'data').rglob('*_labelTrainIds.png'))
    for path in removed:
        path.unlink()
    before = kept.stat().st_mtime_ns
    assert tool('make_train_ids')([str(tmp_path / 'data'), '--workers', '2']) == 0
    assert '11 masks were made; 12 are below' in capsys.readouterr().out
    made = masks(tmp_path / 'data')
    assert made.keys() == expected.keys() and all((made[k] == expected[k]).all() for k in expected)
    assert kept.stat().st_mtime_ns == before


def test_polygons_are_drawn_in_order_without_what_is_deleted_or_has_no_id() -> None:
    drawn = rasterise(
        annotation(
            {'label': 'road', 'polygon': box(0, 5, 19, 9)},
            {'label': 'cargroup', 'polygon': box(2, 4, 6, 8)},  # over the road, as a car
            {'label': 'license plate', 'polygon': box(3, 5, 4, 6)},
            {'label': 'sky', 'polygon': box(0, 0, 19, 9), 'deleted': 1},
            {'label': 'polegroup', 'polygon': box(10, 0, 11, 9)},  # a label of its own, which is ignored
        )
    )
    expected = np.full((10, 20), 255)
    expected[5:10] = 0
    expected[4:9, 2:7] = 13
    expected[:, 10:12] = 255
    assert (drawn == expected).all()


def test_polygons_serve_where_label_ids_are_missing(tmp_path) -> None:
    (tmp_path / 'a_gtFine_polygons.json').write_bytes(annotation({'label': 'sky', 'polygon': box(0, 0, 19, 9)}))
    cv2.imwrite(str(tmp_path / 'b_gtFine_labelIds.png'), np.full((10, 20), 26, np.uint8))
    (tmp_path / 'b_gtFine_polygons.json').write_text('not read, because the label ids are there')
    assert make_train_ids(tmp_path, workers=1) == (2, 2)
    assert {name: set(mask.ravel().tolist()) for name, mask in masks(tmp_path).items()} == {
        'a_gtFine_labelTrainIds.png': {10},
        'b_gtFine_labelTrainIds.png': {13},
    }


def test_what_cannot_be_converted(capsys, tmp_path) -> None:
    assert 'no does not exist: name the folder of Cityscapes' in fails(capsys, 'make_train_ids', tmp_path / 'no')
    assert 'holds neither *_labelIds.png nor *_polygons.json' in fails(capsys, 'make_train_ids', tmp_path)
    source = tmp_path / 'a_gtFine_labelIds.png'
    cv2.imwrite(str(source), np.full((4, 4), 34, np.uint8))
    assert 'cannot be converted (label ids are one channel of 0–33)' in fails(capsys, 'make_train_ids', tmp_path)
    source.write_bytes(source.read_bytes()[:40])
    assert f'{source} cannot be converted' in fails(capsys, 'make_train_ids', tmp_path)
    source.rename(tmp_path / 'a_gtFine_polygons.json').write_bytes(
        annotation({'label': 'unicorn', 'polygon': box(0, 0, 9, 9)})
    )
    assert "cannot be converted ('unicorn'): unpack it again" in fails(capsys, 'make_train_ids', tmp_path)
    assert not masks(tmp_path)
