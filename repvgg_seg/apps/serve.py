"""Serve a page in the browser, and an interface for programs, to try an exported model on pictures and short videos.

    repvgg-seg serve deploy/demo.onnx
    repvgg-seg serve deploy/demo.xml --host 0.0.0.0 --port 8000

The page shows the mask, the picture under it, the confidence (of files of --output logits), the area of each class and
the time taken. Only this machine reaches it, unless --host says otherwise: it has no password. It needs the extra
`serve`, which brings Gradio; nothing is reported to anybody, and nothing is loaded from elsewhere.

Ctrl-C ends it, and removes what visitors sent.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from contextlib import suppress

from ..runtime.serve import Limits, build, launch
from ..terminal import say
from .predict import add_segmenter, open_segmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_segmenter(parser)
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS', help='who reaches it (default: %(default)s)')
    parser.add_argument('--port', type=int, metavar='N', help='(default: the first free one from 7860 on)')
    for name, what in (
        ('pixels', 'of a picture, or of a frame of a video, at most'),
        ('frames', 'of a video, from its beginning, at most'),
        ('megabytes', 'of a file, at most'),
        ('running', 'how many pictures at once'),
        ('waiting', 'how many may wait for their turn; more are told to come back'),
    ):
        most = getattr(Limits, name)
        parser.add_argument(f'--{name}', type=int, default=most, metavar='N', help=f'{what} (default: {most})')


def main(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ValueError: a limit is below 1, or the model cannot be served.
    """
    limits = Limits(args.pixels, args.frames, args.megabytes, args.running, args.waiting)
    if low := [f'--{name}' for name, value in vars(limits).items() if value < 1]:
        raise ValueError(f'{low[0]} begins at 1')
    segmenter = open_segmenter(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        page = build(segmenter, limits)
        say(f'{args.model} in {segmenter.backend}: {launch(page, limits, args.host, args.port)} (Ctrl-C ends it)')
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    os._exit(0)  # threads may still compute for visitors who have gone, and Python would wait for them
