"""Pictures of a data set: masks over images, a contact sheet, a chart of the classes."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from .splits import Split, spread

IGNORED = -1  # in a class map: not a class
SHEET_SAMPLES = 12  # on a contact sheet
_FONT, _INK, _PAPER = cv2.FONT_HERSHEY_SIMPLEX, (30, 30, 30), 245


def overlay(
    image: np.ndarray, classes: np.ndarray, palette: Sequence[Sequence[int]], *, alpha: float = 0.6
) -> np.ndarray:
    """Return an image (H, W, 3), uint8 RGB, under the colours of its class map (H, W); what is ignored is hatched.

    A class map holds class indices; everything else in it is ignored.
    """
    known = (classes >= 0) & (classes < len(palette))
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)[np.where(known, classes, 0)]
    result = np.where(known[..., None], (1 - alpha) * image + alpha * colours, image).astype(np.uint8)
    height, width = classes.shape
    stripes = np.add.outer(np.arange(height), np.arange(width)) // 4 % 2 == 0
    result[~known & stripes] = 255
    result[~known & ~stripes] //= 2
    return result


def legend(names: Sequence[str], palette: Sequence[Sequence[int]], shown: Sequence[int], *, width: int) -> np.ndarray:
    """Return a strip (H, `width`, 3) with the colour and name of each class `shown`, IGNORED hatched."""
    entries = [(names[i], np.full((14, 22, 3), palette[i], np.uint8)) for i in shown if i != IGNORED]
    if IGNORED in shown:
        hatch = overlay(np.full((14, 22, 3), 128, np.uint8), np.full((14, 22), IGNORED), palette)
        entries.append(('ignored', hatch))
    widths = [cv2.getTextSize(name, _FONT, 0.42, 1)[0][0] + 44 for name, _ in entries]
    column = min(max(widths, default=1), width)
    columns = max(width // column, 1)
    strip = np.full((max(math.ceil(len(entries) / columns), 1) * 22 + 4, width, 3), _PAPER, np.uint8)
    for i, (name, patch) in enumerate(entries):
        y, x = i // columns * 22 + 5, i % columns * column + 6
        room = strip[y : y + 14, x : x + 22]
        room[:] = patch[:, : room.shape[1]]
        cv2.putText(strip, name, (x + 28, y + 11), _FONT, 0.42, _INK, 1, cv2.LINE_AA)
    return strip


def captioned(image: np.ndarray, caption: str) -> np.ndarray:
    """Return an image with a line of text below it, cut at the left if it is too long."""
    width = image.shape[1]
    strip = np.full((20, width, 3), _PAPER, np.uint8)
    while len(caption) > 4 and cv2.getTextSize(caption, _FONT, 0.4, 1)[0][0] > width - 8:
        caption = '...' + caption.removeprefix('...')[2:]
    cv2.putText(strip, caption, (4, 14), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def contact_sheet(pictures: Sequence[tuple[np.ndarray, str]], *, columns: int = 3, width: int = 420) -> np.ndarray:
    """Return captioned pictures, each fitted into the same cell of `width`, in rows; room is made for the tallest."""
    cells = []
    for picture, caption in pictures:
        h, w = picture.shape[:2]
        size = (width, max(round(h * width / w), 1))
        scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if w > width else cv2.INTER_NEAREST)
        cells.append(captioned(scaled[: 2 * width], caption))
    height = max(len(cell) for cell in cells)
    cells = [np.pad(c, ((0, height - len(c)), (0, 0), (0, 0)), constant_values=_PAPER) for c in cells]
    cells += [np.full_like(cells[0], _PAPER)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


def stacked(*pictures: np.ndarray) -> np.ndarray:
    """Return pictures one below the other, at the left."""
    width = max(p.shape[1] for p in pictures)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=_PAPER) for p in pictures]
    )


def png(image: np.ndarray) -> bytes:
    """Return an image (H, W, 3), uint8 RGB, as a PNG file."""
    return cv2.imencode('.png', image[..., ::-1])[1].tobytes()


def frequency_chart(tables: Mapping[str, Sequence[Mapping[str, Any]]], palette: Sequence[Sequence[int]]) -> bytes:
    """Return a bar chart as a PNG file: the share of the pixels of each class (on a logarithmic axis) in each split.

    `tables` maps a split to what `Tally.class_table` returned.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [row['name'] for row in next(iter(tables.values()))]
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(names)), layout='constrained')
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    colours = [tuple(channel / 255 for channel in colour) for colour in palette]
    for axis, (split, rows) in zip(axes, tables.items(), strict=True):
        shares = [100 * row['share'] for row in rows]
        axis.barh(range(len(rows)), shares, color=colours, edgecolor='#444444', linewidth=0.5)
        smallest = min((share for share in shares if share), default=1.0)
        axis.set_xscale('log')
        axis.set_xlim(min(smallest / 3, 0.1), 400)
        for y, (share, row) in enumerate(zip(shares, rows, strict=True)):
            text = f'{share:.3g} % in {row["images"]:,} images' if share else 'never occurs'
            place = share * 1.15 if share else axis.get_xlim()[0] * 1.15
            axis.text(place, y, text, va='center', fontsize=7, color='#222222' if share else '#b00020')
        axis.set_title(split)
        axis.set_xlabel('share of the labelled pixels, %')
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def sheet_of(split: Split) -> bytes:
    """Return some samples of a split under their labels as a PNG file; empty if none can be drawn."""
    cells, shown = [], set()
    labels = split.labels
    for image, mask in spread(split.pairs, SHEET_SAMPLES):
        try:
            with Image.open(image) as file:
                upright = ImageOps.exif_transpose(file) if split.reading.turns_images else file
                pixels = np.asarray(upright.convert('RGB'))
            with Image.open(mask) as file:
                numbers = np.asarray(file)
        except Exception:  # what cannot be read is in the report
            continue
        if numbers.shape != pixels.shape[:2]:
            continue
        trained = labels.trained[numbers.astype(np.uint8)].astype(np.int16)
        trained[trained >= len(labels.classes)] = IGNORED
        shown |= set(np.unique(trained).tolist())
        cells.append((overlay(pixels, trained, labels.palette), os.path.basename(image)))
    if not cells:
        return b''
    sheet = contact_sheet(cells)
    return png(stacked(sheet, legend(labels.classes, labels.palette, sorted(shown), width=sheet.shape[1])))
