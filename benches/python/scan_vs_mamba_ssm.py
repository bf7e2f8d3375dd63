"""Times mamba-ssm's selective-scan kernel, with the copies that a four-direction scan needs around
it (cross-scan before, cross-merge after), at the sizes of benches/cuda.rs. For a machine with an
NVIDIA GPU, a CUDA toolkit and PyTorch:

    pip install torch==2.11.0
    MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation mamba-ssm==2.3.2.post1
    python benches/python/scan_vs_mamba_ssm.py

Prints milliseconds, the median of 20 runs after 5 that warm up: forward, and forward + backward.
"""

import statistics

import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

CASES = [(1, 480, 640, 256, 16, 8), (4, 128, 128, 256, 16, 8)]


def four_directions(x, x_dbl, weight, bias, a_logs, ds):
    """x: B,D,H,W; x_dbl: B,4,R+2N,L in each direction's own order, as the kernel's users make it."""
    b, d, h, w = x.shape
    length, rank, n = h * w, weight.shape[-1], a_logs.shape[-1]
    rows = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
    xs = torch.cat([rows, rows.flip(-1)], 1)
    dts, bs, cs = x_dbl.split([rank, n, n], 2)
    # A product that leaves steps innermost, as the kernel wants them; einsum may not.
    dts = (weight @ dts).flatten(1, 2)
    y = selective_scan_fn(
        xs.flatten(1, 2), dts, -a_logs.exp(), bs.contiguous(), cs.contiguous(), ds,
        delta_bias=bias.flatten(), delta_softplus=True,
    ).view(b, 4, d, length)
    y = y[:, :2] + y[:, 2:].flip(-1)
    across = y[:, 1].view(b, d, w, h).transpose(2, 3).flatten(2)
    return (y[:, 0] + across).view(b, d, h, w)


def milliseconds(work):
    times = []
    for i in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if i >= 5:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def main():
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for b, h, w, d, n, r in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            uniform = lambda low, high, *s: torch.empty(*s, device="cuda").uniform_(low, high)
            x = uniform(-1, 1, b, d, h, w).to(dtype).requires_grad_()
            x_dbl = uniform(-1, 1, b, 4, r + 2 * n, h * w).to(dtype).requires_grad_()
            params = [
                uniform(-0.3, 0.3, 4, d, r).to(dtype), uniform(-6, -2, 4, d),
                uniform(0, 2.7, 4 * d, n), uniform(-1, 1, 4 * d),
            ]
            for p in params:
                p.requires_grad_()

            def forward():
                with torch.no_grad():
                    four_directions(x, x_dbl, *params)

            def both():
                four_directions(x, x_dbl, *params).float().sum().backward()

            print(f"{b}x{h}x{w} D {d} N {n} {dtype}: "
                  f"forward {milliseconds(forward):.2f} ms, with backward {milliseconds(both):.2f} ms")


main()
