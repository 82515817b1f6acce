"""How the kernels are cut into programs."""

import triton

_GPU_BLOCK = 1024
_INTERPRETED_BLOCK = 65536


def block_size(num_values: int) -> int:
    """Values a program works on: a GPU's warps share 1,024; the interpreter's cost is by the program."""
    if triton.knobs.runtime.interpret:
        return min(_INTERPRETED_BLOCK, triton.next_power_of_2(num_values))
    return _GPU_BLOCK
