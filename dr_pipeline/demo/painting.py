"""Pixels of a scene: backgrounds, objects, light, and the wear of a photograph. NumPy and Pillow only."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dr_pipeline.demo.grammar import Thing, Truth
from dr_pipeline.views.seeding import Stream

OVERSAMPLING = 4
COLOUR_RGB = {
    "red": (205, 35, 40),
    "orange": (240, 135, 25),
    "yellow": (242, 222, 45),
    "green": (45, 160, 65),
    "blue": (40, 85, 215),
    "purple": (135, 55, 170),
    "black": (28, 28, 32),
    "white": (243, 243, 240),
}
BACKGROUND_RGB = {
    "grey": (135, 135, 135),
    "beige": (206, 186, 150),
    "brown": (112, 80, 54),
    "teal": (62, 132, 132),
    "navy": (38, 48, 92),
    "pink": (226, 162, 178),
}


def paint(truth: Truth, width: int, height: int, stream: Stream) -> Image.Image:
    """The RGB image of a scene, width × height pixels, before JPEG."""
    image_HWC = _background(truth, width, height, stream)
    for thing in (*truth.others, truth.main):
        _paint_thing(image_HWC, thing, stream)
    image_HWC *= _light(width, height, stream)
    image_HWC += (stream.uniform(0.0, 0.035) * _noise(height, width, stream))[..., None]
    image = Image.fromarray((np.clip(image_HWC, 0, 1) * 255).round().astype(np.uint8))
    blur_pixels = max(0.0, stream.uniform(-0.8, 1.2)) * min(width, height) / 160
    return image.filter(ImageFilter.GaussianBlur(blur_pixels)) if blur_pixels > 0.1 else image


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _noise(height: int, width: int, stream: Stream) -> np.ndarray:
    """Zero-mean noise of unit variance [height, width]."""
    return ((stream.uniforms(height * width) - 0.5) * 12**0.5).reshape(height, width)


def _clouds(width: int, height: int, cells: int, stream: Stream) -> np.ndarray:
    """Smooth noise [height, width] in about [-1, 1] with `cells` bumps a side."""
    coarse = Image.fromarray((stream.uniforms(cells * cells).reshape(cells, cells) * 2 - 1).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _plane(width: int, height: int, angle: float) -> np.ndarray:
    """The distance along `angle` from the image's middle [height, width], in short sides."""
    side = min(width, height)
    x = (np.arange(width) - (width - 1) / 2) / side
    y = (np.arange(height) - (height - 1) / 2) / side
    return np.cos(angle) * x + np.sin(angle) * y[:, None]


def _background(truth: Truth, width: int, height: int, stream: Stream) -> np.ndarray:
    """Float RGB in [0, 1], [height, width, 3]."""
    angle = stream.uniform(0, 2 * np.pi)
    along, across = _plane(width, height, angle), _plane(width, height, angle + np.pi / 2)
    frequency = stream.uniform(4, 9)
    waves = {
        "smooth": lambda: 0.0 * along,
        "grainy": lambda: 0.11 * _noise(height, width, stream),
        "wavy": lambda: 0.12 * np.sin(2 * np.pi * frequency * along + 1.5 * np.sin(6 * across)),
        "tiled": lambda: 0.09 * np.sign(np.sin(np.pi * frequency * along) * np.sin(np.pi * frequency * across)),
        "cloudy": lambda: 0.2 * _clouds(width, height, 4 + stream.integer(4), stream),
    }
    relief_HW = 1 + waves[truth.surface]() + stream.uniform(0.0, 0.3) * along
    tint_C = 1 + 0.16 * (stream.uniforms(3) - 0.5)
    return np.asarray(BACKGROUND_RGB[truth.background]) / 255 * tint_C * relief_HW[..., None]


def _light(width: int, height: int, stream: Stream) -> np.ndarray:
    """A slope of light, a vignette and a colour cast, [height, width, 3]."""
    slope = stream.uniform(0, 0.25) * _plane(width, height, stream.uniform(0, 2 * np.pi))
    radius2 = _plane(width, height, 0.0) ** 2 + _plane(width, height, np.pi / 2) ** 2
    light_HW = stream.uniform(0.85, 1.1) * (1 + slope) * (1 - stream.uniform(0, 0.35) * radius2)
    return light_HW[..., None] * (1 + 0.1 * (stream.uniforms(3) - 0.5))


def _star(points: int, inner: float) -> np.ndarray:
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _arc(start: float, end: float, radius: float = 1.0) -> np.ndarray:
    angle = np.linspace(start, end, 48)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _moon() -> np.ndarray:
    """A crescent: an outer arc and, back again, the arc of a circle of 0.8 moved to the right by 0.5."""
    tip = np.arccos((0.25 + 1 - 0.64) / (2 * 0.5))
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - 0.5)
    inner = np.add(_arc(2 * np.pi - inner_tip, inner_tip, 0.8), (0.5, 0.0))
    return np.concatenate([_arc(tip, 2 * np.pi - tip), inner])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], 1) / 16


def _outline(shape: str) -> np.ndarray:
    """The polygon [points, 2] of a shape within about the unit circle, y downwards."""
    arm = 0.34
    outlines = {
        "circle": lambda: _arc(0, 2 * np.pi) * 0.92,
        "ring": lambda: _arc(0, 2 * np.pi),
        "square": lambda: np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8,
        "triangle": lambda: np.array([(0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),
        "star": lambda: _star(5, 0.42) * 1.08,
        "heart": _heart,
        "moon": _moon,
        "cross": lambda: np.array(
            [
                (-arm, -1),
                (arm, -1),
                (arm, -arm),
                (1, -arm),
                (1, arm),
                (arm, arm),
                (arm, 1),
                (-arm, 1),
                (-arm, arm),
                (-1, arm),
                (-1, -arm),
                (-arm, -arm),
            ]
        ),
    }
    return outlines[shape]()


def _mask(shape: str, angle: float, radius_pixels: float, side_pixels: int) -> np.ndarray:
    """The coverage of a shape in [0, 1] on a square patch of `side_pixels`, the shape in its middle."""
    big = side_pixels * OVERSAMPLING
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    canvas = Image.new("L", (big, big))
    polygons = [(_outline(shape), 255)] + ([(_arc(0, 2 * np.pi, 0.55), 0)] if shape == "ring" else [])
    for points, value in polygons:
        corners = (points @ turn) * radius_pixels * OVERSAMPLING + big / 2
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=value)
    return np.asarray(canvas.resize((side_pixels, side_pixels), Image.Resampling.BOX), dtype=np.float64) / 255


def _pattern(texture: str, side_pixels: int, radius_pixels: float, angle: float) -> np.ndarray:
    """Where the second shade of a texture shows, 0 or 1, [side_pixels, side_pixels]."""
    unit = side_pixels / radius_pixels
    along, across = (_plane(side_pixels, side_pixels, angle + turn) * unit for turn in (0.0, np.pi / 2))
    patterns = {
        "plain": lambda: np.zeros_like(along),
        "striped": lambda: np.sin(2 * np.pi * along / 0.5) > 0,
        "checked": lambda: np.sin(2 * np.pi * along / 0.8) * np.sin(2 * np.pi * across / 0.8) > 0,
        "dotted": lambda: np.hypot((along % 0.5) - 0.25, (across % 0.5) - 0.25) < 0.15,
    }
    return patterns[texture]().astype(np.float64)


def _shades(colour: str, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """The colour with a little jitter, and a second shade of it for textures."""
    first = np.clip(np.asarray(COLOUR_RGB[colour]) / 255 * (1 + 0.12 * (stream.uniforms(3) - 0.5)), 0, 1)
    towards_white = stream.uniform() < 0.5
    if colour == "black":
        return first, first + 0.28
    if colour == "white" or not towards_white:
        return first, first * 0.62
    return first, first + (1 - first) * 0.45


def _paint_thing(image_HWC: np.ndarray, thing: Thing, stream: Stream) -> None:
    """Paint one object and its soft shadow in place."""
    height, width, _ = image_HWC.shape
    short = min(width, height)
    radius = thing.radius * short
    side = int(2 * radius * 1.35) + 4
    angle = stream.uniform(-0.3, 0.3)
    mask_HW = _mask(thing.shape, angle, radius, side)
    first, second = _shades(thing.colour, stream)
    pattern_HW = _pattern(thing.texture, side, radius, angle + stream.uniform(0, np.pi))[..., None]
    shading_HW = 1 + stream.uniform(0, 0.2) * _plane(side, side, stream.uniform(0, 2 * np.pi))
    pixels_HWC = (first * (1 - pattern_HW) + second * pattern_HW) * shading_HW[..., None]
    left = round(width / 2 + thing.x * short - side / 2)
    top = round(height / 2 + thing.y * short - side / 2)
    drop = max(1, round(0.1 * radius))
    shadow = Image.fromarray((mask_HW * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.1 * radius))
    strength = stream.uniform(0.0, 0.4)
    _blend(image_HWC, np.zeros(3), strength * np.asarray(shadow, dtype=np.float64) / 255, left + drop, top + drop)
    _blend(image_HWC, pixels_HWC, mask_HW, left, top)


def _blend(image_HWC: np.ndarray, pixels: np.ndarray, alpha_HW: np.ndarray, left: int, top: int) -> None:
    """image = alpha · pixels + (1 − alpha) · image where the patch at (left, top) lies inside the image."""
    height, width, _ = image_HWC.shape
    side = alpha_HW.shape[0]
    rows, columns = slice(max(0, -top), min(side, height - top)), slice(max(0, -left), min(side, width - left))
    target = image_HWC[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    alpha = alpha_HW[rows, columns, None]
    target[...] = alpha * (pixels[rows, columns] if pixels.ndim == 3 else pixels) + (1 - alpha) * target
