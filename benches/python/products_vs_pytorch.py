"""Times the matrix products of the network beside PyTorch's, which are those of MKL.

    python3 benches/python/products_vs_pytorch.py

Needs Rust and pip; shares the virtual environment of scan_vs_pytorch.py. Two threads each, one after
the other, the best of five runs after one that does not count.
"""

import os
import re
import subprocess
import time

from scan_vs_pytorch import ROOT, THREADS  # Also makes the virtual environment.

import torch

PIXELS = 153_600


def best(work):
    work()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def main():
    torch.set_num_threads(int(THREADS))
    command = ["cargo", "bench", "-p", "isfm-benches", "--bench", "performance", "--", "--products"]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = re.findall(r"\| 1×1, (\d+)→(\d+) \| [^|]*\| ([\d.]+) ms \| ([\d.]+) ms", out)
    print(f"{PIXELS} pixels, {THREADS} threads, milliseconds")
    print(f"{'':12}{'isfm-ops':>10}{'gemm':>10}{'MKL':>10}")
    for cin, cout, ours, gemm in rows:
        x, weight = torch.randn(PIXELS, int(cin)), torch.randn(int(cout), int(cin))
        with torch.no_grad():
            mkl = best(lambda: torch.nn.functional.linear(x, weight))
        print(f"{f'{cin} -> {cout}':12}{ours:>10}{gemm:>10}{mkl:10.1f}")


if __name__ == "__main__":
    main()
