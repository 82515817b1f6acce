"""The kernels that render views compile for a GPU, without one, and round as Pillow does.

The tests of their pixels run in Triton's interpreter where there is no GPU, which takes code that no compiler would.
"""

import pytest

from tests.gpu_code import compiled_by

COMPILE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dr_pipeline.views.device import rand_augment, render, resample

POINTERS = {"counts_ptr": "*i32", "taps_ptr": "*i32", "lengths_ptr": "*i64", "passes_ptr": "*i64",
            "numbers_ptr": "*i64", "erased_ptr": "*i64"}
found = {}
for size in (224, 1):
    for module, name, constants in (
        (resample, "_taps_kernel", {"SUPPORT": 2.0, "BICUBIC": True, "BLOCK": 256 if size > 1 else 1}),
        (resample, "_taps_kernel", {"SUPPORT": 1.0, "BICUBIC": False, "BLOCK": 256 if size > 1 else 1}),
        (resample, "_resize_kernel", {"INDEX": 0, "BLOCK": 1024}),
        (resample, "_resize_kernel", {"INDEX": 1, "BLOCK": 1024}),
        (rand_augment, "_count_kernel", {"BLOCK": 1024}),
        (rand_augment, "_table_kernel", {}),
        (rand_augment, "_apply_kernel", {"BLOCK": 1024}),
        (render, "_erase_kernel", {"BLOCK": 1024}),
    ):
        kernel = getattr(module, name)
        if size == 1 and "size" in kernel.arg_names:
            constants["size"] = 1  # a launch makes a constant of it
        signature = {
            argument: "constexpr" if argument in constants else "i32" if argument == "size"
            else POINTERS.get(argument, "*u8") for argument in kernel.arg_names
        }
        source = ASTSource(kernel, signature, constants)
        code = compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": False}).asm["ptx"]
        found.setdefault(name, []).append(code)
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def code_of_kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The PTX of each kernel, for an H100."""
    return compiled_by(COMPILE, tmp_path_factory.mktemp("code"))


def test_every_kernel_compiles(code_of_kernels: dict[str, list[str]]) -> None:
    counts = {name: len(codes) for name, codes in code_of_kernels.items()}
    assert counts == {
        "_taps_kernel": 4,
        "_resize_kernel": 4,
        "_count_kernel": 2,
        "_table_kernel": 2,
        "_apply_kernel": 2,
        "_erase_kernel": 2,
    }


@pytest.mark.parametrize("kernel", ["_taps_kernel", "_table_kernel", "_apply_kernel"])
def test_each_step_is_rounded_by_itself(code_of_kernels: dict[str, list[str]], kernel: str) -> None:
    for code in code_of_kernels[kernel]:
        for inexact in ("fma.rn.f", "div.full", "div.approx", "rcp.approx"):
            assert inexact not in code


def test_weights_and_tables_are_divided_exactly(code_of_kernels: dict[str, list[str]]) -> None:
    for kernel in ("_taps_kernel", "_table_kernel"):
        assert all("div.rn.f64" in code for code in code_of_kernels[kernel])
