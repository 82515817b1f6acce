"""What the card does at most: a large matrix product, a large copy, a copy from the host."""

import torch

from on_gpu.bench import Bench


def measure(bench: Bench) -> None:
    """Print the three ceilings; they are their own baselines."""
    side = bench.size(8192, 64)
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    bench.figure("bfloat16 matrix product", 2e-12 * side**3 / bench.seconds(lambda: a @ b), "TFLOP/s")
    from_bytes = torch.empty(bench.size(4 << 30, 1 << 16), dtype=torch.uint8, device=bench.device).random_()
    to_bytes = torch.empty_like(from_bytes)
    seconds = bench.seconds(lambda: to_bytes.copy_(from_bytes))
    bench.figure("copy, read and written", 2e-12 * from_bytes.numel() / seconds, "TB/s")
    pinned = bench.device.type == "cuda"
    host = torch.empty(bench.size(256 << 20, 1 << 16), dtype=torch.uint8, pin_memory=pinned).random_()
    seconds = bench.seconds(lambda: host.to(bench.device, non_blocking=True))
    bench.figure("copy from the host", 1e-9 * host.numel() / seconds, "GB/s")
