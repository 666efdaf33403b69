"""A page to try a model on, and the same for programs: Gradio brings the server, the queue and the page.

Gradio is an optional package (extra `serve`). The page loads nothing from elsewhere and reports nothing to anybody.
"""

from __future__ import annotations

import html
import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..environment import optional
from ..files import FileError
from .images import read_image
from .predict import VIDEO_SUFFIXES, Frames, Input, coloured, grey, predict
from .segmenter import Segmenter

KEPT_S = 3600  # how long files of visitors and their results stay
_HEADERS = ['index', 'class', 'pixels', 'share, %']


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for, and how many at once."""

    pixels: int = 1 << 25  # of a picture, or of a frame of a video
    frames: int = 300  # of a video, from its beginning
    megabytes: int = 64  # of a file
    running: int = 2  # pictures at once, while one video may run as well
    waiting: int = 64  # more are told to come back


def build(segmenter: Segmenter, limits: Limits) -> Any:
    """Return the page, a gradio.Blocks, with its interface for programs: /picture and /video.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: the model is not for RGB images.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when it is imported
    gr = optional('gradio', 'serve', 'the page')
    if segmenter.metadata.channels != 3:
        raise ValueError(f'{segmenter.path} takes images of {segmenter.metadata.channels} channels, and files are RGB')
    confident = segmenter.metadata.output == 'logits'
    preparation = segmenter.metadata.preparation

    def file_of_visitor(label: str) -> Any:
        """Return where a file is dropped; Gradio alone would also fetch one from an address, for anybody who asks."""
        upload = gr.File(label=label, height=120)
        move = upload.async_move_resource_to_block_cache

        async def sent(path: Any) -> Any:
            if '://' in str(path):
                raise gr.Error('send the file itself instead of its address', print_exception=False)
            return await move(path)

        upload.async_move_resource_to_block_cache = sent
        return upload

    @contextmanager
    def told(path: str | None) -> Iterator[Path]:
        """Give the file, and turn what is wrong with it into a message on the page, which takes it for HTML."""
        if path is None:
            raise gr.Error('there is no file: choose one', print_exception=False)
        try:
            yield Path(path)
        except (ValueError, OSError, MemoryError) as error:  # ValueError: FileError
            message = str(error).replace(str(path), Path(path).name) or type(error).__name__
            raise gr.Error(html.escape(message, quote=False), duration=None, print_exception=False) from error

    def picture(file: str | None) -> tuple[Any, ...]:
        began = time.perf_counter()
        with told(file) as path:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                raise FileError(f'{path.name} is a video: it belongs under "Video"')
            image = read_image(path, upright=preparation.upright, decoder=preparation.decoder, max_pixels=limits.pixels)
            mask, *confidence = segmenter(image, return_confidence=True) if confident else [segmenter(image)]
            areas = _areas(segmenter, np.bincount(mask.ravel(), minlength=len(segmenter.classes)).tolist())
            pictures = (image, segmenter.overlay(image, mask)), coloured(segmenter, mask), *map(grey, confidence)
            return *pictures, areas, _since(began)

    def video(file: str | None) -> Generator[tuple[Any, ...], None, None]:
        began = time.perf_counter()
        with told(file) as path, tempfile.TemporaryDirectory() as folder:
            with closing(Frames(path, None)) as frames:
                if frames.pixels > limits.pixels:
                    raise FileError(
                        f'{path.name} has frames of {frames.pixels} pixels, and {limits.pixels} are the most'
                    )
                count = frames.count or 0
            item = Input(path, Path(path.name), video=True)
            out = Path(folder)
            summary = predict(segmenter, [item], out, save=['overlay', 'area'], frames=limits.frames, quiet=True)
            for reason in summary.left_out.values():
                raise FileError(reason)
            if count > limits.frames:
                gr.Info(f'These are the first {limits.frames} of about {count} frames.')
            results = item.outputs(out, ['overlay', 'area'])
            classes = json.loads(results['area'].read_text(encoding='utf-8'))['classes']
            areas = _areas(segmenter, [row['pixels'] for row in classes])
            yield str(results['overlay']), areas, _since(began)  # which copies the video

    facts = segmenter.metadata
    with gr.Blocks(title=Path(segmenter.path).name, analytics_enabled=False, delete_cache=(600, KEPT_S)) as page:
        gr.Markdown(
            f'# {html.escape(Path(segmenter.path).name)}\n{len(facts.classes)} classes, '
            f'{facts.size[0]}x{facts.size[1]}, {facts.precision}, {segmenter.backend}. Files stay on the machine that '
            f'serves this page, for {KEPT_S // 60} minutes.'
        )

        def table() -> list[Any]:
            areas = gr.Dataframe(
                headers=_HEADERS, datatype=['number', 'str', 'number', 'number'], label='Area of each class',
                interactive=False, buttons=[],
            )  # fmt: skip
            return [areas, gr.Textbox(label='Time taken, from file to result', interactive=False)]

        with gr.Tab('Picture'):
            upload = file_of_visitor(f'A picture, {limits.megabytes} MB at most')
            shown: list[Any] = [gr.ImageSlider(label='Picture and mask: move the line', format='jpeg', max_height=700)]
            with gr.Row():
                for label in ['Mask: a PNG file of class indices', 'Confidence: bright is certain'][: 1 + confident]:
                    shown.append(
                        gr.Image(label=label, format='png', interactive=False, buttons=['download', 'fullscreen'])
                    )
            shown += table()
            upload.upload(picture, upload, shown, api_name='picture', concurrency_limit=limits.running)
        with gr.Tab('Video'):
            upload = file_of_visitor(
                f'A video, of which {limits.frames} frames are taken, {limits.megabytes} MB at most'
            )
            shown = [gr.Video(label='Video under its mask', interactive=False, buttons=['download']), *table()]
            upload.upload(video, upload, shown, api_name='video', concurrency_limit=1)
    return page.queue(max_size=limits.waiting, api_open=False)


def launch(page: Any, limits: Limits, host: str = '127.0.0.1', port: int | None = None) -> str:
    """Serve the page from threads of this process until `page.close()`; return its address.

    `port`: None takes the first free one from 7860 on.

    Raises:
        OSError: the port is not free.
    """
    gr = optional('gradio', 'serve', 'the page')
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
        max_file_size=limits.megabytes * 10**6, enable_monitoring=False, ssr_mode=False, mcp_server=False,
        footer_links=['api'], theme=theme,
    )  # fmt: skip
    return address


def _since(began: float) -> str:
    return f'{time.perf_counter() - began:.3f} s'


def _areas(segmenter: Segmenter, pixels: Sequence[int]) -> dict[str, Any]:
    """Return the classes that are there, largest first, as Gradio takes a table; the index has the class's colour."""
    present = sorted(filter(pixels.__getitem__, range(len(pixels))), key=pixels.__getitem__, reverse=True)
    total = sum(pixels)
    rows = [(n, segmenter.classes[n], pixels[n], round(100 * pixels[n] / total, 3)) for n in present]
    styles = [
        f'background: rgb({r}, {g}, {b}); color: {"black" if r + g + b > 380 else "white"}'
        for r, g, b in segmenter.palette[present].tolist()
    ]
    shown = [[str(index), name, f'{count:,}', f'{share:.2f}'] for index, name, count, share in rows]
    return {
        'headers': _HEADERS,
        'data': rows,
        'metadata': {'display_value': shown, 'styling': [[style, '', '', ''] for style in styles]},
    }
