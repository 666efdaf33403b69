"""Image files of every kind become what mmcv's reader shows a segmentor in training."""

import io
import itertools
import subprocess
import warnings

import cv2
import mmcv
import numpy as np
import PIL
import pytest
from PIL import BmpImagePlugin, Image

from repvgg_seg import image_files
from repvgg_seg.data.masks import convert_masks
from repvgg_seg.data.samples import damage, examine
from repvgg_seg.data.train_ids import convert
from repvgg_seg.files import FileError
from repvgg_seg.pretrain.transforms import decode
from repvgg_seg.runtime import images
from repvgg_seg.runtime.images import read_image
from tests.local_graph import images as noise

RGB = noise(45, 67)[0]


def exif(orientation: int) -> Image.Exif:
    values = Image.Exif()
    values[0x112] = orientation
    return values


SMOOTH = cv2.resize(RGB[:12, :16], (67, 45))
ALPHA = np.linspace(0, 255, 45 * 67).reshape(45, 67).astype(np.uint8)
SUFFIXES = ('avif', 'bmp', 'gif', 'jp2', 'jpg', 'mpo', 'pbm', 'pgm', 'png', 'ppm', 'tif', 'webp')
MODES = ('1', 'L', 'LA', 'P', '16 colours', 'one transparent', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I;16', 'I')


def picture(mode: str) -> Image.Image:
    if mode == 'RGBA':
        return Image.fromarray(np.dstack([SMOOTH, ALPHA]))
    if mode == 'LA':
        return Image.merge('LA', [picture('L'), Image.fromarray(ALPHA)])
    if mode in ('I;16', 'I'):
        return Image.fromarray(SMOOTH[..., 0].astype(np.uint16 if mode == 'I;16' else np.int32) * 257)
    if mode in ('16 colours', 'one transparent'):
        return Image.fromarray(SMOOTH).quantize(16)
    return Image.fromarray(SMOOTH).convert(mode)


# What the readers see differently, and no training has: a transparent GIF, JPEG 2000 in other colours, TIFF of 32 bits.
DIFFERENT = {
    ('gif', 'RGBA'), ('gif', 'LA'), ('gif', 'one transparent'), ('jp2', 'YCbCr'), ('jp2', 'CMYK'), ('tif', 'I'),
}  # fmt: skip
# What Pillow 12.3 writes so that it cannot read it itself; 13 can.
UNREADABLE = {('tif', 'YCbCr')} if PIL.__version__.startswith('12.') else set()


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_kind_is_read_as_in_training(tmp_path, suffix: str) -> None:
    path = tmp_path / f'x.{suffix}'
    kinds = set()
    for mode, orientation in itertools.product(MODES, range(1, 9)):
        options = {'transparency': 3} if mode == 'one transparent' else {}
        options |= {'exif': exif(orientation)} if orientation > 1 else {}
        try:
            picture(mode).save(path, **options)
        except (OSError, KeyError, ValueError):  # the format has no such mode
            continue
        if (suffix, mode) in DIFFERENT | UNREADABLE:
            continue
        kinds.add(mode)
        image, reference = read_image(path), mmcv.imread(str(path), channel_order='rgb')
        stored = mmcv.imread(str(path), flag='color_ignore_orientation')[..., ::-1]
        assert read_image(path, upright=False).shape == stored.shape, (mode, orientation)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable, mode
        assert image.shape == reference.shape, (mode, orientation)
        # Of CMYK in a JPEG file and of YCbCr in a TIFF, the two libraries round differently.
        rounding = (suffix in ('jpg', 'mpo') and mode == 'CMYK') or (suffix, mode) == ('tif', 'YCbCr')
        assert np.abs(image.astype(int) - reference).max() <= rounding, (mode, orientation)
    assert {'1', 'L', 'RGB'} & kinds


@pytest.mark.parametrize('suffix', ['avif', 'gif', 'jpg', 'png', 'tif', 'webp'])
def test_by_pillow_every_kind_is_read_as_mmcv_reads_by_it(tmp_path, suffix: str) -> None:
    path = tmp_path / f'x.{suffix}'
    for mode, orientation in itertools.product(MODES, (1, 6)):
        try:
            picture(mode).save(path, **({'exif': exif(orientation)} if orientation > 1 else {}))
        except (OSError, KeyError, ValueError):  # the format has no such mode
            continue
        if (suffix, mode) in UNREADABLE:
            continue
        for upright, flag in ((True, 'color'), (False, 'color_ignore_orientation')):
            reference = mmcv.imread(str(path), flag=flag, backend='pillow', channel_order='rgb')
            found = read_image(path, upright=upright, decoder='pillow')
            assert np.array_equal(found, reference), (mode, orientation, flag)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif'])
def test_orientations_are_distinguished(tmp_path, suffix: str) -> None:
    images = set()
    for orientation in range(1, 9):
        Image.fromarray(RGB).save(tmp_path / f'x.{suffix}', exif=exif(orientation))
        images.add(read_image(tmp_path / f'x.{suffix}').tobytes())
    assert len(images) == 8


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3])
def test_of_sixteen_bits_the_upper_eight_count(tmp_path, suffix, channels) -> None:
    path = tmp_path / f'x.{suffix}'
    wide = RGB[..., :channels].astype(np.uint16) * 256 + 200
    cv2.imwrite(str(path), wide[..., ::-1])
    assert np.array_equal(read_image(path), np.broadcast_to(RGB[..., :channels], RGB.shape))


def test_an_older_pillow_opens_sixteen_bits_as_thirty_two(tmp_path, monkeypatch) -> None:
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 256).save(tmp_path / 'x.png')
    opened = Image.open(tmp_path / 'x.png')
    old = opened.convert('I')
    old.format = 'PNG'
    monkeypatch.setattr(images, 'open_image', lambda *_: old)
    assert np.array_equal(read_image(tmp_path / 'x.png')[..., 1], RGB[..., 0])


def broken(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, name)
    return file.getvalue()[:-400]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'x is empty: copy it again'),
        (b'hello', r'x is not an image of a known format \(AVIF, BMP, .*, WEBP\)$'),
        (broken('JPEG'), r'x cannot be read, it is damaged or cut short \(image file is truncated'),
        (broken('PNG'), r'x cannot be read, it is damaged or cut short'),
        (broken('BMP'), r'x cannot be read, it is damaged or cut short'),
    ],
)
def test_a_broken_file_is_reported(tmp_path, content, message) -> None:
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_image(tmp_path / 'x')


def test_what_cannot_be_read_is_reported(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r'none\.png does not exist: check the path'):
        read_image(tmp_path / 'none.png')
    with pytest.raises(FileError, match='is a folder, not an image'):
        read_image(tmp_path)
    with pytest.raises(ValueError, match=r'an image is a path or an array .* of uint8 in RGB, not of type Image'):
        read_image(Image.fromarray(RGB))
    with pytest.raises(FileError, match=r'y cannot be read \(Not a directory\)'):
        (tmp_path / 'x').write_text('a file')
        read_image(tmp_path / 'x' / 'y')
    Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / 'x.tif')
    with pytest.raises(FileError, match='32 bits a pixel'):
        read_image(tmp_path / 'x.tif')
    Image.fromarray(RGB).save(tmp_path / 'x.png')
    monkeypatch.setattr(image_files, 'MAX_PIXELS', 67 * 45 - 1)
    with pytest.raises(FileError, match=r'claims 67x45 pixels, more than are decoded at once'):
        read_image(tmp_path / 'x.png')


def test_pillows_own_limit_does_not_count_and_stays(tmp_path, monkeypatch) -> None:
    Image.fromarray(RGB).save(tmp_path / 'x.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 9)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.array_equal(read_image(tmp_path / 'x.png'), RGB)
    assert Image.MAX_IMAGE_PIXELS == 9


EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n'


def mask_reader(path) -> None:
    (path.parent / 'classes.json').write_text(
        '{"classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "b", "color": [1, 1, 1]}]}'
    )
    convert_masks(path.parent / 'classes.json', path.parent, path.parent.parent / 'masks', workers=1)


def sample_reader(path) -> None:
    sample = examine((str(path), str(path)))
    assert sample.image_fault == sample.mask_fault == damage(str(path))
    raise ValueError(sample.image_fault)


READERS = {
    'image': read_image,
    'mask of colours': mask_reader,
    'sample': sample_reader,
    'training mask': lambda path: convert(str(path)),
    'pretraining': lambda path: decode(path.read_bytes(), str(path)),
}


@pytest.mark.parametrize('reader', READERS)
def test_no_reader_starts_an_interpreter_whatever_the_name_says(reader, tmp_path, monkeypatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, 'check_call', lambda *args, **_: started.append(args))
    (tmp_path / 'in').mkdir()
    path = tmp_path / 'in/x.png'
    path.write_bytes(EPS)
    assert Image.open(path).format == 'EPS'  # Pillow itself would read it, and run it
    with pytest.raises(ValueError, match=r'is not an image|cannot be (decoded|converted).*cannot identify image file'):
        READERS[reader](path)
    assert not started


@pytest.mark.parametrize('reader', READERS)
def test_a_bomb_is_refused_and_too_little_memory_is_no_damage(reader, tmp_path, monkeypatch) -> None:
    (tmp_path / 'in').mkdir()
    path = tmp_path / 'in/x.bmp'
    Image.fromarray(RGB[..., 0] // 8).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(image_files, 'MAX_PIXELS', 67 * 45 - 1)
        with pytest.raises(ValueError, match='claims 67x45 pixels, more than are decoded at once'):
            READERS[reader](path)
    if reader in ('image', 'mask of colours', 'sample'):
        monkeypatch.setattr(BmpImagePlugin.BmpImageFile, 'load', too_little_memory)
        with pytest.raises(ValueError, match='needs more memory than is free here'):
            READERS[reader](path)


def too_little_memory(_: object) -> None:
    raise MemoryError
