"""Views rendered on a GPU by kernels of Triton."""

import triton

_GPU_BLOCK = 1024
_INTERPRETED_BLOCK = 65536


def block_size(num_values: int) -> int:
    """Values of one program: 1,024 on a GPU; many in the interpreter, whose time grows with the number of programs."""
    if triton.knobs.runtime.interpret:
        return min(_INTERPRETED_BLOCK, triton.next_power_of_2(num_values))
    return _GPU_BLOCK
