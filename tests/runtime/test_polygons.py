"""Class maps as polygons, and back: through the importer, and through the reader of COCO's own tool."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repvgg_seg import Segmenter
from repvgg_seg.runtime.polygons import coco_file, join_coco_files
from repvgg_seg.runtime.predict import find_inputs, predict

coco = pytest.importorskip('pycocotools.coco', reason='pycocotools is not installed (extra: labels)')


def filled(content: dict, base: int = 0) -> np.ndarray:
    """Return the class map of a COCO file, as pycocotools fills its polygons."""
    [image] = content['images']
    size = image['height'], image['width']
    found = np.full(size, base)
    for entry in content['annotations']:
        pixels = coco.maskUtils.decode(coco.maskUtils.frPyObjects(entry['segmentation'], *size))[..., 0] == 1
        assert pixels.sum() == entry['area']
        found[pixels] = entry['category_id'] - 1
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 1000), st.integers(2, 3))
def test_polygons_are_exact_with_holes_and_touching_corners(height, width, seed, classes) -> None:
    mask = np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint8)
    assert np.array_equal(filled(coco_file('a.png', mask, ['background', 'b', 'c'])), mask)
    assert np.array_equal(filled(coco_file('a.png', mask, ['a', 'b', 'c']), -1), mask)


def test_predictions_are_polygons_that_import_as_the_same_masks(local_files, tmp_path) -> None:
    from repvgg_seg.data.importers.folder import import_labels

    segmenter = Segmenter(local_files['.onnx'])
    for name, seed in (('a.png', 1), ('deep/b.png', 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / 'photos' / name)
    inputs = find_inputs([str(tmp_path / 'photos')], tmp_path / 'out')
    for segmented in (2, 0):  # the second call finds them finished, and joins them again
        assert (
            predict(segmenter, inputs, tmp_path / 'out', save=['index', 'polygons'], quiet=True).segmented == segmented
        )
    api = coco.COCO(str(tmp_path / 'out/polygons.json'))
    assert [image['file_name'] for image in api.loadImgs(api.getImgIds())] == ['a.png', 'deep/b.png']
    done = import_labels(tmp_path / 'out/polygons.json', tmp_path / 'in', images=tmp_path / 'photos', workers=1)
    names = [name for name in done.classes if name != 'background']
    assert names == list(segmenter.classes)
    shift = len(done.classes) - len(names)
    for name in ('a', 'deep/b'):
        [path] = (tmp_path / 'in/masks').glob(f'*/{name}.png')
        predicted = np.asarray(Image.open(tmp_path / f'out/index/{name}.png.png'))
        assert np.array_equal(np.asarray(Image.open(path)), predicted + shift)


def test_videos_have_no_polygons(local_files, tmp_path) -> None:
    (tmp_path / 'a.mp4').write_bytes(b'')
    inputs = find_inputs([str(tmp_path / 'a.mp4')], tmp_path / 'out')
    with pytest.raises(ValueError, match=r'polygons are written of images, and .*a\.mp4 is a video'):
        predict(Segmenter(local_files['.onnx']), inputs, tmp_path / 'out', save=['polygons'], quiet=True)


def test_files_of_single_images_join_with_new_ids(tmp_path) -> None:
    for name in 'ab':
        content = coco_file(f'{name}.png', np.array([[1, 0, 1]], np.uint8), ['background', 'b'])
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    join_coco_files([tmp_path / 'a.json', tmp_path / 'b.json'], tmp_path / 'all.json')
    joined = json.loads((tmp_path / 'all.json').read_text())
    assert [(entry['id'], entry['image_id']) for entry in joined['annotations']] == [(1, 1), (2, 1), (3, 2), (4, 2)]
