"""Streams are pure functions of seed, path and position: pinned here, since every stored view depends on them."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.views.seeding import Stream

seeds = st.integers(-(2**63), 2**63)
parts = st.text() | st.integers()


def test_numbers_are_pinned() -> None:
    # Philox4x64-10 keyed with BLAKE2b of the path. A change here changes every view and caption ever stored.
    assert Stream(0, "view", "00000013", 0).uniforms(3).tolist() == [
        0.048088993662976476,
        0.7864696716778926,
        0.9560488534197137,
    ]
    assert Stream(7, "caption", "größe 🐶\ud83d", "syn_text", 2).uniforms(3).tolist() == [
        0.8259013457434408,
        0.762595288607555,
        0.3215459711873868,
    ]


def test_letters_newer_than_a_python_are_keyed_alike() -> None:
    # U+1FAE8 (Unicode 15) and U+1C89 (Unicode 16): what repr makes of them depends on the Python version.
    assert Stream(0, "\U0001fae8\u1c89").uniforms(1).tolist() == [0.9214354491986719]


@given(seeds, st.lists(parts, max_size=4))
def test_uniforms_are_in_the_half_open_interval_and_do_not_depend_on_the_slicing(seed: int, path: list) -> None:
    together = Stream(seed, *path).uniforms(6)
    stream = Stream(seed, *path)
    singly = [stream.uniform() for _ in range(4)] + stream.uniforms(2).tolist()
    assert together.dtype == np.float64
    assert together.tolist() == singly
    assert ((together >= 0) & (together < 1)).all()


@given(seeds, st.lists(parts, max_size=3), st.lists(parts, max_size=3))
def test_other_paths_are_other_streams(seed: int, one: list, other: list) -> None:
    same = Stream(seed, *one).uniforms(2).tolist() == Stream(seed, *other).uniforms(2).tolist()
    assert same == (one == other)


def test_seed_and_index_matter_and_types_are_told_apart() -> None:
    paths = [(0, "a", 1), (1, "a", 1), (0, "a", 2), (0, "a", "1"), (0, "a1"), (0, "a, 1"), (0, "a", 1, 1)]
    assert len({Stream(*path).uniform() for path in paths}) == len(paths)


def test_uniform_and_integer_ranges() -> None:
    stream = Stream(3, "ranges")
    values = [stream.uniform(-2.0, 5.0) for _ in range(2000)]
    assert min(values) >= -2
    assert max(values) < 5
    assert abs(np.mean(values) - 1.5) < 0.2
    counts = np.bincount([stream.integer(7) for _ in range(7000)], minlength=7)
    assert len(counts) == 7
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5  # chi-square of 6 degrees of freedom, 99.9 %
    assert {stream.integer(1) for _ in range(10)} == {0}


def test_another_process_draws_the_same() -> None:
    code = "from dr_pipeline.views.seeding import Stream; print(Stream(5, 'view', 'k', 3).uniforms(4).tolist())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{Stream(5, 'view', 'k', 3).uniforms(4).tolist()}\n"}
