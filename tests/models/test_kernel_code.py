"""The kernels of captions compile for a GPU, without one, and read 16 bytes at once.

Their other tests run in Triton's interpreter where there is no GPU, which takes code that no compiler would.
"""

import re

import pytest

from tests.gpu_code import compiled_by

COMPILE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dr_pipeline.models.kernels import attention, choose, norm

FIXED = {"position_ptr": "*i64", "uniforms_ptr": "*fp64", "tokens_ptr": "*i64", "finite_ptr": "*i1",
         "scale": "fp32", "wanted": "fp32", "epsilon": "fp32"}
UNALIGNED = {"heads", "captions", "image_tokens", "end_token", "min_tokens", "visible_stride", "places"}

def ptx(kernel, dtype, constants, arch=90, **options):
    pointers = {name: FIXED.get(name, dtype) for name in kernel.arg_names if name.endswith("_ptr")}
    if constants.get("HAS_MASK"):
        pointers["visible_ptr"] = "*i1"
    signature = {name: "constexpr" if name in constants else pointers.get(name) or FIXED.get(name, "i32")
                 for name in kernel.arg_names}
    aligned = [name for name, kind in signature.items() if kind not in ("constexpr", "fp32") and name not in UNALIGNED]
    hints = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constants, hints)
    return compile(source, GPUTarget("cuda", arch, 32), options).asm["ptx"]

found = {}
for dtype in ("*bf16", "*fp32"):
    for arch in (80, 90):
        case = f"{dtype[1:]}, sm_{arch}"
        for mask in (True, False):
            found[f"_attend_to_cache, {case}, {mask}"] = ptx(
                attention._attend_to_cache, dtype, {"HAS_MASK": mask, "BLOCK_T": 32, "BLOCK_D": 64}, arch, num_warps=1)
        for ones in ({}, {"captions": 1, "heads": 1}):  # a launch makes a constant of 1
            found[f"_attend_to_image, {case}, {len(ones)}"] = ptx(
                attention._attend_to_image, dtype,
                {**ones, "BLOCK_N": 16, "BLOCK_S": 64 if dtype == "*bf16" else 32, "BLOCK_D": 64}, arch, num_warps=4)
        for method, ones in ((0, {}), (1, {}), (2, {}), (0, {"min_tokens": 1, "end_token": 1})):
            found[f"_choose, {case}, {method}, {len(ones)}"] = ptx(
                choose._choose, dtype, {**ones, "METHOD": method, "SPARE_BITS": 16 if dtype == "*bf16" else 0,
                "BLOCK": 2048, "NUM_BLOCKS": 32}, arch, num_warps=8)
        found[f"_add_norm, {case}"] = ptx(norm._add_norm, dtype, {"BLOCK": 1024}, arch, num_warps=4)
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def code_of_kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The PTX of each kernel, by its name and what it is compiled for."""
    return compiled_by(COMPILE, tmp_path_factory.mktemp("code"))


def test_every_kernel_compiles_and_reads_16_bytes_at_once(code_of_kernels: dict[str, str]) -> None:
    assert len(code_of_kernels) == 2 * 2 * 9
    for name, code in code_of_kernels.items():
        wide = re.findall(r"ld\.global\S*\.v4\.b32|cp\.async\.cg\.\S+", code)
        assert len(wide) >= 2, name


def test_keys_and_values_of_an_image_are_read_ahead_and_multiplied_by_tensor_cores(
    code_of_kernels: dict[str, str],
) -> None:
    for name, code in code_of_kernels.items():
        if name.startswith("_attend_to_image"):
            assert "cp.async" in code, name
            assert ("mma.sync" in code) == ("bf16" in name), name
