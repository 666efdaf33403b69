"""Vehicles: a side outline pulled across the width, with everything on it listed in tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from .canvas import (
    BUS,
    CAR,
    CAR_PAINTS,
    CIRCLE,
    EGO,
    MATERIALS,
    RGB,
    STATIC,
    TRAIN,
    TRUCK,
    Canvas,
    Frame,
    Point,
    Rng,
    Spot,
    box,
    draw_far_first,
    jitter,
    pick,
)

# On the rear or front: edge, from and to along it, from and to across as shares, material.
Ends = tuple[tuple[int, float, float, float, float, str], ...]


class Model(NamedTuple):
    """A vehicle, in metres: a along its length from the rear, b upward, c across as a share of the width."""

    label: int
    width: float
    outline: tuple[tuple[float, float, str], ...]  # rear to front over the top: a, b, material up to the next
    side: tuple[tuple[str, tuple[Spot, ...]], ...]  # material, polygon of (a, b)
    ends: Ends
    wheels: tuple[float, ...]
    radius: float
    paints: tuple[RGB, ...]

    @property
    def length(self) -> float:
        return self.outline[-1][0]


BIG_PAINTS = ((198, 34, 34), (240, 196, 40), (44, 96, 170), (232, 232, 228), (60, 132, 84), (226, 122, 34))
CAR_ENDS = (
    (0, 0.50, 0.86, -0.49, -0.31, 'tail'), (0, 0.50, 0.86, 0.31, 0.49, 'tail'),
    (0, 0.36, 0.56, -0.14, 0.14, 'plate'), (0, 0.0, 0.20, -0.46, 0.46, 'dark'),
    (-2, 0.10, 0.42, -0.48, -0.27, 'lamp'), (-2, 0.10, 0.42, 0.27, 0.48, 'lamp'),
    (-2, 0.18, 0.44, -0.22, 0.22, 'dark'), (-2, 0.56, 0.74, -0.14, 0.14, 'plate'),
    (-2, 0.8, 1.0, -0.46, 0.46, 'dark'),
)  # fmt: skip


def big_ends(glass: float) -> Ends:
    """Return the rear and front of a bus or tram whose windows start at the given share of the height."""
    return (
        (0, glass, 0.84, -0.4, 0.4, 'glass'), (0, 0.1, 0.2, -0.48, -0.36, 'tail'),
        (0, 0.1, 0.2, 0.36, 0.48, 'tail'), (0, 0.05, 0.1, -0.12, 0.12, 'plate'),
        (-2, 0.16, 0.95 - glass * 0.8, -0.45, 0.45, 'glass'),
        (-2, 0.03, 0.11, -0.3, 0.3, 'sign'), (-2, 0.8, 0.87, -0.46, -0.3, 'lamp'),
        (-2, 0.8, 0.87, 0.3, 0.46, 'lamp'), (-2, 0.93, 1.0, -0.5, 0.5, 'dark'),
        (0, 0.0, 0.04, -0.5, 0.5, 'dark'),
    )  # fmt: skip


MODELS = {
    'hatchback': Model(
        CAR, 1.78,
        ((0, 0.28, 'paint'), (0.03, 0.92, 'glass'), (0.42, 1.46, 'paint'), (2.3, 1.5, 'glass'),
         (3.1, 0.98, 'paint'), (3.9, 0.78, 'paint'), (4.0, 0.26, '')),
        (('glass', ((0.35, 0.96), (0.58, 1.38), (1.5, 1.42), (1.5, 0.94))),
         ('glass', ((1.58, 0.94), (1.58, 1.42), (2.25, 1.42), (2.85, 0.96)))),
        CAR_ENDS, (0.72, 3.25), 0.32, CAR_PAINTS,
    ),
    'saloon': Model(
        CAR, 1.84,
        ((0, 0.28, 'paint'), (0.04, 0.98, 'paint'), (0.62, 1.03, 'glass'), (1.35, 1.42, 'paint'),
         (2.7, 1.44, 'glass'), (3.5, 0.98, 'paint'), (4.55, 0.76, 'paint'), (4.62, 0.26, '')),
        (('glass', ((0.95, 1.02), (1.4, 1.35), (2.0, 1.37), (2.0, 0.98))),
         ('glass', ((2.08, 0.98), (2.08, 1.37), (2.66, 1.37), (3.25, 0.98)))),
        CAR_ENDS, (0.95, 3.75), 0.33, CAR_PAINTS,
    ),
    'suv': Model(
        CAR, 1.92,
        ((0, 0.36, 'paint'), (0.02, 1.08, 'glass'), (0.3, 1.68, 'paint'), (2.75, 1.72, 'glass'),
         (3.45, 1.12, 'paint'), (4.45, 0.96, 'paint'), (4.55, 0.34, '')),
        (('glass', ((0.3, 1.12), (0.5, 1.58), (1.75, 1.62), (1.75, 1.1))),
         ('glass', ((1.85, 1.1), (1.85, 1.62), (2.68, 1.62), (3.2, 1.12)))),
        CAR_ENDS, (0.85, 3.65), 0.38, CAR_PAINTS,
    ),
    'van': Model(
        CAR, 1.98,
        ((0, 0.36, 'glass'), (0.06, 1.95, 'paint'), (3.6, 1.98, 'glass'), (4.45, 1.12, 'paint'),
         (4.9, 0.95, 'paint'), (5.0, 0.34, '')),
        (('glass', ((3.0, 1.12), (3.0, 1.75), (3.6, 1.75), (4.15, 1.12))),),
        ((0, 0.3, 0.52, -0.49, -0.40, 'tail'), (0, 0.3, 0.52, 0.40, 0.49, 'tail'), *CAR_ENDS[2:]),
        (0.95, 4.1), 0.36, CAR_PAINTS[:9],
    ),
    'truck': Model(
        TRUCK, 2.5,
        ((0, 0.55, 'cargo'), (0, 3.5, 'cargo'), (6.2, 3.5, 'cargo'), (6.2, 2.95, 'paint'),
         (7.6, 2.95, 'paint'), (8.2, 2.0, 'paint'), (8.3, 0.5, '')),
        (('dark', box(0, 8.25, 0.55, 1.0)), ('cargo', box(0, 6.2, 1.0, 3.5)),
         ('trim', box(0, 6.2, 3.38, 3.5)), ('trim', box(3.05, 3.12, 1.0, 3.4)),
         ('glass', ((6.9, 1.75), (6.9, 2.7), (7.55, 2.7), (7.95, 1.75)))),
        ((0, 0.12, 0.97, -0.46, -0.02, 'cargo'), (0, 0.12, 0.97, 0.02, 0.46, 'cargo'),
         (0, 0.0, 0.09, -0.5, 0.5, 'dark'), (0, 0.1, 0.15, -0.48, -0.36, 'tail'),
         (0, 0.1, 0.15, 0.36, 0.48, 'tail'), (0, 0.12, 0.96, -0.015, 0.015, 'trim'),
         (-3, 0.1, 0.9, -0.44, 0.44, 'glass'), (-2, 0.1, 0.4, -0.3, 0.3, 'dark'),
         (-2, 0.55, 0.75, -0.47, -0.3, 'lamp'), (-2, 0.55, 0.75, 0.3, 0.47, 'lamp')),
        (1.3, 2.4, 7.1), 0.5, BIG_PAINTS,
    ),
    'bus': Model(
        BUS, 2.55,
        ((0, 0.34, 'paint'), (0.05, 3.0, 'paint'), (11.3, 3.0, 'paint'), (11.5, 2.6, 'paint'),
         (11.55, 0.34, '')),
        (*(('glass', box(0.5 + 1.55 * i, 1.9 + 1.55 * i, 1.35, 2.5)) for i in range(7)),
         ('white', box(0, 11.5, 2.66, 2.9)), ('dark', box(0, 11.5, 0.34, 0.5)),
         *(('glass', box(a, a + 1.2, 0.5, 2.4)) for a in (3.6, 9.8))),
        big_ends(0.46), (2.6, 8.7), 0.48, BIG_PAINTS,
    ),
    'tram': Model(
        TRAIN, 2.5,
        ((0, 0.26, 'paint'), (0.35, 3.2, 'trim'), (1.0, 3.45, 'trim'), (21.0, 3.45, 'trim'),
         (21.6, 3.2, 'paint'), (22.0, 0.26, '')),
        (*(('glass', box(0.9 + 2.05 * i, 2.7 + 2.05 * i, 1.3, 2.65)) for i in range(10)),
         ('white', box(0.2, 21.8, 2.75, 3.15)), ('dark', box(0, 22, 0.26, 0.55)),
         *(('dark', box(a, a + 0.5, 0.3, 3.3)) for a in (7.1, 14.4))),
        big_ends(0.4), (), 0.4,
        ((236, 200, 44), (204, 36, 38), (232, 232, 230), (44, 112, 84), (54, 104, 176)),
    ),
    'bin': Model(
        STATIC, 0.7, ((0, 0.05, 'paint'), (0.0, 1.05, 'dark'), (0.75, 1.0, 'paint'), (0.7, 0.05, '')), (),
        (), (), 0.1, ((60, 62, 66), (44, 84, 58), (150, 120, 40), (50, 66, 110)),
    ),
    'kiosk': Model(
        STATIC, 1.3, ((0, 0.0, 'paint'), (0.0, 2.4, 'dark'), (0.35, 2.4, 'paint'), (0.35, 0.0, '')), (),
        ((0, 0.25, 0.94, -0.42, 0.42, 'sign'), (-2, 0.06, 0.75, -0.42, 0.42, 'white')), (), 0.1,
        ((70, 74, 78), (110, 114, 118)),
    ),
}  # fmt: skip
CARS = ('hatchback', 'saloon', 'suv', 'hatchback', 'saloon', 'van')


def vehicle(canvas: Canvas, model: Model, frame: Frame, colours: dict[str, RGB]) -> None:
    """Paint the faces of a model that the camera sees, far ones first."""
    half, camera = model.width / 2, canvas.camera
    faces: list[tuple[float, Callable[[], None]]] = []

    def face(centre: Point, normal: Point, draw: Callable[[float], None]) -> None:
        x, y, z = frame(*centre)
        to_camera = camera.x - x - camera.bend * z * z, camera.y - y, -z
        turned = frame.direction(*normal)
        if sum(n * t for n, t in zip(turned, to_camera, strict=True)) > 0:
            faces.append((math.hypot(*to_camera), partial(draw, canvas.light(turned))))

    def edge(i: int, light: float) -> None:
        (a0, b0, material), (a1, b1, _) = model.outline[i : i + 2]

        def patch(t0: float, t1: float, c0: float, c1: float, rgb: RGB, gain: float) -> None:
            ends = [(a0 + t * (a1 - a0), b0 + t * (b1 - b0)) for t in (t0, t1)]
            corners = (*ends[0], c0), (*ends[1], c0), (*ends[1], c1), (*ends[0], c1)
            canvas.fill([frame(a, b, c * model.width) for a, b, c in corners], rgb, model.label, gain)

        patch(0, 1, -0.5, 0.5, colours['paint' if material == 'glass' else material], light)
        if material == 'glass':
            start = 0.42 if b1 - b0 > 1.2 else 0.08  # a van's rear is half door, half window
            patch(start, 0.92, -0.44, 0.44, colours['glass'], 0.9 + 0.6 * (light - 0.8))
        for at, t0, t1, c0, c1, name in model.ends:
            if at % len(model.outline) == i:
                patch(t0, t1, c0, c1, colours[name], 1.0 if name in ('tail', 'lamp', 'sign') else light)

    def flank(c: float, light: float) -> None:
        canvas.fill([frame(a, b, c) for a, b, _ in model.outline], colours['paint'], model.label, light)
        for name, polygon in model.side:
            canvas.fill([frame(a, b, c) for a, b in polygon], colours[name], model.label, light)
        for a in model.wheels:
            for share, rgb in ((1.0, (26.0, 26.0, 28.0)), (0.58, (142.0, 144.0, 148.0))):
                radius = model.radius * share
                ring = [frame(a + radius * u, model.radius + radius * v, c) for u, v in CIRCLE]
                canvas.fill(ring, rgb, model.label, light)

    for a in model.wheels:  # tyres under the body, seen from the front or behind
        for c in (-half + 0.02, half - 0.24):
            tyre = box(0, 0.22, 0, model.radius * 1.6)
            canvas.fill([frame(a, b, c + d) for d, b in tyre], (24, 24, 26), model.label)
    for i, ((a0, b0, _), (a1, b1, _)) in enumerate(pairwise(model.outline)):
        face(((a0 + a1) / 2, (b0 + b1) / 2, 0), (b0 - b1, a1 - a0, 0), partial(edge, i))
    for c in (-half, half):
        face((model.length / 2, 1.0, c), (0, 0, math.copysign(1, c)), partial(flank, c))
    draw_far_first(faces)


def park(canvas: Canvas, rng: Rng, name: str, x: float, z: float, heading: float, y: float = 0.0) -> None:
    """Queue a vehicle with its centre at (x, z), and lay its shadows."""
    model = MODELS[name]
    frame = Frame(x, z, heading, y, model.length / 2)
    corners = frame.footprint(0, model.length, model.width / 2)
    paint = jitter(rng, pick(rng, model.paints))
    cargo = jitter(rng, pick(rng, ((222, 222, 218), *BIG_PAINTS)), 0.15)
    if canvas.free(corners):
        canvas.cast(corners, max(b for _, b, _ in model.outline), contact=True)
        colours = {**MATERIALS, 'paint': paint, 'cargo': cargo}
        canvas.later(canvas.depth(corners), vehicle, model, frame, colours)


def bonnet(canvas: Canvas, rng: Rng) -> None:
    """Paint the front of the car that carries the camera along the lower edge."""
    height, width = canvas.pixels.shape[:2]
    rise, rgb = height * rng.uniform(0.05, 0.11), jitter(rng, pick(rng, CAR_PAINTS))
    across = np.linspace(-0.1, 1.1, 40)
    for drop, gain in ((0.0, 0.9), (0.12, 0.55), (0.4, 0.7)):
        arch = np.stack([across * width, height - rise * ((1 - drop) - 1.6 * (across - 0.5) ** 2)], 1)
        outline = np.concatenate([arch, [[1.1 * width, height + 9], [-0.1 * width, height + 9]]])
        cv2.fillPoly(canvas.pixels, [outline.astype(np.int32)], canvas.colour(rgb, 0, EGO, gain))
