"""classes.json, and masks of colours made into class indices."""

import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repvgg_seg.data import masks
from repvgg_seg.data.masks import Classes, MaskError, convert_masks, find_images, read_classes
from repvgg_seg.files import FileError
from tests.conftest import tool

ROAD, CAR, EDGE = (128, 64, 128), (0, 0, 142), (255, 255, 255)
CLASSES = {
    'classes': [{'name': 'road', 'color': [*ROAD]}, {'name': 'car', 'color': [*CAR]}],
    'ignore': [[*EDGE]],
}


@pytest.fixture
def root(tmp_path):
    """A folder with classes.json and one mask of colours, coloured/a/one.png."""
    (tmp_path / 'classes.json').write_text(json.dumps(CLASSES))
    mask = np.array([[ROAD, CAR, EDGE], [CAR, CAR, ROAD]], np.uint8)
    save(mask, tmp_path / 'coloured/a/one.png')
    return tmp_path


def save(pixels: np.ndarray, path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def convert(root, **options):
    return convert_masks(root / 'classes.json', root / 'coloured', root / 'masks', workers=1, **options)


def test_colours_become_indices_in_folders_of_the_same_names(root) -> None:
    save(np.full((2, 2, 3), ROAD, np.uint8), root / 'coloured/two.bmp')
    assert convert(root) == masks.Conversion(converted=2, kept=0, ignored_pixels=0)
    with Image.open(root / 'masks/a/one.png') as image:
        assert image.mode == 'L' and np.asarray(image).tolist() == [[0, 1, 255], [1, 1, 0]]
    assert np.asarray(Image.open(root / 'masks/two.png')).tolist() == [[0, 0], [0, 0]]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_colours_go_to_their_own_index(data) -> None:
    color = st.tuples(*[st.integers(0, 255)] * 3)
    colors = data.draw(st.lists(color, min_size=2, max_size=6, unique=True))
    classes = Classes(tuple(f'c{i}' for i in range(len(colors) - 1)), tuple(colors[:-1]), (colors[-1],))
    indices = np.array(data.draw(st.lists(st.integers(0, len(colors) - 1), min_size=1, max_size=9)))
    table = masks._table.__wrapped__(classes)
    found = table[masks._code(np.array(colors, np.uint8)[indices])]
    assert found.tolist() == [255 if i == len(colors) - 1 else i for i in indices]
    assert (table >= 0).sum() == len(colors)


@pytest.mark.parametrize('mode', ['P', 'L', '1', 'RGBA'])
def test_palette_grey_bilevel_and_transparent_masks_are_read_by_their_colours(root, mode: str) -> None:
    binary = {'classes': [{'name': 'none', 'color': [0, 0, 0]}, {'name': 'crack', 'color': [255, 255, 255]}]}
    (root / 'classes.json').write_text(json.dumps(binary))
    (root / 'coloured/a/one.png').unlink()
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert('RGB').convert(mode).save(root / 'coloured/b.png')
    convert(root)
    assert np.asarray(Image.open(root / 'masks/b.png')).tolist() == [[0, 1], [1, 0]]


def test_several_processes_give_the_same(root) -> None:
    for i in range(8):
        save(np.full((2, 2, 3), (ROAD, CAR)[i % 2], np.uint8), root / f'coloured/{i}.png')
    done = convert_masks(root / 'classes.json', root / 'coloured', root / 'masks', workers=2)
    assert done.converted == 9
    assert [np.asarray(Image.open(root / f'masks/{i}.png')).max() for i in range(8)] == [0, 1] * 4


def test_what_is_there_is_kept_and_what_changed_is_converted_anew(root) -> None:
    convert(root)
    output, source = root / 'masks/a/one.png', root / 'coloured/a/one.png'
    before = output.stat().st_mtime_ns
    save(np.full((1, 1, 3), CAR, np.uint8), root / 'coloured/new.png')
    assert convert(root) == masks.Conversion(converted=1, kept=1, ignored_pixels=0)
    assert output.stat().st_mtime_ns == before
    save(np.full((1, 1, 3), CAR, np.uint8), source)
    os.utime(source, ns=(before + 10**9, before + 10**9))
    assert convert(root).converted == 1 and np.asarray(Image.open(output)).tolist() == [[1]]
    assert convert(root, overwrite=True).converted == 2


def test_an_interrupted_overwrite_leaves_no_masks_of_other_classes(root, monkeypatch) -> None:
    save(np.full((1, 1, 3), CAR, np.uint8), root / 'coloured/new.png')
    convert(root)
    classes = json.loads((root / 'classes.json').read_text())
    classes['classes'].reverse()
    (root / 'classes.json').write_text(json.dumps(classes))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(masks, 'parallel_map', interrupted)
        convert(root, overwrite=True)
    assert convert(root).kept == 0  # else they would be of the classes before


def interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_unknown_colours_are_counted_named_and_not_written(root) -> None:
    save(np.array([[ROAD, (129, 64, 128), (129, 64, 128)]], np.uint8), root / 'coloured/b.png')
    save(np.array([[(129, 64, 128), (1, 2, 3)]], np.uint8), root / 'coloured/c.png')
    with pytest.raises(MaskError) as caught:
        convert(root)
    message = str(caught.value)
    assert message.startswith('2 masks were not converted (1 were)')
    assert re.search(
        r'no class has the color \[129, 64, 128\] \(3 pixels in 2 masks, such as \S*b\.png; nearest is road', message
    )
    assert 'no class has the color [1, 2, 3] (1 pixels in 1 masks' in message and '--ignore-unknown' in message
    assert not (root / 'masks/b.png').exists() and (root / 'masks/a/one.png').exists()


def test_unknown_colours_can_be_left_out(root, capsys) -> None:
    save(np.array([[ROAD, (1, 2, 3), (9, 9, 9)]], np.uint8), root / 'coloured/b.png')
    argv = [str(root / name) for name in ('classes.json', 'coloured', 'masks')]
    assert tool('convert_masks')([*argv, '--ignore-unknown', '--workers', '1']) == 0
    assert 'converted 2 masks' in capsys.readouterr().out
    assert np.asarray(Image.open(root / 'masks/b.png')).tolist() == [[0, 255, 255]]
    assert tool('convert_masks')([*argv, '--workers', '1']) == 2  # not the same masks
    assert 'holds results of other settings (ignore_unknown True instead of False)' in capsys.readouterr().err


def test_masks_of_indices_are_recognised(root) -> None:
    save(np.array([[0, 1, 255]], np.uint8), root / 'coloured/a/one.png')
    with pytest.raises(MaskError, match=r'one\.png holds class indices already, not colours: such masks are used as'):
        convert(root)


def test_a_damaged_mask_does_not_stop_the_others(root) -> None:
    content = (root / 'coloured/a/one.png').read_bytes()
    (root / 'coloured/bad.png').write_bytes(content[: len(content) // 2])
    save(np.zeros((2, 2), np.uint16), root / 'coloured/deep.png')
    with pytest.raises(
        MaskError, match=r'2 masks were not converted \(1 were\): \S*bad\.png cannot be read.*deep\.png has'
    ):
        convert(root)
    assert (root / 'masks/a/one.png').exists()


def test_folders_that_cannot_be_what_was_meant(root) -> None:
    (root / 'mine').mkdir()
    (root / 'mine/thesis.txt').touch()
    for source, target, error, message in (
        ('nowhere', 'masks', FileNotFoundError, 'there is no folder .*nowhere: name the one that holds the masks'),
        ('coloured', 'coloured', MaskError, 'is the folder of the masks of colours or in it'),
        ('coloured', 'coloured/new', MaskError, 'is the folder of the masks of colours or in it'),
        ('coloured', 'mine', FileError, r'this did not write \(such as thesis\.txt\): choose a folder that is empty'),
        ('mine', 'masks', MaskError, r'holds no images \(\.bmp, .*so there is nothing to convert'),
    ):
        with pytest.raises(error, match=message):
            convert_masks(root / 'classes.json', root / source, root / target)
    save(np.zeros((1, 1, 3), np.uint8), root / 'coloured/a/one.bmp')
    with pytest.raises(MaskError, match=r'one\.bmp and \S*one\.png have one name but for the suffix'):
        find_images(root / 'coloured')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"classes": [', 'is not JSON: '),
        ('[]', 'there is no list "classes"'),
        ('{"classes": [], "ignored": []}', "'ignored' means nothing here, only classes and ignore do"),
        ('{"classes": [{"color": [0, 0, 0]}]}', 'class 0 has no "name"'),
        ('{"classes": [{"name": "a", "colour": [0, 0, 0]}]}', "'colour' means nothing here, only name and color do"),
        ('{"classes": [{"name": "a", "color": [0, 0, 256]}]}', r"class 'a' has the color \[0, 0, 256\]: give red"),
        ('{"classes": [{"name": "a"}]}', "class 'a' has the color None: give red, green and blue"),
        ('{"classes": [{"name": "a", "color": [0, 0, 0]}]}', 'there are 1 classes, but 2 to 255 can be told apart'),
        (
            '{"classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "a", "color": [1, 0, 0]}]}',
            "the name 'a' is there twice",
        ),
        (
            '{"classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "b", "color": [1, 0, 0]}], '
            '"ignore": [[0, 0, 0]]}',
            r'the color \(0, 0, 0\) is there twice',
        ),
        (
            '{"classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "b", "color": [1, 0, 0]}], "ignore": 0}',
            'not a list',
        ),
    ],
)
def test_a_classes_json_that_is_none(tmp_path, text: str, message: str) -> None:
    (tmp_path / 'classes.json').write_text(text)
    with pytest.raises(MaskError, match=message) as caught:
        read_classes(tmp_path / 'classes.json')
    assert str(tmp_path / 'classes.json') in str(caught.value)


def test_a_missing_classes_json_says_what_it_holds(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r'classes\.json does not exist: write the classes there, such as {"cl'):
        read_classes(tmp_path / 'classes.json')
