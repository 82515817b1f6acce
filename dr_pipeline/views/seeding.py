"""Counter-based random streams: a number is a pure function of (seed, path, position).

No state is shared between samples, views or captions, so worker, order and batch size cannot matter.
"""

import hashlib

import numpy as np


class Stream:
    """Uniform numbers keyed by a job seed and a path such as ("view", sample key, view index).

    Only Philox's raw 64-bit output is used: NumPy guarantees it across versions, which it does not for
    `Generator`'s distributions.
    """

    def __init__(self, seed: int, *path: str | int):
        # ascii, not repr: which letters repr escapes depends on the Unicode tables of the Python version.
        digest = hashlib.blake2b(ascii((seed, *path)).encode(), digest_size=16).digest()
        self._philox = np.random.Philox(key=int.from_bytes(digest, "little"))

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
