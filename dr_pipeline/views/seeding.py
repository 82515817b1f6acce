"""Counter-based random streams: a number is a pure function of seed, path and position.

Samples, views and captions share no state, so that numbers depend on neither worker, order nor batch size.
"""

import hashlib
from functools import cached_property

import numpy as np


class Stream:
    """Uniform random numbers, keyed by a job's seed and a path such as ("view", sample key, view index).

    They come from Philox's raw 64-bit output: NumPy keeps it across versions, but not `Generator`'s distributions.
    """

    def __init__(self, seed: int, *path: str | int):
        self._path = (seed, *path)

    @cached_property
    def _philox(self) -> np.random.Philox:
        # Made where numbers are drawn: a captioner draws while its GPU encodes images.
        # ascii, not repr: which letters repr escapes depends on the Unicode tables of the Python version.
        digest = hashlib.blake2b(ascii(self._path).encode(), digest_size=16).digest()
        return np.random.Philox(key=np.frombuffer(digest, "<u8"))  # an integer takes twice as long

    def uniforms(self, count: int) -> np.ndarray:
        """The next `count` numbers as float64 in [0, 1), 53 random bits each."""
        raw = self._philox.random_raw(count)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number in [low, high)."""
        return low + (high - low) * ((self._philox.random_raw() >> 11) * 2.0**-53)

    def integer(self, count: int) -> int:
        """The next integer in [0, count)."""
        return int(self.uniform() * count)
