"""Times the one-dimensional selective scan of isfm-ssm beside PyTorch's on the CPU.

    python3 benches/python/scan_vs_pytorch.py [ROUNDS]

Needs Rust and pip; makes a virtual environment under target/ the first time, some GB with the
PyTorch that pip takes. Every side gets two threads and the same f32 inputs, and they take turns. Of
a turn the shortest of three runs counts, after one that warms up; the medians of the turns are
compared. Outputs and gradients must agree to 1e-4 of the largest value.

PyTorch is measured twice: `loop`, mamba-ssm's reference, a Python loop over the steps, without its
gradient; and `mambapy`, that package's parallel scan. Wants an idle machine: beside a compiler
mambapy's scan of 1024 steps has taken ten times as long.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
THREADS = "2"
PACKAGES = ["torch==2.15.0", "mambapy==1.2.0", "numpy==2.4.6", "safetensors==0.8.0"]


def in_virtual_environment():
    """Starts this script again with the packages, unless they are there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    python = target / "scan-venv" / "bin" / "python"
    if Path(sys.prefix) == python.parent.parent:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = THREADS
    os.execv(python, [python, *sys.argv])


in_virtual_environment()

from statistics import median  # noqa: E402

import torch  # noqa: E402
from mambapy.pscan import pscan  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.nn.functional import softplus  # noqa: E402

CHANNELS, STATES = 256, 16
FORWARD, BOTH = "forward", "forward + backward"
CASES = {1024: [FORWARD, BOTH], 4096: [FORWARD, BOTH], 16384: [FORWARD]}


def loop(u, delta, a, b, c, d, bias):
    """The formulas of mamba-ssm's `selective_scan_ref`; u, delta: B,D,L; b, c: B,N,L."""
    delta = softplus(delta + bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, a))
    added = torch.einsum("bdl,bnl,bdl->bdln", delta, b, u)
    x = a.new_zeros(u.shape[0], *a.shape)
    ys = []
    for i in range(u.shape[2]):
        x = decay[:, :, i] * x + added[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", x, c[:, :, i]))
    return torch.stack(ys, dim=2) + u * d[:, None]


def mambapy(u, delta, a, b, c, d, bias):
    """The formulas of mambapy's `selective_scan`; u, delta: B,L,D; b, c: B,L,N."""
    delta = softplus(delta + bias)
    decay = torch.exp(delta.unsqueeze(-1) * a)
    added = delta.unsqueeze(-1) * b.unsqueeze(2) * u.unsqueeze(-1)
    return (pscan(decay, added) @ c.unsqueeze(-1)).squeeze(3) + d * u


def inputs(length):
    """Steps and decays as models start with, and weights that make the output a loss."""
    torch.manual_seed(length)
    uniform = lambda low, high, *shape: torch.empty(*shape).uniform_(low, high)
    x = {
        "u": torch.randn(1, length, CHANNELS),
        "delta": torch.randn(1, length, CHANNELS) / 2,
        "a": -uniform(0, 2.7, CHANNELS, STATES).exp(),
        "b": torch.randn(1, length, STATES),
        "c": torch.randn(1, length, STATES),
        "d": uniform(-1, 1, CHANNELS),
        "bias": uniform(-6, -2, CHANNELS),
    }
    return x, torch.randn(1, length, CHANNELS)


def isfm_ssm(program, file):
    """The milliseconds of each case, and the output with the gradients."""
    out = subprocess.run([program, file], capture_output=True, check=True, text=True).stdout
    times = json.loads(out)
    assert times.pop("threads") == int(THREADS)
    return times, load_file(file.with_suffix(".out"))


def best(work):
    """The milliseconds of the shortest run, and what the last one returned."""
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times), result


def forward(scan, x):
    with torch.no_grad():
        return {"y": scan(**x)}


def both(scan, x, weights):
    y = scan(**x)
    gradients = torch.autograd.grad((y * weights).sum(), list(x.values()))
    return {"y": y.detach(), **dict(zip(x, gradients))}


def agree(case, got, needed):
    for name, value in got.items():
        other = needed[name].reshape(value.shape)
        difference = ((value - other).abs().max() / other.abs().max()).item()
        assert difference < 1e-4, (case, name, difference)


def build():
    command = ["cargo", "build", "--release", "-p", "isfm-ssm", "--bench", "scan_times"]
    command += ["--quiet", "--message-format=json"]
    out = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    built = [json.loads(line) for line in out.splitlines()]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == "scan_times")


def measure(program, folder, length, kinds, rounds):
    """The milliseconds of each kind and side, one a turn."""
    file = Path(folder) / f"{length}.safetensors"
    x, weights = inputs(length)
    saved = {**x, "b": x["b"].unsqueeze(2), "c": x["c"].unsqueeze(2)}
    if BOTH in kinds:
        saved["weights"] = weights
    save_file(saved, file)
    last = dict(x)
    for name in ("u", "delta", "b", "c"):
        last[name] = x[name].mT.contiguous()
    tracked = {name: t.clone().requires_grad_() for name, t in x.items()}
    times = {kind: {"isfm-ssm": [], "loop": [], "mambapy": []} for kind in kinds}
    for _ in range(rounds):
        ours, results = isfm_ssm(program, file)
        for kind in kinds:
            times[kind]["isfm-ssm"].append(ours[kind])
        ms, got = best(lambda: forward(loop, last))
        times[FORWARD]["loop"].append(ms)
        agree((length, "loop"), {"y": got["y"].mT}, results)
        ms, got = best(lambda: forward(mambapy, x))
        times[FORWARD]["mambapy"].append(ms)
        agree((length, "mambapy"), got, results)
        if BOTH in kinds:
            ms, got = best(lambda: both(mambapy, tracked, weights))
            times[BOTH]["mambapy"].append(ms)
            agree((length, "mambapy", BOTH), got, results)
    return times


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(int(THREADS))
    program = build()
    print(f"1 x L x {CHANNELS}, {STATES} states, {THREADS} threads, PyTorch {torch.__version__}")
    print(f"milliseconds, medians of {rounds} rounds")
    print(f"{'':28}{'isfm-ssm':>10}{'loop':>20}{'mambapy':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for length, kinds in CASES.items():
            for kind, sides in measure(program, folder, length, kinds, rounds).items():
                ours = median(sides.pop("isfm-ssm"))
                row = f"{f'L {length}, {kind}':28}{ours:10.2f}"
                for times in sides.values():
                    ms = median(times) if times else None
                    row += f"{ms:10.1f} {f'({ms / ours:.1f} x)':>9}" if ms else f"{'-':>20}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
