"""Feed damaged shards to everything that reads them: `python -m tests.fuzz --minutes 5 --seed 0`.

Whole files are damaged, and what lies inside their compression. A reader may refuse an input by an error of ours,
within seconds and without taking memory for what is not there; anything else is a finding, and is kept with its number.
The input of a number depends on the seed and the number alone: `--first N --executions 1` makes it again.
"""

import argparse
import gzip
import io
import json
import random
import resource
import signal
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from types import FrameType

from PIL import Image

from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import Sample, parse_base_sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode
from tests.conftest import GOLDEN, image_bytes, make_job, make_sample, make_sample_members, tar_bytes

MEMORY_BYTES = 1 << 30
"""What a reader may take beyond what the process has once everything is imported."""
SECONDS = 10

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
WORDS = (b"\0", b"-1", b"99999999999", b"1e999", b"NaN", b"null", b"[", b"{}", b'"', b"\\ud800", b"../", b"\xff\xfe")

Damage = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, dice: random.Random) -> None:
    """A few bits."""
    for _ in range(dice.choice((1, 1, 2, 8))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def cut(data: bytearray, dice: random.Random) -> None:
    """The end is lost."""
    del data[dice.randrange(len(data)) :]


def lose(data: bytearray, dice: random.Random) -> None:
    """A part in the middle is lost."""
    start = dice.randrange(len(data))
    del data[start : start + dice.choice((1, 4, 512, 2000))]


def repeat(data: bytearray, dice: random.Random) -> None:
    """A part comes again elsewhere."""
    start, place = dice.randrange(len(data)), dice.randrange(len(data))
    data[place:place] = data[start : start + dice.choice((1, 16, 512, 4096))]


def overwrite(data: bytearray, dice: random.Random) -> None:
    """A number becomes one at the edge of what its bytes can say."""
    width, place = dice.choice((1, 2, 4, 8)), dice.randrange(len(data))
    number = dice.choice(EDGES) % (1 << 8 * width)
    data[place : place + width] = number.to_bytes(width, dice.choice(("little", "big")))


def insert(data: bytearray, dice: random.Random) -> None:
    """Something that means something to one parser or another."""
    place = dice.randrange(len(data))
    data[place:place] = dice.choice(WORDS) * dice.choice((1, 1, 1, 3, 5000))


def header(data: bytearray, dice: random.Random) -> None:
    """A field of a tar's header, with the checksum made right again."""
    place = 512 * dice.randrange(max(1, len(data) // 512))
    start, width = dice.choice(((0, 100), (124, 12), (156, 1), (257, 8), (345, 155)))
    field = dice.choice(
        (b"\xff" * width, b"\x80" + b"\x7f" * width, b"77777777777", b"-7", b"\0" * width, b"../../x\0", b"L")
    )
    if len(data) >= place + 512:
        data[place + start : place + start + min(width, len(field))] = field[:width]
        checksum = tarfile.calc_chksums(bytes(data[place : place + 512]))[0]  # type: ignore[attr-defined]
        data[place + 148 : place + 156] = b"%06o\0 " % checksum


DAMAGES: tuple[Damage, ...] = (flip, cut, lose, repeat, overwrite, insert, header)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The data after one accident or several."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        if changed:
            dice.choice(DAMAGES)(changed, dice)
    return bytes(changed)


def damaged_within_gzip(data: bytes, dice: random.Random) -> bytes:
    """What a gzip file holds, damaged."""
    return gzip.compress(damaged(gzip.decompress(data), dice), 1)


def damaged_within_zip(data: bytes, dice: random.Random) -> bytes:
    """One record of a zip, damaged: its checksum is right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        records = {name: source.read(name) for name in source.namelist()}
    victim = dice.choice(list(records))
    records[victim] = damaged(records[victim], dice)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as target:
        for name, content in records.items():
            target.writestr(name, content)
    return buffer.getvalue()


def damaged_within_both(data: bytes, dice: random.Random) -> bytes:
    """One record of a zip in a gzip file, damaged."""
    return gzip.compress(damaged_within_zip(gzip.decompress(data), dice), 1)


class Target:
    """Whole inputs, ways to damage them, and the reader that gets the result."""

    def __init__(
        self,
        inputs: list[bytes],
        read: Callable[[bytes], object],
        ways: tuple[Callable[[bytes, random.Random], bytes], ...] = (damaged,),
    ):
        self._inputs, self.read, self._ways = inputs, read, ways

    def make(self, dice: random.Random) -> bytes:
        """An input that these dice decide."""
        return dice.choice(self._ways)(dice.choice(self._inputs), dice)


def read_shard(data: bytes) -> None:
    """As the generator, the student and `verify` do."""
    with suppress(ShardError):
        list(read_samples(io.BytesIO(data), lambda name: name.endswith(".txt"), max_member_bytes=5000))
    for sample in read_samples(io.BytesIO(data)):
        with suppress(SampleSkipped):
            parse_base_sample(copy(sample), "auto")
            layout.decode(sample)


def targets() -> dict[str, Target]:
    """All there are."""
    job = make_job(output={"precision": "float32"})
    fields = {"syn.json": b"", "paug.json": b"", "npz": b"", "pth.gz": b""}
    for kind in (make_job(), job):
        fields |= layout.encode(make_sample(kind, "k"), kind.output, Recipe(kind.augmentation))
    golden = [path.read_bytes() for path in sorted((GOLDEN / "shards").glob("*.tar"))]

    def member(ext: str) -> Callable[[bytes], object]:
        others = {name: data for name, data in fields.items() if name not in ("npz", "pth.gz") or name == ext}
        if not ext.endswith(("npz", "gz")):
            others["npz"] = fields["npz"]
        return lambda data: layout.decode(Sample("k", {**others, ext: data}))

    return {
        "tar": Target([tar_bytes(make_sample_members("a") + make_sample_members("b" * 150)), *golden], read_shard),
        "tar.gz": Target([gzip.compress(golden[0])], read_shard, (damaged, damaged_within_gzip)),
        "pth.gz": Target([fields["pth.gz"]], member("pth.gz"), (damaged, damaged_within_gzip, damaged_within_both)),
        "npz": Target([fields["npz"]], member("npz"), (damaged, damaged_within_zip)),
        "paug.json": Target([fields["paug.json"]], member("paug.json")),
        "syn.json": Target([fields["syn.json"]], member("syn.json")),
        "json": Target([b'{"caption": "a red circle", "uid": [1, 2.5, null]}'], read_json),
        "image": Target(images(), lambda data: decode(data, 1_000_000)),
    }


def read_json(data: bytes) -> None:
    """A sample whose caption is in its json."""
    parse_base_sample(Sample("k", {"jpg": b"I", "json": data}), "auto")


def images() -> list[bytes]:
    """A small one of each form that is read."""
    forms = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
    return [image_bytes(form=form) for form in forms] + [
        path.read_bytes() for path in sorted((GOLDEN / "replay").glob("?.*"))
    ]


class TooSlow(BaseException):
    """The reader did not come back."""


def too_slow(_: int, __: FrameType | None) -> None:
    """Stop waiting."""
    raise TooSlow


def outcome(target: Target, data: bytes) -> str | None:
    """What a reader did that it must not; None where it read or refused."""
    signal.alarm(SECONDS)
    try:
        target.read(data)
    except (SampleSkipped, ShardError):
        return None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return None


def limit_memory() -> None:
    """From here on an allocation fails that takes the process much beyond its present size."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, -1))


@contextmanager
def alarm() -> Iterator[None]:
    """Let `outcome` stop readers that do not come back."""
    before = signal.signal(signal.SIGALRM, too_slow)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def numbers(first: int, executions: int, seconds: float) -> Iterator[int]:
    """From the first on, as many as are wanted and there is time for."""
    started = time.perf_counter()
    for number in range(first, first + executions):
        if time.perf_counter() - started > seconds:
            return
        yield number


def main(arguments: list[str]) -> int:
    """Run, print one line of JSON, and return the number of findings."""
    options = parse(arguments)
    known, ran, findings = targets(), Counter[str](), dict[str, str]()
    Image.init()
    limit_memory()
    started = time.perf_counter()
    with alarm():
        for number in numbers(options.first, options.executions, 60 * options.minutes):
            dice = random.Random(f"{options.seed}/{number}")
            name = dice.choice(list(known))
            data = known[name].make(dice)
            ran[name] += 1
            found = outcome(known[name], data)
            if found:
                findings[f"{options.seed}/{number} {name}"] = found
                options.findings.mkdir(parents=True, exist_ok=True)
                (options.findings / f"{options.seed}-{number}.{name}").write_bytes(data)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"executions": ran.total(), "seconds": seconds, "of": ran, "findings": findings}))
    return len(findings)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--executions", type=int, default=10**9)
    parser.add_argument("--findings", type=Path, default=Path("outputs/fuzz"), help="folder for inputs that failed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
