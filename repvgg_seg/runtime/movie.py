"""Videos as results: H.264, which browsers and players show, where PyAV is installed, else MPEG-4 by OpenCV.

PyAV is an optional package (extra `video`), as its wheels bring x264, which is under the GPL.
"""

from __future__ import annotations

import importlib.util
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files import FileError
from .images import Array

logger = logging.getLogger(__name__)

TICKS = 90_000  # a second: divides the times of all usual rates, also those of 30000 / 1001 frames a second


class Movie:
    """A video of pictures (H, W, 3) in RGB of one `size` (H, W), each shown from its own time on.

    H.264 codes pairs of rows and columns: an odd last one is there twice. Without PyAV the video has a constant `rate`.

    Raises:
        FileError: it cannot be written.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, ...]) -> None:
        self.path, self._last = path, -1
        height, width = size
        self._even = ((0, height % 2), (0, width % 2), (0, 0))
        self._stream: Any = None
        if importlib.util.find_spec('av') is None:
            logger.warning(
                "%s is in MPEG-4, which browsers do not play: `python -m pip install '.[video]'` in a checkout brings "
                'PyAV, which writes H.264',
                path.name.removeprefix('.part-'),
            )
            self._file: Any = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, (width, height))
            if not self._file.isOpened():
                raise FileError(f'{path} cannot be written as a video of {width}x{height} at {rate:g} frames a second')
            return
        import av

        self._errors = av.FFmpegError
        try:
            # The index goes to the front, so that a browser plays the video while it loads.
            self._file = av.open(str(path), 'w', options={'movflags': 'faststart'})
            self._stream = self._file.add_stream('libx264', rate=Fraction(rate).limit_denominator(1001))
        except av.FFmpegError as error:
            raise FileError(f'{path} cannot be written as a video ({error})') from error
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, TICKS)

    def write(self, picture: Array, seconds: float) -> None:
        """Add a picture that is shown from `seconds` after the beginning on, or right after the last one if that is
        later.

        Raises:
            FileError: it cannot be written.
        """
        if self._stream is None:
            self._file.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            return
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.pad(picture, self._even, 'edge'), 'rgb24')
        frame.pts = self._last = max(round(seconds * TICKS), self._last + 1)
        frame.time_base = Fraction(1, TICKS)
        self._encode(frame)

    def close(self) -> None:
        """Write what is left, and the end.

        Raises:
            FileError: it cannot be written.
        """
        if self._stream is None:
            self._file.release()
            return
        try:
            if self._last >= 0:
                self._encode(None)
        finally:
            self._file.close()

    def _encode(self, frame: Any) -> None:
        try:
            self._file.mux(self._stream.encode(frame))
        except self._errors as error:
            raise FileError(f'{self.path} cannot be written as a video ({error})') from error
