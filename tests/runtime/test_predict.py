"""tools/predict.py: what is found, written, left out and gone on with."""

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from repvgg_seg import Segmenter
from repvgg_seg.files import atomic_write, beside, sweep
from repvgg_seg.runtime import predict as prediction
from repvgg_seg.runtime.predict import OUTPUTS, find_inputs, predict, share
from tests.conftest import tool
from tests.local_graph import METADATA, images, local_logits, to_openvino, truth

IMAGE = images(64, 96)[0]


def save(path: Path, image: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def movie(path: Path, frames: np.ndarray) -> Path:
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what is found


def names(*words: str, out: str = 'out') -> list[str]:
    return [i.name.as_posix() for i in find_inputs(words, Path(out))]


def test_results_mirror_the_folders_of_the_inputs(here) -> None:
    for name in ('a/x.png', 'a/deep/y.JPG', 'a/z.mp4', 'b/x.png', 'a/readme.txt', 'a/.hidden.png', 'a/.git/z.png'):
        save(here / 'a/x.png')
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    assert names('a') == ['deep/y.JPG', 'x.png', 'z.mp4']
    assert names('a', 'b') == ['a/deep/y.JPG', 'a/x.png', 'a/z.mp4', 'b/x.png']
    assert names('a/x.png') == ['x.png']
    assert names('a/x.png', 'b/x.png') == ['a/x.png', 'b/x.png']
    assert names('*/x.png') == ['a/x.png', 'b/x.png']
    assert names('a/**/*.JPG') == ['deep/y.JPG']
    assert names('a', 'a/x.png', '../' + here.name + '/a') == ['deep/y.JPG', 'x.png', 'z.mp4']  # each once
    save(here / 'a/overlay/x.jpg')
    assert names('a', out='a') == ['deep/y.JPG', 'x.png', 'z.mp4']  # what it wrote itself is no input
    assert names('a', out='.') == ['deep/y.JPG', 'overlay/x.jpg', 'x.png', 'z.mp4']
    assert names('a/readme.txt') == ['readme.txt']  # who names a file means it


def test_no_two_inputs_share_a_result(here) -> None:
    words = ('x.png', 'x.bmp', 'x.png.png', 'trip.avi', 'trip/frame7.png', 'x.png.mp4', 'a.bmp', 'a.png/x.jpg')
    for name in words:
        (here / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        (here / 'in' / name).touch()
    live = ('0', '0', 'rtsp://h/a-b', 'rtsp://h/a_b')  # the camera once
    paths = [path for i in find_inputs(['in', *live], Path('out')) for path in i.outputs(Path(), OUTPUTS).values()]
    assert len(paths) == len(set(paths)) == len(OUTPUTS) * (len(words) + 3)
    assert not {path.parent for path in paths} & set(paths)
    save(here / 'in/camera0/x.png')
    with pytest.raises(ValueError, match='0 and camera0 would have results of one name: segment them apart'):
        find_inputs(['in', '0'], Path('out'))


def test_a_glob_finds_no_results_of_an_earlier_run(here) -> None:
    for name in ('a/x.png', 'masks/index/a/x.png', 'masks/colour/a/x.png', 'masks/other.png'):
        save(here / name)
    assert names('**/*.png', out='masks') == ['a/x.png', 'masks/other.png']
    assert names('*', out='masks') == ['a/x.png', 'masks/other.png']


def test_links_are_followed_and_loops_are_not(here) -> None:
    save(here / 'elsewhere/x.png')
    save(here / 'in/y.png')
    (here / 'in/link').symlink_to(here / 'elsewhere')
    (here / 'in/loop').symlink_to(here / 'in')
    assert names('in') == names('in/**/*.png') == ['link/x.png', 'y.png']


def test_a_name_with_the_signs_of_a_glob_is_a_name(here) -> None:
    for name in ('x[1].png', 'x1.png', 'a [b]*/y ?.png', 'ab/y.png'):
        save(here / name)
    assert names('x[1].png') == ['x[1].png']
    assert names('a [b]*') == ['y ?.png']


def test_cameras_and_streams(here) -> None:
    camera, stream = find_inputs(['0', 'rtsp://host:1/x'], Path('out'))
    assert (camera.source, camera.name, camera.video) == (0, Path('camera0'), True)
    assert (stream.source, stream.name, stream.video) == ('rtsp://host:1/x', Path('rtsp%3A%2F%2Fhost%3A1%2Fx'), True)


def test_inputs_that_are_not_there(here) -> None:
    (here / 'empty').mkdir()
    for word in ('empty', '*.png'):
        with pytest.raises(FileNotFoundError, match=f'there is no image or video in {re.escape(word)}: check'):
            find_inputs([word], Path('out'))
    with pytest.raises(FileNotFoundError, match=r'none\.png does not exist: check the path'):
        find_inputs(['none.png'], Path('out'))


@pytest.mark.parametrize('world', [1, 2, 3, 7])
def test_processes_share_the_inputs(here, world) -> None:
    for n in range(5):
        save(here / f'{n}.png')
    inputs = find_inputs(['.'], Path('out'))
    shares = [share(inputs, {'RANK': str(rank), 'WORLD_SIZE': str(world)}) for rank in range(world)]
    assert sorted((i for part, *_ in shares for i in part), key=str) == sorted(inputs, key=str)
    assert max(len(part) for part, *_ in shares) - min(len(part) for part, *_ in shares) <= 1
    assert [numbers for _, *numbers in shares] == [[rank, world] for rank in range(world)]
    assert share(inputs, {}) == (inputs, 0, 1)


def test_ranks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match='RANK=2 and WORLD_SIZE=2 are not those of a process among several'):
        share([], {'RANK': '2', 'WORLD_SIZE': '2'})


# ---- what is written


def test_index_colour_overlay_and_area(here, local_files, capsys) -> None:
    save(here / 'in/deep/x.png')
    assert tool('predict')([str(local_files['.onnx']), 'in', '--out', 'out']) == 0
    assert '1 images segmented in openvino; results: out' in capsys.readouterr().out
    assert files(here / 'out') == {
        'predict.json', 'index/deep/x.png.png', 'colour/deep/x.png.png', 'overlay/deep/x.png.jpg',
        'area/deep/x.png.json',
    }  # fmt: skip
    mask, palette = truth(IMAGE), np.array(METADATA.palette, np.uint8)
    index = Image.open('out/index/deep/x.png.png')
    assert index.mode == 'L' and np.array_equal(np.asarray(index), mask)
    assert np.array_equal(cv2.imread('out/colour/deep/x.png.png')[..., ::-1], palette[mask])
    overlay = np.asarray(Image.open('out/overlay/deep/x.png.jpg')).astype(int)
    assert np.abs(overlay - (IMAGE / 2 + palette[mask] / 2)).mean() < 8  # JPEG
    area = json.loads((here / 'out/area/deep/x.png.json').read_text())
    assert area['source'] == str(here / 'in/deep/x.png') and area['size'] == [64, 96]
    for n, entry in enumerate(area['classes']):
        pixels = int((mask == n).sum())
        assert entry == {'index': n, 'name': METADATA.classes[n], 'pixels': pixels, 'share': pixels / 6144}


def test_of_300_classes_the_index_has_sixteen_bits(here, many_classes) -> None:
    save(here / 'x.png')
    assert tool('predict')([str(many_classes), 'x.png', '--out', 'out', '--save', 'index', 'colour']) == 0
    index = np.asarray(Image.open('out/index/x.png.png'))
    assert index.max() > 255 and index.dtype == np.uint16
    assert np.array_equal(np.asarray(Image.open('out/colour/x.png.png')), Segmenter(many_classes).palette[index])


def test_bad_files_are_left_out_and_listed_at_the_end(here, local_files, capsys) -> None:
    for name in ('a.png', 'c.png'):
        save(here / name)
    for name in ('b.png', 'd.mp4'):
        (here / name).write_text('no image')
    assert tool('predict')([str(local_files['.xml']), '.', '--out', 'out']) == 1
    message = capsys.readouterr()
    assert '2 images segmented' in message.out
    assert f'left out: {here}/b.png is not an image of a known format' in message.err
    assert f'left out: {here}/d.mp4 cannot be opened as a video' in message.err
    assert {name for name in files(here / 'out') if 'index' in name} == {'index/a.png.png', 'index/c.png.png'}


def test_bad_files_do_not_end_the_other_processes(here, local_files, monkeypatch, capsys) -> None:
    save(here / 'a.png')
    (here / 'b.png').write_text('no image')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert tool('predict')([str(local_files['.xml']), '.', '--out', 'out']) == 0
    assert f'left out: {here}/b.png is not an image of a known format' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['none.png'], 'none.png does not exist: check the path'),
        (['x.png', '--overlap', '99'], 'tiles of 64x96 cannot overlap by 99 pixels'),
        (['x.png', '--frames', '0'], 'there is nothing to do with 0 frames'),
    ],
)
def test_what_cannot_work_is_one_sentence(here, local_files, capsys, words, message) -> None:
    save(here / 'x.png')
    assert tool('predict')([str(local_files['.xml']), *words, '--out', 'out']) == 2
    assert message in capsys.readouterr().err
    assert not files(here / 'out') - {'predict.json'}


# ---- going on


def test_what_is_finished_is_left_out(here, local_files, capsys) -> None:
    argv = [str(local_files['.xml']), 'in', '--out', 'out']
    for n in range(3):
        save(here / f'in/{n}.png')
    assert tool('predict')(argv) == 0
    times = {name: os.stat(here / 'out' / name).st_mtime_ns for name in files(here / 'out') - {'predict.json'}}
    (here / 'out/overlay/1.png.jpg').unlink()
    capsys.readouterr()
    assert tool('predict')(argv) == 0
    assert '1 images segmented in openvino, 2 inputs were finished before' in capsys.readouterr().out
    again = {name: os.stat(here / 'out' / name).st_mtime_ns for name in times}
    assert {name for name in times if again[name] != times[name]} == {
        'index/1.png.png', 'colour/1.png.png', 'overlay/1.png.jpg', 'area/1.png.json',
    }  # fmt: skip
    assert tool('predict')([*argv, '--overwrite']) == 0
    assert '3 images segmented' in capsys.readouterr().out


def test_results_of_other_models_and_settings_do_not_mix(here, local_files, many_classes, capsys) -> None:
    save(here / 'x.png')
    assert tool('predict')([str(local_files['.xml']), 'x.png', '--out', 'out']) == 0
    for argv in (
        [str(many_classes)],
        [str(local_files['.xml']), '--overlap', '8'],
        [str(local_files['.xml']), '--fit', 'resize'],
    ):
        assert tool('predict')([argv[0], 'x.png', '--out', 'out', *argv[1:]]) == 2
        assert 'out holds results of other settings (' in capsys.readouterr().err
    # The same network in another file is no other model.
    assert tool('predict')([str(local_files['.onnx']), 'x.png', '--out', 'out']) == 0
    assert tool('predict')([str(many_classes), 'x.png', '--out', 'out', '--overwrite']) == 0
    assert np.asarray(Image.open('out/index/x.png.png')).max() > 255


@pytest.mark.parametrize('kind', ['index', 'colour', 'overlay', 'area'])
def test_an_interrupted_overwrite_goes_on_to_the_end(here, local_files, monkeypatch, capsys, kind) -> None:
    for n in range(6):
        save(here / f'in/{n}.png', images(128, 96)[0])
    movie(here / 'in/trip.avi', images(128, 96, 2))
    model, kinds = str(local_files['.xml']), ['--save', kind]
    assert tool('predict')([model, 'in', '--out', 'out', *kinds]) == 0
    other = [model, 'in', '--fit', 'resize', *kinds]
    with monkeypatch.context() as patch:
        patch.setattr(prediction.Progress, 'advance', interrupt_after(1))
        assert tool('predict')([*other, '--out', 'out', '--overwrite']) == 130
    assert tool('predict')([*other, '--out', 'out']) == 0
    capsys.readouterr()
    assert tool('predict')([*other, '--out', 'out']) == 0
    assert '0 images segmented in openvino, 7 inputs were finished before' in capsys.readouterr().out
    assert tool('predict')([*other, '--out', 'anew']) == 0
    assert files(here / 'out') == files(here / 'anew')
    for name in files(here / 'anew'):
        assert (here / 'out' / name).read_bytes() == (here / 'anew' / name).read_bytes(), name


# ---- videos


def test_a_video_gives_frames_videos_and_areas(here, local_files) -> None:
    frames = images(64, 96, 5)
    movie(here / 'trip.avi', frames)
    assert tool('predict')([str(local_files['.xml']), 'trip.avi', '--out', 'out', '--frames', '4']) == 0
    assert files(here / 'out') == {
        'predict.json', 'colour/trip.avi.mp4', 'overlay/trip.avi.mp4', 'area/trip.avi.json',
        *(f'index/trip.avi/{n:06d}.png' for n in range(4)),
    }  # fmt: skip
    mask = np.asarray(Image.open('out/index/trip.avi/000002.png'))
    assert (mask == truth(frames[2])).mean() > 0.9  # the video is a JPEG for each frame
    area = json.loads((here / 'out/area/trip.avi.json').read_text())
    assert area['frames'] == 4 and area['frames_per_second'] == 10
    assert area['pixels_by_frame'][2] == np.bincount(mask.ravel(), minlength=4).tolist()
    assert sum(entry['pixels'] for entry in area['classes']) == 4 * 64 * 96
    capture = cv2.VideoCapture('out/overlay/trip.avi.mp4')
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.read()[1].shape == (64, 96, 3)
    assert (
        np.abs(
            capture.read()[1][..., ::-1] / 1.0
            - (frames[1] / 2 + Segmenter(local_files['.xml']).colour(truth(frames[1])) / 2)
        ).mean()
        < 12
    )


class Camera:
    """Frames until Ctrl-C is pressed."""

    def __init__(self, source: object) -> None:
        self.source, self.left = source, 3

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.ascontiguousarray(IMAGE[..., ::-1])

    def release(self) -> None:
        self.source = None


def interrupt_after(frames: int):
    """Return a `tick` of a progress bar that is a user pressing Ctrl-C."""
    left = iter(range(frames))

    def tick(*_: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return tick


def test_a_camera_runs_until_ctrl_c_and_its_files_are_whole(here, local_files, monkeypatch) -> None:
    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: Camera(source) if source == 0 else opened(source))
    monkeypatch.setattr(prediction.Progress, 'advance', interrupt_after(5))
    assert tool('predict')([str(local_files['.xml']), '0', '--out', 'out', '--save', 'index', 'overlay']) == 0
    assert files(here / 'out') == {
        'predict.json', 'overlay/camera0.mp4', *(f'index/camera0/{n:06d}.png' for n in range(6)),
    }  # fmt: skip
    assert np.array_equal(np.asarray(Image.open('out/index/camera0/000005.png')), truth(IMAGE))


def test_a_video_that_is_interrupted_leaves_nothing_and_is_done_anew(here, local_files, monkeypatch) -> None:
    movie(here / 'trip.avi', images(64, 96, 5))
    argv = [str(local_files['.xml']), 'trip.avi', '--out', 'out']
    with monkeypatch.context() as patch:
        patch.setattr(prediction.Progress, 'advance', interrupt_after(2))
        assert tool('predict')(argv) == 130
    assert files(here / 'out') == {'predict.json'}
    part = beside(here / 'out/index/trip.avi', 'part.avi')  # of a run that was killed
    part.mkdir(parents=True)
    (part / '000099.png').touch()
    assert tool('predict')(argv) == 0
    assert len(files(here / 'out/index')) == 5


def test_a_disk_that_is_full_is_no_unreadable_file(here, local_files, monkeypatch, capsys) -> None:
    save(here / 'x.png')
    argv = [str(local_files['.xml']), 'x.png', '--out', 'out']
    assert tool('predict')(argv) == 0
    shutil.rmtree(here / 'out/index')
    (here / 'out/index').write_text('in the way')
    assert tool('predict')(argv) == 2
    assert 'out/index cannot be made a folder' in capsys.readouterr().err


def test_folders_of_somebody_else_are_left_alone(here, local_files, capsys) -> None:
    save(here / 'x.png')
    save(here / 'overlay/mine.png')
    assert tool('predict')([str(local_files['.xml']), 'x.png', '--out', '.', '--overwrite']) == 2
    assert 'something that this did not write (such as overlay)' in capsys.readouterr().err
    assert files(here) == {'x.png', 'overlay/mine.png'}


def test_summary_counts(here, local_files) -> None:
    save(here / 'x.png')
    inputs = find_inputs(['.'], here / 'out')
    summary = predict(Segmenter(local_files['.xml']), inputs, here / 'out', quiet=True)
    assert (summary.segmented, summary.finished, summary.left_out) == (1, 0, {})


# ---- confidence


def test_confidences_are_written_and_the_least_certain_image_comes_first(here, capsys) -> None:
    to_openvino(here / 'x.xml', replace(METADATA, output='logits'))
    dark = save(here / 'in/dark.png', IMAGE // 32)
    save(here / 'in/a.png')
    argv = [str(here / 'x.xml'), str(here / 'in'), '--out', str(here / 'out'), '--below', '0.9']
    assert tool('predict')([*argv, '--save', 'index']) == 0
    probability = {
        name: local_logits(image).softmax(0).amax(0).numpy() for name, image in (('a', IMAGE), ('dark', IMAGE // 32))
    }
    for name, expected in probability.items():
        written = np.asarray(Image.open(here / f'out/confidence/{name}.png.png'))
        assert written.dtype == np.uint8 and np.abs(written - expected * 255).max() < 0.6
    assert files(here / 'out') == {
        'predict.json',
        *(f'{k}/{n}.png.png' for k in ('index', 'confidence') for n in probability),
    }
    shares = {name: (p * 255).round() < 0.9 * 255 for name, p in probability.items()}
    assert shares['dark'].mean() > shares['a'].mean()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [f'{shares[n].mean():7.2%}  {here / "in" / n}.png' for n in ('dark', 'a')]
    assert tool('predict')([*argv, '--save', 'index']) == 0  # from the files of the earlier call
    assert capsys.readouterr().out.splitlines()[1:] == lines and dark.is_file()


def test_a_file_of_classes_writes_no_confidence(here, local_files, capsys) -> None:
    save(here / 'a.png')
    argv = [str(local_files['.xml']), str(here / 'a.png'), '--out', str(here / 'out')]
    assert tool('predict')([*argv, '--below', '0.6']) == 2
    assert 'export the model with --output logits' in capsys.readouterr().err
    assert tool('predict')([*argv, '--below', '60']) == 2
    assert 'there is no probability below 60.0' in capsys.readouterr().err
    assert tool('predict')(argv) == 0
    assert not (here / 'out/confidence').exists()


def test_frames_have_confidences_too(here) -> None:
    path = to_openvino(here / 'x.xml', replace(METADATA, output='logits'))
    inputs = find_inputs([str(movie(here / 'trip.avi', images(64, 96, 3)))], here / 'out')
    predict(Segmenter(path), inputs, here / 'out', save=['confidence'], quiet=True)
    assert len(list((here / 'out/confidence/trip.avi').glob('*.png'))) == 3


# ---- hostile names and videos


def test_one_file_never_ends_a_run(here, local_files, capsys) -> None:
    model, long = str(local_files['.xml']), 'n' * 245
    for name in ('a.png', f'{long}.png', f'{long}1234.png', 'wide.png', '\x1b[2K\nerror: forged.png', 'z.png'):
        save(here / 'in' / name, np.zeros((1, 65_501, 3), np.uint8) if name == 'wide.png' else IMAGE)
    assert tool('predict')([model, 'in', '--out', 'out', '--save', 'index', 'overlay']) == 1
    done, (listed,) = capsys.readouterr(), [f'{long}1234.png']
    assert '5 images segmented' in done.out
    assert f'{listed}.png cannot be written (File name too long): rename what it is made of' in done.err
    assert '\x1b' not in done.err and not re.search('^error:', done.err, re.M)
    assert Image.open('out/overlay/wide.png.png').size == (65_501, 1)
    assert f'{long}.png.png' in os.listdir('out/index')
    assert tool('predict')([model, 'in', '--out', 'out', '--save', 'index', 'overlay']) == 1
    assert '0 images segmented in openvino, 5 inputs were finished before' in capsys.readouterr().out
    assert tool('predict')([model, 'in/wide.png', '--out', 'out', '--save', 'overlay', '--overwrite']) == 0
    assert '1 images segmented' in capsys.readouterr().out


def test_what_an_encoder_refuses_is_not_blamed_on_the_disk(here, local_files, monkeypatch, capsys) -> None:
    save(here / 'x.png')
    monkeypatch.setattr(prediction, 'JPEG_SIDE', 10**6)
    save(here / 'wide.png', np.zeros((1, 65_501, 3), np.uint8))
    assert tool('predict')([str(local_files['.xml']), '.', '--out', 'out', '--save', 'overlay']) == 1
    done = capsys.readouterr()
    assert f'left out: {here}/wide.png: its overlay cannot be made' in done.err and '1 images segmented' in done.out
    assert files(here / 'out') == {'predict.json', 'overlay/x.png.jpg'}


def test_a_cut_video_is_told_and_done_again(here, local_files, capsys) -> None:
    whole = movie(here / 'whole.avi', images(64, 96, 60)).read_bytes()
    video = here / 'in/[/red]/trip.avi'  # a name that rich would take for markup
    video.parent.mkdir(parents=True)
    video.write_bytes(whole[: len(whole) * 9 // 20])
    argv = [str(local_files['.xml']), str(here / 'in'), '--out', 'out', '--save', 'area']
    assert tool('predict')(argv) == 1
    done = capsys.readouterr()
    [frames] = re.findall(r'trip\.avi is cut short or damaged, (\d+) of about 60 frames can be read', done.err)
    assert 20 < int(frames) < 30 and files(here / 'out') == {'predict.json'}
    assert tool('predict')([*argv, '--frames', frames]) == 0  # its cure
    shutil.rmtree(here / 'out')
    assert tool('predict')(argv) == 1
    video.write_bytes(whole)
    assert tool('predict')(argv) == 0
    assert json.loads((here / 'out/area/[/red]/trip.avi.json').read_text())['frames'] == 60


def test_a_video_whose_name_is_no_text_is_left_out(here, local_files, capsys) -> None:
    movie(here / 'trip.avi', images(64, 96, 2)).rename(os.fsdecode(b'\xff.avi'))
    movie(here / 'trip.avi', images(64, 96, 2))
    assert tool('predict')([str(local_files['.xml']), '.', '--out', 'out', '--save', 'area']) == 1
    done = capsys.readouterr()
    assert r'\udcff.avi has a name that is not text in UTF-8' in done.err and '2 images segmented' in done.out


class FullDisk:
    """A writer of videos that fails as OpenCV's does: without a word."""

    fourcc = staticmethod(cv2.VideoWriter.fourcc)

    def __init__(self, path: str, *_: object) -> None:
        self.path = Path(path)

    def isOpened(self) -> bool:
        return True

    def write(self, frame: np.ndarray) -> None:
        self.path.write_bytes(b'half a video')

    def release(self) -> None: ...


def test_a_video_that_was_not_written_whole_is_an_error(here, local_files, monkeypatch, capsys) -> None:
    movie(here / 'trip.avi', images(64, 96, 2))
    monkeypatch.setattr(cv2, 'VideoWriter', FullDisk)
    monkeypatch.setitem(sys.modules, 'av', None)  # which is preferred
    assert tool('predict')([str(local_files['.xml']), 'trip.avi', '--out', 'out']) == 2
    assert 'trip.avi has 0 of 2 frames once it is written: make room' in capsys.readouterr().err
    assert files(here / 'out') == {'predict.json'}


def test_two_at_once_share_the_work(here, local_files) -> None:
    for n in range(4):
        save(here / f'in/{n}.png')
    movie(here / 'in/trip.avi', images(64, 96, 5))
    inputs = find_inputs(['in'], here / 'out')
    with ThreadPoolExecutor(2) as pool:
        segmenters = [Segmenter(local_files['.xml']) for _ in range(2)]
        both = list(pool.map(lambda s: predict(s, inputs, here / 'out', quiet=True), segmenters))
    assert not any(summary.left_out for summary in both)
    assert sum(summary.segmented for summary in both) <= 4 + 4 + 5  # the video once
    predict(segmenters[0], inputs, here / 'alone', quiet=True)
    assert files(here / 'out') == files(here / 'alone')
    for name in files(here / 'alone'):
        assert (here / 'out' / name).read_bytes() == (here / 'alone' / name).read_bytes(), name


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(here) -> None:
    (here / 'out').mkdir()
    (here / 'out/.0123.tmp').write_bytes(b'of a killed run')
    with atomic_write(here / 'out/x') as file:
        file.write(b'whole')
        sweep(here / 'out', abandoned_s=-1)
    assert files(here / 'out') == {'x'}
