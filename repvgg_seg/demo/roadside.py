"""What stands beside the road: buildings, walls, fences, plants, signs, lights and the far backdrop."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np

from .canvas import (
    BUILDING,
    CIRCLE,
    FAR_M,
    FENCE,
    NEAR_M,
    POLE,
    RGB,
    SIGN,
    TRAFFIC_LIGHT,
    VEGETATION,
    WALL,
    Canvas,
    Point,
    Rng,
    Spot,
    box,
    jitter,
    pick,
)


class Style(NamedTuple):
    """The look of one building's faces."""

    wall: RGB
    trim: RGB
    floors: int
    storey: float
    base: float  # height of the ground floor
    pitch: float  # distance between windows
    window: tuple[float, float]  # width, height
    shop: bool
    roof: RGB | None

    @property
    def height(self) -> float:
        return self.base + self.floors * self.storey


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


def along(x: float, z0: float, z1: float, y0: float, y1: float) -> list[Point]:
    """Return an upright rectangle that runs ahead."""
    return [(x, y, z) for z, y in box(z0, z1, y0, y1)]


def across(x0: float, x1: float, y0: float, y1: float, z: float) -> list[Point]:
    """Return an upright rectangle that faces the camera."""
    return [(x, y, z) for x, y in box(x0, x1, y0, y1)]


def style(rng: Rng, tall: bool) -> Style:
    """Choose the look of a house, or of the `tall` kind that cities have."""
    face = jitter(rng, pick(rng, FACADES), 0.12)
    trim = jitter(rng, (232, 228, 218), 0.08) if rng.random() < 0.65 else jitter(rng, (96, 88, 80), 0.2)
    pitch = rng.uniform(2.0, 3.4)
    floors = int(rng.integers(3, 7) if tall else rng.integers(1, 3))
    base = rng.uniform(3.3, 4.3) if tall else 0.3
    window = pitch * rng.uniform(0.4, 0.62), rng.uniform(1.3, 2.0)
    storey, shop = rng.uniform(2.9, 3.5), tall and rng.random() < 0.6
    roof = jitter(rng, pick(rng, ROOFS), 0.15) if not tall or rng.random() < 0.35 else None
    return Style(face, trim, floors, storey, base, pitch, window, shop, roof)


def facade(canvas: Canvas, rng: Rng, start: Spot, end: Spot, look: Style, normal: Point) -> None:
    """Paint an upright face between two ground points (x, z) with its windows, shops and doors."""
    (x, z), length, camera = start, math.dist(start, end), canvas.camera
    dx, dz = (end[0] - x) / length, (end[1] - z) / length
    height, light, middle_z = look.height, canvas.light(normal), (z + end[1]) / 2
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
    for i, (glass, gain) in enumerate((*((rgb, light) for rgb in GLASS), (LAMPLIGHT, 1.0))):
        at_s, at_y = s[kind == i], y[kind == i]
        rects(at_s - width / 2, at_s + width / 2, at_y, at_y + tall, glass, gain)
    rects(s - 0.04, s + 0.04, y, y + tall, look.trim)
    if look.base > 2:  # doors and shop windows
        band = jitter(rng, pick(rng, SHOPS))
        pane = (LAMPLIGHT, 1.0) if rng.random() < 2 * canvas.weather.lamps else (GLASS[0], light)
        plinth, shade = (band, 0.85) if look.shop else (look.trim, 0.72)
        rects(0, length, 0, look.base - 0.2, plinth, light * shade)
        door = middles[int(rng.integers(columns))]
        others = middles[middles != door]
        rects(door - 0.55, door + 0.55, 0.1, 2.4, (74, 52, 40))
        if look.shop:
            rects(others - look.pitch * 0.44, others + look.pitch * 0.44, 0.5, look.base - 1.0, *pane)
            board = jitter(rng, pick(rng, SHOPS))
            rects(margin, length - margin, look.base - 0.85, look.base - 0.3, board, light * 1.1)
        else:
            rects(others - width / 2, others + width / 2, 1.1, 1.1 + tall, *pane)
    corners = np.concatenate([block for block, _ in layers], 1)
    s, y = corners[[0, 1, 1, 0]].T, corners[[2, 2, 3, 3]].T  # (N, 4): along the face and up
    away = z + dz * s
    pixels = np.stack(camera.project(x + dx * s, y, np.maximum(away, NEAR_M)), -1).astype(np.int32)
    shown, at = away.min(1) >= NEAR_M, 0
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
    hidden: float,
) -> None:
    """Paint a block whose street face is at x and whose near end shows only above the `hidden` height."""
    top, near = look.height, (0.0, 0.0, -1.0)
    if look.roof is not None:
        ridge = x + side * min(depth, 8) / 2, top + 2.6
        slope = [(x - side * 0.3, top, z0), (*ridge, z0), (*ridge, z1), (x - side * 0.3, top, z1)]
        canvas.fill(slope, look.roof, BUILDING, canvas.light((-side * 0.6, 0.8, 0)))
        gable = [(x, top, z0), (*ridge, z0), (x + side * min(depth, 8), top, z0)]
        canvas.fill(gable, look.wall, BUILDING, canvas.light(near))
    if z0 > NEAR_M and top > hidden:
        facade(canvas, rng, (x, z0), (x + side * depth, z0), look._replace(shop=False), near)
    facade(canvas, rng, (x, z0), (x, z1), look, (-side, 0, 0))


def wall(canvas: Canvas, side: int, x: float, z0: float, z1: float, height: float, rgb: RGB) -> None:
    """Paint a wall with its courses of stone and its coping."""
    light = canvas.light((-side, 0, 0))
    canvas.fill(along(x, z0, z1, 0, height), rgb, WALL, light)
    if z0 > NEAR_M:
        canvas.fill(across(x, x + side * 0.35, 0, height, z0), rgb, WALL, canvas.light((0, 0, -1)))
    for i in range(1, int(height / 0.32)):
        canvas.fill(along(x, z0, z1, i * 0.32, i * 0.32 + 0.04), rgb, WALL, light * 0.72)
    canvas.fill(along(x - side * 0.08, z0, z1, height - 0.05, height + 0.12), rgb, WALL, light * 1.18)


def fence(canvas: Canvas, side: int, x: float, z0: float, z1: float, height: float, rgb: RGB, alpha: float) -> None:
    """Paint a fence that what is behind shows through; as in Cityscapes, the label covers all of it."""
    light = canvas.light((-side, 0, 0))
    canvas.fill(along(x, z0, z1, 0.1, height), rgb, FENCE, light, alpha)
    for y in (0.25, height - 0.08):
        canvas.fill(along(x, z0, z1, y - 0.05, y + 0.05), rgb, FENCE, light)
    z = z1
    while z > max(z0, NEAR_M):
        canvas.fill(along(x, z, z + 0.09, 0.1, height + 0.05), rgb, FENCE, light * 0.85)
        z -= 0.45 if z < 30 else 1.5


def foliage(canvas: Canvas, rng: Rng, centre: Point, radius: tuple[float, float], rgb: RGB) -> None:
    """Paint a crown or bush of leaf clusters, dark below and inside, bright toward the sun."""
    x, y, z = centre
    if z < NEAR_M:
        return
    count = int(min(max(700 * radius[1] / z, 14), 170))  # by apparent size, at any resolution
    angle, reach = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.uniform(0, 1, count))
    tone = rng.normal(0, 0.09, count)
    size = rng.uniform(0.75, 1.3, count) * (0.9 / math.sqrt(count) + 0.06)
    right, up = reach * np.cos(angle), reach * np.sin(angle)
    weather = canvas.weather
    gain = weather.ambient * (0.62 + tone) + 0.2 * up + 0.35 * weather.sun * canvas.sun[0] * right
    core = [(x + radius[0] * 0.8 * u, y + radius[1] * 0.8 * v, z) for u, v in CIRCLE]
    canvas.fill(core, rgb, VEGETATION, weather.ambient * 0.6)
    u, v = canvas.camera.project(x + radius[0] * right, y + radius[1] * up, np.full(count, z))
    radii = np.maximum(size * sum(radius) * 0.9 * canvas.camera.focal / z, 1)
    for i in np.argsort(gain + rng.normal(0, 0.1, count)):
        colour = canvas.colour(rgb, z, VEGETATION, 0.25 + float(gain[i]))
        cv2.circle(canvas.pixels, (int(u[i]), int(v[i])), int(radii[i]), colour, -1)


def tree(canvas: Canvas, rng: Rng, x: float, z: float, height: float, rgb: RGB, slim: float) -> None:
    """Paint a trunk and its crown."""
    trunk, light = [(x, 0, z), (x, height * 0.6, z)], canvas.weather.ambient
    canvas.line(trunk, 0.08 + 0.025 * height, (84, 68, 54), VEGETATION, light)
    crown = height * 0.32
    foliage(canvas, rng, (x, height - crown, z), (crown * slim, crown), rgb)


def plant(canvas: Canvas, rng: Rng, x: float, z: float, height: float, depth: float | None = None) -> None:
    """Queue a tree, at its distance or at another depth."""
    crown = height * 0.28
    canvas.cast([(x + crown * u, z + crown * v) for u, v in CIRCLE[::2]], height, base=height * 0.45)
    rgb, slim = jitter(rng, pick(rng, LEAVES), 0.15), rng.uniform(0.7, 1.0)
    canvas.later(z if depth is None else depth, tree, rng, x, z, height, rgb, slim)


def hedge(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float) -> None:
    """Queue a row of bushes behind all that stands before z1."""
    for z in np.arange(max(z0, 3) + 0.6, z1, 1.4).tolist():
        rgb = jitter(rng, LEAVES[2], 0.1)
        canvas.later(z1 + z / 1000, foliage, rng, (x, 0.55, z), (0.9, 0.75), rgb)


# Edges, turn, border, inside: speed limit, no entry, yield, priority, parking, warning, direction, stop.
SIGNS: tuple[tuple[int, float, RGB, RGB], ...] = (
    (18, 0, (204, 28, 30), (240, 240, 236)), (18, 0, (204, 28, 30), (196, 24, 28)),
    (3, math.pi, (204, 28, 30), (240, 240, 236)), (4, 0, (244, 244, 240), (248, 194, 32)),
    (4, math.pi / 4, (240, 240, 240), (34, 84, 168)), (3, 0, (204, 28, 30), (240, 240, 236)),
    (18, 0, (240, 240, 240), (34, 84, 168)), (8, math.pi / 8, (244, 244, 244), (200, 26, 30)),
)  # fmt: skip


def sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Paint a pole with one or two signs."""
    grey, light = jitter(rng, (128, 130, 132)), canvas.light((0, 0, -1))
    top = rng.uniform(2.3, 2.9)
    canvas.line([(x, 0, z), (x, top, z)], 0.09, grey, POLE, light)
    for y in (top, top - 0.75)[: int(rng.integers(1, 3))]:
        edges, turn, border, inside = pick(rng, SIGNS)
        for radius, rgb in ((0.4, border), (0.3, inside)):
            angles = (turn + math.pi / 2 + 2 * math.pi * i / edges for i in range(edges))
            plate = [(x + radius * math.cos(t), y + radius * math.sin(t), z) for t in angles]
            canvas.fill(plate, rgb, SIGN, 0.25 + 0.8 * light)
        ink = (240, 240, 240) if sum(inside) < 500 else (40, 40, 44)
        canvas.fill(across(x - 0.16, x + 0.16, y - 0.05, y + 0.05, z), ink, SIGN, light)


def traffic_light(canvas: Canvas, x: float, z: float, reach: float, lit: int) -> None:
    """Paint a traffic light, with a second one above the road if its arm has a reach."""
    grey, top = (92, 96, 98), 5.6 if reach else 2.6
    canvas.line([(x, 0, z), (x, top, z), (x + reach, top, z)], 0.14, grey, POLE, canvas.weather.ambient)
    for u, y in ((x, 2.4), (x + reach, 5.2))[: 2 if reach else 1]:
        canvas.fill(across(u - 0.21, u + 0.21, y, y + 1.05, z), (38, 42, 40), TRAFFIC_LIGHT)
        for i, rgb in enumerate(((70, 250, 140), (255, 190, 50), (255, 50, 40))):
            canvas.disc((u, y + 0.2 + 0.32 * i, z), 0.14, rgb, TRAFFIC_LIGHT, 1.0 if i == lit else 0.25)


def street_light(canvas: Canvas, x: float, z: float, reach: float, height: float) -> None:
    """Paint a mast with a lamp above the road."""
    grey = (112, 116, 118)
    light, lamp = canvas.weather.ambient, height - 0.05
    mast = [(x, 0, z), (x, height - 0.5, z), (x + reach * 0.4, height, z), (x + reach, height, z)]
    canvas.line(mast, 0.15, grey, POLE, light)
    canvas.line([(x + reach, lamp, z), (x + reach * 1.3, lamp, z)], 0.24, (190, 190, 180), POLE, light)


def backdrop(canvas: Canvas, rng: Rng, district: int) -> None:
    """Close the view at the horizon with distant houses and trees."""
    x = -230.0
    while x < 230:
        width = rng.uniform(8, 26)
        if rng.random() < (0.7, 0.45, 0.15)[district]:
            height, rgb = rng.uniform(7, (24, 11, 10)[district]), jitter(rng, pick(rng, FACADES), 0.15)
            light = canvas.light((0, 0, -1))
            canvas.fill(across(x, x + width, -3, height, FAR_M), rgb, BUILDING, light)
            eaves = [(-0.5, 0.0), (width + 0.5, 0.0), (width - 3, 4.0), (3.0, 4.0)]
            canvas.fill([(x + a, height + b, FAR_M) for a, b in eaves], pick(rng, ROOFS), BUILDING)
        else:
            height, rgb = rng.uniform(5, 13), jitter(rng, LEAVES[0], 0.2)
            canvas.fill(across(x - 1, x + width + 1, -3, height * 0.6, FAR_M), rgb, VEGETATION, 0.7)
            for _ in range(int(width / 2.5)):
                crown = x + rng.uniform(0, width), rng.uniform(0.3, 1) * height, FAR_M
                canvas.disc(crown, rng.uniform(2, 4), rgb, VEGETATION, rng.uniform(0.6, 1.0))
        x += width
