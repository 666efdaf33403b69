"""Broken data sets, one fault each, as check_dataset and train tell them; a clean one is passed in silence."""

import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from repvgg_seg.data.checks import CHECKS, RIGHT, check
from repvgg_seg.data.samples import ORIENTATION, Sample
from repvgg_seg.data.splits import Split
from repvgg_seg.workflows.config import load_config
from repvgg_seg.workflows.splits import check_dataset
from tests.conftest import fails, tool

CONFIG = """
_base_ = ['{tiny}']
data = dict(
    type='BaseSegDataset', data_root='{root}', img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(
        classes=('ground', 'building', 'thing'), palette=[[128, 64, 128], [70, 70, 70], [220, 20, 60]]
    ),
)
train_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/train', seg_map_path='masks/train'), **data))
val_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), **data))
test_dataloader = val_dataloader
weights = [1.0, 1.0, 1.0]
model = dict(
    decode_head=dict(num_classes=3, loss_decode=dict(class_weight=weights)),
    auxiliary_head=dict(num_classes=3, loss_decode=dict(class_weight=weights)),
)
"""


class Data:
    """A data set of three classes made from the demo's images, to be broken."""

    def __init__(self, root: Path, tiny_config: Path) -> None:
        self.root = root
        self.config = root / 'config.py'
        self.config.write_text(CONFIG.format(tiny=tiny_config, root=root))

    def files(self, kind: str, split: str = 'train') -> list[Path]:
        return sorted((self.root / kind / split).glob('*'))

    def masks(self) -> list[Path]:
        return self.files('masks') + self.files('masks', 'val')

    def cfg(self, **options: object) -> Config:
        loaders = ('train', 'val', 'test')
        return load_config(
            self.config, {f'{name}_dataloader.dataset.{k}': v for name in loaders for k, v in options.items()}
        )


@pytest.fixture(scope='session')
def clean(demo_data, tmp_path_factory) -> Path:
    """Images and masks of the demo in plain folders, with three classes and some ignored pixels."""
    root = tmp_path_factory.mktemp('clean')
    three = np.full(256, 255, np.uint8)
    three[:2], three[2:11], three[11:19] = 0, 1, 2
    for split in ('train', 'val'):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True)
        for i, image in enumerate(sorted((demo_data / 'leftImg8bit' / split).rglob('*.png'))):
            shutil.copy(image, root / 'images' / split / f'{i}.png')
            mask = str(image).replace('leftImg8bit.png', 'gtFine_labelTrainIds.png').replace('leftImg8bit', 'gtFine')
            labels = three[read(Path(mask))]
            labels[:, :4] = 255
            write(root / 'masks' / split / f'{i}.png', labels)
    return root


@pytest.fixture
def data(clean, tiny_config, tmp_path) -> Data:
    shutil.copytree(clean, tmp_path / 'data')
    return Data(tmp_path / 'data', tiny_config)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels)


def change(path: Path, function: Callable[[np.ndarray], np.ndarray]) -> None:
    write(path, function(read(path)))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip_bits(path: Path) -> None:
    """Damage a checksum: Pillow alone would still decode the file."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b'IEND') - 8] ^= 0xFF
    path.write_bytes(content)


def save(path: Path, image: Image.Image, **options: object) -> None:
    image.save(path, 'PNG', **options)


def with_palette(path: Path, order: list[int]) -> None:
    """Store a mask with a palette in which label i has the colour of class order[i]."""
    colours = [[128, 64, 128], [70, 70, 70], [220, 20, 60]]
    image = Image.fromarray(read(path)).convert('P')
    image.putpalette([channel for i in order for channel in colours[i]] + [0] * 3 * (256 - len(order)))
    save(path, image)


def adaptive(path: Path) -> None:
    """Store a mask as drawing programs do: with a palette in an order of its own, here that of the file name."""
    shift = int(path.stem) % 3
    change(path, lambda labels: np.where(labels == 255, 0, (labels + shift) % 3).astype(np.uint8))
    with_palette(path, [(i - shift) % 3 for i in range(3)])


def turn(data: Data, orientation: int, *, mask_too: bool = False) -> None:
    image = data.files('images')[0]
    with Image.open(image) as pixels:
        exif = pixels.getexif()
        exif[ORIENTATION] = orientation
        save(image, pixels.copy(), exif=exif)
    if mask_too:
        change(data.files('masks')[0], np.rot90)


def all_masks(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Data], None]:
    def apply(data: Data) -> None:
        for mask in data.masks():
            change(mask, function)

    return apply


def relabel(**changes: int) -> Callable[[Data], None]:
    table = np.arange(256, dtype=np.uint8)
    for old, new in changes.items():
        table[int(old[1:])] = new
    return all_masks(lambda labels: table[labels])


def nibbles(path: Path) -> None:
    """Store a mask as a grey PNG of 4 bits a pixel."""
    labels = np.minimum(read(path), 15)
    rows = b''.join(b'\0' + ((row[::2] << 4) | row[1::2]).tobytes() for row in labels)
    chunks = (
        (b'IHDR', struct.pack('>IIBBBBB', labels.shape[1], labels.shape[0], 4, 0, 0, 0, 0)),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    )
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + b''.join(struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k, d in chunks)
    )


def copy_image(data: Data, to: str, *, level: int = 3, mask: Callable[[np.ndarray], np.ndarray] = lambda m: m) -> None:
    """Add the first training image and its mask to a split again, encoded anew."""
    cv2.imwrite(
        str(data.root / 'images' / to / 'again.png'),
        read(data.files('images')[0]),
        [cv2.IMWRITE_PNG_COMPRESSION, level],
    )
    write(data.root / 'masks' / to / 'again.png', mask(read(data.files('masks')[0])))


def first(kind: str, function: Callable[[Path], object]) -> Callable[[Data], None]:
    return lambda data: function(data.files(kind)[0]) and None


FAULTS: dict[str, tuple[Callable[[Data], object], str, str, str]] = {
    # name: (what breaks the data, severity and name of the one finding, its message)
    'a missing mask': (first('masks', Path.unlink), 'error', 'missing_mask', r'a mask: 1 .*0\.png has no .*0\.png'),
    'a mask too many': (first('images', Path.unlink), 'warning', 'extra_mask', r'without an image: 1 \(.*0\.png\)'),
    'an image of another suffix': (
        lambda d: write(d.root / 'images/train/x.jpg', read(d.files('images')[0]) // 2), 'warning', 'unused_image',
        r'images other than \*\.png, not used: 1 \(.*x\.jpg\)',
    ),
    'a truncated image': (first('images', truncate), 'error', 'unreadable_image', r'0\.png: image file is truncated'),
    'an image with a wrong checksum': (first('images', flip_bits), 'error', 'unreadable_image', r'0\.png: broken PNG'),
    'an empty image': (first('images', lambda p: p.write_bytes(b'')), 'error', 'unreadable_image', r'0\.png: is empty'),
    'a text in place of an image': (
        first('images', lambda p: p.write_text('nothing')), 'error', 'unreadable_image', r'0\.png: is not an image'
    ),
    'a truncated mask': (first('masks', truncate), 'error', 'unreadable_mask', r'0\.png: image file is truncated'),
    'a mask of another size': (
        first('masks', lambda p: change(p, lambda m: m[:-2])), 'error', 'size', r'0\.png: 128x62, image 128x64',
    ),
    'an image that EXIF turns': (lambda d: turn(d, 6), 'error', 'turned', r'0\.png: 128x64, image 64x128.*auto-orient'),
    'an image that EXIF mirrors': (lambda d: turn(d, 3), 'warning', 'maybe_turned', r'0\.png \(orientation 3\)'),
    'a grey image': (
        first('images', lambda p: change(p, lambda i: i[..., 0])), 'warning', 'not_rgb', r'not 8-bit RGB.*0\.png \(L\)'
    ),
    'an image with transparency': (
        first('images', lambda p: change(p, lambda i: np.dstack([i, i[..., 0]]))), 'warning', 'not_rgb', r'\(RGBA\)',
    ),
    'an image of 16 bits': (
        first('images', lambda p: change(p, lambda i: i[..., 0].astype(np.uint16) * 256)), 'warning', 'not_rgb', 'I;16',
    ),
    'masks of colours': (
        all_masks(lambda m: np.dstack([m, 255 - m, m])), 'error', 'colour_mask', r'masks of colours.*: 8 .*\(RGB\)'
    ),
    'masks of equal channels': (all_masks(lambda m: np.dstack([m] * 3)), 'error', 'grey_mask', r'equal channels: 8'),
    'masks with transparency': (
        lambda d: [save(p, Image.fromarray(read(p)).convert('LA')) for p in d.masks()], 'error', 'alpha_mask', r'\(LA\)'
    ),
    'masks saved as JPEG': (
        lambda d: [Image.fromarray(read(p)).save(p, 'JPEG') for p in d.masks()], 'error', 'lossy_mask', r'lossy.*: 8'
    ),
    'masks of 4 bits': (lambda d: [nibbles(p) for p in d.masks()], 'error', 'packed_mask', r'2 or 4 bits a pixel.*: 8'),
    'masks with labels above 255': (
        all_masks(lambda m: m.astype(np.uint16) * 256), 'error', 'wide_mask', r'above 255.*: 8 .*\(up to 65280\)',
    ),
    'masks of 16 bits': (all_masks(lambda m: m.astype(np.uint16)), 'warning', 'deep_mask', r'8 bits a pixel: 8 .*I;16'),
    'palette masks, each in its own order': (
        lambda d: [adaptive(p) for p in d.masks()], 'error', 'palettes', r'another colour than in the masks before: \d',
    ),
    'palette masks in another order': (
        lambda d: [with_palette(p, [1, 0, 2]) for p in d.masks()], 'warning', 'palette_order',
        r'ground has the colour of building, building has the colour of ground',
    ),
    'labels outside the classes': (
        first('masks', lambda p: change(p, lambda m: np.where(m == 2, 7, m).astype(np.uint8))), 'error', 'outside',
        r'outside the 3 classes \(7\): 1 \(.*0\.png \(7\)\): the masks may hold 0–2, and 255 for what is ignored',
    ),
    'background that is a label of its own': (
        relabel(_0=1, _1=2, _2=3, _255=0), 'error', 'outside', r'\(3\): 8 .*if 0 is background.*reduce_zero_label=True',
    ),
    'classes numbered from 1': (relabel(_0=1, _1=1), 'warning', 'zero_label', r'label 0 \(ground\) never occurs'),
    'masks that are ignored altogether': (
        first('masks', lambda p: change(p, lambda m: np.full_like(m, 255))), 'warning', 'only_ignored', r'nothing.*: 1',
    ),
    'nothing but ignored masks': (relabel(_0=255, _1=255, _2=255), 'error', 'only_ignored', r'altogether.*: 8'),
    'a class that never occurs': (relabel(_2=1), 'warning', 'absent_class', r'never occur: 1 of 3 \(thing\)'),
    'one class only': (relabel(_1=0, _2=0), 'error', 'one_class', r'of 3 classes only ground occurs'),
    'an image twice': (lambda d: copy_image(d, 'train', level=9), 'warning', 'duplicate', r'twice: 1 .*again\.png'),
    'an image twice, with another mask': (
        lambda d: copy_image(d, 'train', mask=np.fliplr), 'error', 'contradiction', r'masks: 1 .*with another mask',
    ),
    'a training image in validation': (
        lambda d: copy_image(d, 'val', level=9), 'error', 'leak', r'^val: .*in train: 1 \(.*again\.png = .*/0\.png',
    ),
}  # fmt: skip


def test_a_clean_data_set_has_no_findings(data, tmp_path, capsys) -> None:
    argv = [str(data.config), '--out', str(tmp_path / 'out'), '--json', str(tmp_path / 'data.json'), '--workers', '2']
    assert tool('check_dataset')(argv) == 0
    message = capsys.readouterr().out
    assert message.count('\nok ') == len(RIGHT) and 'no errors, no warnings' in message
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {'class_frequencies.png', 'train.png', 'val.png'}
    found = json.loads((tmp_path / 'data.json').read_text())
    assert found['findings'] == [] and found['splits']['train']['sizes'] == [[128, 64, 8]]
    labels = np.stack([read(mask) for mask in data.files('masks')])
    for index, row in enumerate(found['splits']['train']['classes']):
        assert row['pixels'] == (labels == index).sum() and row['images'] == (labels == index).any((1, 2)).sum()
        assert row['share'] == pytest.approx(row['pixels'] / (labels != 255).sum())


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_is_found_and_nothing_else(fault: str, data) -> None:
    destroy, severity, check, message = FAULTS[fault]
    destroy(data)
    split = 'val' if check == 'leak' else 'train'  # what breaks all masks is found in both
    found = [f for f in check_dataset(data.cfg(), workers=1).findings if f.split == split]
    assert [(f.severity, f.check) for f in found] == [(severity, check)], list(map(str, found))
    assert re.search(message, str(found[0])), str(found[0])


def test_every_check_has_a_name_of_its_own_and_a_place_in_the_report() -> None:
    checks = [check for several in CHECKS.values() for check in several]
    names = {check.name for check in checks}
    assert len(checks) == len(names) and {check.right for check in checks} == set(RIGHT)
    assert {check for _, _, check, _ in FAULTS.values()} <= names


def test_a_check_is_one_function_that_the_command_and_its_report_pick_up(data, monkeypatch, capsys) -> None:
    monkeypatch.setitem(CHECKS, 'sample', [*CHECKS['sample']])

    @check('sample', RIGHT[2], 'warning', 'images that are wide: {count}', 'crop them')
    def wide(sample: Sample, split: Split) -> str:
        return sample.image if split.is_training and sample.image_size[0] > 100 else ''

    argv = [str(data.config), '--out', str(data.root / 'out'), '--workers', '1', '--json', str(data.root / 'x.json')]
    assert tool('check_dataset')(argv) == 0
    printed = capsys.readouterr().out
    assert 'WARNING  train: images that are wide: 8' in printed and '-> crop them' in printed
    [found] = json.loads((data.root / 'x.json').read_text())['findings']
    assert (found['check'], found['severity'], found['count']) == ('wide', 'warning', 8)


def test_faults_that_depend_on_the_config(data) -> None:
    def found(cfg: Config) -> list[str]:
        report = check_dataset(cfg, workers=1)
        return [str(f) for f in report.findings if f.split == 'train']

    # reduce_zero_label where 0 is a class
    [zero] = found(data.cfg(reduce_zero_label=True))
    assert re.search(r'ignores label 0 \(\d+\.\d% of the pixels\) and the last class, thing, never occurs', zero)
    # … and where it is background, which is right
    relabel(_255=0, _0=1, _1=2, _2=3)(data)
    assert found(data.cfg(reduce_zero_label=True)) == []
    relabel(_0=255, _1=0, _2=1, _3=2)(data)
    # palette masks are harmless to Pillow, which mmseg uses by default, and harmful to OpenCV
    for mask in data.masks():
        with_palette(mask, [0, 1, 2])
    assert found(data.cfg()) == []
    cfg = data.cfg()
    cfg.train_dataloader.dataset.pipeline[1].imdecode_backend = 'cv2'
    assert re.search(r'expands to colours: 8 .*leave imdecode_backend', found(cfg)[0])
    # images that the loader does not turn
    turn(data, 6)
    cfg = data.cfg()
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    assert found(cfg) == []


def test_an_image_that_was_turned_together_with_its_mask_is_right(data) -> None:
    turn(data, 6, mask_too=True)
    assert not check_dataset(data.cfg(), workers=1).findings


def test_binary_masks_of_0_and_255(data) -> None:
    relabel(_1=255, _2=255)(data)
    cfg = data.cfg(metainfo=dict(classes=('background', 'thing'), palette=[[0, 0, 0], [220, 20, 60]]))
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = 2
    assert {f.check for f in check_dataset(cfg, workers=1).findings} == {'binary_255'}


def test_label_ids_of_cityscapes_in_place_of_train_ids(tiny_config, tmp_path, capsys) -> None:
    argv = [tiny_config, '--out', tmp_path / 'out', '--workers', '1', '--cfg-options',
            'train_dataloader.dataset.seg_map_suffix=_gtFine_labelIds.png']  # fmt: skip
    assert 'should not be trained on this data' in fails(capsys, 'check_dataset', *argv)
    message = fails(capsys, 'train', argv[0], '--work-dir', tmp_path / 'w', *argv[-2:])
    assert re.search(r'outside the 19 classes .*these look like Cityscapes\' labelIds.*make_train_ids\.py', message)
    assert not (tmp_path / 'w').exists()


def test_errors_are_printed_with_files_and_cures_and_end_in_status_2(data, tmp_path, capsys) -> None:
    for mask in data.files('masks')[:6]:
        mask.unlink()
    argv = [str(data.config), '--out', str(tmp_path / 'out'), '--workers', '1']
    assert tool('check_dataset')(argv) == 2
    message = capsys.readouterr()
    assert re.search(
        r'ERROR +train: images without a mask: 6\n( +\S+/images/train/\d\.png has no \S+\n){5} +…\n +-> add the masks',
        message.out,
    )
    assert '1 error, no warnings' in message.out and 'should not be trained on this data' in message.err


# ---- what train.py refuses at the start


REFUSED: dict[str, tuple[Callable[[Data], object], list[str], str]] = {
    'no image': (lambda d: [p.unlink() for p in d.files('images')], [], r'images/train holds no \*\.png\. Put'),
    'no mask': (lambda d: [p.unlink() for p in d.files('masks')], [], r'masks/train holds no \*\.png of these images'),
    'a missing mask': (first('masks', Path.unlink), [], r'train: images without a mask: 1 .*check_dataset\.py CONFIG'),
    'labels outside': (relabel(_2=9), [], r'train: masks with labels outside the 3 classes \(9\): 8'),
    'colours': (all_masks(lambda m: np.dstack([m, m // 2, m])), [], r'masks of colours instead of class indices: 8'),
    'nothing but ignored': (relabel(_0=255, _1=255, _2=255), [], r'altogether, from which nothing is learned: 8'),
    'a damaged validation mask': (
        lambda d: truncate(d.files('masks', 'val')[0]), [], r'val: masks that cannot be read: 1 \(.*0\.png'
    ),
    'a damaged validation image': (
        lambda d: truncate(d.files('images', 'val')[1]), [], r'val: images that cannot be read: 1 \(.*1\.png'
    ),
    'more classes than outputs': (
        lambda d: None, ['model.auxiliary_head.num_classes=2'],
        r'the data set names 3 classes, and auxiliary_head has outputs for 2: set model\.auxiliary_head\.num_classes=3',
    ),
    'a share that is none': (lambda d: None, ['max_bad_share=7'], r'max_bad_share=7 is not a share .* from 0 to 1'),
}  # fmt: skip


@pytest.mark.parametrize('fault', REFUSED)
def test_train_refuses_what_cannot_train(fault: str, data, tmp_path, capsys) -> None:
    destroy, options, message = REFUSED[fault]
    destroy(data)
    argv = [data.config, '--work-dir', tmp_path / 'w', *(['--cfg-options', *options] if options else [])]
    assert re.search(message, text := fails(capsys, 'train', *argv)), text
    assert not (tmp_path / 'w').exists()


def test_the_look_at_the_data_is_taken_once_and_can_be_left_out(data, tmp_path, capsys, monkeypatch) -> None:
    from repvgg_seg.apps import train as training

    class Started(Exception):
        pass

    def start(cfg: Config) -> None:
        raise Started

    monkeypatch.setattr(training.GuardedRunner, 'from_cfg', start)
    monkeypatch.setattr(training, 'prepare', lambda cfg, launcher, amp: cfg)
    relabel(_2=9)(data)
    argv = [data.config, '--work-dir', tmp_path / 'w']
    assert 'outside the 3 classes' in fails(capsys, 'train', *argv)
    assert 'Started' in fails(capsys, 'train', *argv, '--no-data-check')
    for rank, message in (('0', 'outside the 3 classes'), ('1', 'Started')):
        monkeypatch.setenv('RANK', rank)
        assert message in fails(capsys, 'train', *argv, '--launcher', 'pytorch')


def test_browse_dataset_draws_what_comes_out_of_the_pipeline(data, tmp_path, capsys) -> None:
    out = tmp_path / 'out'
    assert tool('browse_dataset')([str(data.config), '--out', str(out), '--number', '3', '--split', 'val']) == 0
    assert '3 samples of val are drawn' in capsys.readouterr().out
    pictures = sorted(out.glob('*.png'))
    assert [p.name for p in pictures] == ['000_00000_0.png', '001_00001_1.png', '002_00002_2.png']
    drawn, image, mask = read(pictures[0]), read(data.files('images', 'val')[0]), read(data.files('masks', 'val')[0])
    assert (drawn[:64, :128] == image).all()  # normalisation and channel order are undone
    ground = np.nonzero(mask == 0)
    expected = 0.4 * image[ground] + 0.6 * np.array([128, 64, 128])
    assert np.abs(drawn[:64, 128:256][ground] - expected).max() <= 1
    ignored = drawn[:64, 128:132]
    assert (ignored == 255).all(-1).mean() == pytest.approx(0.5, abs=0.05)  # hatched
    assert tool('browse_dataset')([str(data.config), '--out', str(tmp_path / 'train'), '--number', '9']) == 0
    assert len(list((tmp_path / 'train').glob('*.png'))) == 9  # there are 8: one is drawn again
    assert '--number is 0' in fails(capsys, 'browse_dataset', data.config, '--out', out, '--number', '0')
