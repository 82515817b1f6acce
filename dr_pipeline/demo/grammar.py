"""The words of the generated scenes: what a scene holds, its true captions, and alt texts as bad as the web's.

Every choice is made with numbers of a `Stream`, so a text is a pure function of the scene's (seed, index).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dr_pipeline.views.seeding import Stream

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "medium", "large")
COLUMNS = ("left", "", "right")
ROWS = ("top", "", "bottom")
SURFACES = ("smooth", "grainy", "wavy", "tiled", "cloudy")
BACKGROUNDS = ("grey", "beige", "brown", "teal", "navy", "pink")

# The parts of a hundred alt texts that are of each kind, after what large web crawls look like.
ALT_KIND_WEIGHTS = {"clean": 20, "terse": 30, "wrong": 20, "filename": 15, "advert": 15}

SHORT_TEMPLATES = ("a {colour} {shape}", "a photo of a {colour} {shape}")
CAPTION_TEMPLATES = (
    "a {size} {texture} {colour} {shape} {place} of a {surface} {background} background{others}",
    "a photo of a {size} {texture} {colour} {shape}{others} on a {background} {surface} background",
    "{place} there is a {texture} {colour} {shape} on {surface} {background}{others}",
    "a {colour} {shape} with a {texture} pattern, {size}, {place} of the picture{others}",
    "this picture shows a {size} {colour} {shape}{others} in front of a {surface} {background} wall",
)
TERSE_TEMPLATES = (
    "a {shape}",
    "something {colour}",
    "nice picture",
    "{shape} photo",
    "a {size} object",
    "{background} background",
    "{colour} design",
    "my favourite {shape}",
)
FILE_PREFIXES = ("IMG", "DSC", "photo", "image", "screenshot", "scan", "final_copy")
FILE_ENDINGS = ("JPG", "jpg", "jpeg", "png", "JPEG")
ADVERTS = (
    "buy cheap {goods} online free shipping",
    "best {goods} 2024 sale up to {number}% off",
    "top {number} {goods} you need now, click here",
    "discount {goods} for sale, order today",
    "new {goods} store, low price guaranteed",
    "download free {goods} wallpaper hd",
)
GOODS = ("shoes", "phones", "watches", "dresses", "cars", "sofas", "toys", "bags", "tickets", "gifts")


@dataclass(frozen=True)
class Thing:
    """One object. Radius and centre are in units of the image's short side, the centre from the image's middle."""

    shape: str
    colour: str
    texture: str
    size: str
    radius: float
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Truth:
    """What a scene shows, before any pixel: the main object (clearly the largest), the others, the background."""

    main: Thing
    position: str
    others: tuple[Thing, ...]
    surface: str
    background: str


def pick(stream: Stream, choices: Sequence[T]) -> T:
    return choices[stream.integer(len(choices))]


def _fields(truth: Truth) -> dict[str, str]:
    main, names = truth.main, [f"a tiny {thing.name}" for thing in truth.others]
    place = "in the centre" if truth.position == "centre" else f"at the {truth.position}"
    return {
        "shape": main.shape,
        "colour": main.colour,
        "texture": main.texture,
        "size": main.size,
        "place": place,
        "surface": truth.surface,
        "background": truth.background,
        "others": f", next to {' and '.join(names)}" if names else "",
    }


def true_captions(truth: Truth) -> tuple[str, ...]:
    """The detailed captions, one per template; all are true."""
    fields = _fields(truth)
    return tuple(template.format(**fields).replace(" of the picture,", ",") for template in CAPTION_TEMPLATES)


def short_captions(truth: Truth) -> tuple[str, ...]:
    """Captions that name only the main object."""
    return tuple(template.format(**_fields(truth)) for template in SHORT_TEMPLATES)


def draw_alt_text(truth: Truth, stream: Stream) -> tuple[str, str]:
    """A kind of ALT_KIND_WEIGHTS, drawn with those weights, and an alt text of that kind."""
    kind = pick(stream, [kind for kind, weight in ALT_KIND_WEIGHTS.items() for _ in range(weight)])
    writers = {
        "clean": lambda: pick(stream, true_captions(truth)),
        "terse": lambda: pick(stream, TERSE_TEMPLATES).format(**_fields(truth)),
        "wrong": lambda: _wrong_caption(truth, stream),
        "filename": lambda: f"{pick(stream, FILE_PREFIXES)}_{1000 + stream.integer(9000)}.{pick(stream, FILE_ENDINGS)}",
        "advert": lambda: pick(stream, ADVERTS).format(goods=pick(stream, GOODS), number=5 + stream.integer(90)),
    }
    return kind, writers[kind]()


def _wrong_caption(truth: Truth, stream: Stream) -> str:
    """A detailed caption whose shape, colour or both belong to no main object of this scene."""
    fields = _fields(truth)
    wrong = pick(stream, ("shape", "colour", "both"))
    if wrong in ("shape", "both"):
        fields["shape"] = pick(stream, [shape for shape in SHAPES if shape != truth.main.shape])
    if wrong in ("colour", "both"):
        fields["colour"] = pick(stream, [colour for colour in COLOURS if colour != truth.main.colour])
    return pick(stream, CAPTION_TEMPLATES).format(**fields)
