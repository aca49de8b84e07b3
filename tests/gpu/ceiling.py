"""What the device can do at most: a large matrix product and a large copy, for other figures to be compared with.

python -m tests.gpu.ceiling [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 9) -> float:
    """The median over the rounds, after two that warm up."""
    found = []
    for _ in range(rounds + 2):
        begin = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[2:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.ceiling", description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    n = 8192 if device.type != "cpu" else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = 2 * n**3 / seconds(lambda: a @ b, device)
    big = torch.randn(8 * n * n, device=device)
    other = torch.empty_like(big)
    copied = 2 * big.nbytes / seconds(lambda: other.copy_(big), device)
    print(f"bfloat16 products of {n} x {n}: {product / 1e12:.0f} TFLOP/s; copies: {copied / 1e12:.2f} TB/s")
    print(json.dumps({"product_flops": product, "copy_bytes": copied}))


if __name__ == "__main__":
    main()
