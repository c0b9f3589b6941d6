"""Where the surfaces of the synthetic scene lie: an agricultural valley with a village, drawn on sub-pixels.

The map holds, for every sub-pixel, the object it belongs to (an index into a list of mixtures), the share of the
object's first mixture against its second (canopy against ground, for example), and how much direct sun it gets (1 on
flat ground, 0 in shadow). Lengths are in metres; x grows along a row, y down the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lkca.data.synthetic.spectra import MATERIALS

__all__ = ["SceneMap", "draw_scene"]

Mixture = Mapping[str, float]

_SHADOW = np.array([0.62, 0.70])  # metres of shadow (x, y) per metre of height: the sun stands in the north-west
_PARCEL = 1.2e4  # m2; larger parcels are divided
_VILLAGE_ANGLE = 0.35  # radians

_FIELDS: tuple[tuple[Mixture, Mixture], ...] = (
    ({"crop, dense": 1}, {"loam": 1}),
    ({"crop, young": 1}, {"loam": 0.7, "wet soil": 0.3}),
    ({"crop, ripening": 0.7, "crop, young": 0.3}, {"sandy soil": 0.5, "loam": 0.5}),
    ({"straw": 1}, {"sandy soil": 0.6, "loam": 0.4}),
    ({"grass": 0.8, "straw": 0.2}, {"litter": 0.5, "loam": 0.5}),
    ({"loam": 1}, {"wet soil": 1}),
    ({"red clay": 1}, {"sandy soil": 1}),
)
_FIELD_COVER = (0.9, 0.5, 0.75, 0.6, 0.85, 0.6, 0.6)
_TREES: tuple[tuple[Mixture, Mixture], ...] = (
    ({"broadleaf": 1}, {"litter": 0.7, "grass": 0.3}),
    ({"poplar": 0.7, "broadleaf": 0.3}, {"grass": 0.8, "litter": 0.2}),
    ({"conifer": 1}, {"litter": 1}),
)
_ROOFS: tuple[tuple[Mixture, float], ...] = (
    ({"clay tile": 1}, 0.5),
    ({"clay tile": 0.5, "slate": 0.5}, 0.15),
    ({"slate": 1}, 0.2),
    ({"roof membrane": 1}, 0.08),
    ({"solar panel": 0.7, "clay tile": 0.3}, 0.07),
)
_HALLS: tuple[Mixture, ...] = (
    {"metal roof": 1}, {"blue paint": 1}, {"roof membrane": 1}, {"solar panel": 1}, {"concrete": 1}
)  # fmt: skip


@dataclass
class SceneMap:
    """pitch: metres per sub-pixel. object: int32 index into mixtures. cover, sun: float32. See the module."""

    object: np.ndarray
    cover: np.ndarray
    sun: np.ndarray
    pitch: float
    mixtures: list[tuple[Mixture, Mixture]] = field(default_factory=list)

    def add(self, first: Mixture, second: Mixture | None = None) -> int:
        """A new object of two mixtures; returns its index."""
        self.mixtures.append((first, first if second is None else second))
        return len(self.mixtures) - 1

    def table(self) -> np.ndarray:
        """Shares of the materials in both mixtures: (2, materials, objects) float32, summing to 1 over materials."""
        shares = np.zeros((2, len(MATERIALS), len(self.mixtures)), dtype=np.float32)
        for i, pair in enumerate(self.mixtures):
            for k, mixture in enumerate(pair):
                for name, share in mixture.items():
                    shares[k, MATERIALS.index(name), i] = share
        result: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
        return result


class _Canvas:
    """Scene under construction, its coordinates, and the shapes to draw with."""

    def __init__(self, height: int, width: int, pitch: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = np.array([width * pitch, height * pitch])  # m, (x, y)
        self.x = ((np.arange(width) + 0.5) * pitch).astype(np.float32)[None, :]
        self.y = ((np.arange(height) + 0.5) * pitch).astype(np.float32)[:, None]
        ones = np.ones((height, width), np.float32)
        self.map = SceneMap(np.zeros((height, width), np.int32), ones, ones.copy(), pitch)

    def smooth(self, length: float) -> np.ndarray:
        """A smooth random field of about unit variance that varies over ``length`` metres."""
        nodes = [int(n / length) + 4 for n in self.size[::-1]]
        values = self.rng.standard_normal(nodes).astype(np.float32)
        rows, cols = (_spline(at.ravel() / length + 1, n) for at, n in zip((self.y, self.x), nodes, strict=True))
        result: np.ndarray = 2.1 * (rows @ values @ cols.T)
        return result

    def axes(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates along and across a direction, from the middle of the scene."""
        x, y = self.x - self.size[0] / 2, self.y - self.size[1] / 2
        return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    def box(self, centre: np.ndarray, reach: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The sub-pixels within ``reach`` of a point along x and y, and their offsets from it."""
        low = np.maximum(((centre - reach) / self.map.pitch).astype(int), 0)
        high = np.maximum(((centre + reach) / self.map.pitch).astype(int) + 1, 0)
        part = slice(low[1], high[1]), slice(low[0], high[0])
        return part, self.x[:, part[1]] - centre[0], self.y[part[0]] - centre[1]

    def paint(self, where: np.ndarray, object_: int, cover: np.ndarray | float) -> None:
        """Set an object in full sun where ``where`` (bool, whole map) holds; ``cover`` as a map or a number."""
        self.map.object[where], self.map.sun[where] = object_, 1
        self.map.cover[where] = cover[where] if isinstance(cover, np.ndarray) else cover


def draw_scene(height: int, width: int, pitch: float, rng: np.random.Generator) -> SceneMap:
    """Draw ``height`` x ``width`` sub-pixels from the ground up: parcels, water, roads, houses, trees, relief."""
    canvas = _Canvas(height, width, pitch, rng)
    village = canvas.size * rng.uniform(0.3, 0.7, 2)
    reach = float(np.clip(0.22 * canvas.size.min(), 50, 400))
    _parcels(canvas, village, reach)
    taken = _river(canvas)
    _roads(canvas, village, reach, taken)
    _lake(canvas, taken)
    _buildings(canvas, village, reach, taken)
    _lone_trees(canvas, village, reach, taken)
    canvas.map.sun *= np.clip(1 + 0.09 * canvas.smooth(140), 0.6, 1.4)
    np.clip(canvas.map.cover, 0, 1, out=canvas.map.cover)
    return canvas.map


def _parcels(canvas: _Canvas, village: np.ndarray, reach: float) -> None:
    """Divide the land again and again, and use each parcel as field, wood or garden; tracks and hedges between."""
    rng, scene = canvas.rng, canvas.map
    vigour, patches = canvas.smooth(70), canvas.smooth(18)
    flat_x, flat_y = (np.broadcast_to(v, scene.object.shape).ravel() for v in (canvas.x, canvas.y))
    margins: list[tuple[np.ndarray, int]] = []
    margin_kinds = [
        (scene.add({"gravel": 0.6, "loam": 0.4}, {"grass": 1}), 5.0),
        (scene.add({"broadleaf": 0.8, "grass": 0.2}, {"litter": 1}), 7.0),
        (scene.add({"grass": 0.7, "straw": 0.3}), 4.0),
    ]
    trees = [scene.add(*mixtures) for mixtures in _TREES]
    main_angle = rng.uniform(0.1, 0.6)
    stack = [np.arange(scene.object.size)]
    while stack:
        index = stack.pop()
        angle = main_angle + rng.normal(0, 0.07)
        x, y = flat_x[index], flat_y[index]
        along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        extents = [float(np.ptp(a)) for a in along]
        area = len(index) * scene.pitch**2
        if area > _PARCEL * rng.uniform(0.5, 1.8) and max(extents) > 40:
            side = along[int(np.argmax(extents))]
            cut = side.min() + np.ptp(side) * rng.uniform(0.35, 0.65)
            object_, breadth = margin_kinds[rng.choice(3, p=(0.4, 0.3, 0.3))]
            margins.append((index[np.abs(side - cut) < breadth / 2], object_))
            stack += [part for part in (index[side < cut], index[side >= cut]) if len(part)]
            continue
        near = np.hypot(x.mean() - village[0], y.mean() - village[1]) < reach
        if not near and rng.random() < 0.16:
            _wood(canvas, index, x, y, trees)
            continue
        mixtures: tuple[Mixture, Mixture]
        if near:
            mixtures, cover, contrast = ({"grass": 0.8, "poplar": 0.2}, {"loam": 0.3, "gravel": 0.7}), 0.75, 0.0
        else:
            kind = rng.integers(len(_FIELDS))
            mixtures, cover = _FIELDS[kind], _FIELD_COVER[kind]
            contrast = rng.choice([0, 0, 0.15, 0.25])
        rows = np.sign(np.sin(along[int(np.argmin(extents))] * (2 * np.pi / rng.uniform(32, 64))))
        values = cover * rng.uniform(0.8, 1.1) + contrast * rows
        values += 0.10 * vigour.ravel()[index] + 0.05 * patches.ravel()[index]
        scene.object.ravel()[index] = scene.add(*mixtures)
        scene.cover.ravel()[index] = values
        scene.sun.ravel()[index] = rng.uniform(0.93, 1.07)
    for index, object_ in margins:
        scene.object.ravel()[index] = object_
        scene.cover.ravel()[index] = 0.85
        scene.sun.ravel()[index] = 0.95


def _wood(canvas: _Canvas, index: np.ndarray, x: np.ndarray, y: np.ndarray, trees: list[int]) -> None:
    """Crowns around the nearest point of a jittered grid, bright towards the sun, with dark gaps between."""
    rng, scene = canvas.rng, canvas.map
    step = rng.uniform(12, 17)
    cell_x, cell_y = ((v - v.min()) / step for v in (x, y))
    shape = int(cell_y.max()) + 3, int(cell_x.max()) + 3
    jitter = rng.uniform(0.15, 0.85, (2, *shape)).astype(np.float32)
    species = rng.choice(trees, p=rng.dirichlet((1.2, 0.8, 0.8)), size=shape)
    i, j = cell_y.astype(int) + 1, cell_x.astype(int) + 1
    nearest = np.full(len(index), np.inf, np.float32)
    shade = np.zeros(len(index), np.float32)
    kind = np.empty(len(index), np.int32)
    toward = _SHADOW / np.linalg.norm(_SHADOW)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            dy = cell_y + 1 - (i + di + jitter[0, i + di, j + dj])
            dx = cell_x + 1 - (j + dj + jitter[1, i + di, j + dj])
            square = dx * dx + dy * dy
            closer = square < nearest
            nearest = np.where(closer, square, nearest)
            shade = np.where(closer, dx * toward[0] + dy * toward[1], shade)
            kind = np.where(closer, species[i + di, j + dj], kind)
    distance = np.sqrt(nearest)
    scene.object.ravel()[index] = kind
    scene.cover.ravel()[index] = 1.2 - 0.6 * distance
    scene.sun.ravel()[index] = np.clip(1.0 - 0.6 * shade - 0.25 * distance, 0.1, 1.2)


def _course(canvas: _Canvas, angle: float, offset: float, swing: float) -> np.ndarray:
    """Distance in metres to a winding line through the scene, signed."""
    along, across = canvas.axes(angle)
    reach = 0.5 * canvas.size.max() + 1
    wave = np.zeros_like(along)
    slope = np.zeros_like(along)
    for k in (1.0, 2.3):
        rate, phase = k * canvas.rng.uniform(1.6, 2.8) / reach, canvas.rng.uniform(0, 2 * np.pi)
        wave += swing / k * np.sin(rate * along + phase)
        slope += swing / k * rate * np.cos(rate * along + phase)
    result: np.ndarray = (across - offset - wave) / np.sqrt(1 + slope**2)
    return result


def _river(canvas: _Canvas) -> np.ndarray:
    """A river with shallow edges and wet banks; returns where it is, the banks included."""
    rng, scene = canvas.rng, canvas.map
    small = float(canvas.size.min())
    distance = np.abs(_course(canvas, rng.uniform(-0.5, 0.3), rng.uniform(0.16, 0.3) * small, 0.07 * small))
    half = min(0.05 * small, 16.0) * (1 + 0.2 * canvas.smooth(120))
    bank = distance < half + 7
    bank_cover = np.clip((distance - half) / 7, 0, 1)
    canvas.paint(bank, scene.add({"grass": 0.7, "straw": 0.3}, {"wet soil": 0.8, "gravel": 0.2}), bank_cover)
    canvas.paint(distance < half, scene.add({"river": 1}, {"wet soil": 1}), 1 - 0.35 * (distance / half) ** 6)
    result: np.ndarray = bank
    return result


def _lake(canvas: _Canvas, taken: np.ndarray) -> None:
    """A lake with a beach, where of some places the least is taken; adds it to ``taken``."""
    rng, scene = canvas.rng, canvas.map
    radii = rng.uniform(0.05, 0.09, 2) * float(canvas.size.min())
    places = canvas.size * rng.uniform(0.05, 0.95, (40, 2))
    crowded = [taken[canvas.box(place, 1.2 * radii.max())[0]].sum() for place in places]
    centre = places[int(np.argmin(crowded))]
    turn = rng.uniform(0, np.pi)
    x, y = canvas.x - centre[0], canvas.y - centre[1]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    level = np.hypot(u / radii[0], v / radii[1]) + 0.12 * canvas.smooth(45)
    beach = (level < 1.12) & ~taken
    canvas.paint(beach, scene.add({"sandy soil": 0.6, "wet soil": 0.4}, {"grass": 1}), 0.6)
    canvas.paint(beach & (level < 1), scene.add({"lake": 1}, {"river": 1}), 0.8)
    taken |= beach


def _roads(canvas: _Canvas, village: np.ndarray, reach: float, taken: np.ndarray) -> None:
    """A straight main road and winding ones with verges, and the village's streets; adds them to ``taken``."""
    rng, scene = canvas.rng, canvas.map
    small = float(canvas.size.min())
    worn = scene.add({"asphalt, worn": 1}, {"asphalt, new": 1})
    fresh = scene.add({"asphalt, new": 0.9, "gravel": 0.1})
    lane = scene.add({"concrete": 0.6, "gravel": 0.4}, {"loam": 1})
    verge = scene.add({"grass": 0.6, "straw": 0.4}, {"gravel": 1})
    aged = 0.75 + 0.15 * canvas.smooth(90)

    def draw(distance: np.ndarray, width: float, surface: int, side: float, where: np.ndarray | None = None) -> None:
        wide, narrow = distance < width / 2 + side, distance < width / 2
        if where is not None:
            wide, narrow = wide & where, narrow & where
        canvas.paint(wide, verge, 0.8)
        canvas.paint(narrow, surface, aged)
        np.logical_or(taken, wide, out=taken)

    draw(np.abs(_course(canvas, rng.uniform(0.9, 1.4), rng.uniform(-0.3, 0.1) * small, 0.10 * small)), 5, lane, 1)
    draw(np.abs(_course(canvas, rng.uniform(-0.6, 0.2), rng.uniform(-0.35, -0.1) * small, 0.09 * small)), 7, worn, 2)
    x, y = canvas.x - village[0], canvas.y - village[1]
    u = x * np.cos(_VILLAGE_ANGLE) + y * np.sin(_VILLAGE_ANGLE)
    v = y * np.cos(_VILLAGE_ANGLE) - x * np.sin(_VILLAGE_ANGLE)
    inside = (np.hypot(u, v) < reach) & ~taken
    for coordinate, spacing in ((u, 118), (v, 74)):
        draw(np.abs((coordinate + spacing / 2) % spacing - spacing / 2), 8, worn, 0, inside)
    draw(np.abs(v + 0 * u), 13, fresh, 3)  # the main road runs through the village


def _buildings(canvas: _Canvas, village: np.ndarray, reach: float, taken: np.ndarray) -> None:
    """Houses on the village's lots, halls at its edge and farms in the fields, with gable roofs and shadows."""
    rng = canvas.rng
    turn = np.array(
        [[np.cos(_VILLAGE_ANGLE), np.sin(_VILLAGE_ANGLE)], [-np.sin(_VILLAGE_ANGLE), np.cos(_VILLAGE_ANGLE)]]
    )
    roofs = [canvas.map.add(mixture) for mixture, _ in _ROOFS]
    halls = [canvas.map.add(mixture) for mixture in _HALLS]
    odds = np.array([share for _, share in _ROOFS])
    places: list[tuple[np.ndarray, np.ndarray, float, float, int, bool]] = []
    for u in np.arange(-reach, reach, 27):
        for v in np.arange(-reach, reach, 24.7):
            if np.hypot(u, v) > reach or rng.random() > 0.8:
                continue
            centre = village + (np.array([u, v]) + rng.normal(0, 1.5, 2)) @ turn
            shape = rng.uniform((11, 8), (17, 12))
            roof = int(rng.choice(roofs, p=odds))
            places.append((centre, shape, _VILLAGE_ANGLE + rng.choice([0, np.pi / 2]), rng.uniform(5, 9), roof, True))
    for _ in range(int(reach / 22)):
        at = rng.uniform(0, 2 * np.pi)
        centre = village + reach * rng.uniform(0.95, 1.25) * np.array([np.cos(at), np.sin(at)])
        shape, roof = rng.uniform((35, 22), (80, 45)), int(rng.choice(halls))
        places.append((centre, shape, _VILLAGE_ANGLE + rng.normal(0, 0.1), rng.uniform(7, 13), roof, False))
    for _ in range(int(canvas.size.prod() / 9e4)):
        farm, angle = canvas.size * rng.uniform(0.03, 0.97, 2), rng.uniform(0, np.pi)
        for _ in range(rng.integers(2, 5)):
            shape = rng.uniform((16, 10), (38, 16))
            roof = int(rng.choice([roofs[0], roofs[2], *halls[:2]]))
            centre = farm + rng.normal(0, 20, 2)
            places.append((centre, shape, angle + rng.choice([0, np.pi / 2]), rng.uniform(6, 10), roof, True))
    for centre, shape, angle, height, roof, gable in places:
        _building(canvas, taken, centre, shape, angle, height, roof, gable)


def _building(
    canvas: _Canvas,
    taken: np.ndarray,
    centre: np.ndarray,
    shape: np.ndarray,
    angle: float,
    height: float,
    roof: int,
    gable: bool,
) -> None:
    """One building unless it would stand on a road, in water or outside; ``shape``: length and breadth."""
    part, x, y = canvas.box(centre, float(shape.sum()) / 2 + height)
    cos, sin = np.cos(angle), np.sin(angle)

    def inside(shift: float) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = x - shift * height * _SHADOW[0], y - shift * height * _SHADOW[1]
        across = dy * cos - dx * sin
        return (np.abs(dx * cos + dy * sin) < shape[0] / 2) & (np.abs(across) < shape[1] / 2), across

    walls, across = inside(0)
    if not walls.any() or (walls & taken[part]).any():
        return
    shadow = np.zeros_like(walls)
    for shift in np.linspace(0.1, 1, 8):
        shadow |= inside(float(shift))[0]
    canvas.map.sun[part][shadow] *= 0.1
    canvas.map.object[part][walls] = roof
    canvas.map.cover[part][walls] = 1
    lit = np.ones_like(across)
    if gable:  # the side across < 0 faces (sin, -cos); tilted to the sun where that points against the shadow
        facing = 0.32 * (-sin * _SHADOW[0] + cos * _SHADOW[1]) / np.linalg.norm(_SHADOW)
        lit = 1 - np.sign(across) * facing
    canvas.map.sun[part][walls] = (lit * canvas.rng.uniform(0.9, 1.1))[walls]
    taken[part] |= walls


def _lone_trees(canvas: _Canvas, village: np.ndarray, reach: float, taken: np.ndarray) -> None:
    """Trees in gardens and fields, each a lit crown with a shadow."""
    rng = canvas.rng
    trees = [canvas.map.add(first) for first, _ in _TREES]
    gardens = village + reach * rng.uniform(-1, 1, (int(reach**2 / 700), 2))
    fields = canvas.size * rng.uniform(0, 1, (int(canvas.size.prod() / 3.5e3), 2))
    for centre in np.concatenate((gardens, fields)):
        radius = rng.uniform(3, 6.5)
        part, x, y = canvas.box(centre, 4 * radius)
        crown = np.hypot(x, y) < radius
        if not crown.any() or (crown & taken[part]).any():
            continue
        drop = 1.3 * radius * _SHADOW
        canvas.map.sun[part][np.hypot(x - drop[0], y - drop[1]) < radius] *= 0.15
        canvas.map.object[part][crown] = rng.choice(trees, p=(0.5, 0.35, 0.15))
        canvas.map.cover[part][crown] = 1
        lit = 0.95 - 0.5 * (x * _SHADOW[0] + y * _SHADOW[1]) / radius
        canvas.map.sun[part][crown] = lit[crown]


def _spline(at: np.ndarray, count: int) -> np.ndarray:
    """Cubic B-spline weights of ``count`` nodes at positions ``at``: (positions, count)."""
    d = np.abs(at[:, None] - np.arange(count, dtype=np.float32))
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0)).astype(np.float32)
