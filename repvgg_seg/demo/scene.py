"""Lay out a street and draw it together with its exact Cityscapes labels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .canvas import (
    CIRCLE,
    FAR_M,
    NEAR_M,
    POLE,
    RGB,
    ROAD,
    SIDEWALK,
    SUPERSAMPLING,
    TERRAIN,
    WEATHERS,
    Camera,
    Canvas,
    Rng,
    develop,
    jitter,
    pick,
    sky,
)
from .people import person, two_wheeler
from .roadside import backdrop, building, fence, hedge, plant, sign, street_light, style, traffic_light, wall
from .vehicles import CARS, MODELS, bonnet, park

# What `draw_scene` can be asked to show, because chance alone would leave a small set without some of it.
FEATURES = ('train', 'bus', 'truck', 'wall', 'motorcycle', 'rider')
SIDES = (-1, 1)  # left and right
CROSSING_WALK_M = 2.8  # width of the sidewalks of a crossing street


class Street(NamedTuple):
    """The cross section of a street, with pairs for left and right, and its crossing with another."""

    lane: float
    lanes: int  # in each direction
    kerb: tuple[float, ...]  # distance of the kerbs from the axis
    verge: tuple[float, ...]  # width of the grass between kerb and sidewalk
    line: tuple[float, ...]  # distance of the buildings from the axis
    crossing: tuple[float, float] | None  # from z to z

    @property
    def half(self) -> float:
        """The distance from the axis to the edge of the lanes."""
        return self.lane * self.lanes

    def parking(self, side: int) -> bool:
        return self.kerb[side > 0] > self.half + 1

    def clear(self, z0: float, z1: float) -> bool:
        return self.crossing is None or z1 < self.crossing[0] or z0 > self.crossing[1]


# The stuff of sidewalks and walls, and of fences with their opacity.
PAVINGS = ((172, 164, 156), (156, 154, 152), (182, 166, 148), (142, 132, 126))
STONES = ((168, 156, 140), (150, 104, 84), (186, 184, 178), (140, 136, 132))
FENCES = (((52, 60, 56), 0.3), ((128, 96, 66), 0.9), ((226, 224, 216), 0.45), ((60, 84, 66), 0.4))
LOTS = {  # how often what stands beside the road in a city, a suburb and a green quarter
    'building': (0.84, 0.15, 0.12), 'house': (0.02, 0.45, 0.2), 'wall': (0.05, 0.14, 0.14),
    'fence': (0.04, 0.14, 0.19), 'park': (0.05, 0.12, 0.35),
}  # fmt: skip


def strip(canvas: Canvas, x0: float, x1: float, z0: float, z1: float, rgb: RGB, label: int, y: float = 0.0) -> None:
    """Paint a band of the ground that follows the road's bend."""
    zs = (np.geomspace(z0 + 1, z1 + 1, 2 if z1 - z0 < 6 else 16) - 1).tolist()
    canvas.fill([(x0, y, z) for z in zs] + [(x1, y, z) for z in reversed(zs)], rgb, label)


def lay_street(rng: Rng, district: int, feature: str | None) -> Street:
    """Choose the measures of a street."""
    lane, lanes = rng.uniform(3.1, 3.6), 1 if rng.random() < 0.75 else 2
    kerb = tuple(lane * lanes + (2.1 if rng.random() < 0.6 else 0.3) for _ in SIDES)
    grass = (0.12, 0.45, 0.65)[district]
    verge = tuple(rng.uniform(0.8, 2.2) if rng.random() < grass else 0.0 for _ in SIDES)
    line = tuple(k + v + rng.uniform(1.9, 4.2) for k, v in zip(kerb, verge, strict=True))
    start = rng.uniform(15, 48)
    crossing = (start, start + rng.uniform(7, 11)) if rng.random() < 0.6 and feature != 'wall' else None
    return Street(lane, lanes, kerb, verge, line, crossing)


def ground(canvas: Canvas, rng: Rng, street: Street, rails: bool) -> None:
    """Paint terrain, roads, markings and sidewalks."""
    (left, right), crossing = street.kerb, street.crossing
    asphalt = jitter(rng, (98, 97, 100), 0.22)
    paving, stone = jitter(rng, pick(rng, PAVINGS), 0.1), jitter(rng, (190, 188, 184), 0.1)
    grass, paint = jitter(rng, (104, 122, 66), 0.2), jitter(rng, (226, 226, 222), 0.08)
    strip(canvas, -400, 400, NEAR_M, FAR_M + 30, grass, TERRAIN)
    strip(canvas, -left, right, NEAR_M, FAR_M + 30, asphalt, ROAD)
    for _ in range(5):  # repairs
        x, z = rng.uniform(-left, right - 1.5), rng.uniform(5, 40)
        x1, z1 = x + rng.uniform(0.5, 1.5), z + rng.uniform(1, 9)
        strip(canvas, x, x1, z, z1, jitter(rng, asphalt, 0.12), ROAD)
    pieces = [(NEAR_M, FAR_M)]
    if crossing is not None:
        start, end = crossing
        pieces = [(NEAR_M, start), (end, FAR_M)]
        strip(canvas, -90, 90, start - CROSSING_WALK_M, end + CROSSING_WALK_M, paving, SIDEWALK)
        strip(canvas, -90, 90, start, end, asphalt, ROAD)
        strip(canvas, -left, right, start - 3, end + 3, asphalt, ROAD)
    dash, gap = rng.uniform(2.5, 4), rng.uniform(3, 6)
    zebra = crossing is not None and rng.random() < 0.75
    for z0, z1 in pieces:
        for side, kerb, verge, line in zip(SIDES, street.kerb, street.verge, street.line, strict=True):
            strip(canvas, side * kerb, side * (kerb + 1.5), z0, z1, stone, SIDEWALK)  # the kerb's face
            strip(canvas, side * kerb, side * line, z0, z1, paving, SIDEWALK, 0.12)
            strip(canvas, side * kerb, side * (kerb + 0.2), z0, z1, stone, SIDEWALK, 0.12)
            if verge:
                strip(canvas, side * (kerb + 0.2), side * (kerb + verge), z0, z1, grass, TERRAIN, 0.14)
            if street.parking(side):
                edge = side * street.half
                strip(canvas, edge - 0.06, edge + 0.06, z0, z1, paint, ROAD)
        stop = z1 - 4.5 if crossing is not None and z0 == NEAR_M else z1
        for boundary in range(1 - street.lanes, street.lanes):
            z, middle = NEAR_M + rng.uniform(0, 4), boundary * street.lane
            while z < min(stop, 80):
                if z >= z0:
                    strip(canvas, middle - 0.07, middle + 0.07, z, min(z + dash, stop), paint, ROAD)
                z += dash + gap
        if zebra:
            z = z1 - 3.6 if z0 == NEAR_M else z0 + 0.8
            x = -left + 0.4
            while x < right - 0.5:
                strip(canvas, x, x + 0.5, z, z + 2.8, paint, ROAD)
                x += 1.0
    if crossing is not None:  # the stop line
        strip(canvas, 0.1, street.half, crossing[0] - 4.9, crossing[0] - 4.5, paint, ROAD)
    if rails:
        for middle in (-street.lane / 2, street.lane / 2):
            strip(canvas, middle - 1.1, middle + 1.1, NEAR_M, FAR_M, jitter(rng, asphalt, 0.12), ROAD)
            for x in (middle - 0.75, middle + 0.65):
                strip(canvas, x, x + 0.1, NEAR_M, FAR_M, (70, 68, 70), ROAD)
    for _ in range(3):  # manholes
        x, z, r = rng.uniform(-left, right), rng.uniform(6, 30), 0.36
        canvas.fill([(x + r * u, 0, z + r * v) for u, v in CIRCLE], (70, 68, 68), ROAD)


def lots(canvas: Canvas, rng: Rng, street: Street, side: int, district: int, walled: bool) -> None:
    """Queue the lots along one side; a lot's depth is its far end, behind all that stands before it."""
    x, z = side * street.line[side > 0], rng.uniform(-4, 2)
    names, share = tuple(LOTS), np.array([row[district] for row in LOTS.values()])
    covered = 0.0  # height of the building that adjoins the next lot
    while z < FAR_M - 12:
        kind, z0 = names[int(rng.choice(len(names), p=share / share.sum()))], z
        z1 = z0 + rng.uniform(9, 20)
        if walled and z1 > 9:
            kind, walled, z1 = 'wall', False, z0 + 24
        deep = 12.0
        if street.crossing is not None:
            start, end = street.crossing[0] - CROSSING_WALK_M, street.crossing[1] + CROSSING_WALK_M
            if z0 < end and start - z0 < 5:  # the first lot behind it also lines the crossing street
                z0, deep, covered = end, 40.0, 0.0
                z1 = z0 + rng.uniform(10, 18)
            elif z0 < end and z1 > start:
                z1 = start
        tall, set_back = kind == 'building', rng.uniform(3.5, 6)
        z, hidden, covered = z1, covered, 0.0
        if tall or kind == 'house':
            look, face = style(rng, tall), x if tall else x + side * set_back
            near, far = (z0, z1) if tall else (z0 + 1.5, z1 - 1.5)
            depth = deep if tall else 8.0
            canvas.later(z1 + 0.5, building, rng, side, face, near, far, look, depth, hidden)
            canvas.cast([(a, b) for a in (face, face + side * 8) for b in (near, far)], look.height)
            if tall:
                covered = look.height
                continue
        for _ in range(1 if kind == 'house' else int(rng.integers(2, 5))):
            away = 2.2 if kind == 'house' else rng.uniform(1.5, 9)
            at = rng.uniform(max(z0, 3) + 1, max(z1, 6))
            plant(canvas, rng, x + side * away, at, rng.uniform(4, 11), z1 + at / 1000 + away / 100)
        front = pick(rng, ('wall', 'fence', 'hedge')) if kind == 'house' else kind
        if front == 'wall':
            height = rng.uniform(2.0, 2.8) if kind == 'wall' else rng.uniform(0.7, 1.2)
            canvas.later(z1, wall, side, x, z0, z1, height, jitter(rng, pick(rng, STONES), 0.12))
            canvas.cast([(x, z0), (x, z1)], height)
        elif front == 'fence':
            rgb, mesh = pick(rng, FENCES)
            canvas.later(z1, fence, side, x, z0, z1, rng.uniform(1.1, 1.9), jitter(rng, rgb), mesh)
        elif front == 'hedge' or rng.random() < 0.4:
            hedge(canvas, rng, x, z0, z1)


def furniture(canvas: Canvas, rng: Rng, street: Street, district: int) -> None:
    """Queue trees, lamps, signs and other things on the sidewalks, and the lights at a crossing."""
    height, spacing = rng.uniform(6.5, 9), rng.uniform(20, 32)
    trees = rng.random() < (0.4, 0.5, 0.75)[district]
    for side in SIDES:
        kerb, line = side * street.kerb[side > 0], side * street.line[side > 0]
        z = rng.uniform(5, 5 + spacing)
        while z < 95:
            if street.clear(z - 4, z + 4):
                canvas.later(z, street_light, kerb + side * 0.4, z, -side * 1.8, height)
                canvas.cast([(kerb + side * 0.3, z), (kerb + side * 0.5, z)], height)
            z += spacing
        step = rng.uniform(7, 13)
        for z in np.arange(rng.uniform(6, 14), 100, step).tolist():
            if trees and rng.random() < 0.75 and street.clear(z - 4, z + 4):
                plant(canvas, rng, kerb + side * 0.9, z + rng.uniform(-1, 1), rng.uniform(5, 9))
        for _ in range(int(rng.integers(1, 5))):
            z = rng.uniform(8, 42)
            if street.clear(z - 3, z + 3):
                canvas.later(z, sign, rng, kerb + side * 0.45, z)
        for _ in range(int(rng.integers(0, 3))):
            z = rng.uniform(6, 35)
            if street.clear(z - 3, z + 3):
                name = 'kiosk' if rng.random() < 0.2 else 'bin'
                park(canvas, rng, name, line - side * 0.8, z, rng.uniform(-0.2, 0.2), 0.12)
        if rng.random() < 0.4:  # bollards, or a railing along the kerb
            z0 = rng.uniform(7, 22)
            for z in np.arange(z0, z0 + 9, 1.6).tolist():
                if street.clear(z - 3, z + 3):
                    ends = [(kerb + side * 0.3, y, z) for y in (0.1, 0.95)]
                    canvas.later(z, Canvas.line, ends, 0.12, (80, 82, 84), POLE)
        elif rng.random() < 0.35 and street.clear(10, 22):
            rgb = jitter(rng, (120, 124, 126))
            for z in (10.0, 12.0, 14.0, 16.0, 18.0):
                canvas.later(z, fence, side, kerb + side * 0.35, z, z + 2, 1.05, rgb, 0.12)
    if street.crossing is not None and rng.random() < 0.8:
        lit, z, beyond = pick(rng, (0, 2, 2)), street.crossing[0] - 3.2, street.crossing[1] + 3.0
        for side in SIDES:
            reach = -side * rng.uniform(2.5, 4) if rng.random() < 0.5 else 0.0
            x = side * (street.kerb[side > 0] + 0.5)
            canvas.later(z, traffic_light, x, z, reach, lit)
            canvas.later(beyond, traffic_light, x, beyond, 0.0, lit)


def show(canvas: Canvas, rng: Rng, street: Street, feature: str) -> None:
    """Queue a featured vehicle or rider where nothing hides it."""
    z = rng.uniform(9, 14)
    if feature in ('motorcycle', 'rider'):
        name = 'motorcycle' if feature == 'motorcycle' else 'bicycle'
        x, heading = canvas.camera.x + rng.uniform(0.6, 1.5), rng.uniform(0.15, 0.5) * pick(rng, (-1, 1))
        two_wheeler(canvas, rng, name, x, rng.uniform(7, 10), heading, ridden=True)
    elif feature != 'wall':
        name = 'tram' if feature == 'train' else feature
        park(canvas, rng, name, -street.lane / 2, z + MODELS[name].length / 2, math.pi)


def traffic(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Queue moving and parked vehicles."""
    busy = rng.uniform(0.2, 0.75)
    for lane in range(-street.lanes, street.lanes):
        x = (lane + 0.5) * street.lane
        z = rng.uniform(11, 26) if abs(x - canvas.camera.x) < 1 else rng.uniform(8, 22)
        while z < 90:
            name = pick(rng, ('truck', 'bus')) if rng.random() < 0.14 else pick(rng, CARS)
            length = MODELS[name].length
            heading = (0.0 if lane >= 0 else math.pi) + rng.normal(0, 0.025)
            if rng.random() < busy:
                if rng.random() < 0.12:
                    kind = pick(rng, ('bicycle', 'motorcycle'))
                    aside, turn = rng.uniform(-0.5, 0.9), rng.normal(0, 0.2)
                    two_wheeler(canvas, rng, kind, x + aside, z + 1, heading + turn, ridden=True)
                else:
                    park(canvas, rng, name, x + rng.normal(0, 0.15), z + length / 2, heading)
            z += length + rng.uniform(4, 24)
    for side in SIDES:
        z = rng.uniform(4, 12)
        if not street.parking(side):
            continue
        full = rng.uniform(0.3, 0.95)
        x = side * (street.kerb[side > 0] - 1.05)
        while z < 80:
            name = pick(rng, CARS)
            length = MODELS[name].length
            if rng.random() < full and street.clear(z - 5, z + length + 5):
                heading = (0.0 if side > 0 else math.pi) + rng.normal(0, 0.02)
                park(canvas, rng, name, x, z + length / 2, heading)
            z += length + rng.uniform(0.7, 2.5)
    if street.crossing is not None:
        for way, z in ((1, street.crossing[0] + 2.2), (-1, street.crossing[1] - 2.2)):
            if rng.random() < 0.5:
                name, x = pick(rng, (*CARS, *CARS, 'bus', 'truck')), rng.uniform(3, 22) * pick(rng, (-1, 1))
                park(canvas, rng, name, x, z, way * math.pi / 2)


def crowd(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Queue pedestrians and parked two-wheelers."""
    for _ in range(int(rng.integers(3, 14))):
        side, z = pick(rng, SIDES), 6 + 50 * rng.random() ** 1.5
        kerb, verge, line = (pair[side > 0] for pair in (street.kerb, street.verge, street.line))
        for i in range(int(rng.integers(1, 3))):
            x = rng.uniform(kerb + verge + 0.4, line - 0.5) + 0.5 * i
            person(canvas, rng, side * x, z + 0.2 * i, 0.12)
    if street.crossing is not None:
        for _ in range(int(rng.integers(0, 5))):
            x, z = rng.uniform(-street.kerb[0], street.kerb[1]), street.crossing[0] + rng.uniform(-3, -1)
            person(canvas, rng, x, z)
    for side in SIDES:
        if rng.random() < 0.5:
            z0, name = rng.uniform(6, 24), 'bicycle' if rng.random() < 0.7 else 'motorcycle'
            x, turn = side * (street.kerb[side > 0] + 0.9), rng.uniform(0.5, 1.6)
            for i in range(int(rng.integers(1, 5))):
                if street.clear(z0 - 3, z0 + 6):
                    two_wheeler(canvas, rng, name, x, z0 + i * 0.9, turn, ridden=False, y=0.12)


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
    width, height = (side * SUPERSAMPLING for side in size)
    camera = Camera(rng, width, height, (lane + 0.5) * street.lane + rng.normal(0, 0.2))
    canvas = Canvas(rng, size, camera, pick(rng, WEATHERS))
    sky(canvas, rng)
    ground(canvas, rng, street, feature == 'train')
    backdrop(canvas, rng, district)
    walled = pick(rng, SIDES) if feature == 'wall' else None
    for side in SIDES:
        lots(canvas, rng, street, side, district, walled == side)
    if feature is not None:
        show(canvas, rng, street, feature)  # first, so that it gets its place
    furniture(canvas, rng, street, district)
    traffic(canvas, rng, street)
    crowd(canvas, rng, street)
    canvas.flush()
    if rng.random() < 0.35:
        bonnet(canvas, rng)
    return develop(canvas, rng)
