"""The Segmenter on every runtime: the same masks, at any size, in streams, and what a user can do wrong."""

import itertools
import pickle
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import mmcv
import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image

from repvgg_seg import Segmenter
from repvgg_seg.files import FileError
from repvgg_seg.runtime import backends
from repvgg_seg.runtime import precision as precisions
from repvgg_seg.runtime.metadata import KEY, Preparation
from repvgg_seg.runtime.tiling import pad
from tests.local_graph import METADATA, LocalGraph, images, local_logits, to_openvino, truth

BACKENDS = {'openvino': '.xml', 'openvino of onnx': '.onnx', 'onnxruntime': '.onnx', 'torch': '.pt2'}


@pytest.fixture(params=BACKENDS)
def segmenter(request, local_files) -> Segmenter:
    """A Segmenter on each backend."""
    return Segmenter(local_files[BACKENDS[request.param]], backend=request.param.split()[0], overlap=32, trust=True)


@pytest.fixture
def quick(local_files) -> Segmenter:
    """A Segmenter on one backend."""
    return Segmenter(local_files['.xml'], overlap=32)


# ---- masks


def test_a_mask_is_what_the_graph_says(segmenter) -> None:
    image = images(64, 96)[0]
    mask = segmenter(image)
    assert mask.dtype == np.uint8 and np.array_equal(mask, truth(image))
    assert len(np.unique(mask)) == 4
    assert segmenter.classes == METADATA.classes and segmenter.palette.tolist() == [list(c) for c in METADATA.palette]


def test_a_read_only_array_is_an_image_too(segmenter, tmp_path) -> None:
    """Those of PIL and of memory maps are."""
    image = images(64, 96)[0]
    np.save(tmp_path / 'image.npy', image)
    for source in (np.asarray(Image.fromarray(image)), np.load(tmp_path / 'image.npy', mmap_mode='r')):
        assert not source.flags.writeable and np.array_equal(segmenter(source), truth(image))


@pytest.mark.parametrize('shape', [(64, 96), (128, 96), (64, 100), (320, 384), (72, 480)])
def test_tiles_have_no_seams(segmenter, shape) -> None:
    image = images(*shape)[0]
    assert np.array_equal(segmenter(image), truth(image))


def test_tiles_without_overlap_have_seams(local_files) -> None:
    image = images(320, 384)[0]
    assert not np.array_equal(Segmenter(local_files['.xml'], overlap=0)(image), truth(image))


def test_a_small_image_is_filled_up(quick) -> None:
    image = images(40, 60)[0]
    padded = np.full((64, 96, 3), (124, 116, 104), np.uint8)
    padded[:40, :60] = image
    assert np.array_equal(quick(image), truth(padded)[:40, :60])
    assert quick(image[:1, :1]).shape == (1, 1)


def test_resize_scales_the_image_and_its_classes(local_files) -> None:
    segmenter = Segmenter(local_files['.xml'], fit='resize')
    image = images(64, 96)[0]
    enlarged = image.repeat(3, axis=0).repeat(3, axis=1)  # bilinear scaling takes the middle one of three
    assert np.array_equal(segmenter(enlarged), truth(image).repeat(3, axis=0).repeat(3, axis=1))
    assert np.array_equal(segmenter(image), truth(image))


def test_the_mask_of_a_memory_map_goes_into_one(quick, tmp_path) -> None:
    image = images(200, 300)[0]
    np.save(tmp_path / 'image.npy', image)
    out = np.memmap(tmp_path / 'mask', np.uint8, 'w+', shape=(200, 300))
    mask = quick(np.load(tmp_path / 'image.npy', mmap_mode='r'), out=out)
    assert mask is out and np.array_equal(np.fromfile(tmp_path / 'mask', np.uint8), quick(image).ravel())


def test_views_of_any_layout_are_images(segmenter) -> None:
    bgr = images(150, 100)[0][:, ::-1, ::-1]
    assert np.array_equal(segmenter(bgr), segmenter(bgr.copy()))


def test_a_list_gives_a_list(quick, tmp_path) -> None:
    pictures = [images(64, 96)[0], images(100, 100)[0], images(10, 200)[0]]
    Image.fromarray(pictures[2]).save(tmp_path / 'x.png')
    masks = quick([*pictures[:2], tmp_path / 'x.png'])
    assert all(np.array_equal(mask, quick(picture)) for mask, picture in zip(masks, pictures, strict=True))
    assert quick([]) == []


@pytest.mark.parametrize('batch', [3, None])
def test_batches_change_nothing(tmp_path, local_files, batch) -> None:
    """Of a fixed size, the last one is filled up; of any size, the user's counts."""
    path = to_openvino(tmp_path / 'x.xml', replace(METADATA, batch=batch))
    segmenter = Segmenter(path, batch=3, overlap=32)
    pictures = [images(64, 96)[0], images(320, 100)[0], images(10, 200)[0]]
    for mask, picture in zip(segmenter(pictures), pictures, strict=True):
        assert np.array_equal(mask, Segmenter(local_files['.xml'], overlap=32)(picture))


def test_the_throughput_mode_changes_nothing(local_files) -> None:
    segmenter = Segmenter(local_files['.xml'], mode='throughput', overlap=32)
    pictures = [images(320, 384)[0], *images(64, 96, 9)]
    assert all(np.array_equal(m, truth(p)) for m, p in zip(segmenter(pictures), pictures, strict=True))
    assert all(np.array_equal(r.mask, truth(r.image)) for r in segmenter.stream(pictures))


def test_above_256_classes_a_mask_has_sixteen_bits(many_classes) -> None:
    segmenter, image = Segmenter(many_classes), images(64, 96)[0]
    mask = segmenter(image)
    assert mask.dtype == np.uint16 and mask.max() > 255
    assert np.array_equal(mask, truth(image, LocalGraph(300)))
    assert np.array_equal(segmenter.colour(mask), segmenter.palette[mask])


def test_colours_and_overlay(quick) -> None:
    image = images(64, 96)[0]
    mask = quick(image)
    colours = np.array(METADATA.palette, np.uint8)[mask]
    assert np.array_equal(quick.colour(mask), colours)
    assert np.abs(quick.overlay(image, mask, 0.25) - (0.75 * image + 0.25 * colours)).max() <= 0.51
    with pytest.raises(ValueError, match='the mask has class 4, and the model knows 4 classes'):
        quick.colour(np.full((2, 2), 4, np.uint8))
    with pytest.raises(ValueError, match=r'an image of shape \(64, 96, 3\) has no mask of shape \(2, 2\)'):
        quick.overlay(image, mask[:2, :2])
    with pytest.raises(ValueError, match='the opacity is 2, and goes from 0 to 1'):
        quick.overlay(image, mask, 2)


def test_a_model_is_computed_in_its_own_precision_or_in_float32(local_files) -> None:
    """Not in bfloat16, as OpenVINO does of its own accord on a CPU that has it, and as it does for float16 too."""
    core = backends.openvino_core()
    able = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    for precision, hint in (('fp32', 'f32'), ('bf16', 'bf16'), ('fp16', 'f16')):
        model = core.read_model(local_files['.xml'])
        model.set_rt_info(replace(METADATA, precision=precision).to_json(), KEY)
        path = local_files['.xml'].with_name(f'{precision}.xml')
        openvino.save_model(model, path, compress_to_fp16=False)
        compiled = Segmenter(path)._model._compiled
        used = hint if precision.upper() in able else 'f32'
        assert compiled.get_property('INFERENCE_PRECISION_HINT').to_string() == used


def test_segmenters_come_and_go_and_signals_are_still_handled(local_files) -> None:
    """OpenVINO's Cores, freed in the order they were made in, leave the process without a signal stack."""
    code = """
import os, signal, sys
from repvgg_seg import Segmenter
signal.signal(signal.SIGUSR1, lambda *_: print('handled'))
first, second = Segmenter(sys.argv[1]), Segmenter(sys.argv[1])
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run(
        [sys.executable, '-c', code, local_files['.xml']], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr


# ---- preparation and confidence


def prepared(folder: Path, *, logits: bool = False, classes: int = 4, **changes) -> Segmenter:
    """A Segmenter on a file of other metadata, by default with the fit of the test."""
    metadata = replace(METADATA, **{'fit': 'test', 'output': 'logits' if logits else 'classes'} | changes)
    return Segmenter(to_openvino(folder / 'x.xml', metadata))


def nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(shape, mask.shape, strict=True))
    return mask[rows][:, columns]


def test_by_default_images_are_prepared_as_in_the_test(tmp_path) -> None:
    segmenter = prepared(tmp_path, preparation=Preparation(scale=(64, 999), keep_ratio=True))
    image = images(100, 150)[0]
    small = mmcv.imrescale(image, (999, 64))
    assert small.shape == (64, 96, 3)
    with warnings.catch_warnings(action='error'):
        mask = segmenter(image)
    assert np.array_equal(mask, nearest(truth(small), (100, 150)))
    assert segmenter.fit == 'test'


def test_images_of_other_sizes_are_padded_with_one_warning(tmp_path) -> None:
    segmenter = prepared(tmp_path, preparation=Preparation(scale=(64, 999), keep_ratio=True))
    with pytest.warns(UserWarning, match=r'100x100 were tested at 64x64, but .*x\.xml takes 64x96, .* --size 64x64'):
        mask = segmenter(images(100, 100)[0])
    padded = pad(cv2.resize(images(100, 100)[0], (64, 64)), (64, 96), segmenter.metadata.mean)
    assert np.array_equal(mask, nearest(truth(padded)[:, :64], (100, 100)))
    with warnings.catch_warnings(action='error'):
        segmenter([images(90, 100)[0], images(64, 96)[0]])


def test_images_that_were_tested_at_their_own_scale_are_shrunk_and_never_enlarged(tmp_path) -> None:
    segmenter = prepared(tmp_path, preparation=Preparation())
    small, large = images(40, 30)[0], images(192, 200)[0]
    with warnings.catch_warnings(action='ignore'):
        masks = segmenter([small, large])
    assert np.array_equal(masks[0], truth(pad(small, (64, 96), segmenter.metadata.mean))[:40, :30])
    padded = pad(cv2.resize(large, (67, 64)), (64, 96), segmenter.metadata.mean)
    assert np.array_equal(masks[1], nearest(truth(padded)[:, :67], (192, 200)))


def test_windows_of_the_test_are_its_tiles(tmp_path) -> None:
    segmenter = prepared(tmp_path, preparation=Preparation(stride=(32, 64)))
    image = images(200, 300)[0]
    with warnings.catch_warnings(action='error'):
        assert np.array_equal(segmenter(image), truth(image))


def test_images_that_the_training_did_not_turn_are_not_turned(tmp_path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(images(64, 96)[0]).save(tmp_path / 'x.png', exif=exif)
    assert prepared(tmp_path, preparation=Preparation(upright=False))(tmp_path / 'x.png').shape == (64, 96)
    assert prepared(tmp_path, fit='resize')(tmp_path / 'x.png').shape == (96, 64)


def test_logits_become_masks_and_their_confidence(tmp_path) -> None:
    segmenter = prepared(tmp_path, logits=True)
    image = images(64, 96)[0]
    mask, confidence = segmenter(image, return_confidence=True)
    logits = local_logits(image)
    assert np.array_equal(mask, truth(image)) and np.array_equal(segmenter(image), mask)
    assert confidence.dtype == np.float32 and np.allclose(confidence, logits.softmax(0).amax(0), atol=1e-5)
    [(again, same)] = segmenter([image], return_confidence=True)
    assert np.array_equal(again, mask) and np.array_equal(same, confidence)
    for result in segmenter.stream([image], return_confidence=True):
        assert np.array_equal(result.mask, mask) and np.array_equal(result.confidence, confidence)


def test_logits_are_resized_before_they_are_compared(tmp_path) -> None:
    segmenter = prepared(tmp_path, logits=True, preparation=Preparation(scale=(64, 96)))
    image = images(100, 170)[0]
    logits = local_logits(cv2.resize(image, (96, 64)))
    expected = F.interpolate(logits[None], (100, 170), mode='bilinear').argmax(1)[0].numpy()
    assert (segmenter(image) == expected).mean() > 0.999  # cv2 and torch round differently where two classes are equal


def test_a_file_of_classes_has_no_confidence(quick) -> None:
    with pytest.raises(ValueError, match=r'local\.xml returns classes, .* export the model with --output logits'):
        quick(images(64, 96)[0], return_confidence=True)
    with pytest.raises(ValueError, match='returns classes'):
        next(quick.stream([], return_confidence=True))


# ---- streams


def sources(folder: Path, number: int) -> list[Path]:
    paths = []
    for n, image in enumerate(images(64, 96, number)):
        paths.append(folder / f'{n}.png')
        Image.fromarray(image).save(paths[-1])
    return paths


@pytest.mark.parametrize('readers', [1, 3])
def test_a_stream_keeps_the_order(quick, tmp_path, readers) -> None:
    paths = sources(tmp_path, 9)
    results = list(quick.stream(iter(paths), readers=readers))
    assert [result.source for result in results] == paths
    for source, image, mask in results:
        assert np.array_equal(image, np.asarray(Image.open(source))) and np.array_equal(mask, truth(image))


def test_a_stream_raises_the_error_with_the_name_after_what_came_before(quick, tmp_path) -> None:
    paths = sources(tmp_path, 4)
    paths[2].write_bytes(b'no image')
    stream = quick.stream(paths)
    assert [next(stream).source, next(stream).source] == paths[:2]
    with pytest.raises(FileError, match=r'2\.png is not an image of a known format'):
        next(stream)


def test_a_stream_can_go_on_after_errors(quick, tmp_path) -> None:
    paths = sources(tmp_path, 5)
    for n in (0, 2, 4):
        paths[n].unlink()
    errors = []
    results = list(quick.stream(paths, on_error=lambda source, error: errors.append((source, str(error)))))
    assert [result.source for result in results] == [paths[1], paths[3]]
    assert errors == [(paths[n], f'{paths[n]} does not exist: check the path') for n in (0, 2, 4)]


@pytest.mark.parametrize('batch', [1, 3])
def test_an_error_of_the_source_itself_arrives_after_what_came_before(many_classes, batch) -> None:
    """Although the readers, and a batch that is not full, were waiting for more."""

    def frames():
        yield images(64, 96)[0]
        raise ConnectionError('the camera is gone')

    stream = Segmenter(many_classes, batch=batch).stream(frames())
    next(stream)
    with pytest.raises(ConnectionError, match='the camera is gone'):
        next(stream)


@pytest.mark.parametrize('readers', [1, 2])
def test_leaving_a_stream_ends_its_threads_and_its_source(quick, readers) -> None:
    before, taken, closed = set(threading.enumerate()), [], []

    def frames():
        try:
            for n in itertools.count():
                taken.append(n)
                yield images(64, 96)[0]
        finally:
            closed.append(True)

    for number, _ in enumerate(quick.stream(frames(), readers=readers, ahead=2)):
        if number == 3:
            time.sleep(0.2)  # the threads run ahead meanwhile, as far as they may
            break
    assert set(threading.enumerate()) == before and closed == [True]
    assert len(taken) <= 4 + 2 * 2 + readers + 2


def test_a_stream_and_calls_can_run_at_once(quick) -> None:
    pictures = images(64, 96, 6)
    for result, other in zip(quick.stream(pictures), pictures[::-1], strict=True):
        assert np.array_equal(quick(other), truth(other))
        assert np.array_equal(result.mask, truth(result.image))


# ---- what a user can do wrong


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'backend': 'tensorrt'}, "there is no backend 'tensorrt': choose auto or one of openvino, onnxruntime, torch"),
        ({'backend': 'torch'}, r'a \.xml file runs in openvino, not in torch'),
        ({'mode': 'fast'}, "there is no mode 'fast': choose one of latency, throughput"),
        ({'fit': 'crop'}, "there is no fit 'crop': choose auto, test, resize, tile"),
        ({'overlap': 64}, 'tiles of 64x96 cannot overlap by 64 pixels'),
        ({'overlap': -1}, 'tiles of 64x96 cannot overlap by -1 pixels'),
        ({'fit': 'resize', 'overlap': 8}, 'an overlap is between tiles'),
        ({'batch': 2}, r'local\.xml runs 1 at once, not 2'),
        ({'device': 'cuda'}, 'openvino has no device CUDA here, only .*CPU'),
    ],
)
def test_arguments_that_do_not_fit(local_files, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(local_files['.xml'], **arguments)


def test_other_arguments_that_do_not_fit(local_files, many_classes, quick) -> None:
    with pytest.raises(ValueError, match='the throughput mode is of openvino'):
        Segmenter(local_files['.pt2'], mode='throughput', trust=True)
    for suffix, backend in (('.onnx', 'onnxruntime'), ('.pt2', 'torch')):
        with pytest.raises(ValueError, match=f"{backend} has no device 'tpu' here, only .*cpu"):
            Segmenter(local_files[suffix], backend=backend, device='tpu', trust=True)
    with pytest.raises(ValueError, match="onnxruntime has no device 'cuda' here, only cpu"):
        Segmenter(local_files['.onnx'], device='cuda')
    with pytest.raises(ValueError, match=r'many\.xml runs any number from 1 at once, not 0'):
        Segmenter(many_classes, batch=0)
    with pytest.raises(ValueError, match='at least one reader and one image ahead'):
        next(quick.stream([], readers=0))


@pytest.mark.parametrize(
    ('image', 'found'),
    [
        (np.zeros((4, 4), np.uint8), r'\(4, 4\) of uint8'),
        (np.zeros((4, 4, 4), np.uint8), r'\(4, 4, 4\) of uint8'),
        (np.zeros((0, 4, 3), np.uint8), r'\(0, 4, 3\) of uint8'),
        (np.zeros((4, 4, 3), np.float32), r'\(4, 4, 3\) of float32'),
    ],
)
def test_an_array_that_is_no_image(quick, image, found) -> None:
    with pytest.raises(ValueError, match=rf'an image is an array \(H, W, 3\) of uint8 in RGB, not {found}'):
        quick(image)


def test_an_out_that_does_not_fit(quick) -> None:
    image = images(64, 96)[0]
    for out in (np.empty((64, 95), np.uint8), np.empty((64, 96), np.int64)):
        with pytest.raises(ValueError, match=r'out is \(64, 9\d\) of \w+, and the mask \(64, 96\) of uint8'):
            quick(image, out=out)
    with pytest.raises(ValueError, match='out takes the mask of one image'):
        quick([image], out=np.empty((64, 96), np.uint8))


@pytest.mark.parametrize('suffix', ['.xml', '.onnx', '.pt2'])
def test_a_model_file_that_is_none(local_files, tmp_path, suffix, capfd) -> None:
    path = tmp_path / f'x{suffix}'
    with pytest.raises(FileNotFoundError, match=rf'x\{suffix} does not exist: check the path'):
        Segmenter(path)
    for content, message in ((b'', 'is empty'), (b'hello world', rf'is no \{suffix} file')):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            Segmenter(path)
    able = backends.KINDS[suffix][1]
    path.write_bytes(local_files[suffix].read_bytes()[:2000])
    (tmp_path / 'x.bin').write_bytes(local_files['.xml'].with_suffix('.bin').read_bytes())
    for backend in able:
        with pytest.raises(FileError, match=rf'x\{suffix} is damaged or cut short: copy it again') as caught:
            Segmenter(path, backend=backend, trust=True)
        assert '\n' not in str(caught.value)
    assert capfd.readouterr() == ('', '')


def test_weights_of_an_xml_file_that_are_missing_or_cut_short(local_files, tmp_path) -> None:
    path = tmp_path / 'x.xml'
    path.write_bytes(local_files['.xml'].read_bytes())
    with pytest.raises(FileError, match=r'x\.bin is missing, which holds the weights of x\.xml: copy both'):
        Segmenter(path)
    path.with_suffix('.bin').write_bytes(b'12345678')
    with pytest.raises(FileError, match=r'x\.xml is damaged or cut short'):
        Segmenter(path)
    with pytest.raises(FileError, match=r'x\.bin holds the weights of x\.xml: name that file'):
        Segmenter(path.with_suffix('.bin'))


def test_a_model_file_of_another_kind(tmp_path) -> None:
    with pytest.raises(FileError, match=r'is a folder: name the exported file in it'):
        Segmenter(tmp_path)
    with pytest.raises(FileError, match=r'deploy\.pth is not an exported model, .* tools/export\.py makes one'):
        Segmenter(tmp_path / 'deploy.pth')
    (tmp_path / 'page.xml').write_text('<?xml version="1.0"?>\n<page>no model</page>\n')
    with pytest.raises(FileError, match=r'page\.xml is no \.xml file'):
        Segmenter(tmp_path / 'page.xml')
    torch.save({'weights': torch.zeros(9)}, tmp_path / 'weights.pt2')
    with pytest.raises(FileError, match=r'weights\.pt2 was not written by tools/export\.py'):
        Segmenter(tmp_path / 'weights.pt2', trust=True)


def test_a_model_of_somebody_elses(local_files, tmp_path) -> None:
    path = tmp_path / 'x.xml'
    for text, message in (
        ('', r'x\.xml was not written by tools/export\.py'),
        ('{"format": 99}', r'x\.xml: the model metadata is of format 99'),
    ):
        model = backends.openvino_core().read_model(local_files['.xml'])
        model.set_rt_info(text, KEY)
        openvino.save_model(model, path)
        with pytest.raises(ValueError, match=message):
            Segmenter(path)
    openvino.save_model(openvino.convert_model(torch.nn.Identity(), example_input=torch.zeros(1)), path)
    with pytest.raises(FileError, match=r'x\.xml was not written by tools/export\.py'):
        Segmenter(path)


@pytest.mark.parametrize(
    ('missing', 'suffix', 'cure'),
    [
        (['openvino'], '.xml', r'`pip install openvino` brings it$'),
        (['openvino', 'onnxruntime'], '.onnx', r'runs in openvino or onnxruntime, and openvino cannot be imported'),
        (['torch'], '.pt2', r'runs in torch, and torch cannot be imported .*: `pip install torch` brings it$'),
    ],
)
def test_a_backend_that_is_not_installed(local_files, monkeypatch, missing, suffix, cure) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=cure):
        Segmenter(local_files[suffix], trust=True)


def test_without_openvino_an_onnx_file_runs_in_onnxruntime(local_files, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert Segmenter(local_files['.onnx']).backend == 'onnxruntime'


# ---- without torch

WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'torch', 'torchvision', 'mmseg', 'mmengine', 'mmcv', 'onnx'}:
            raise ModuleNotFoundError(f'No module named {name!r}')

sys.meta_path.insert(0, Refuse())
"""


def test_neither_torch_nor_openmmlab_is_needed(local_files, repo, tmp_path) -> None:
    image = images(64, 96)[0]
    Image.fromarray(image).save(tmp_path / 'street.png')
    script = f"""{WITHOUT}
import runpy
from repvgg_seg import Segmenter
for model in ('{local_files['.xml']}', '{local_files['.onnx']}'):
    for backend in {{'auto', 'onnxruntime' if model.endswith('onnx') else 'openvino'}}:
        mask = Segmenter(model, backend=backend)('street.png')
        mask.tofile('mask')
sys.argv = ['predict.py', model, 'street.png', '--out', 'out']
runpy.run_path('{repo}/tools/predict.py', run_name='__main__')
"""
    subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env={'PYTHONPATH': str(repo)}, check=True)
    assert np.array_equal(np.fromfile(tmp_path / 'mask', np.uint8).reshape(64, 96), truth(image))
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'out/index/street.png.png')), truth(image))


# ---- other processes


FORKED = """
import os, signal, sys
from repvgg_seg import Segmenter
import numpy as np
path, backend = sys.argv[1:]
segmenter = Segmenter(path, backend=backend, trust=True)
image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
mask = segmenter(image)
if not (process := os.fork()):
    signal.alarm(60)  # in place of waiting for ever
    try:
        assert (segmenter(image) == mask).all()
        print('the same mask', flush=True)
    except ValueError as error:
        print(error, flush=True)
    os._exit(0)
sys.exit(os.waitpid(process, 0)[1])
"""


@pytest.mark.parametrize(
    ('suffix', 'backend', 'outcome'),
    [
        ('.xml', 'openvino', 'the same mask'),
        ('.onnx', 'onnxruntime', 'was opened in onnxruntime before this process was forked'),
        ('.pt2', 'torch', 'was opened in torch before this process was forked'),
    ],
)
def test_after_a_fork_a_file_is_opened_anew_or_refused(local_files, suffix, backend, outcome) -> None:
    argv = [sys.executable, '-W', 'ignore', '-c', FORKED, str(local_files[suffix]), backend]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and outcome in done.stdout, done


def test_a_pickled_segmenter_opens_its_file_again(local_files, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(local_files['.xml'].parent)
    segmenter = Segmenter(local_files['.xml'].name, fit='tile', overlap=8)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(segmenter))
    image = images(80, 200)[0]
    assert (again.fit, again.overlap) == ('tile', 8) and (again(image) == segmenter(image)).all()


def test_int8_without_instructions_for_it_is_reported(tmp_path, monkeypatch) -> None:
    path = to_openvino(tmp_path / 'x.xml', replace(METADATA, precision='int8'))
    for flags in (['avx512_vnni'], ['amx_int8'], ['avx_vnni'], ['i8mm']):
        monkeypatch.setattr(precisions, 'cpu', lambda flags=flags: ('a CPU', flags))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            Segmenter(path)
    monkeypatch.setattr(precisions, 'cpu', lambda: ('a CPU', []))
    with pytest.warns(UserWarning, match=r'x\.xml computes in int8, .* it may be slower than the float32 file'):
        assert np.array_equal(Segmenter(path)(images(64, 96)[0]), truth(images(64, 96)[0]))


def test_batches_are_what_the_graph_is_given(quick, tmp_path) -> None:
    image = images(64, 150)[0]
    pieces = list(quick.batches([image, images(64, 96)[0]]))
    assert len(pieces) == 3 and {piece.shape for piece in pieces} == {(1, 64, 96, 3)}
    assert np.array_equal(pieces[0][0], image[:, :96]) and np.array_equal(pieces[1][0], image[:, -96:])
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ValueError, match=r'text\.png'):
        list(quick.batches([tmp_path / 'text.png']))
