"""People and two-wheelers: strokes between joints, seen from any side."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .canvas import (
    BICYCLE,
    CAR_PAINTS,
    CIRCLE,
    MATERIALS,
    MOTORCYCLE,
    PERSON,
    RGB,
    RIDER,
    Canvas,
    Frame,
    Point,
    Rng,
    jitter,
    pick,
)

Stroke = tuple[str, float, tuple[Point, ...]]  # material, width, joints (a, b, c) in metres
Pair = tuple[Point, Point]


def limbs(hip: Point, shoulder: Point, knees: Pair, feet: Pair, elbows: Pair, hands: Pair) -> tuple[Stroke, ...]:
    """Return the strokes of a body from its joints; of each pair the right-hand one comes first."""

    def at(p: Point, c: float) -> Point:
        return p[0], p[1], c

    head = shoulder[0] + 0.2 * (shoulder[0] - hip[0]) + 0.02, shoulder[1] + 0.24, 0.0
    hair = head[0] - 0.03, head[1] + 0.05, 0.0
    parts: list[Stroke] = []
    for i, c in enumerate((0.09, -0.09)):
        toe = feet[i][0] + 0.13, feet[i][1] - 0.02, feet[i][2]
        parts += [
            ('legs', 0.16, (at(hip, c), knees[i], feet[i])),
            ('shoes', 0.1, (feet[i], toe)),
            ('torso', 0.23, (at(hip, c), at(shoulder, c))),
            ('arms', 0.1, (at(shoulder, 2.2 * c), elbows[i], hands[i])),
            ('skin', 0.09, (hands[i], hands[i])),
        ]
    neck = at(shoulder, 0), head
    return (*parts, ('skin', 0.1, neck), ('skin', 0.21, (head, head)), ('hair', 0.2, (hair, hair)))


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
        points = [frame(a * scale, b * scale, c * scale) for a, b, c in joints]
        canvas.line(points, width * scale, colours[name], label, gain)


def body(canvas: Canvas, frame: Frame, label: int, pose: str, colours: dict[str, RGB], scale: float) -> None:
    """Paint a person, the parts that are farther away first."""
    parts = sorted(POSES[pose], key=lambda part: -frame(*part[2][0])[2])
    strokes(canvas, frame, label, parts, colours, scale)


def outfit(rng: Rng, rider: bool = False) -> dict[str, RGB]:
    """Choose the colours of a person."""
    top = jitter(rng, pick(rng, CLOTHES), 0.2)
    skin = pick(rng, SKINS)
    legs = jitter(rng, pick(rng, CLOTHES[:2] if rng.random() < 0.7 else CLOTHES), 0.25)
    arms = skin if rng.random() < 0.25 else jitter(rng, top, 0.06)
    hair = pick(rng, CLOTHES if rider else HAIRS)  # a rider wears a helmet
    return {'torso': top, 'arms': arms, 'legs': legs, 'skin': skin, 'shoes': (40, 36, 36), 'hair': hair}


def person(canvas: Canvas, rng: Rng, x: float, z: float, y: float = 0.0) -> None:
    """Queue a pedestrian."""
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
    corners = frame.footprint(-0.2, 1.3, 0.1)
    if not canvas.free(corners, 0.0):
        return
    canvas.cast(corners, 1.7 if ridden else 0.9, contact=name == 'motorcycle')
    canvas.later(z, machine, name, frame, jitter(rng, pick(rng, CAR_PAINTS), 0.2))
    if ridden:
        pose = 'cycle' if name == 'bicycle' else 'ride'
        canvas.later(z - 0.01, body, frame, RIDER, pose, outfit(rng, True), rng.uniform(0.95, 1.05))


def machine(canvas: Canvas, name: str, frame: Frame, paint: RGB) -> None:
    """Paint a bicycle or motorcycle."""
    label, hubs, radius, tyre, parts = TWO_WHEELERS[name]
    for hub in hubs:
        ring = [frame(hub + radius * u, radius + radius * v, 0.0) for u, v in CIRCLE]
        canvas.fill(ring, (110, 110, 112), label, alpha=0.35 if name == 'bicycle' else 0.8)
        canvas.line(ring, tyre, (28, 28, 30), label)
    strokes(canvas, frame, label, parts, {**MATERIALS, 'paint': paint})
