"""The canvas on which a scene is painted: labels, weather, camera, light and shadow, sky and lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

RGB = tuple[float, float, float]
Point = tuple[float, float, float]  # in metres: x to the right, y up, z ahead
Spot = tuple[float, float]  # x and z of a point on the ground
Rng = np.random.Generator
T = TypeVar('T')

SUPERSAMPLING = 3  # odd, so that a cell has a centre pixel
NEAR_M, FAR_M = 1.0, 140.0

EGO, STATIC, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE = 1, 4, 7, 8, 11, 12, 13, 17
TRAFFIC_LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR = 19, 20, 21, 22, 23, 24, 25, 26
TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 27, 28, 31, 32, 33


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


# Colours that vehicles and two-wheelers share.
MATERIALS: dict[str, RGB] = {
    'glass': (44, 54, 64), 'dark': (32, 32, 35), 'tail': (196, 26, 24), 'lamp': (246, 242, 220),
    'plate': (232, 230, 214), 'white': (236, 236, 232), 'trim': (120, 122, 126), 'sign': (250, 176, 40),
}  # fmt: skip
CAR_PAINTS = (
    (212, 214, 216), (176, 180, 184), (96, 100, 106), (34, 35, 38), (24, 26, 32), (150, 24, 26),
    (36, 62, 120), (238, 238, 236), (58, 84, 72), (122, 98, 72), (196, 150, 36), (92, 128, 160),
)  # fmt: skip


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Choose one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def jitter(rng: Rng, rgb: RGB, amount: float = 0.1) -> RGB:
    """Vary brightness by `amount` and each channel by a quarter of it."""
    gain = 1 + rng.uniform(-amount, amount)
    r, g, b = (v * gain * (1 + rng.uniform(-amount, amount) / 4) for v in rgb)
    return r, g, b


def box(a0: float, a1: float, b0: float, b1: float) -> tuple[tuple[float, float], ...]:
    """Return the corners of a rectangle."""
    return (a0, b0), (a1, b0), (a1, b1), (a0, b1)


def bounds(points: Sequence[Spot]) -> tuple[Spot, Spot]:
    """Return the lower and upper corner of the box around points."""
    (x0, x1), (z0, z1) = ((min(values), max(values)) for values in zip(*points, strict=True))
    return (x0, z0), (x1, z1)


def draw_far_first(entries: Iterable[tuple[float, Callable[[], None]]]) -> None:
    """Call what draws, in falling order of distance."""
    for _, draw in sorted(entries, key=lambda entry: -entry[0]):
        draw()


CIRCLE = tuple((math.cos(t), math.sin(t)) for t in (2 * math.pi * i / 16 for i in range(17)))


class Camera:
    """A pinhole above a road that bends: metres to canvas pixels, and back for points on the ground."""

    def __init__(self, rng: Rng, width: int, height: int, x: float) -> None:
        self.x, self.y = x, rng.uniform(1.55, 2.2)
        # For images of 2:1 the uniform number is a factor on the width.
        self.focal = rng.uniform(0.78, 1.0) * math.sqrt(2 * width * height)
        self.u0, self.v0 = width * rng.uniform(0.44, 0.56), height * rng.uniform(0.41, 0.5)
        # In 1/m: the road's axis is at x = bend * z^2.
        self.bend = float(np.clip(rng.normal(0, 0.0007), -0.0015, 0.0015))
        roll = rng.normal(0, 0.008)
        self.cos, self.sin = math.cos(roll), math.sin(roll)

    def project(self, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
        """Return the pixels of points, given as numbers or as arrays."""
        scale = self.focal / z
        right, down = (x + self.bend * z * z - self.x) * scale, (self.y - y) * scale
        return self.u0 + right * self.cos - down * self.sin, self.v0 + right * self.sin + down * self.cos

    def clip(self, points: Sequence[Point]) -> list[Point]:
        """Cut the part of a polygon that lies before the near plane off."""
        if min(p[2] for p in points) >= NEAR_M:
            return list(points)
        kept: list[Point] = []
        for p, q in zip(points, [*points[1:], points[0]], strict=True):
            if p[2] >= NEAR_M:
                kept.append(p)
            if (p[2] >= NEAR_M) != (q[2] >= NEAR_M):
                t = (NEAR_M - p[2]) / (q[2] - p[2])
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1]), NEAR_M))
        return kept

    def ground(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and z of the ground under pixels; above the horizon z is that of the farthest."""
        right = (u - self.u0) * self.cos + (v - self.v0) * self.sin
        down = (v - self.v0) * self.cos - (u - self.u0) * self.sin
        z = self.focal * self.y / np.maximum(down, self.focal * self.y / (2 * FAR_M))
        return right * z / self.focal + self.x - self.bend * z * z, z


class Canvas:
    """Colour and label in one array, a painter's queue and the shadows on the ground.

    The four channels are red, green, blue and label id. One call paints colour and label alike, so that they
    cannot disagree, from far to near. The array is `SUPERSAMPLING` times as large as the result: the image is
    its area average, the label map takes the centre pixel of each cell and is never interpolated.
    """

    def __init__(self, rng: Rng, size: tuple[int, int], camera: Camera, weather: Weather) -> None:
        self.width, self.height = size
        self.camera, self.weather = camera, weather
        self.pixels = np.zeros((self.height * SUPERSAMPLING, self.width * SUPERSAMPLING, 4), np.uint8)
        self.shadows = np.zeros((self.height, self.width), np.uint8)  # cast by the sun
        self.contacts = np.zeros_like(self.shadows)  # under vehicles, in any weather
        azimuth, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.85)
        level = math.sqrt(1 - height**2)
        self.sun = math.cos(azimuth) * level, height, math.sin(azimuth) * level
        self.vehicles: list[tuple[float, float, float, float, float]] = []  # x0, x1, z0, z1, depth
        self.taken: list[tuple[float, float, float, float]] = []  # ground that is stood on: x0, x1, z0, z1
        self.queue: list[tuple[float, Callable[[], None]]] = []

    def later(self, z: float, draw: Callable[..., None], *args: Any) -> None:
        """Queue `draw(canvas, *args)` at a distance."""
        self.queue.append((z, partial(draw, self, *args)))

    def flush(self) -> None:
        """Draw what is queued."""
        draw_far_first(self.queue)

    def free(self, points: Sequence[Spot], margin: float = 0.3) -> bool:
        """Reserve the box around (x, z) points if nothing stands on it; return whether it was free."""
        (x0, z0), (x1, z1) = bounds(points)
        if any(x0 < b1 and x1 > b0 and z0 < d1 and z1 > d0 for b0, b1, d0, d1 in self.taken):
            return False
        self.taken.append((x0 - margin, x1 + margin, z0 - margin, z1 + margin))
        return True

    def depth(self, corners: Sequence[Spot]) -> float:
        """Return a vehicle's place in the queue: its near end, put right against vehicles abreast of it."""
        (x0, z0), (x1, z1) = bounds(corners)
        aside, depth = abs((x0 + x1) / 2 - self.camera.x), z0
        for b0, b1, d0, d1, other in self.vehicles:
            if z0 < d1 and z1 > d0:
                nearer = aside < abs((b0 + b1) / 2 - self.camera.x)
                depth = min(depth, other - 0.01) if nearer else max(depth, other + 0.01)
        self.vehicles.append((x0, x1, z0, z1, depth))
        return depth

    def light(self, normal: Point) -> float:
        """Return the brightness of a surface by its normal."""
        facing = sum(n * s for n, s in zip(normal, self.sun, strict=True))
        return self.weather.ambient + self.weather.sun * max(0.0, facing)

    def colour(self, rgb: RGB, z: float, label: int, gain: float = 1.0) -> tuple[float, ...]:
        """Return a surface's red, green and blue in this weather at a distance, and its label."""
        # The ground's haze depends on the pixel and is added by `develop`.
        clear = 1.0 if label in (ROAD, SIDEWALK, TERRAIN) else math.exp(-z / self.weather.haze_m)
        (r, g, b), (tr, tg, tb), (hr, hg, hb) = rgb, self.weather.tint, self.weather.horizon
        gain, haze = gain * clear, 1 - clear
        return r * gain * tr + hr * haze, g * gain * tg + hg * haze, b * gain * tb + hb * haze, label

    def outline(self, points: Sequence[Point], scale: int = 1) -> np.ndarray:
        """Return a polygon's corners in pixels, (N, 2) int32."""
        pixels = [self.camera.project(*p) for p in self.camera.clip(points)]
        return (np.array(pixels).reshape(-1, 2) // scale).astype(np.int32)

    def fill(self, points: Sequence[Point], rgb: RGB, label: int, gain: float = 1.0, alpha: float = 1.0) -> None:
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
        if min(p[2] for p in points) >= NEAR_M:
            colour = self.colour(rgb, z, label, gain)
            thickness = max(SUPERSAMPLING, round(width_m * self.camera.focal / z))
            cv2.polylines(self.pixels, [self.outline(points)], False, colour, thickness)

    def disc(self, centre: Point, radius_m: float, rgb: RGB, label: int, gain: float = 1.0) -> None:
        """Paint a disc that faces the camera."""
        if centre[2] >= NEAR_M:
            radius = max(1, round(radius_m * self.camera.focal / centre[2]))
            ((u, v),) = self.outline([centre])
            cv2.circle(self.pixels, (int(u), int(v)), radius, self.colour(rgb, centre[2], label, gain), -1)

    def cast(self, footprint: Iterable[Spot], height: float, *, base: float = 0.0, contact: bool = False) -> None:
        """Lay the shadow of an upright body that rises from `base` to `height` over (x, z) corners."""
        right, ahead = -self.sun[0] / self.sun[1], -self.sun[2] / self.sun[1]
        corners = [(x + right * h, z + ahead * h) for x, z in footprint for h in (base, height)]
        for mask, points in ((self.shadows, corners), (self.contacts, corners[::2])):
            if contact or mask is self.shadows:
                outline = self.outline([(x, 0.0, max(z, NEAR_M)) for x, z in points], SUPERSAMPLING)
                cv2.fillConvexPoly(mask, cv2.convexHull(outline), (255,))


class Frame:
    """Local metres (a ahead, b up, c to the right) to the world; heading 0 looks away from the camera."""

    def __init__(self, x: float, z: float, heading: float, y: float = 0.0, middle: float = 0.0) -> None:
        self.x, self.y, self.z, self.middle = x, y, z, middle
        self.cos, self.sin = math.cos(heading), math.sin(heading)

    def __call__(self, a: float, b: float, c: float) -> Point:
        a -= self.middle
        return self.x + a * self.sin + c * self.cos, self.y + b, self.z + a * self.cos - c * self.sin

    def footprint(self, a0: float, a1: float, half: float) -> list[Spot]:
        """Return (x, z) of the corners of a rectangle on the ground, `half` as wide on either side."""
        return [(p[0], p[2]) for p in (self(a, 0, c) for a in (a0, a1) for c in (-half, half))]

    def direction(self, a: float, b: float, c: float) -> Point:
        """Turn a local direction to the world's."""
        return a * self.sin + c * self.cos, b, a * self.cos - c * self.sin


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
