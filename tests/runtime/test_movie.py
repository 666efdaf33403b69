"""Videos as results: what plays in a browser, at the times of the input."""

import json
import logging
import os

import cv2
import numpy as np
import pytest

from repvgg_seg.files import FileError
from repvgg_seg.runtime import movie
from repvgg_seg.runtime.movie import Movie
from tests.conftest import tool

TIMES = [0.0, 0.1, 0.35, 1001 / 1000]


def write(path, times=TIMES, size=(63, 95)) -> None:
    video = Movie(path, 10.0, size)
    for number, time in enumerate(times):
        video.write(np.full((*size, 3), 60 * number, np.uint8), time)
    video.close()


def test_a_video_keeps_the_times_of_its_input_and_is_h264(local_files, tmp_path, monkeypatch) -> None:
    av = pytest.importorskip('av', reason='PyAV is not installed (extra: video)')
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'trip.mp4')
    assert tool('predict')([str(local_files['.onnx']), 'trip.mp4', '--out', 'out', '--save', 'overlay', 'area']) == 0
    with av.open('out/overlay/trip.mp4.mp4') as file:
        [stream] = file.streams
        frames = list(file.decode(stream))
        assert [frame.time for frame in frames] == pytest.approx(TIMES, abs=1e-4)
        assert (stream.codec.name, stream.pix_fmt, frames[0].width, frames[0].height) == ('h264', 'yuv420p', 96, 64)
    head = (tmp_path / 'out/overlay/trip.mp4.mp4').read_bytes()
    assert head.index(b'moov') < head.index(b'mdat')  # plays while it loads
    assert json.loads((tmp_path / 'out/area/trip.mp4.json').read_text())['frames'] == 4
    assert os.listdir('out/overlay') == ['trip.mp4.mp4']


def test_an_odd_last_row_is_there_twice_and_times_never_go_back(tmp_path) -> None:
    av = pytest.importorskip('av', reason='PyAV is not installed (extra: video)')
    write(tmp_path / 'a.mp4', [0.5, 0.5, 0.2])
    with av.open(str(tmp_path / 'a.mp4')) as file:
        frames = list(file.decode(video=0))
    assert [round(frame.time * movie.TICKS) for frame in frames] == [45000, 45001, 45002]
    picture = frames[1].to_ndarray(format='rgb24')
    assert picture.shape == (64, 96, 3) and np.abs(picture.astype(int) - 60).max() < 6
    with pytest.raises(FileError, match=r'cannot be written as a video'):
        write(tmp_path / 'gone/a.mp4')


def test_without_pyav_the_video_is_mpeg4_and_says_so(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(movie.importlib.util, 'find_spec', lambda name: None)
    with caplog.at_level(logging.WARNING):
        write(tmp_path / '.part-a.mp4')
    assert 'a.mp4 is in MPEG-4, which browsers do not play' in caplog.text
    capture = cv2.VideoCapture(str(tmp_path / '.part-a.mp4'))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.get(cv2.CAP_PROP_FPS) == 10
