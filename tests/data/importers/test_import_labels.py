"""Labels of other tools, in the tools' own formats, pixel by pixel; and what is wrong with files of strangers."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from repvgg_seg.data.importers.folder import describe, import_labels
from repvgg_seg.data.importers.formats import detect, split_of, voc_color
from repvgg_seg.data.importers.shapes import FARTHEST, LabelError, Shape, fill
from repvgg_seg.data.masks import MaskError, read_classes
from repvgg_seg.files import FileError
from tests.conftest import fails, tool

coco = pytest.importorskip('pycocotools.mask', reason='pycocotools is not installed (extra: labels)')

SIZE = (40, 60)  # (H, W)
OUTER, INNER = [5, 5, 50, 5, 50, 35, 5, 35], [10, 10, 20, 10, 20, 20, 10, 20]  # 45x30 and 10x10 pixels


def photo(path, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size[::-1], (90, 120, 30)).save(path, **options)
    return path


def squares(outer: int = 1, inner: int = 2, base: int = 0) -> np.ndarray:
    """Return the mask of OUTER with INNER on it."""
    mask = np.full(SIZE, base, np.uint8)
    mask[5:35, 5:50] = outer
    mask[10:20, 10:20] = inner
    return mask


def mask_of(out, name='a', split='train'):
    with Image.open(out / 'masks' / split / f'{name}.png') as image:
        assert image.mode == 'L'
        return np.asarray(image)


def run(source, out, **options):
    return import_labels(source, out, workers=1, **options)


def coco_file(root, labels, images=('a.jpg', 'b.jpg'), name='labels.json', **changes):
    """Write a COCO file of the classes car and dog."""
    for image in images:
        photo(root / image)
    content = {
        'images': [{'id': i, 'file_name': n, 'height': SIZE[0], 'width': SIZE[1]} for i, n in enumerate(images)],
        'annotations': [{'id': i, 'image_id': 0, 'iscrowd': 0, **a} for i, a in enumerate(labels)],
        'categories': [{'id': 7, 'name': 'car'}, {'id': 3, 'name': 'dog'}],
    }
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))
    return path


CAR, DOG = {'category_id': 7, 'segmentation': [OUTER]}, {'category_id': 3, 'segmentation': [INNER]}


# ---- what each tool writes


@pytest.mark.parametrize('order', [[CAR, DOG], [DOG, CAR]], ids=['large first', 'small first'])
def test_coco_polygons_are_drawn_small_over_large(tmp_path, order) -> None:
    done = run(coco_file(tmp_path / 'in', order), tmp_path / 'out')
    assert np.array_equal(mask_of(tmp_path / 'out'), squares())
    assert done.format == 'coco' and done.classes == ('background', 'car', 'dog') and not done.notes.counts
    assert read_classes(tmp_path / 'out/classes.json').names == done.classes
    assert not mask_of(tmp_path / 'out', 'b', 'val').any()  # an image without labels is background
    assert (tmp_path / 'out/images/train/a.jpg').read_bytes() == (tmp_path / 'in/a.jpg').read_bytes()


def test_coco_rle_compressed_or_not_and_crowds(tmp_path) -> None:
    crowd, pixels = np.zeros(SIZE, bool), squares(1, 0).astype(bool)
    crowd[0:4, 0:4] = True
    packed = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    runs = [n for n in np.diff(np.flatnonzero(np.diff([-1, *pixels.T.ravel().astype(int), -1]) != 0)).tolist()]
    assert sum(runs) == pixels.size and not pixels[0, 0]
    annotations = [
        {'category_id': 7, 'segmentation': {'size': [*SIZE], 'counts': packed['counts'].decode()}},
        {'category_id': 3, 'segmentation': {'size': [*SIZE], 'counts': runs}, 'image_id': 1},
        {
            'category_id': 3,
            'iscrowd': 1,
            'segmentation': {'size': [*SIZE], 'counts': [0, 4, 36, 4, 36, 4, 36, 4, 2276]},
        },
    ]
    done = run(coco_file(tmp_path / 'in', annotations), tmp_path / 'out')
    expected = pixels.astype(np.uint8)
    expected[crowd] = 255
    assert np.array_equal(mask_of(tmp_path / 'out'), expected)
    assert np.array_equal(mask_of(tmp_path / 'out', 'b', 'val'), 2 * pixels)
    assert dict(done.notes.counts) == {'crowds, as 255': 1}


def test_coco_panoptic_masks_keep_void(tmp_path) -> None:
    ids = np.where(squares() == 2, 1 << 16 | 5, np.where(squares() == 1, 300, 0))
    path = coco_file(
        tmp_path / 'in',
        [],
        images=('a.jpg',),
        annotations=[
            {
                'image_id': 0,
                'file_name': 'a.png',
                'segments_info': [{'id': 300, 'category_id': 7}, {'id': 1 << 16 | 5, 'category_id': 3}],
            }
        ],
        categories=[{'id': 7, 'name': 'car', 'color': [1, 2, 3]}, {'id': 3, 'name': 'dog', 'color': [4, 5, 6]}],
    )
    (tmp_path / 'in/labels').mkdir()
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'in/labels/a.png')
    done = run(path, tmp_path / 'out')
    assert done.classes == ('car', 'dog') and read_classes(tmp_path / 'out/classes.json').colors == (
        (1, 2, 3),
        (4, 5, 6),
    )
    assert np.array_equal(mask_of(tmp_path / 'out'), squares(0, 1, 255))


def labelme(root, shapes, name='a', **changes):
    photo(root / f'{name}.jpg')
    content = {
        'version': '5.5.0', 'flags': {}, 'shapes': [{'shape_type': 'polygon', 'flags': {}, **s} for s in shapes],
        'imagePath': f'{name}.jpg', 'imageData': None, 'imageHeight': SIZE[0], 'imageWidth': SIZE[1],
    }  # fmt: skip
    (root / f'{name}.json').write_text(json.dumps({**content, **changes}))


def png(pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def test_labelme_shapes_are_filled_as_labelme_fills_them(tmp_path) -> None:
    points = [[3.4, 2.2], [40.7, 8.1], [22.0, 33.3]]
    shapes = [
        {'label': 'tri', 'points': points},
        {'label': 'box', 'shape_type': 'rectangle', 'points': [[50, 30], [44, 20]]},
        {'label': 'disc', 'shape_type': 'circle', 'points': [[50, 8], [53, 8]]},
        {'label': 'part', 'shape_type': 'mask', 'points': [[2, 34], [4, 35]], 'mask': png(np.eye(2, 3) > 0)},
        {'label': '__ignore__', 'points': [[0, 0], [2, 0], [2, 1], [0, 1]]},
        *({'label': 'wire', 'shape_type': kind, 'points': points} for kind in ('linestrip', 'line', 'point', 'point')),
    ]
    labelme(tmp_path / 'in', shapes)
    done = run(tmp_path / 'in', tmp_path / 'out')
    assert done.classes == ('background', 'box', 'disc', 'part', 'tri')
    expected = Image.new('L', SIZE[::-1])
    draw = ImageDraw.Draw(expected)
    draw.polygon([tuple(point) for point in points], fill=4, outline=4)
    draw.rectangle([(44, 20), (50, 30)], fill=1, outline=1)
    draw.ellipse([(47, 5), (53, 11)], fill=2, outline=2)
    draw.point([(2, 34), (3, 35)], 3)
    draw.rectangle([(0, 0), (2, 1)], fill=255)
    assert np.array_equal(mask_of(tmp_path / 'out'), np.asarray(expected))
    counts = {'linestrip': 1, 'line': 1, 'point': 2}
    assert dict(done.notes.counts) == {f'shapes that are not filled ({kind})': n for kind, n in counts.items()}


def test_labelme_files_may_hold_their_image(tmp_path) -> None:
    pixels = np.arange(2400, dtype=np.uint8).reshape(SIZE)
    labelme(tmp_path / 'in', [{'label': 'x', 'points': [[0, 0], [9, 0], [9, 9]]}], imageData=png(pixels))
    (tmp_path / 'in/a.jpg').unlink()
    run(tmp_path / 'in', tmp_path / 'out')
    with Image.open(tmp_path / 'out/images/train/a.png') as image:
        assert np.array_equal(np.asarray(image.convert('L')), pixels)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>car</name><color>#ff0010</color></label><label><name>dog</name><color>#00ff00</color></label>
</labels></job></meta>
<image id="0" name="trip/a.jpg" width="60" height="40">
<polygon label="dog" source="manual" occluded="0" points="5.00,5.00;50.00,5.00;50.00,35.00;5.00,35.00" z_order="{z}"/>
<box label="car" occluded="0" xtl="10" ytl="10" xbr="20" ybr="20" z_order="0"/>
<mask label="car" occluded="0" rle="1, 2, 1, 2" left="52" top="36" width="3" height="2" z_order="0"/>
<polyline label="car" points="1,1;2,2" z_order="0"/><polyline label="dog" points="1,1;9,2" z_order="0"/>
<cuboid label="car" xtl1="1" ytl1="1" xbl1="1" ybl1="9" xtr1="9" ytr1="1" xbr1="9" ybr1="9" xtl2="2" ytl2="2"/>
<points label="car" points="1,1" z_order="0"/>{more}
</image></annotations>"""


@pytest.mark.parametrize('z', [0, 1])
def test_cvat_shapes_masks_and_their_order(tmp_path, z: int) -> None:
    photo(tmp_path / 'in/images/trip/a.jpg')
    (tmp_path / 'in/annotations.xml').write_text(CVAT.format(z=z, more=''))
    done = run(tmp_path / 'in', tmp_path / 'out')
    expected = squares(2, 2 if z else 1)
    expected[36, 53:55] = expected[37, 53:55] = 1
    assert np.array_equal(mask_of(tmp_path / 'out', 'trip/a'), expected)
    assert read_classes(tmp_path / 'out/classes.json').colors == ((0, 0, 0), (255, 0, 16), (0, 255, 0))
    counts = {'polyline': 2, 'cuboid': 1, 'points': 1}
    assert dict(done.notes.counts) == {f'shapes that are not filled ({kind})': n for kind, n in counts.items()}
    assert f'{2:9,}  shapes that are not filled (polyline), such as ' in '\n'.join(describe(done))


def test_cvat_turns_boxes_and_ellipses(tmp_path) -> None:
    photo(tmp_path / 'in/a.jpg')
    more = (
        '<box label="car" xtl="20" ytl="18" xbr="40" ybr="22" rotation="90"/>'
        '<ellipse label="dog" cx="50" cy="20" rx="3" ry="6" rotation="90"/>'
    )
    text = CVAT.replace('trip/', '').format(z=0, more=more)
    (tmp_path / 'in/a.xml').write_text('\n'.join(line for line in text.split('\n') if '<polygon' not in line))
    run(tmp_path / 'in', tmp_path / 'out')
    mask = mask_of(tmp_path / 'out')
    assert np.argwhere(mask[:, 22:40] == 1).tolist() == [[y, x] for y in range(10, 30) for x in range(6, 10)]
    where = np.argwhere(mask == 2)
    assert where.min(0).tolist() == [17, 44] and where.max(0).tolist() == [22, 55]
    assert abs(len(where) - np.pi * 18) < 6


def voc(root, *, mode='P', labelmap='', lists=()):
    photo(root / 'JPEGImages/a.jpg'), photo(root / 'JPEGImages/b.jpg')
    (root / 'SegmentationClass').mkdir()
    pixels = squares(7, 15)
    pixels[:2] = 255
    image = Image.fromarray(pixels, 'P')
    image.putpalette([channel for i in range(256) for channel in (voc_color(i) if i < 255 else (224, 224, 192))])
    for name in 'ab':
        image.convert(mode).save(root / f'SegmentationClass/{name}.png')
    if labelmap:
        (root / 'labelmap.txt').write_text(labelmap)
    for split, names in lists:
        (root / 'ImageSets/Segmentation').mkdir(parents=True, exist_ok=True)
        (root / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(names))
    return pixels


@pytest.mark.parametrize('mode', ['P', 'RGB'])
def test_voc_masks_as_palettes_and_as_colours_with_their_splits(tmp_path, mode: str) -> None:
    pixels = voc(tmp_path / 'VOC2012', mode=mode, lists=[('val', ['a']), ('train', ['b']), ('trainval', ['a', 'b'])])
    done = run(tmp_path, tmp_path / 'out')
    assert len(done.classes) == 21 and done.classes[15] == 'person' and done.split == "the source's own"
    assert np.array_equal(mask_of(tmp_path / 'out', split='val'), pixels)
    assert done.images == {'train': 1, 'val': 1}


def test_voc_masks_of_cvat_have_their_own_classes_and_colours(tmp_path) -> None:
    red, green = voc_color(7), voc_color(15)
    names = f'# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:{",".join(map(str, green))}::\n'
    voc(tmp_path / 'in', labelmap=names + f'dog:{",".join(map(str, red))}::\n')
    run(tmp_path / 'in', tmp_path / 'out')
    expected = squares(2, 1)
    expected[:2] = 255
    assert np.array_equal(mask_of(tmp_path / 'out'), expected)


def yolo(root, lines, names='[car, dog]'):
    photo(root / 'images/train/a.jpg'), photo(root / 'images/val/b.jpg')
    (root / 'data.yaml').write_text(f'path: .\ntrain: images/train\nval: images/val\nnames: {names}\n')
    for split in ('train', 'val'):
        (root / 'labels' / split).mkdir(parents=True)
    (root / 'labels/train/a.txt').write_text('\n'.join(lines))


def parts(flat) -> str:
    return ' '.join(str(value / SIZE[1 - i % 2]) for i, value in enumerate(flat))


@pytest.mark.parametrize('names', ['[car, dog]', '{0: car, 1: dog}'])
def test_yolo_polygons_and_their_splits(tmp_path, names: str) -> None:
    yolo(tmp_path / 'in', [f'0 {parts(OUTER)}', f'1 {parts(INNER)}', '0 0.5 0.5 0.1 0.1'], names)
    done = run(tmp_path / 'in', tmp_path / 'out')
    assert np.array_equal(mask_of(tmp_path / 'out'), squares())
    assert done.images == {'train': 1, 'val': 1} and not mask_of(tmp_path / 'out', 'b', 'val').any()
    assert dict(done.notes.counts) == {
        'labels without polygon or mask (boxes, keypoints)': 1,
        'images without a label file, as background': 1,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 90), st.floats(-30, 70)), min_size=3, max_size=7, unique=True))
def test_only_the_box_around_a_polygon_is_drawn_and_no_pixel_changes(points) -> None:
    flat = [value for point in points for value in point]
    y, x, mask = fill(Shape('a', 'polygons', [flat]), SIZE)
    found = np.zeros(SIZE, bool)
    found[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    assert np.array_equal(found, coco.decode(coco.frPyObjects([flat], *SIZE))[..., 0])


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=24, max_size=24), st.booleans())
def test_rle_is_what_pycocotools_writes(bits: bytes, flip: bool) -> None:
    pixels = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(12, 16).repeat(4, 1) ^ flip
    packed = coco.encode(np.asfortranarray(pixels))
    rle = {'size': packed['size'], 'counts': packed['counts'].decode()}
    assert np.array_equal(fill(Shape('a', 'rle', rle), pixels.shape).mask, pixels)


# ---- train and val


def test_frames_of_one_video_stay_together_and_every_call_splits_alike(tmp_path) -> None:
    names = [f'drive{drive}_{frame:03}.jpg' for drive in range(5) for frame in range(4)]
    path = coco_file(tmp_path / 'in', [], images=names)
    splits = []
    for out in ('one', 'two'):
        assert run(path, tmp_path / out).images == {'train': 16, 'val': 4}
        splits.append(sorted(p.stem for p in (tmp_path / out / 'images/val').iterdir()))
    assert splits[0] == splits[1] and len({name[:6] for name in splits[0]}) == 1
    assert run(path, tmp_path / 'half', val=0.5).images == {'train': 12, 'val': 8}
    assert run(path, tmp_path / 'by', group=r'_(\d+)').images == {'train': 15, 'val': 5}  # by the number of the frame


def test_folders_are_groups_and_one_group_gives_its_last_images(tmp_path) -> None:
    path = coco_file(tmp_path / 'in', [], images=[f'{place}/{i}.jpg' for place in 'pqr' for i in range(3)])
    run(path, tmp_path / 'out', val=0.4)
    assert len(list((tmp_path / 'out/images/val').iterdir())) == 1
    path = coco_file(tmp_path / 'single', [], images=[f'{i:02}.jpg' for i in range(10)])
    assert run(path, tmp_path / 'last').split == 'the last 2 images'
    assert sorted(p.name for p in (tmp_path / 'last/images/val').iterdir()) == ['08.jpg', '09.jpg']


def test_settings_of_another_program_beside_the_labels_are_no_yolo(tmp_path) -> None:
    path = coco_file(tmp_path / 'in', [CAR])
    (tmp_path / 'in/settings.yaml').write_text('threads: 4')
    assert detect(path.parent) == 'coco'


def test_several_files_of_coco_are_the_splits(tmp_path) -> None:
    root = tmp_path / 'in'
    coco_file(root, [CAR], images=('valid/a.jpg',), name='valid/_annotations.coco.json')
    coco_file(root, [DOG], images=('train/a.jpg',), name='train/_annotations.coco.json')
    for split in ('train', 'valid'):
        text = (root / split / '_annotations.coco.json').read_text().replace(f'{split}/a.jpg', 'a.jpg')
        (root / split / '_annotations.coco.json').write_text(text)
    assert run(root, tmp_path / 'out').images == {'train': 1, 'val': 1}
    assert (mask_of(tmp_path / 'out', 'a_2', 'val') == 1).sum() == 45 * 30
    assert (mask_of(tmp_path / 'out', 'a', 'train') == 2).sum() == 100
    assert split_of('annotations/instances_val2017.json') == 'val' and split_of('images/trains') == ''


# ---- what is wrong with files


def test_bad_labels_are_left_out_and_told(tmp_path) -> None:
    annotations = [
        CAR,
        {'category_id': 3, 'segmentation': [[1, 1, 9, 9]]},
        {'category_id': 3, 'segmentation': [[1, 1, 9, 9, 1, 1]]},
        {'category_id': 3, 'segmentation': [[1, 1, 9, 9, 'x', 1]]},
        {'category_id': 3, 'segmentation': [[100, 100, 120, 100, 120, 120]]},
        {'category_id': 3, 'segmentation': [[1, 1, 1e12, 1, 1, 30]]},
        {'category_id': 3, 'segmentation': [], 'bbox': [1, 1, 2, 2]},
        {'category_id': 3, 'segmentation': {'size': [9, 9], 'counts': [81]}},
        {'category_id': 3, 'segmentation': {'size': [*SIZE], 'counts': [5, -3, 2398]}},
        {'category_id': 3, 'segmentation': {'size': [*SIZE], 'counts': 'a\x7f\x00zzzz'}},
        {'category_id': 99, 'segmentation': [INNER]},
        {'category_id': 3, 'segmentation': [INNER], 'image_id': 55},
        {**CAR, 'id': 0, 'image_id': 0, 'iscrowd': 0},
        {'category_id': 3, 'segmentation': [[45, 30, 80, 30, 80, 60, 45, 60]], 'id': 0},
    ]
    done = run(coco_file(tmp_path / 'in', annotations), tmp_path / 'out')
    assert dict(done.notes.counts) == {
        'polygons of fewer than three points': 2,
        'polygons that are not made of numbers': 1,
        'shapes outside of the image or without a pixel': 1,
        f'shapes more than {FARTHEST} pixels away from the image': 1,
        'labels without polygon or mask (boxes, keypoints)': 1,
        'RLE masks that are damaged or of another size than the image': 3,
        'labels of an unknown class, as 255': 1,
        'labels of images that are not listed': 1,
        'labels that are there twice': 1,
        'different labels of one id (all are drawn)': 1,
    }
    expected = squares(1, 255)
    expected[30:, 45:] = 2
    assert np.array_equal(mask_of(tmp_path / 'out'), expected)
    report = json.loads((tmp_path / 'out/import.json').read_text())
    assert report['left_out'][0]['count'] == 3 and report['left_out'][0]['examples']


def test_images_that_are_missing_damaged_turned_or_of_another_size_are_left_out(tmp_path) -> None:
    path = coco_file(tmp_path / 'in', [CAR], images=('a.jpg', 'gone.jpg', 'small.jpg', 'bad.jpg', 'turned.jpg'))
    (tmp_path / 'in/gone.jpg').unlink()
    photo(tmp_path / 'in/small.jpg', (4, 6))
    (tmp_path / 'in/bad.jpg').write_bytes(b'no image')
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / 'in/turned.jpg', exif=exif)  # the labels tell its size as stored, and tools show it turned
    done = run(path, tmp_path / 'out')
    assert done.images == {'train': 1}
    assert dict(done.notes.counts) == {
        'images that are not there': 1,
        'images of another size than their labels say': 2,
        'images that cannot be read': 1,
    }


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([{'id': 1, 'data': {'image': 'x'}, 'annotations': []}], 'looks like Label Studio'),
        ({'a.jpg123': {'filename': 'a.jpg', 'size': 123, 'regions': []}}, 'looks like the VGG Image Annotator'),
        ({'imgHeight': 4, 'imgWidth': 4, 'objects': []}, 'looks like Cityscapes'),
        ({'type': 'FeatureCollection', 'features': []}, 'looks like GeoJSON'),
        ({'hello': 1}, 'looks like no label file'),
    ],
)  # fmt: skip
def test_a_json_of_another_tool_is_told_which(tmp_path, content, message: str) -> None:
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/x.json').write_text(json.dumps(content))
    for source in (tmp_path / 'in', tmp_path / 'in/x.json'):
        with pytest.raises(LabelError, match=message):
            detect(source)


def test_files_that_tell_nothing_are_one_sentence(tmp_path, capsys) -> None:
    root, out = tmp_path / 'in', tmp_path / 'out'
    path = coco_file(root, [CAR])
    path.write_text(path.read_text()[:-9])
    assert 'damaged or cut short' in fails(capsys, 'import-labels', path, out)
    path = coco_file(root, [CAR])
    path.write_text(path.read_text().replace('"id": 1, "file_name"', '"id": 0, "file_name"'))
    assert 'two images of the id 0' in fails(capsys, 'import-labels', path, out)
    assert 'has no list of' in fails(capsys, 'import-labels', coco_file(root, [], categories=3), out)
    yolo(tmp_path / 'yolo', ['0 0.1 0.1 0.9 0.1 0.9 0.9'])
    (tmp_path / 'yolo/data.yaml').write_text('names: 2')
    assert 'does not tell the names' in fails(capsys, 'import-labels', tmp_path / 'yolo', out)
    (root / 'a.xml').write_text('<!DOCTYPE x [<!ENTITY y "z">]><annotations/>')
    assert 'declares entities' in fails(capsys, 'import-labels', root / 'a.xml', out)
    (root / 'a.xml').write_text('<annotations><track id="0"/></annotations>')
    assert 'looks like CVAT for video' in fails(capsys, 'import-labels', root / 'a.xml', out)
    assert 'does not exist' in fails(capsys, 'import-labels', root / 'gone', out)
    assert not out.exists()


def test_what_an_import_writes_replaces_only_an_import(tmp_path, capsys) -> None:
    path, out = coco_file(tmp_path / 'in', [CAR]), tmp_path / 'out'
    assert tool('import_labels')([str(path), str(out)]) == 0
    assert 'coco: 1 train, 1 val images' in capsys.readouterr().out
    with pytest.raises(FileError, match='holds an import already'):
        run(path, out)
    (out / 'images/train/a.jpg').unlink()
    run(path, out, overwrite=True)
    assert (out / 'images/train/a.jpg').is_file()
    with pytest.raises(FileError, match='holds something that this did not write'):
        run(path, tmp_path / 'in', overwrite=True)
    with pytest.raises(LabelError, match=r'nothing of .* can be used: 2 images that are not there, such as a\.jpg'):
        run(path, tmp_path / 'none', images=tmp_path / 'out/masks')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in', 'out']  # nothing half-way


def test_a_file_of_classes_fixes_their_order(tmp_path) -> None:
    classes = [{'name': name, 'color': [i, i, i]} for i, name in enumerate(['dog', 'background'])]
    (tmp_path / 'c.json').write_text(json.dumps({'classes': classes}))
    done = run(coco_file(tmp_path / 'in', [CAR, DOG]), tmp_path / 'out', classes_file=tmp_path / 'c.json')
    assert np.array_equal(mask_of(tmp_path / 'out'), squares(255, 0, 1))
    assert dict(done.notes.counts) == {'classes that the file of classes lacks, as 255': 1}
    with pytest.raises(MaskError, match='there is no list "classes"'):
        (tmp_path / 'c.json').write_text('{}')
        run(tmp_path / 'in/labels.json', tmp_path / 'other', classes_file=tmp_path / 'c.json')
