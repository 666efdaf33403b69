"""Segmenting whole folders, videos and cameras into files; after an interruption the same call continues."""

from __future__ import annotations

import functools
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ..files import (
    FileError,
    UnusableName,
    atomic_write,
    beside,
    claim,
    remove,
    sweep,
    unwritten,
    walk,
)
from ..image_files import open_image
from ..locking import one_at_a_time
from ..terminal import is_text, label
from .images import SUFFIXES, Array
from .movie import Movie
from .polygons import coco_file, join_coco_files
from .prefetch import ordered
from .segmenter import Segmented, Segmenter
from .tiling import Confidence, Mask

VIDEO_SUFFIXES = frozenset({'.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm'})
# What is written -> what the name of an image gets, and that of a video ('': a folder with a file for each frame).
OUTPUTS = {
    'index': ('.png', ''),
    'colour': ('.png', '.mp4'),
    'overlay': ('.jpg', '.mp4'),
    'area': ('.json', '.json'),
    'confidence': ('.png', ''),
    'polygons': ('.json', '.json'),
}
POLYGONS = 'polygons.json'  # those of all images
SETTINGS = 'predict.json'
JPEG_SIDE = 65_500  # pixels: more, a JPEG file cannot have
# A video is cut where it ends that much before what it claims, in frames and in time: either alone may be a guess.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Input:
    """An image, video or camera: what opens it, and what its results are called: its path, to which they add."""

    source: Path | str | int  # a file, the address of a live stream, or the number of a camera
    name: Path
    video: bool

    def outputs(self, folder: Path, save: Iterable[str]) -> dict[str, Path]:
        """Return the file (or folder) of each kind of result."""
        return {kind: folder / kind / self.name.with_name(self.name.name + OUTPUTS[kind][self.video]) for kind in save}

    def is_finished(self, folder: Path, save: Iterable[str]) -> bool:
        """Whether all its results are there."""
        outputs = self.outputs(folder, save).values()
        return all(any(os.path.exists(place) for place in _places(path)) for path in outputs)


def _places(path: Path) -> tuple[Path, ...]:
    """Return where a result may be: an overlay that is too large for JPEG is a PNG file."""
    return (path, path.with_suffix('.png')) if path.suffix == '.jpg' else (path,)


@dataclass
class Summary:
    """What became of the inputs."""

    segmented: int = 0  # images, and frames of videos
    finished: int = 0  # inputs whose results were there already
    left_out: dict[str, str] = field(default_factory=dict)  # input that cannot be read or written -> why
    uncertain: dict[str, float] = field(default_factory=dict)  # image -> share of its pixels below `below`


def find_inputs(words: Sequence[str], out: Path) -> list[Input]:
    """Return what files, folders, globs, addresses of live streams and numbers of cameras stand for.

    Folders are searched for images and videos by their suffixes; what is in `out` from an earlier run is left out of
    folders and globs. Results are named after the path below the deepest folder that holds all inputs, its suffix
    included, so that no two inputs share a name.

    Raises:
        FileNotFoundError: a file is not there, or a glob or folder has no image or video.
        ValueError: a file or folder has the name of a camera or stream that is an input, too.
    """
    files: dict[Path, None] = {}  # an ordered set
    roots: list[str] = []
    live: list[Input] = []
    for word in words:
        path = Path(word)
        if ('://' in word or word.isdecimal()) and not path.exists():
            live.append(_live(word))
            continue
        if path.is_dir():
            root, found = path, _no_results(_media(path), out)
        elif path.exists() or not glob.has_magic(word):
            root, found = path.parent, [path]
        else:
            root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
            matches = [match for match in map(Path, sorted(glob.glob(word, recursive=True))) if not _in_loop(match)]
            found = [file for match in matches for file in (_media(match) if match.is_dir() else [match])]
            found = _no_results(found, out)
        if not found:
            raise FileNotFoundError(f'there is no image or video in {word}: check the path')
        if not found[0].exists():
            raise FileNotFoundError(f'{word} does not exist: check the path')
        roots.append(os.path.abspath(root))
        files |= dict.fromkeys(Path(os.path.abspath(file)) for file in found)
    base = os.path.commonpath(roots) if roots else ''
    inputs = [Input(file, file.relative_to(base), _is_video(file)) for file in files]
    tops = {item.name.parts[0] for item in inputs}
    if taken := [item for item in live if item.name.name in tops]:
        raise ValueError(f'{taken[0].source} and {taken[0].name} would have results of one name: segment them apart')
    return inputs + list(dict.fromkeys(live))


def _live(word: str) -> Input:
    if word.isdecimal():
        return Input(int(word), Path(f'camera{word}'), True)
    return Input(word, Path(quote(word, safe='')), True)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _no_results(paths: Iterable[Path], out: Path) -> list[Path]:
    """Leave out what is in `out` from an earlier run."""
    places = [os.path.abspath(out / kind) for kind in OUTPUTS]
    return [path for path in paths if not any(Path(os.path.abspath(path)).is_relative_to(place) for place in places)]


def _media(folder: Path) -> list[Path]:
    """Return the images and videos below a folder."""
    return list(walk(folder, SUFFIXES | VIDEO_SUFFIXES))


def _in_loop(path: Path) -> bool:
    """Whether a path leads through a link back into a folder that the link lies in."""
    folders = [os.path.realpath(folder) for folder in path.parents]
    return len(set(folders)) < len(folders)


def share(inputs: Sequence[Input], environment: Mapping[str, str] = os.environ) -> tuple[list[Input], int, int]:
    """Return this process' part of the inputs, its rank and how many there are, as torchrun sets them for each process.

    Raises:
        ValueError: RANK and WORLD_SIZE don't fit each other.
    """
    rank, world = environment.get('RANK', '0'), environment.get('WORLD_SIZE', '1')
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(f'RANK={rank} and WORLD_SIZE={world} are not those of a process among several: unset them')
    return list(inputs[int(rank) :: int(world)]), int(rank), int(world)


def predict(
    segmenter: Segmenter,
    inputs: Sequence[Input],
    out: Path,
    *,
    save: Sequence[str] | None = None,
    below: float | None = None,
    overwrite: bool = False,
    frames: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Segment `inputs` into `out`/{index,colour,overlay,area,confidence}, of which `save` names those that are written.

    By default all kinds are written that the file can give, except for polygons: a COCO file for each image, and
    polygons.json for all of them. A confidence is a PNG file of 255 * the probability of each pixel's class, rounded.
    With `below`, confidences are written too, and the summary has, for each image of this call and of earlier ones, the
    share of its pixels with a smaller probability: label the images with the largest shares next.

    Each file appears when it is whole. Model and settings are in predict.json, and what is beside it was made with
    them: inputs whose files are all there are left out. `overwrite` removes those of `inputs` first, or everything if
    other settings made it. Of a video, `frames` are taken at most; a live one ends with them or with Ctrl-C. What
    cannot be read, ends before its end, or has a name that no result can have, is left out as well, and listed in the
    summary. Several processes may work on one folder. A progress bar is drawn on stderr, unless `quiet`.

    Raises:
        ValueError: `out` holds the results of another model or other settings, or cannot be written; or an argument
            does not fit the inputs.
    """
    if frames is not None and frames < 1:
        raise ValueError(f'there is nothing to do with {frames} frames of each video')
    if below is not None and not 0 < below <= 1:
        raise ValueError(f'there is no probability below {below}: name one from 0 to 1, such as 0.6')
    tells = segmenter.metadata.output == 'logits'
    save = list(save or (kind for kind in OUTPUTS if kind != 'polygons' and (tells or kind != 'confidence')))
    save += ['confidence'] if below is not None and 'confidence' not in save else []
    if 'polygons' in save and (videos := [str(item.source) for item in inputs if item.video]):
        raise ValueError(f'polygons are written of images, and {videos[0]} is a video: leave it out')
    confident = 'confidence' in save
    segmenter.check_confidence(confident)
    facts = asdict(segmenter.metadata)
    settings = {name: facts[name] for name in ('source', 'created', 'precision', 'size')}
    settings |= {'fit': segmenter.fit, 'overlap': segmenter.overlap}

    def written(found: dict[str, Any]) -> list[Path]:
        if found == json.loads(json.dumps(settings)):
            return [place for item in inputs for path in item.outputs(out, save).values() for place in _places(path)]
        return [out / kind for kind in OUTPUTS]

    claim(out / SETTINGS, settings, written, overwrite=overwrite, names=OUTPUTS)
    for kind in save:
        try:
            (out / kind).mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f'{out / kind} cannot be made a folder ({error.strerror}): choose another --out') from error
        sweep(out / kind)
    todo = [i for i in inputs if not i.is_finished(out, save)]
    summary = Summary(finished=len(inputs) - len(todo))
    writer = _Writer(segmenter, out, save)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        images: dict[Any, Input] = {i.source: i for i in todo if not i.video}
        task = progress.add_task('images', total=len(images), visible=bool(images))

        def leave_out(source: Any, error: Exception) -> None:
            summary.left_out[str(source)] = str(error) or type(error).__name__
            progress.advance(task)

        def write(result: Any) -> None:
            try:
                writer.image(images[result.source], result)
            except (Unusable, UnusableName) as error:
                leave_out(result.source, error)
            else:
                summary.segmented += 1
                progress.advance(task)

        stream: Any = segmenter.stream
        with closing(stream(images, on_error=leave_out, return_confidence=confident)) as results:
            for _ in ordered(write, results, workers=2):
                pass
        for video in (i for i in todo if i.video):
            try:
                with one_at_a_time(out / quote(os.fsencode(video.name), safe='')):
                    if video.is_finished(out, save):  # by another process, meanwhile
                        summary.finished += 1
                        continue
                    with closing(Frames(video.source, frames)) as source:
                        task = progress.add_task(label(video.source), total=source.count)
                        summary.segmented += writer.video(video, source, functools.partial(progress.advance, task))
            except (Unusable, UnusableName) as error:
                summary.left_out[str(video.source)] = str(error)
    if 'polygons' in save:
        join_coco_files(walk(out / 'polygons', {'.json'}), out / POLYGONS)  # other processes' among them
    if below is not None:
        shares = {
            str(item.source): _share_below(item.outputs(out, ['confidence'])['confidence'], below)
            for item in inputs
            if not item.video and str(item.source) not in summary.left_out
        }
        summary.uncertain = dict(sorted(shares.items(), key=lambda share: -share[1]))
    return summary


def _share_below(path: Path, below: float) -> float:
    return float((np.asarray(open_image(path)) < below * 255).mean())


class Unusable(FileError):
    """An input that has no results, for a cause of its own; others may have theirs."""


class Frames:
    """The frames (H, W, 3) of a video or camera in RGB, upright, `limit` of them at most.

    Raises:
        Unusable: it cannot be opened.
    """

    def __init__(self, source: Path | str | int, limit: int | None) -> None:
        self.source, self.limit = source, limit
        self.cut = ''  # why these are not all, once they have been read
        self.live = not isinstance(source, Path)
        # FFmpeg and OpenCV would print about a broken file what the error says.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else _for_opencv(source))
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            name = f'camera {source}' if isinstance(source, int) else source
            raise Unusable(f'{name} cannot be opened as a video: it is not there, damaged or of another kind')
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.pixels = int(
            self._capture.get(cv2.CAP_PROP_FRAME_WIDTH) * self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        )  # of a frame
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))  # an estimate, and 0 or less where it is live
        self.total = count if count > 0 else None
        self.count = min(filter(None, (limit, self.total)), default=None)
        self.times: list[float] = []  # of the frames that were read, in seconds

    def __iter__(self) -> Generator[Array, None, None]:
        seconds = 0.0
        for number in itertools.count() if self.limit is None else range(self.limit):
            read, frame = self._capture.read()
            if not read:
                self._end(number, seconds)
                return
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            before, guess = (self.times[-1], 1 / self.rate) if self.times else (-1.0, 1.0)
            # A camera, and some formats, tell no times.
            self.times.append(seconds if seconds > before else before + guess)
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def _end(self, number: int, seconds: float) -> None:
        """Compare the last frame, by its number and its time, with what the file claims."""
        if self.total is None or self.live:
            return
        expected = self.total * (1 - TOLERANCE) - 1  # frames
        if number < expected and seconds * self.rate < expected:
            self.cut = (
                f'{self.source} is cut short or damaged, {number} of about {self.total} frames can be read: '
                f'copy it again, or take these with --frames {number}'
            )

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()


class _Writer:
    """Writes results to `out`, each under its final name once it is whole."""

    def __init__(self, segmenter: Segmenter, out: Path, save: Sequence[str]) -> None:
        self.segmenter, self.out, self.save = segmenter, out, save

    def image(self, item: Input, result: Segmented) -> None:
        """Write the results of an image.

        Raises:
            Unusable, UnusableName: they cannot be made or written, for a cause of this image alone.
        """
        contents: dict[Path, bytes] = {}
        for kind, path in item.outputs(self.out, self.save).items():
            if kind == 'area':
                facts = {'source': str(item.source), 'size': list(result.mask.shape)}
                contents[path] = self._areas(facts, self._count(result.mask))
            elif kind == 'polygons':
                objects = coco_file(item.name.as_posix(), result.mask, self.segmenter.classes)
                contents[path] = json.dumps(objects).encode()
            else:
                place = _places(path)[-1 if max(result.mask.shape) > JPEG_SIDE else 0]
                contents[place] = self._encode(kind, result, place.suffix)
        for path, content in contents.items():
            with atomic_write(path) as file:
                file.write(content)

    def video(self, item: Input, frames: Frames, tick: Callable[[], None]) -> int:
        """Write the results of a video or camera, calling `tick` at each frame; return how many there were."""
        outputs = item.outputs(self.out, self.save)
        parts = {kind: beside(path, f'part{path.suffix}') for kind, path in outputs.items()}
        try:
            for part in parts.values():
                remove(part)  # of a run that was killed
                part.parent.mkdir(parents=True, exist_ok=True)
            counts = self._frames(parts, frames, tick)
            if not counts:
                raise Unusable(f'{item.source} has no frame that can be read')
            if frames.cut:
                raise Unusable(frames.cut)
            if 'area' in parts:
                facts = {'source': str(item.source), 'frames_per_second': frames.rate, 'frames': len(counts)}
                each = [count.tolist() for count in counts]
                parts['area'].write_bytes(self._areas(facts, np.sum(counts, axis=0), pixels_by_frame=each))
            for kind, part in parts.items():
                remove(outputs[kind])
                os.replace(part, outputs[kind])
        except OSError as error:
            raise unwritten(f'the results of {item.source}', error) from error
        finally:
            for part in parts.values():
                remove(part)
        return len(counts)

    def _frames(self, parts: Mapping[str, Path], frames: Frames, tick: Callable[[], None]) -> list[Any]:
        """Write frame by frame until the end or, where that never comes, Ctrl-C; return the pixels of each class."""
        counts: list[Any] = []
        movies: dict[str, Movie] = {}
        try:
            stream: Any = self.segmenter.stream
            confident = 'confidence' in parts
            with closing(stream(iter(frames), readers=1, return_confidence=confident)) as results:
                for number, result in enumerate(results):
                    for kind in parts.keys() & {'colour', 'overlay'}:
                        if kind not in movies:
                            movies[kind] = _movie(parts[kind], frames.rate, result.mask.shape)
                        movies[kind].write(self._picture(kind, result), frames.times[number])
                    for kind in parts.keys() & {'index', 'confidence'}:
                        content = self._encode(kind, result, '.png')
                        with atomic_write(parts[kind] / f'{number:06d}.png') as file:
                            file.write(content)
                    counts.append(self._count(result.mask))
                    tick()
        except KeyboardInterrupt:
            if not frames.live:
                raise
        finally:
            for movie in movies.values():
                movie.close()
        for kind in movies:  # which says nothing where the disk is full
            if (got := _frames_of(parts[kind])) != len(counts):
                raise FileError(
                    f'the video of {frames.source} has {got} of {len(counts)} frames once it is written: '
                    'make room, or choose another folder'
                )
        return counts

    def _count(self, mask: Mask) -> Any:
        return np.bincount(mask.ravel(), minlength=len(self.segmenter.classes))

    def _areas(self, facts: dict[str, Any], pixels: Any, **more: Any) -> bytes:
        total = int(pixels.sum())
        classes = [
            {'index': index, 'name': name, 'pixels': int(count), 'share': int(count) / total}
            for index, (name, count) in enumerate(zip(self.segmenter.classes, pixels, strict=True))
        ]
        return (json.dumps({**facts, 'classes': classes, **more}) + '\n').encode()

    def _picture(self, kind: str, result: Segmented) -> Array:
        if kind == 'colour':
            return self.segmenter.colour(result.mask)
        return self.segmenter.overlay(result.image, result.mask)

    def _encode(self, kind: str, result: Any, suffix: str) -> bytes:
        """Return the bytes of a .png or .jpg file of a result.

        Raises:
            Unusable: there is too little memory for it.
        """
        file = io.BytesIO()
        options: dict[str, Any] = {'quality': 90} if suffix == '.jpg' else {'compress_level': 1}
        try:
            self._image(kind, result).save(file, 'JPEG' if suffix == '.jpg' else 'PNG', **options)
        except (MemoryError, OSError, cv2.error) as error:  # Pillow's encoders raise OSError
            raise Unusable(f'its {kind} cannot be made ({error or "there is too little memory"})') from error
        return file.getvalue()

    def _image(self, kind: str, result: Any) -> Image.Image:
        """Return a result as an image."""
        if kind == 'index':
            return Image.fromarray(result.mask)  # 8 bits, above 256 classes 16
        if kind == 'confidence':
            return grey(result.confidence)
        if kind == 'colour':
            return coloured(self.segmenter, result.mask)
        return Image.fromarray(self._picture(kind, result))


def coloured(segmenter: Segmenter, mask: Mask) -> Image.Image:
    """Return a mask in its colours; up to 256 are a palette's, which is small, quick to write, and keeps indices."""
    if len(segmenter.palette) > 256:
        return Image.fromarray(segmenter.colour(mask))
    picture = Image.fromarray(mask)
    picture.putpalette(segmenter.palette.tobytes())
    return picture


def grey(confidence: Confidence) -> Image.Image:
    """Return 255 * the probability of each pixel's class, rounded."""
    return Image.fromarray(np.rint(confidence * 255).astype(np.uint8))


def _movie(path: Path, rate: float, size: tuple[int, ...]) -> Movie:
    name = _for_opencv(path)
    try:
        return Movie(Path(name), rate, size)
    except FileError as error:
        raise Unusable(str(error)) from error


def _for_opencv(path: Path | str) -> str:
    """Return a path as text; given a name that is none, bytes that are not UTF-8, OpenCV ends the process.

    Raises:
        Unusable: it is none.
    """
    if not is_text(str(path)):
        raise Unusable(f'{path} has a name that is not text in UTF-8, which videos must have: rename it')
    return str(path)


def _frames_of(path: Path) -> int:
    try:
        with closing(Frames(path, None)) as frames:
            return frames.total or 0
    except Unusable:
        return 0
