"""Draw procedural street scenes together with their exact Cityscapes labels.

The world is in metres (x to the right, y up, z ahead) and is painted from far to near on one canvas of four
channels: red, green, blue and label id. One call paints colour and label alike, so that they cannot disagree.
The canvas is `SUPERSAMPLING` times as large as the result: the image is its area average, the label map takes
the centre pixel of each cell and is never interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

RGB = tuple[float, float, float]
Point = tuple[float, float, float]
Spot = tuple[float, float]  # x and z of a point on the ground
Rng = np.random.Generator
T = TypeVar('T')

SUPERSAMPLING = 3  # odd, so that a cell has a centre pixel
FAR_M = 140.0
VOID = 255


class Label(NamedTuple):
    """One row of Cityscapes' label table."""

    id: int
    name: str
    train_id: int


# Source: Cityscapes' label definitions, without "license plate", whose id -1 no PNG can hold.
LABELS = tuple(
    Label(*row)
    for row in (
        (0, 'unlabeled', VOID), (1, 'ego vehicle', VOID), (2, 'rectification border', VOID),
        (3, 'out of roi', VOID), (4, 'static', VOID), (5, 'dynamic', VOID), (6, 'ground', VOID),
        (7, 'road', 0), (8, 'sidewalk', 1), (9, 'parking', VOID), (10, 'rail track', VOID),
        (11, 'building', 2), (12, 'wall', 3), (13, 'fence', 4), (14, 'guard rail', VOID),
        (15, 'bridge', VOID), (16, 'tunnel', VOID), (17, 'pole', 5), (18, 'polegroup', VOID),
        (19, 'traffic light', 6), (20, 'traffic sign', 7), (21, 'vegetation', 8), (22, 'terrain', 9),
        (23, 'sky', 10), (24, 'person', 11), (25, 'rider', 12), (26, 'car', 13), (27, 'truck', 14),
        (28, 'bus', 15), (29, 'caravan', VOID), (30, 'trailer', VOID), (31, 'train', 16),
        (32, 'motorcycle', 17), (33, 'bicycle', 18),
    )
)  # fmt: skip
TRAIN_IDS = np.full(256, VOID, np.uint8)  # label id -> train id
for _label in LABELS:
    TRAIN_IDS[_label.id] = _label.train_id

EGO, STATIC, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 1, 4, 7, 8, 11, 12, 13, 17
TRAFFIC_LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR = 19, 20, 21, 22, 23, 24, 25, 26
TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 27, 28, 31, 32, 33

# What `draw_scene` can be asked to show, because chance alone would leave a small set without some of it.
FEATURES = ('train', 'bus', 'truck', 'wall', 'motorcycle', 'rider')


class Weather(NamedTuple):
    """Sky, light and air of one kind of day; colours are sRGB 0-255."""

    zenith: RGB
    horizon: RGB
    tint: RGB  # factor on every colour
    ambient: float
    sun: float  # what a surface that faces the sun gets on top of the ambient light
    haze_m: float
    clouds: float
    lamps: float  # share of lit windows


WEATHERS = (
    Weather((74, 128, 205), (186, 212, 235), (1.04, 1.00, 0.94), 0.70, 0.42, 260, 0.35, 0.03),  # sunny
    Weather((60, 112, 198), (170, 204, 236), (1.05, 1.00, 0.93), 0.66, 0.48, 330, 0.08, 0.02),  # cloudless
    Weather((150, 168, 190), (208, 214, 220), (0.98, 1.00, 1.02), 0.84, 0.12, 190, 0.85, 0.08),  # cloudy
    Weather((186, 190, 194), (214, 216, 217), (0.97, 0.99, 1.01), 0.84, 0.03, 95, 0.30, 0.15),  # misty
    Weather((92, 116, 168), (246, 202, 152), (1.10, 0.96, 0.82), 0.62, 0.42, 210, 0.45, 0.15),  # evening
    Weather((66, 82, 122), (168, 150, 160), (0.88, 0.92, 1.06), 0.56, 0.06, 170, 0.55, 0.45),  # dusk
)


def pick(rng: Rng, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def jitter(rng: Rng, rgb: RGB, amount: float = 0.1) -> RGB:
    """Vary brightness by `amount` and each channel by a quarter of it."""
    gain = 1 + rng.uniform(-amount, amount)
    r, g, b = (v * gain * (1 + rng.uniform(-amount, amount) / 4) for v in rgb)
    return r, g, b


def box(a0: float, a1: float, b0: float, b1: float) -> tuple[tuple[float, float], ...]:
    return (a0, b0), (a1, b0), (a1, b1), (a0, b1)


CIRCLE = tuple((math.cos(t), math.sin(t)) for t in (2 * math.pi * i / 16 for i in range(17)))


class Camera:
    """A pinhole above a road that bends: metres to canvas pixels, and back for points on the ground."""

    NEAR_M = 1.0

    def __init__(self, rng: Rng, width: int, height: int, x: float) -> None:
        self.x, self.y = x, rng.uniform(1.55, 2.2)
        self.focal = rng.uniform(0.78, 1.0) * math.sqrt(
            2 * width * height
        )  # for 2:1 images a factor on the width
        self.u0, self.v0 = width * rng.uniform(0.44, 0.56), height * rng.uniform(0.41, 0.5)
        self.bend = float(
            np.clip(rng.normal(0, 0.0007), -0.0015, 0.0015)
        )  # 1/m: the road's axis is at x = bend * z^2
        roll = rng.normal(0, 0.008)
        self.cos, self.sin = math.cos(roll), math.sin(roll)

    def project(self, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
        scale = self.focal / z
        right, down = (x + self.bend * z * z - self.x) * scale, (self.y - y) * scale
        return self.u0 + right * self.cos - down * self.sin, self.v0 + right * self.sin + down * self.cos

    def clip(self, points: Sequence[Point]) -> list[Point]:
        """Cut the part of a polygon that lies before the near plane off."""
        if min(p[2] for p in points) >= self.NEAR_M:
            return list(points)
        kept: list[Point] = []
        for p, q in zip(points, [*points[1:], points[0]], strict=True):
            if p[2] >= self.NEAR_M:
                kept.append(p)
            if (p[2] >= self.NEAR_M) != (q[2] >= self.NEAR_M):
                t = (self.NEAR_M - p[2]) / (q[2] - p[2])
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1]), self.NEAR_M))
        return kept

    def ground(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and z of the ground under pixels; above the horizon z is that of the farthest."""
        right = (u - self.u0) * self.cos + (v - self.v0) * self.sin
        down = (v - self.v0) * self.cos - (u - self.u0) * self.sin
        z = self.focal * self.y / np.maximum(down, self.focal * self.y / (2 * FAR_M))
        return right * z / self.focal + self.x - self.bend * z * z, z


class Canvas:
    """Colour and label in one array, a painter's queue and the shadows on the ground."""

    def __init__(self, rng: Rng, size: tuple[int, int], camera: Camera, weather: Weather) -> None:
        self.width, self.height = size
        self.camera, self.weather = camera, weather
        self.pixels = np.zeros((self.height * SUPERSAMPLING, self.width * SUPERSAMPLING, 4), np.uint8)
        self.shadows = np.zeros((self.height, self.width), np.uint8)  # cast by the sun
        self.contacts = np.zeros_like(self.shadows)  # under vehicles, in any weather
        azimuth, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.85)
        self.sun = (
            math.cos(azimuth) * math.sqrt(1 - height**2),
            height,
            math.sin(azimuth) * math.sqrt(1 - height**2),
        )
        self.vehicles: list[tuple[float, float, float, float, float]] = []
        self.taken: list[
            tuple[float, float, float, float]
        ] = []  # ground that vehicles stand on: x0, x1, z0, z1
        self.queue: list[tuple[float, Callable[[], None]]] = []

    def later(self, z: float, draw: Callable[..., None], *args: Any) -> None:
        self.queue.append((z, partial(draw, self, *args)))

    def flush(self) -> None:
        for _, draw in sorted(self.queue, key=lambda entry: -entry[0]):
            draw()

    def free(self, points: Sequence[Spot], margin: float = 0.3) -> bool:
        """Tell whether nothing stands on the box around (x, z) points, and take it if so."""
        (x0, z0), (x1, z1) = (tuple(f(p[i] for p in points) for i in (0, 1)) for f in (min, max))
        if any(x0 < b1 and x1 > b0 and z0 < d1 and z1 > d0 for b0, b1, d0, d1 in self.taken):
            return False
        self.taken.append((x0 - margin, x1 + margin, z0 - margin, z1 + margin))
        return True

    def depth(self, corners: Sequence[Spot]) -> float:
        """Return a vehicle's place in the queue: its near end, put right against vehicles abreast of it."""
        (x0, z0), (x1, z1) = (tuple(f(p[i] for p in corners) for i in (0, 1)) for f in (min, max))
        aside, depth = abs((x0 + x1) / 2 - self.camera.x), z0
        for b0, b1, d0, d1, other in self.vehicles:
            if z0 < d1 and z1 > d0:
                nearer = aside < abs((b0 + b1) / 2 - self.camera.x)
                depth = min(depth, other - 0.01) if nearer else max(depth, other + 0.01)
        self.vehicles.append((x0, x1, z0, z1, depth))
        return depth

    def light(self, normal: Point) -> float:
        facing = sum(n * s for n, s in zip(normal, self.sun, strict=True))
        return self.weather.ambient + self.weather.sun * max(0.0, facing)

    def colour(self, rgb: RGB, z: float, label: int, gain: float = 1.0) -> tuple[float, ...]:
        # The ground's haze depends on the pixel and is added by `develop`.
        clear = 1.0 if label in (ROAD, SIDEWALK, TERRAIN) else math.exp(-z / self.weather.haze_m)
        (r, g, b), (tr, tg, tb), (hr, hg, hb) = rgb, self.weather.tint, self.weather.horizon
        gain, haze = gain * clear, 1 - clear
        return r * gain * tr + hr * haze, g * gain * tg + hg * haze, b * gain * tb + hb * haze, label

    def outline(self, points: Sequence[Point], scale: int = 1) -> np.ndarray:
        pixels = [self.camera.project(*p) for p in self.camera.clip(points)]
        return (np.array(pixels).reshape(-1, 2) // scale).astype(np.int32)

    def fill(
        self, points: Sequence[Point], rgb: RGB, label: int, gain: float = 1.0, alpha: float = 1.0
    ) -> None:
        """Paint a polygon; with `alpha` below 1 the colour is mixed in while the label is set in full."""
        outline = self.outline(points)
        if len(outline) < 3:
            return
        colour = self.colour(rgb, sum(p[2] for p in points) / len(points), label, gain)
        if alpha == 1:
            cv2.fillPoly(self.pixels, [outline], colour)
            return
        (u0, v0), (u1, v1) = np.maximum(outline.min(0), 0), np.maximum(outline.max(0) + 1, 0)
        patch = self.pixels[v0:v1, u0:u1]
        if patch.size:
            painted = patch.copy()
            cv2.fillPoly(painted, [outline - (u0, v0)], colour)
            patch[..., :3] = cv2.addWeighted(painted, alpha, patch, 1 - alpha, 0)[..., :3]
            patch[..., 3] = painted[..., 3]

    def line(self, points: Sequence[Point], width_m: float, rgb: RGB, label: int, gain: float = 1.0) -> None:
        """Paint a chain of round-ended strokes, at least one image pixel wide so that its label survives."""
        z = sum(p[2] for p in points) / len(points)
        if min(p[2] for p in points) >= self.camera.NEAR_M:
            thickness = max(SUPERSAMPLING, round(width_m * self.camera.focal / z))
            cv2.polylines(
                self.pixels, [self.outline(points)], False, self.colour(rgb, z, label, gain), thickness
            )

    def disc(self, centre: Point, radius_m: float, rgb: RGB, label: int, gain: float = 1.0) -> None:
        if centre[2] >= self.camera.NEAR_M:
            radius = max(1, round(radius_m * self.camera.focal / centre[2]))
            ((u, v),) = self.outline([centre])
            cv2.circle(self.pixels, (int(u), int(v)), radius, self.colour(rgb, centre[2], label, gain), -1)

    def cast(
        self, footprint: Iterable[Spot], height: float, *, base: float = 0.0, contact: bool = False
    ) -> None:
        """Lay the shadow of an upright body that rises from `base` to `height` over (x, z) corners."""
        right, ahead = -self.sun[0] / self.sun[1], -self.sun[2] / self.sun[1]
        corners = [(x + right * h, z + ahead * h) for x, z in footprint for h in (base, height)]
        for mask, points in ((self.shadows, corners), (self.contacts, corners[::2])):
            if contact or mask is self.shadows:
                outline = self.outline(
                    [(x, 0.0, max(z, self.camera.NEAR_M)) for x, z in points], SUPERSAMPLING
                )
                cv2.fillConvexPoly(mask, cv2.convexHull(outline), (255,))


# ---- vehicles: a side outline pulled across the width, with everything on it listed in tables ----


class Model(NamedTuple):
    """A vehicle, in metres: a along its length from the rear, b upward, c across as a share of the width."""

    label: int
    width: float
    outline: tuple[
        tuple[float, float, str], ...
    ]  # rear to front over the top: a, b, material up to the next point
    side: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]  # material, polygon of (a, b)
    ends: tuple[
        tuple[int, float, float, float, float, str], ...
    ]  # edge, from and to along it, from and to across, material
    wheels: tuple[float, ...]
    radius: float
    paints: tuple[RGB, ...]


MATERIALS: dict[str, RGB] = {
    'glass': (44, 54, 64), 'dark': (32, 32, 35), 'tail': (196, 26, 24), 'lamp': (246, 242, 220),
    'plate': (232, 230, 214),
    'cargo': (222, 222, 218), 'white': (236, 236, 232), 'trim': (120, 122, 126), 'sign': (250, 176, 40),
    'blue': (38, 70, 150),
}  # fmt: skip
CAR_PAINTS = (
    (212, 214, 216), (176, 180, 184), (96, 100, 106), (34, 35, 38), (24, 26, 32), (150, 24, 26),
    (36, 62, 120), (238, 238, 236),
    (58, 84, 72), (122, 98, 72), (196, 150, 36), (92, 128, 160),
)  # fmt: skip
BIG_PAINTS = ((198, 34, 34), (240, 196, 40), (44, 96, 170), (232, 232, 228), (60, 132, 84), (226, 122, 34))
CAR_ENDS = (
    (0, 0.50, 0.86, -0.49, -0.31, 'tail'), (0, 0.50, 0.86, 0.31, 0.49, 'tail'),
    (0, 0.36, 0.56, -0.14, 0.14, 'plate'),
    (0, 0.0, 0.20, -0.46, 0.46, 'dark'), (-2, 0.10, 0.42, -0.48, -0.27, 'lamp'),
    (-2, 0.10, 0.42, 0.27, 0.48, 'lamp'),
    (-2, 0.18, 0.44, -0.22, 0.22, 'dark'), (-2, 0.56, 0.74, -0.14, 0.14, 'plate'),
    (-2, 0.8, 1.0, -0.46, 0.46, 'dark'),
)  # fmt: skip


def big_ends(glass: float) -> tuple[tuple[int, float, float, float, float, str], ...]:
    """The rear and front of a bus, truck or tram whose windows start at the given share of the height."""
    return (
        (0, glass, 0.84, -0.4, 0.4, 'glass'), (0, 0.1, 0.2, -0.48, -0.36, 'tail'),
        (0, 0.1, 0.2, 0.36, 0.48, 'tail'),
        (0, 0.05, 0.1, -0.12, 0.12, 'plate'), (-2, 0.16, 0.95 - glass * 0.8, -0.45, 0.45, 'glass'),
        (-2, 0.03, 0.11, -0.3, 0.3, 'sign'), (-2, 0.8, 0.87, -0.46, -0.3, 'lamp'),
        (-2, 0.8, 0.87, 0.3, 0.46, 'lamp'),
        (-2, 0.93, 1.0, -0.5, 0.5, 'dark'), (0, 0.0, 0.04, -0.5, 0.5, 'dark'),
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


class Frame:
    """Local metres (a ahead, b up, c to the right) to the world; heading 0 looks away from the camera."""

    def __init__(self, x: float, z: float, heading: float, y: float = 0.0, middle: float = 0.0) -> None:
        self.x, self.y, self.z, self.middle = x, y, z, middle
        self.cos, self.sin = math.cos(heading), math.sin(heading)

    def __call__(self, a: float, b: float, c: float) -> Point:
        a -= self.middle
        return self.x + a * self.sin + c * self.cos, self.y + b, self.z + a * self.cos - c * self.sin

    def direction(self, a: float, b: float, c: float) -> Point:
        return a * self.sin + c * self.cos, b, a * self.cos - c * self.sin


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
            for radius, rgb in (
                (model.radius, (26.0, 26.0, 28.0)),
                (model.radius * 0.58, (142.0, 144.0, 148.0)),
            ):
                ring = [frame(a + radius * u, model.radius + radius * v, c) for u, v in CIRCLE]
                canvas.fill(ring, rgb, model.label, light)

    for a in model.wheels:  # tyres under the body, seen from the front or behind
        for c in (-half + 0.02, half - 0.24):
            canvas.fill(
                [frame(a, b, c + d) for d, b in box(0, 0.22, 0, model.radius * 1.6)],
                (24, 24, 26),
                model.label,
            )
    for i, ((a0, b0, _), (a1, b1, _)) in enumerate(zip(model.outline, model.outline[1:], strict=False)):
        face(((a0 + a1) / 2, (b0 + b1) / 2, 0), (b0 - b1, a1 - a0, 0), partial(edge, i))
    for c in (-half, half):
        face((model.outline[-1][0] / 2, 1.0, c), (0, 0, math.copysign(1, c)), partial(flank, c))
    for _, draw in sorted(faces, key=lambda entry: -entry[0]):
        draw()


def park(canvas: Canvas, rng: Rng, name: str, x: float, z: float, heading: float, y: float = 0.0) -> None:
    """Queue a vehicle with its centre at (x, z), and lay its shadows."""
    model = MODELS[name]
    length, half, height = model.outline[-1][0], model.width / 2, max(b for _, b, _ in model.outline)
    frame = Frame(x, z, heading, y, length / 2)
    corners = [(p[0], p[2]) for p in (frame(a, 0, c) for a in (0, length) for c in (-half, half))]
    paint, cargo = (
        jitter(rng, pick(rng, model.paints)),
        jitter(rng, pick(rng, ((222, 222, 218), *BIG_PAINTS)), 0.15),
    )
    if canvas.free(corners):
        canvas.cast(corners, height, contact=True)
        canvas.later(
            canvas.depth(corners), vehicle, model, frame, {**MATERIALS, 'paint': paint, 'cargo': cargo}
        )


# ---- people and two-wheelers: strokes between joints, seen from any side ----

Stroke = tuple[str, float, tuple[Point, ...]]  # material, width, joints (a, b, c) in metres
Pair = tuple[Point, Point]


def limbs(
    hip: Point, shoulder: Point, knees: Pair, feet: Pair, elbows: Pair, hands: Pair
) -> tuple[Stroke, ...]:
    """Return the strokes of a body from its joints; of each pair the right-hand one comes first."""

    def at(p: Point, c: float) -> Point:
        return p[0], p[1], c

    head = shoulder[0] + 0.2 * (shoulder[0] - hip[0]) + 0.02, shoulder[1] + 0.24, 0.0
    hair = head[0] - 0.03, head[1] + 0.05, 0.0
    strokes: list[Stroke] = []
    for i, c in enumerate((0.09, -0.09)):
        toe = feet[i][0] + 0.13, feet[i][1] - 0.02, feet[i][2]
        strokes += [('legs', 0.16, (at(hip, c), knees[i], feet[i])), ('shoes', 0.1, (feet[i], toe))]
        strokes += [('torso', 0.23, (at(hip, c), at(shoulder, c)))]
        strokes += [
            ('arms', 0.1, (at(shoulder, 2.2 * c), elbows[i], hands[i])),
            ('skin', 0.09, (hands[i], hands[i])),
        ]
    neck = at(shoulder, 0), head
    return (*strokes, ('skin', 0.1, neck), ('skin', 0.21, (head, head)), ('hair', 0.2, (hair, hair)))


POSES = {  # hip, shoulder, knees, feet, elbows, hands
    'stand': limbs(
        (0, 0.9, 0), (0.02, 1.38, 0), ((0.02, 0.48, 0.1), (0.02, 0.48, -0.1)),
        ((0, 0.05, 0.12), (0, 0.05, -0.12)), ((-0.02, 1.12, 0.27), (-0.02, 1.12, -0.27)),
        ((0.06, 0.86, 0.27), (0.06, 0.86, -0.27)),
    ),
    'walk': limbs(
        (0, 0.9, 0), (0.04, 1.38, 0), ((0.22, 0.52, 0.1), (-0.06, 0.48, -0.1)),
        ((0.32, 0.06, 0.1), (-0.36, 0.14, -0.1)), ((-0.14, 1.14, 0.26), (0.12, 1.12, -0.26)),
        ((-0.16, 0.88, 0.24), (0.28, 0.92, -0.24)),
    ),
    'cycle': limbs(
        (0.2, 0.98, 0), (0.5, 1.42, 0), ((0.58, 0.78, 0.11), (0.54, 0.6, -0.11)),
        ((0.42, 0.42, 0.11), (0.44, 0.2, -0.11)), ((0.68, 1.14, 0.26), (0.68, 1.14, -0.26)),
        ((0.88, 1.04, 0.24), (0.88, 1.04, -0.24)),
    ),
    'ride': limbs(
        (0.42, 0.86, 0), (0.62, 1.36, 0), ((0.9, 0.66, 0.22), (0.9, 0.66, -0.22)),
        ((0.66, 0.3, 0.2), (0.66, 0.3, -0.2)), ((0.82, 1.1, 0.36), (0.82, 1.1, -0.36)),
        ((1.08, 1.02, 0.34), (1.08, 1.02, -0.34)),
    ),
}  # fmt: skip
# Label, hubs, radius, tyre width, strokes.
TWO_WHEELERS: dict[str, tuple[int, tuple[float, float], float, float, tuple[Stroke, ...]]] = {
    'bicycle': (BICYCLE, (0.0, 1.04), 0.34, 0.05, (
        ('paint', 0.045, ((0, 0.34, 0), (0.42, 0.3, 0), (0.84, 0.76, 0), (0.3, 0.8, 0), (0, 0.34, 0))),
        ('paint', 0.045, ((0.42, 0.3, 0), (0.26, 0.92, 0))),
        ('paint', 0.045, ((1.04, 0.34, 0), (0.82, 0.98, 0))),
        ('dark', 0.05, ((0.84, 1.0, -0.27), (0.84, 1.0, 0.27))),
        ('dark', 0.08, ((0.16, 0.94, 0), (0.38, 0.95, 0))),
    )),
    'motorcycle': (MOTORCYCLE, (0.0, 1.4), 0.31, 0.15, (
        ('dark', 0.3, ((0.45, 0.42, 0), (0.85, 0.42, 0))),
        ('trim', 0.1, ((0.1, 0.28, 0.16), (0.75, 0.3, 0.16))),
        ('trim', 0.08, ((1.4, 0.31, 0.08), (1.1, 0.95, 0.08))),
        ('paint', 0.26, ((-0.08, 0.68, 0), (0.3, 0.66, 0))),
        ('dark', 0.2, ((-0.1, 0.8, 0), (0.5, 0.76, 0))), ('paint', 0.32, ((0.62, 0.78, 0), (0.95, 0.82, 0))),
        ('paint', 0.3, ((1.12, 0.72, 0), (1.12, 0.92, 0))),
        ('dark', 0.06, ((1.02, 1.04, -0.38), (1.02, 1.04, 0.38))),
        ('tail', 0.12, ((-0.25, 0.72, 0), (-0.25, 0.72, 0))),
        ('lamp', 0.16, ((1.3, 0.85, 0), (1.3, 0.85, 0))),
    )),
}  # fmt: skip
CLOTHES = (
    (34, 36, 44), (52, 62, 92), (150, 36, 38), (224, 222, 214), (200, 170, 60), (62, 104, 70), (120, 86, 60),
    (150, 150, 156), (86, 48, 98), (44, 110, 150), (226, 120, 60),
)  # fmt: skip
SKINS = ((236, 196, 168), (206, 158, 124), (150, 104, 76), (96, 66, 50))
HAIRS = ((36, 28, 24), (84, 58, 38), (164, 126, 74), (170, 168, 164), (126, 44, 28))


def strokes(
    canvas: Canvas,
    frame: Frame,
    label: int,
    parts: Iterable[Stroke],
    colours: dict[str, RGB],
    scale: float = 1.0,
) -> None:
    gain = canvas.weather.ambient + 0.5 * canvas.weather.sun
    for name, width, joints in parts:
        canvas.line(
            [frame(a * scale, b * scale, c * scale) for a, b, c in joints],
            width * scale,
            colours[name],
            label,
            gain,
        )


def body(canvas: Canvas, frame: Frame, label: int, pose: str, colours: dict[str, RGB], scale: float) -> None:
    parts = sorted(POSES[pose], key=lambda part: -frame(*part[2][0])[2])
    strokes(canvas, frame, label, parts, colours, scale)


def outfit(rng: Rng, rider: bool = False) -> dict[str, RGB]:
    top = jitter(rng, pick(rng, CLOTHES), 0.2)
    skin = pick(rng, SKINS)
    legs = jitter(rng, pick(rng, CLOTHES[:2] if rng.random() < 0.7 else CLOTHES), 0.25)
    arms = skin if rng.random() < 0.25 else jitter(rng, top, 0.06)
    hair = pick(rng, CLOTHES if rider else HAIRS)  # a rider wears a helmet
    return {'torso': top, 'arms': arms, 'legs': legs, 'skin': skin, 'shoes': (40, 36, 36), 'hair': hair}


def person(canvas: Canvas, rng: Rng, x: float, z: float, y: float = 0.0) -> None:
    frame = Frame(x, z, pick(rng, (0.0, math.pi, math.pi / 2, -math.pi / 2)) + rng.normal(0, 0.4), y)
    if not canvas.free([(x - 0.2, z - 0.2), (x + 0.2, z + 0.2)], 0.0):
        return
    canvas.cast([(x - 0.15, z), (x + 0.15, z), (x, z + 0.2)], 1.6)
    scale = rng.uniform(0.86, 1.12) * (0.68 if rng.random() < 0.08 else 1)  # some are children
    canvas.later(z, body, frame, PERSON, pick(rng, ('stand', 'walk', 'walk')), outfit(rng), scale)


def two_wheeler(
    canvas: Canvas, rng: Rng, name: str, x: float, z: float, heading: float, *, ridden: bool, y: float = 0.0
) -> None:
    """Queue a bicycle or motorcycle, with a rider or parked."""
    frame = Frame(x, z, heading, y, 0.6)
    ends = [(p[0], p[2]) for p in (frame(a, 0, c) for a in (-0.2, 1.3) for c in (-0.1, 0.1))]
    if not canvas.free(ends, 0.0):
        return
    canvas.cast(ends, 1.7 if ridden else 0.9, contact=name == 'motorcycle')
    canvas.later(z, machine, name, frame, jitter(rng, pick(rng, CAR_PAINTS), 0.2))
    if ridden:
        pose = 'cycle' if name == 'bicycle' else 'ride'
        canvas.later(z - 0.01, body, frame, RIDER, pose, outfit(rng, True), rng.uniform(0.95, 1.05))


def machine(canvas: Canvas, name: str, frame: Frame, paint: RGB) -> None:
    label, hubs, radius, tyre, parts = TWO_WHEELERS[name]
    for hub in hubs:
        ring = [frame(hub + radius * u, radius + radius * v, 0.0) for u, v in CIRCLE]
        canvas.fill(ring, (110, 110, 112), label, alpha=0.35 if name == 'bicycle' else 0.8)
        canvas.line(ring, tyre, (28, 28, 30), label)
    strokes(canvas, frame, label, parts, {**MATERIALS, 'paint': paint})


# ---- what stands beside the road ----


class Style(NamedTuple):
    """The look of one building's faces."""

    wall: RGB
    trim: RGB
    floors: int
    storey: float
    base: float  # height of the ground floor
    pitch: float  # distance between windows
    window: tuple[float, float]
    shop: bool


FACADES = (
    (214, 200, 172), (196, 172, 140), (178, 110, 84), (158, 92, 72), (222, 214, 200), (186, 186, 182),
    (146, 148, 150), (228, 206, 150), (206, 160, 132), (164, 176, 180), (238, 234, 226), (150, 130, 112),
)  # fmt: skip
ROOFS = ((142, 74, 56), (110, 66, 54), (84, 84, 90), (70, 64, 64))
GLASS, LAMPLIGHT = ((54, 64, 76), (92, 110, 128), (156, 172, 186)), (240, 212, 152)
SHOPS = ((176, 40, 40), (40, 84, 140), (44, 104, 70), (222, 170, 50), (60, 56, 60), (226, 224, 216))
LEAVES = (
    (66, 104, 44), (84, 122, 50), (52, 88, 48), (104, 128, 56), (74, 98, 62), (168, 128, 44), (150, 84, 40),
)  # fmt: skip


def style(rng: Rng, tall: bool) -> Style:
    wall = jitter(rng, pick(rng, FACADES), 0.12)
    trim = jitter(rng, (232, 228, 218), 0.08) if rng.random() < 0.65 else jitter(rng, (96, 88, 80), 0.2)
    pitch = rng.uniform(2.0, 3.4)
    floors, base = (
        (int(rng.integers(3, 7)), rng.uniform(3.3, 4.3)) if tall else (int(rng.integers(1, 3)), 0.3)
    )
    window = pitch * rng.uniform(0.4, 0.62), rng.uniform(1.3, 2.0)
    return Style(wall, trim, floors, rng.uniform(2.9, 3.5), base, pitch, window, tall and rng.random() < 0.6)


def facade(canvas: Canvas, rng: Rng, start: Spot, end: Spot, look: Style, normal: Point) -> None:
    """Paint an upright face between two ground points (x, z) with its windows, shops and doors."""
    (x, z), length, camera = start, math.dist(start, end), canvas.camera
    dx, dz = (end[0] - x) / length, (end[1] - z) / length
    height = look.base + look.floors * look.storey
    light, middle_z = canvas.light(normal), (z + end[1]) / 2
    outline = canvas.outline([(x + dx * s, y, z + dz * s) for s, y in box(0, length, 0, height)])
    u = outline[:, 0]
    if not len(u) or u.max() < 0 or u.min() >= canvas.pixels.shape[1] or np.ptp(u) < 2:
        return
    cv2.fillPoly(canvas.pixels, [outline], canvas.colour(look.wall, middle_z, BUILDING, light))

    layers: list[tuple[np.ndarray, tuple[float, ...]]] = []  # rectangles, one column each, and their colour

    def rects(s0: Any, s1: Any, y0: Any, y1: Any, rgb: RGB, gain: float = light) -> None:
        block = np.empty((4, np.broadcast(s0, y0).size))
        block[0], block[1], block[2], block[3] = s0, s1, y0, y1
        layers.append((block, canvas.colour(rgb, middle_z, BUILDING, gain)))

    columns = max(1, int((length - 0.8) / look.pitch))
    margin = (length - columns * look.pitch) / 2
    middles = margin + (np.arange(columns) + 0.5) * look.pitch
    floors = look.base + np.arange(look.floors) * look.storey
    width, tall = look.window
    rects(0, length, floors - 0.15, floors - 0.03, look.trim, light * 0.92)
    rects(0, length, height - 0.3, height, look.trim, light * 0.9)
    s, y = (grid.ravel() for grid in np.meshgrid(middles, floors + 0.8))
    lit = rng.random(s.size) < canvas.weather.lamps
    kind = np.where(lit, 3, rng.integers(3, size=s.size))
    rects(s - width / 2 - 0.12, s + width / 2 + 0.12, y - 0.12, y + tall + 0.12, look.trim)
    for i, (glass, gain) in enumerate(
        ((GLASS[0], light), (GLASS[1], light), (GLASS[2], light), (LAMPLIGHT, 1.0))
    ):
        at_s, at_y = s[kind == i], y[kind == i]
        rects(at_s - width / 2, at_s + width / 2, at_y, at_y + tall, glass, gain)
    rects(s - 0.04, s + 0.04, y, y + tall, look.trim)
    if look.base > 2:  # doors and shop windows
        band = jitter(rng, pick(rng, SHOPS))
        pane = (LAMPLIGHT, 1.0) if rng.random() < 2 * canvas.weather.lamps else (GLASS[0], light)
        rects(
            0,
            length,
            0,
            look.base - 0.2,
            band if look.shop else look.trim,
            light * (0.85 if look.shop else 0.72),
        )
        door = middles[int(rng.integers(columns))]
        others = middles[middles != door]
        rects(door - 0.55, door + 0.55, 0.1, 2.4, (74, 52, 40))
        if look.shop:
            rects(others - look.pitch * 0.44, others + look.pitch * 0.44, 0.5, look.base - 1.0, *pane)
            rects(
                margin,
                length - margin,
                look.base - 0.85,
                look.base - 0.3,
                jitter(rng, pick(rng, SHOPS)),
                light * 1.1,
            )
        else:
            rects(others - width / 2, others + width / 2, 1.1, 1.1 + tall, *pane)
    corners = np.concatenate([block for block, _ in layers], 1)
    s, y = corners[[0, 1, 1, 0]].T, corners[[2, 2, 3, 3]].T  # (N, 4): along the face and up
    away = z + dz * s
    pixels = np.stack(camera.project(x + dx * s, y, np.maximum(away, camera.NEAR_M)), -1).astype(np.int32)
    shown, at = away.min(1) >= camera.NEAR_M, 0
    for block, colour in layers:
        part = slice(at, at + block.shape[1])
        cv2.fillPoly(canvas.pixels, list(pixels[part][shown[part]]), colour)
        at = part.stop


def building(
    canvas: Canvas,
    rng: Rng,
    side: int,
    x: float,
    z0: float,
    z1: float,
    look: Style,
    depth: float,
    roof: RGB | None,
    hidden: float,
) -> None:
    """Paint a block whose street face is at x and whose near end shows only above the `hidden` height."""
    top, back = look.base + look.floors * look.storey, x + side * depth
    if roof is not None:
        ridge = x + side * min(depth, 8) / 2, top + 2.6
        slope = [(x - side * 0.3, top, z0), (*ridge, z0), (*ridge, z1), (x - side * 0.3, top, z1)]
        canvas.fill(slope, roof, BUILDING, canvas.light((-side * 0.6, 0.8, 0)))
        gable = [(x, top, z0), (*ridge, z0), (x + side * min(depth, 8), top, z0)]
        canvas.fill(gable, look.wall, BUILDING, canvas.light((0, 0, -1)))
    if z0 > canvas.camera.NEAR_M and top > hidden:
        facade(canvas, rng, (x, z0), (back, z0), look._replace(shop=False), (0, 0, -1))
    facade(canvas, rng, (x, z0), (x, z1), look, (-side, 0, 0))


def wall(
    canvas: Canvas, rng: Rng, side: int, x: float, z0: float, z1: float, height: float, rgb: RGB
) -> None:
    light = canvas.light((-side, 0, 0))
    canvas.fill([(x, y, z) for z, y in box(z0, z1, 0, height)], rgb, WALL, light)
    if z0 > canvas.camera.NEAR_M:
        canvas.fill(
            [(x + side * a, y, z0) for a, y in box(0, 0.35, 0, height)], rgb, WALL, canvas.light((0, 0, -1))
        )
    for i in range(1, int(height / 0.32)):  # courses of stone
        canvas.fill([(x, y, z) for z, y in box(z0, z1, i * 0.32, i * 0.32 + 0.04)], rgb, WALL, light * 0.72)
    canvas.fill(
        [(x - side * 0.08, y, z) for z, y in box(z0, z1, height - 0.05, height + 0.12)],
        rgb,
        WALL,
        light * 1.18,
    )


def fence(
    canvas: Canvas, side: int, x: float, z0: float, z1: float, height: float, rgb: RGB, alpha: float
) -> None:
    """Paint a fence that what is behind shows through; as in Cityscapes, the label covers all of it."""
    light = canvas.light((-side, 0, 0))
    canvas.fill([(x, y, z) for z, y in box(z0, z1, 0.1, height)], rgb, FENCE, light, alpha)
    for y in (0.25, height - 0.08):
        canvas.fill([(x, b, z) for z, b in box(z0, z1, y - 0.05, y + 0.05)], rgb, FENCE, light)
    z = z1
    while z > max(z0, canvas.camera.NEAR_M):
        canvas.fill([(x, b, a) for a, b in box(z, z + 0.09, 0.1, height + 0.05)], rgb, FENCE, light * 0.85)
        z -= 0.45 if z < 30 else 1.5


def foliage(canvas: Canvas, rng: Rng, centre: Point, radius: tuple[float, float], rgb: RGB) -> None:
    """Paint a crown or bush of leaf clusters, dark below and inside, bright toward the sun."""
    x, y, z = centre
    if z < canvas.camera.NEAR_M:
        return
    count = int(min(max(700 * radius[1] / z, 14), 170))  # by apparent size, whatever the resolution
    angle, reach, tone = (
        rng.uniform(0, 2 * math.pi, count),
        np.sqrt(rng.uniform(0, 1, count)),
        rng.normal(0, 0.09, count),
    )
    size = rng.uniform(0.75, 1.3, count) * (0.9 / math.sqrt(count) + 0.06)
    right, up = reach * np.cos(angle), reach * np.sin(angle)
    gain = (
        canvas.weather.ambient * (0.62 + tone) + 0.2 * up + 0.35 * canvas.weather.sun * canvas.sun[0] * right
    )
    core = [(x + radius[0] * 0.8 * u, y + radius[1] * 0.8 * v, z) for u, v in CIRCLE]
    canvas.fill(core, rgb, VEGETATION, canvas.weather.ambient * 0.6)
    u, v = canvas.camera.project(x + radius[0] * right, y + radius[1] * up, np.full(count, z))
    radii = np.maximum(size * sum(radius) * 0.9 * canvas.camera.focal / z, 1)
    for i in np.argsort(gain + rng.normal(0, 0.1, count)):
        cv2.circle(
            canvas.pixels,
            (int(u[i]), int(v[i])),
            int(radii[i]),
            canvas.colour(rgb, z, VEGETATION, 0.25 + float(gain[i])),
            -1,
        )


def tree(canvas: Canvas, rng: Rng, x: float, z: float, height: float, rgb: RGB, slim: float) -> None:
    canvas.line(
        [(x, 0, z), (x, height * 0.6, z)],
        0.08 + 0.025 * height,
        (84, 68, 54),
        VEGETATION,
        canvas.weather.ambient,
    )
    crown = height * 0.32
    foliage(canvas, rng, (x, height - crown, z), (crown * slim, crown), rgb)


def plant(canvas: Canvas, rng: Rng, x: float, z: float, height: float, depth: float | None = None) -> None:
    crown = height * 0.28
    canvas.cast([(x + crown * u, z + crown * v) for u, v in CIRCLE[::2]], height, base=height * 0.45)
    canvas.later(
        z if depth is None else depth,
        tree,
        rng,
        x,
        z,
        height,
        jitter(rng, pick(rng, LEAVES), 0.15),
        rng.uniform(0.7, 1.0),
    )


# Edges, turn, border, inside: speed limit, no entry, yield, priority, parking, warning, direction, stop.
SIGNS: tuple[tuple[int, float, RGB, RGB], ...] = (
    (18, 0, (204, 28, 30), (240, 240, 236)), (18, 0, (204, 28, 30), (196, 24, 28)),
    (3, math.pi, (204, 28, 30), (240, 240, 236)), (4, 0, (244, 244, 240), (248, 194, 32)),
    (4, math.pi / 4, (240, 240, 240), (34, 84, 168)), (3, 0, (204, 28, 30), (240, 240, 236)),
    (18, 0, (240, 240, 240), (34, 84, 168)), (8, math.pi / 8, (244, 244, 244), (200, 26, 30)),
)  # fmt: skip


def sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    grey, light = jitter(rng, (128, 130, 132)), canvas.light((0, 0, -1))
    top = rng.uniform(2.3, 2.9)
    canvas.line([(x, 0, z), (x, top, z)], 0.09, grey, POLE, light)
    for y in (top, top - 0.75)[: int(rng.integers(1, 3))]:
        edges, turn, border, inside = pick(rng, SIGNS)
        for radius, rgb in ((0.4, border), (0.3, inside)):
            angles = (turn + math.pi / 2 + 2 * math.pi * i / edges for i in range(edges))
            canvas.fill(
                [(x + radius * math.cos(t), y + radius * math.sin(t), z) for t in angles],
                rgb,
                SIGN,
                0.25 + 0.8 * light,
            )
        ink = (240, 240, 240) if sum(inside) < 500 else (40, 40, 44)
        canvas.fill([(x + a, y + b, z) for a, b in box(-0.16, 0.16, -0.05, 0.05)], ink, SIGN, light)


def traffic_light(canvas: Canvas, x: float, z: float, reach: float, lit: int) -> None:
    grey, top = (92, 96, 98), 5.6 if reach else 2.6
    canvas.line([(x, 0, z), (x, top, z), (x + reach, top, z)], 0.14, grey, POLE, canvas.weather.ambient)
    for u, y in ((x, 2.4), (x + reach, 5.2))[: 2 if reach else 1]:
        canvas.fill([(u + a, y + b, z) for a, b in box(-0.21, 0.21, 0, 1.05)], (38, 42, 40), TRAFFIC_LIGHT)
        for i, rgb in enumerate(((70, 250, 140), (255, 190, 50), (255, 50, 40))):
            canvas.disc((u, y + 0.2 + 0.32 * i, z), 0.14, rgb, TRAFFIC_LIGHT, 1.0 if i == lit else 0.25)


def street_light(canvas: Canvas, x: float, z: float, reach: float, height: float) -> None:
    grey = (112, 116, 118)
    light, lamp = canvas.weather.ambient, height - 0.05
    mast = [(x, 0, z), (x, height - 0.5, z), (x + reach * 0.4, height, z), (x + reach, height, z)]
    canvas.line(mast, 0.15, grey, POLE, light)
    canvas.line([(x + reach, lamp, z), (x + reach * 1.3, lamp, z)], 0.24, (190, 190, 180), POLE, light)


def bonnet(canvas: Canvas, rng: Rng) -> None:
    """Paint the front of the car that carries the camera along the lower edge."""
    height, width = canvas.pixels.shape[:2]
    rise, rgb = height * rng.uniform(0.05, 0.11), jitter(rng, pick(rng, CAR_PAINTS))
    across = np.linspace(-0.1, 1.1, 40)
    for drop, gain in ((0.0, 0.9), (0.12, 0.55), (0.4, 0.7)):
        arch = np.stack([across * width, height - rise * ((1 - drop) - 1.6 * (across - 0.5) ** 2)], 1)
        outline = np.concatenate([arch, [[1.1 * width, height + 9], [-0.1 * width, height + 9]]]).astype(
            np.int32
        )
        cv2.fillPoly(canvas.pixels, [outline], canvas.colour(rgb, 0, EGO, gain))


# ---- the street ----


class Street(NamedTuple):
    """The cross section of a street, with pairs for left and right, and its crossing with another."""

    lane: float
    lanes: int
    kerb: tuple[float, float]  # distance of the kerbs from the axis
    verge: tuple[float, float]  # width of the grass between kerb and sidewalk
    line: tuple[float, float]  # distance of the buildings from the axis
    crossing: tuple[float, float] | None  # from z to z

    def clear(self, z0: float, z1: float) -> bool:
        return self.crossing is None or z1 < self.crossing[0] or z0 > self.crossing[1]


# The stuff of sidewalks and walls, and of fences with their opacity.
PAVINGS = ((172, 164, 156), (156, 154, 152), (182, 166, 148), (142, 132, 126))
STONES = ((168, 156, 140), (150, 104, 84), (186, 184, 178), (140, 136, 132))
FENCES = (((52, 60, 56), 0.3), ((128, 96, 66), 0.9), ((226, 224, 216), 0.45), ((60, 84, 66), 0.4))
LOTS = {  # what stands beside the road in a city, a suburb and a green quarter
    'building': (0.84, 0.15, 0.12), 'house': (0.02, 0.45, 0.2), 'wall': (0.05, 0.14, 0.14),
    'fence': (0.04, 0.14, 0.19), 'park': (0.05, 0.12, 0.35),
}  # fmt: skip


def strip(
    canvas: Canvas, x0: float, x1: float, z0: float, z1: float, rgb: RGB, label: int, y: float = 0.0
) -> None:
    """Paint a band of the ground that follows the road's bend."""
    zs = np.geomspace(z0 + 1, z1 + 1, 2 if z1 - z0 < 6 else 16) - 1
    canvas.fill([(x0, y, float(z)) for z in zs] + [(x1, y, float(z)) for z in zs[::-1]], rgb, label)


def lay_street(rng: Rng, district: int, feature: str | None) -> Street:
    lane, lanes = rng.uniform(3.1, 3.6), 1 if rng.random() < 0.75 else 2
    kerb = tuple(lane * lanes + (2.1 if rng.random() < 0.6 else 0.3) for _ in range(2))
    verge = tuple(
        rng.uniform(0.8, 2.2) if rng.random() < (0.12, 0.45, 0.65)[district] else 0.0 for _ in range(2)
    )
    line = tuple(k + v + rng.uniform(1.9, 4.2) for k, v in zip(kerb, verge, strict=True))
    start = rng.uniform(15, 48)
    crossing = (start, start + rng.uniform(7, 11)) if rng.random() < 0.6 and feature != 'wall' else None
    return Street(lane, lanes, (kerb[0], kerb[1]), (verge[0], verge[1]), (line[0], line[1]), crossing)


def ground(canvas: Canvas, rng: Rng, street: Street, rails: bool) -> None:
    """Paint terrain, roads, markings and sidewalks."""
    near, crossing = canvas.camera.NEAR_M, street.crossing
    asphalt = jitter(rng, (98, 97, 100), 0.22)
    paving, stone = jitter(rng, pick(rng, PAVINGS), 0.1), jitter(rng, (190, 188, 184), 0.1)
    grass, paint = jitter(rng, (104, 122, 66), 0.2), jitter(rng, (226, 226, 222), 0.08)
    strip(canvas, -400, 400, near, FAR_M + 30, grass, TERRAIN)
    strip(canvas, -street.kerb[0], street.kerb[1], near, FAR_M + 30, asphalt, ROAD)
    for _ in range(5):  # repairs
        x, z = rng.uniform(-street.kerb[0], street.kerb[1] - 1.5), rng.uniform(5, 40)
        strip(
            canvas, x, x + rng.uniform(0.5, 1.5), z, z + rng.uniform(1, 9), jitter(rng, asphalt, 0.12), ROAD
        )
    pieces = [(near, FAR_M)] if crossing is None else [(near, crossing[0]), (crossing[1], FAR_M)]
    if crossing is not None:
        for z0, z1, rgb, label in (
            (crossing[0] - 2.8, crossing[1] + 2.8, paving, SIDEWALK),
            (*crossing, asphalt, ROAD),
        ):
            strip(canvas, -90, 90, z0, z1, rgb, label)
        strip(canvas, -street.kerb[0], street.kerb[1], crossing[0] - 3, crossing[1] + 3, asphalt, ROAD)
    dash, gap = rng.uniform(2.5, 4), rng.uniform(3, 6)
    zebra = crossing is not None and rng.random() < 0.75
    for z0, z1 in pieces:
        for side in (0, 1):
            sign_, kerb, verge, line = 2 * side - 1, street.kerb[side], street.verge[side], street.line[side]
            strip(canvas, sign_ * kerb, sign_ * (kerb + 1.5), z0, z1, stone, SIDEWALK)  # the kerb's face
            strip(canvas, sign_ * kerb, sign_ * line, z0, z1, paving, SIDEWALK, 0.12)
            strip(canvas, sign_ * kerb, sign_ * (kerb + 0.2), z0, z1, stone, SIDEWALK, 0.12)
            if verge:
                strip(canvas, sign_ * (kerb + 0.2), sign_ * (kerb + verge), z0, z1, grass, TERRAIN, 0.14)
            if kerb > street.lane * street.lanes + 1:
                edge = sign_ * street.lane * street.lanes
                strip(canvas, edge - 0.06, edge + 0.06, z0, z1, paint, ROAD)
        stop = z1 - 4.5 if crossing is not None and z0 == near else z1
        for boundary in range(1 - street.lanes, street.lanes):
            z, middle = near + rng.uniform(0, 4), boundary * street.lane
            while z < min(stop, 80):
                if z >= z0:
                    strip(canvas, middle - 0.07, middle + 0.07, z, min(z + dash, stop), paint, ROAD)
                z += dash + gap
        if zebra:
            z = z1 - 3.6 if z0 == near else z0 + 0.8
            x = -street.kerb[0] + 0.4
            while x < street.kerb[1] - 0.5:
                strip(canvas, x, x + 0.5, z, z + 2.8, paint, ROAD)
                x += 1.0
    if crossing is not None:
        strip(canvas, 0.1, street.lane * street.lanes, crossing[0] - 4.9, crossing[0] - 4.5, paint, ROAD)
    if rails:
        for middle in (-street.lane / 2, street.lane / 2):
            strip(canvas, middle - 1.1, middle + 1.1, near, FAR_M, jitter(rng, asphalt, 0.12), ROAD)
            for x in (middle - 0.75, middle + 0.65):
                strip(canvas, x, x + 0.1, near, FAR_M, (70, 68, 70), ROAD)
    for _ in range(3):
        x, z, r = rng.uniform(-street.kerb[0], street.kerb[1]), rng.uniform(6, 30), 0.36
        canvas.fill([(x + r * u, 0, z + r * v) for u, v in CIRCLE], (70, 68, 68), ROAD)


def backdrop(canvas: Canvas, rng: Rng, district: int) -> None:
    """Close the view at the horizon with distant houses and trees."""
    x = -230.0
    while x < 230:
        width = rng.uniform(8, 26)
        if rng.random() < (0.7, 0.45, 0.15)[district]:
            height, rgb = rng.uniform(7, (24, 11, 10)[district]), jitter(rng, pick(rng, FACADES), 0.15)
            canvas.fill(
                [(x + a, y, FAR_M) for a, y in box(0, width, -3, height)],
                rgb,
                BUILDING,
                canvas.light((0, 0, -1)),
            )
            eaves = [(-0.5, 0.0), (width + 0.5, 0.0), (width - 3, 4.0), (3.0, 4.0)]
            canvas.fill([(x + a, height + b, FAR_M) for a, b in eaves], pick(rng, ROOFS), BUILDING)
        else:
            height, rgb = rng.uniform(5, 13), jitter(rng, LEAVES[0], 0.2)
            canvas.fill(
                [(x + a, y, FAR_M) for a, y in box(-1, width + 1, -3, height * 0.6)], rgb, VEGETATION, 0.7
            )
            for _ in range(int(width / 2.5)):
                crown = x + rng.uniform(0, width), rng.uniform(0.3, 1) * height, FAR_M
                canvas.disc(crown, rng.uniform(2, 4), rgb, VEGETATION, rng.uniform(0.6, 1.0))
        x += width


def roadside(canvas: Canvas, rng: Rng, street: Street, side: int, district: int, walled: bool) -> None:
    """Queue the lots along one side; a lot's depth is its far end, behind all that stands before it."""
    line, names = street.line[(side + 1) // 2], tuple(LOTS)
    x, z, share = side * line, rng.uniform(-4, 2), np.array([row[district] for row in LOTS.values()])
    covered = 0.0  # height of the building that adjoins the next lot
    while z < FAR_M - 12:
        kind, z0 = names[int(rng.choice(len(names), p=share / share.sum()))], z
        z1 = z0 + rng.uniform(9, 20)
        if walled and z1 > 9:
            kind, walled, z1 = 'wall', False, z0 + 24
        deep = 12.0
        if street.crossing is not None and z1 > street.crossing[0] - 2.8 and z0 < street.crossing[1] + 2.8:
            if (
                street.crossing[0] - 2.8 - z0 < 5
            ):  # the first lot behind the crossing also lines the crossing street
                z0, deep, covered = street.crossing[1] + 2.8, 40.0, 0.0
                z1 = z0 + rng.uniform(10, 18)
            else:
                z1 = street.crossing[0] - 2.8
        tall, set_back = kind == 'building', rng.uniform(3.5, 6)
        if kind in ('building', 'house'):
            look, face = style(rng, tall), x if tall else x + side * set_back
            roof = jitter(rng, pick(rng, ROOFS), 0.15) if not tall or rng.random() < 0.35 else None
            near, far = (z0, z1) if tall else (z0 + 1.5, z1 - 1.5)
            canvas.later(
                z1 + 0.5, building, rng, side, face, near, far, look, deep if tall else 8.0, roof, covered
            )
            top = look.base + look.floors * look.storey
            canvas.cast([(a, b) for a in (face, face + side * 8) for b in (near, far)], top)
        if not tall:
            for _ in range(int(rng.integers(2, 5)) if kind != 'house' else 1):
                away, at = (
                    rng.uniform(1.5, 9) if kind != 'house' else 2.2,
                    rng.uniform(max(z0, 3) + 1, max(z1, 6)),
                )
                plant(canvas, rng, x + side * away, at, rng.uniform(4, 11), z1 + at / 1000 + away / 100)
            front = kind if kind != 'house' else pick(rng, ('wall', 'fence', 'hedge'))
            if front == 'wall':
                height = rng.uniform(2.0, 2.8) if kind == 'wall' else rng.uniform(0.7, 1.2)
                canvas.later(z1, wall, rng, side, x, z0, z1, height, jitter(rng, pick(rng, STONES), 0.12))
                canvas.cast([(x, z0), (x, z1)], height)
            elif front == 'fence':
                rgb, mesh = pick(rng, FENCES)
                canvas.later(z1, fence, side, x, z0, z1, rng.uniform(1.1, 1.9), jitter(rng, rgb), mesh)
            elif front == 'hedge' or rng.random() < 0.4:
                for at in np.arange(max(z0, 3) + 0.6, z1, 1.4):
                    canvas.later(
                        z1 + float(at) / 1000,
                        foliage,
                        rng,
                        (x, 0.55, float(at)),
                        (0.9, 0.75),
                        jitter(rng, LEAVES[2], 0.1),
                    )
        z, covered = z1, top if tall else 0.0


def furniture(canvas: Canvas, rng: Rng, street: Street, district: int) -> None:
    """Queue trees, lamps, signs and other things on the sidewalks, and the lights at a crossing."""
    height, spacing, trees = (
        rng.uniform(6.5, 9),
        rng.uniform(20, 32),
        rng.random() < (0.4, 0.5, 0.75)[district],
    )
    for side in (-1, 1):
        kerb, line = side * street.kerb[(side + 1) // 2], side * street.line[(side + 1) // 2]
        z = rng.uniform(5, 5 + spacing)
        while z < 95:
            if street.clear(z - 4, z + 4):
                canvas.later(z, street_light, kerb + side * 0.4, z, -side * 1.8, height)
                canvas.cast([(kerb + side * 0.3, z), (kerb + side * 0.5, z)], height)
            z += spacing
        step = rng.uniform(7, 13)
        for z in np.arange(rng.uniform(6, 14), 100, step):
            if trees and rng.random() < 0.75 and street.clear(z - 4, z + 4):
                plant(canvas, rng, kerb + side * 0.9, float(z + rng.uniform(-1, 1)), rng.uniform(5, 9))
        for _ in range(int(rng.integers(1, 5))):
            z = rng.uniform(8, 42)
            if street.clear(z - 3, z + 3):
                canvas.later(z, sign, rng, kerb + side * 0.45, z)
        for _ in range(int(rng.integers(0, 3))):
            z = rng.uniform(6, 35)
            if street.clear(z - 3, z + 3):
                park(
                    canvas,
                    rng,
                    'kiosk' if rng.random() < 0.2 else 'bin',
                    line - side * 0.8,
                    z,
                    rng.uniform(-0.2, 0.2),
                    0.12,
                )
        if rng.random() < 0.4:  # bollards, or a railing along the kerb
            z0 = rng.uniform(7, 22)
            for z in np.arange(z0, z0 + 9, 1.6):
                if street.clear(z - 3, z + 3):
                    ends = [(kerb + side * 0.3, y, float(z)) for y in (0.1, 0.95)]
                    canvas.later(float(z), Canvas.line, ends, 0.12, (80, 82, 84), POLE)
        elif rng.random() < 0.35 and street.clear(10, 22):
            rgb = jitter(rng, (120, 124, 126))
            for z in np.arange(10.0, 20.0, 2.0):
                canvas.later(
                    float(z), fence, side, kerb + side * 0.35, float(z), float(z) + 2, 1.05, rgb, 0.12
                )
    if street.crossing is not None and rng.random() < 0.8:
        lit, z = pick(rng, (0, 2, 2)), street.crossing[0] - 3.2
        for side in (-1, 1):
            reach = -side * rng.uniform(2.5, 4) if rng.random() < 0.5 else 0.0
            x, beyond = side * (street.kerb[(side + 1) // 2] + 0.5), street.crossing[1] + 3.0
            canvas.later(z, traffic_light, x, z, reach, lit)
            canvas.later(beyond, traffic_light, x, beyond, 0.0, lit)


def show(canvas: Canvas, rng: Rng, street: Street, feature: str) -> None:
    """Queue a featured vehicle or rider where nothing hides it."""
    oncoming = -street.lane / 2, rng.uniform(9, 14)
    if feature in ('motorcycle', 'rider'):
        x, heading = canvas.camera.x + rng.uniform(0.6, 1.5), rng.uniform(0.15, 0.5) * pick(rng, (-1, 1))
        two_wheeler(
            canvas,
            rng,
            'motorcycle' if feature == 'motorcycle' else 'bicycle',
            x,
            rng.uniform(7, 10),
            heading,
            ridden=True,
        )
    elif feature != 'wall':
        name = 'tram' if feature == 'train' else feature
        park(canvas, rng, name, oncoming[0], oncoming[1] + MODELS[name].outline[-1][0] / 2, math.pi)


def traffic(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Queue moving and parked vehicles."""
    busy = rng.uniform(0.2, 0.75)
    for lane in range(-street.lanes, street.lanes):
        x = (lane + 0.5) * street.lane
        z = rng.uniform(11, 26) if abs(x - canvas.camera.x) < 1 else rng.uniform(8, 22)
        while z < 90:
            name = pick(rng, ('truck', 'bus')) if rng.random() < 0.14 else pick(rng, CARS)
            length = MODELS[name].outline[-1][0]
            heading = (0.0 if lane >= 0 else math.pi) + rng.normal(0, 0.025)
            if rng.random() < busy:
                if rng.random() < 0.12:
                    kind = pick(rng, ('bicycle', 'motorcycle'))
                    aside, turn = rng.uniform(-0.5, 0.9), rng.normal(0, 0.2)
                    two_wheeler(canvas, rng, kind, x + aside, z + 1, heading + turn, ridden=True)
                else:
                    park(canvas, rng, name, x + rng.normal(0, 0.15), z + length / 2, heading)
            z += length + rng.uniform(4, 24)
    for side in (0, 1):
        z = rng.uniform(4, 12)
        if street.kerb[side] < street.lane * street.lanes + 1:
            continue
        full = rng.uniform(0.3, 0.95)
        while z < 80:
            model = pick(rng, CARS)
            length = MODELS[model].outline[-1][0]
            if rng.random() < full and street.clear(z - 5, z + length + 5):
                x, heading = (
                    (2 * side - 1) * (street.kerb[side] - 1.05),
                    math.pi * (1 - side) + rng.normal(0, 0.02),
                )
                park(canvas, rng, model, x, z + length / 2, heading)
            z += length + rng.uniform(0.7, 2.5)
    if street.crossing is not None:
        for way, z in ((1, street.crossing[0] + 2.2), (-1, street.crossing[1] - 2.2)):
            if rng.random() < 0.5:
                name, x = pick(rng, (*CARS, *CARS, 'bus', 'truck')), rng.uniform(3, 22) * pick(rng, (-1, 1))
                park(canvas, rng, name, x, z, way * math.pi / 2)


def people(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Queue pedestrians, riders, and parked two-wheelers."""
    for _ in range(int(rng.integers(3, 14))):
        side, z = int(rng.integers(2)), 6 + 50 * rng.random() ** 1.5
        for i in range(int(rng.integers(1, 3))):
            x = rng.uniform(street.kerb[side] + street.verge[side] + 0.4, street.line[side] - 0.5) + 0.5 * i
            person(canvas, rng, (2 * side - 1) * x, z + 0.2 * i, 0.12)
    if street.crossing is not None:
        for _ in range(int(rng.integers(0, 5))):
            x, z = rng.uniform(-street.kerb[0], street.kerb[1]), street.crossing[0] + rng.uniform(-3, -1)
            person(canvas, rng, x, z)
    for side in (0, 1):
        if rng.random() < 0.5:
            z0, name = rng.uniform(6, 24), 'bicycle' if rng.random() < 0.7 else 'motorcycle'
            x, turn = (2 * side - 1) * (street.kerb[side] + 0.9), rng.uniform(0.5, 1.6)
            for i in range(int(rng.integers(1, 5))):
                if street.clear(z0 - 3, z0 + 6):
                    two_wheeler(canvas, rng, name, x, z0 + i * 0.9, turn, ridden=False, y=0.12)


def sky(canvas: Canvas, rng: Rng) -> None:
    """Fill the canvas with a gradient and clouds, which are smooth enough to be drawn small and enlarged."""
    weather, width, height = canvas.weather, 128, 64
    zenith, horizon, tint = (np.array(c, np.float32) for c in (weather.zenith, weather.horizon, weather.tint))
    rows = np.linspace(0, canvas.pixels.shape[0] / canvas.camera.v0, height, dtype=np.float32)[:, None, None]
    colour = zenith + (horizon - zenith) * np.minimum(rows, 1) ** 0.8
    noise = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = rng.random((5 * 2**octave, 6 * 2**octave), dtype=np.float32)
        noise += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 2 ** (octave + 1)
    cover = np.clip(5 * noise - 3.1 + 1.5 * weather.clouds, 0, 1)[..., None] * (0.35 + 0.5 * weather.clouds)
    white = np.minimum(0.75 * 251 * tint + 0.25 * horizon, 255) * min(1.0, weather.ambient + 0.25)
    colour = np.dstack([colour + (white - colour) * cover, np.full((height, width), SKY, np.float32)])
    canvas.pixels[:] = cv2.resize(np.clip(colour, 0, 255).astype(np.uint8), canvas.pixels.shape[1::-1])


# How strongly the grain of a surface shows, by label id.
GRAIN = np.full(256, 0.035, np.float32)
GRAIN[[ROAD, SIDEWALK, TERRAIN, BUILDING, WALL, VEGETATION, SKY]] = 0.10, 0.09, 0.22, 0.05, 0.12, 0.13, 0.0


def develop(canvas: Canvas, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Reduce the canvas to image and labels; add grain, shadows, haze on the ground, lens and sensor."""
    height, width, weather = canvas.height, canvas.width, canvas.weather
    middle = SUPERSAMPLING // 2
    labels = np.ascontiguousarray(canvas.pixels[middle::SUPERSAMPLING, middle::SUPERSAMPLING, 3])
    small = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    planes = np.stack(cv2.split(small)[:3]).astype(np.float32)  # (3, H, W)

    v, u = np.indices((height, width), np.float32)
    x, z = canvas.camera.ground((u + 0.5) * SUPERSAMPLING, (v + 0.5) * SUPERSAMPLING)
    on_ground = (labels == ROAD) | (labels == SIDEWALK) | (labels == TERRAIN)
    tile = rng.standard_normal((128, 128), dtype=np.float32)
    tile = 0.6 * tile + 2 * cv2.GaussianBlur(tile, (0, 0), 2) + 8 * cv2.GaussianBlur(tile, (0, 0), 8)
    scale = 512 / width  # upright surfaces are as coarse in a small image as in a large one
    across, along = np.where(on_ground, x * 14, u * scale), np.where(on_ground, z * 14, v * scale)
    grain = cv2.remap(tile, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    gain = 1 + GRAIN[labels] * np.where(on_ground, 1 / (1 + z / 18), 0.6) * grain
    slab_x, slab_z = x / 0.9, z / 0.9
    joint = (slab_x - np.floor(slab_x) < 0.08) | (slab_z - np.floor(slab_z) < 0.1)
    gain -= 0.22 * ((labels == SIDEWALK) & joint) * np.clip(1.2 - z / 18, 0, 1)

    blur, full = max(0.8, width / 400), weather.ambient + weather.sun * canvas.sun[1]
    shadows, contacts = canvas.shadows.astype(np.float32) / 255, canvas.contacts.astype(np.float32) / 255
    shade = full - weather.sun * canvas.sun[1] * cv2.GaussianBlur(shadows, (0, 0), blur)
    shade *= 1 - 0.6 * cv2.GaussianBlur(contacts, (0, 0), 1.5 * blur)
    clear = np.exp(z * np.float32(-1 / weather.haze_m))
    planes *= np.where(on_ground, gain * shade * clear, gain)
    planes += np.where(on_ground, 1 - clear, 0) * np.array(weather.horizon, np.float32)[:, None, None]

    vignette = 1 - rng.uniform(0.2, 0.5) * ((u / width - 0.5) ** 2 + (v / height - 0.5) ** 2)
    exposure = rng.uniform(0.95, 1.18) * rng.uniform(0.97, 1.03, (3, 1, 1))
    planes *= vignette * exposure.astype(np.float32)
    image = cv2.GaussianBlur(cv2.merge(list(planes)), (0, 0), rng.uniform(0.3, 0.55) * max(1.0, width / 800))
    image += rng.uniform(1.0, 3.5) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def draw_scene(
    rng: Rng, size: tuple[int, int] = (512, 256), feature: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene.

    Args:
        rng: the only source of chance; the same state gives the same scene.
        size: width and height of the image in pixels.
        feature: one of `FEATURES` that must appear near the camera.

    Returns:
        The image, (H, W, 3) uint8 RGB, and its Cityscapes label ids, (H, W) uint8.

    Raises:
        ValueError: for an unknown feature.
    """
    if feature is not None and feature not in FEATURES:
        raise ValueError(f'unknown feature {feature!r}: choose one of {", ".join(FEATURES)}')
    district = int(rng.choice(3, p=(0.5, 0.3, 0.2)))
    street = lay_street(rng, district, feature)
    lane = int(rng.integers(street.lanes))
    camera = Camera(
        rng, size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING, (lane + 0.5) * street.lane + rng.normal(0, 0.2)
    )
    canvas = Canvas(rng, size, camera, pick(rng, WEATHERS))
    sky(canvas, rng)
    ground(canvas, rng, street, feature == 'train')
    backdrop(canvas, rng, district)
    walled = int(rng.integers(2)) if feature == 'wall' else None
    for side in (0, 1):
        roadside(canvas, rng, street, 2 * side - 1, district, walled == side)
    if feature is not None:
        show(canvas, rng, street, feature)  # first, so that it gets its place
    furniture(canvas, rng, street, district)
    traffic(canvas, rng, street)
    people(canvas, rng, street)
    canvas.flush()
    if rng.random() < 0.35:
        bonnet(canvas, rng)
    return develop(canvas, rng)
