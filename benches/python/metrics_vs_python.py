#!/usr/bin/env python3
"""Times the nine scores of one 640x480 triple: isfm-metrics against NumPy, SciPy and scikit-image.

    python3 benches/python/metrics_vs_python.py [ROUNDS]

Needs Rust and pip; makes a virtual environment under target/ the first time. Both sides get two
threads and take turns, so that what else the machine does hits both. Of a turn the median of three
runs counts, after one that warms up; the medians of the turns are compared. The scores must agree to
1e-6.

Python is measured three times: `released`, with two-dimensional windows as the ISFM authors'
evaluation has them; `separable`, the same sums with one-dimensional windows, the usual way to make
it fast; and `separable, 2 threads`, which hands the metrics to two threads.
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
RUNS = 3
PACKAGES = ["numpy==2.4.6", "scipy==1.17.1", "scikit-image==0.26.0", "pillow==13.0.0"]


def in_virtual_environment():
    """Starts this script again with the packages, unless they are there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    python = target / "metrics-venv" / "bin" / "python"
    if Path(sys.prefix) == python.parent.parent:
        return target
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = THREADS
    os.execv(python, [python, __file__, *sys.argv[1:]])


TARGET = in_virtual_environment()

from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from statistics import median  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from scipy.ndimage import convolve1d, gaussian_filter  # noqa: E402
from scipy.signal import convolve2d  # noqa: E402
from skimage.metrics import structural_similarity  # noqa: E402


def entropy(f):
    p = np.bincount(f.ravel().astype(np.uint8), minlength=256) / f.size
    p = p[p > 0]
    return -np.sum(p * np.log2(p))


def spatial_frequency(f):
    return np.sqrt(np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2))


def average_gradient(f):
    gy, gx = np.gradient(f)
    return np.mean(np.sqrt((gx**2 + gy**2) / 2))


def mutual_information(f, s):
    pairs = f.ravel().astype(np.uint8).astype(np.intp) * 256 + s.ravel().astype(np.uint8)
    joint = np.bincount(pairs, minlength=65536).reshape(256, 256) / f.size
    product = joint.sum(axis=1)[:, None] * joint.sum(axis=0)
    there = joint > 0
    return np.sum(joint[there] * np.log(joint[there] / product[there]))


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def window(n):
    offsets = np.arange(n) - n // 2
    g = np.exp(-(offsets**2) / (2 * (n / 5) ** 2))
    return g / g.sum()


def by_two_dimensions(image, g):
    return convolve2d(image, np.outer(g, g), mode="valid")


def by_one_dimension(image, g):
    r = len(g) // 2
    return convolve1d(convolve1d(image, g, axis=0), g, axis=1)[r:-r, r:-r]


def vif(reference, distorted, blur):
    above = below = 0.0
    for scale in range(1, 5):
        g = window(2 ** (5 - scale) + 1)
        if scale > 1:
            reference, distorted = (blur(x, g)[::2, ::2] for x in (reference, distorted))
        m1, m2 = blur(reference, g), blur(distorted, g)
        v1 = np.maximum(blur(reference * reference, g) - m1 * m1, 0)
        v2 = np.maximum(blur(distorted * distorted, g) - m2 * m2, 0)
        cov = blur(reference * distorted, g) - m1 * m2
        gain = cov / (v1 + 1e-10)
        rest = v2 - gain * cov
        flat = v1 < 1e-10
        gain[flat], rest[flat], v1[flat] = 0, v2[flat], 0
        flat = v2 < 1e-10
        gain[flat], rest[flat] = 0, 0
        inverted = gain < 0
        rest[inverted], gain[inverted] = v2[inverted], 0
        rest = np.maximum(rest, 1e-10)
        above += np.sum(np.log10(1 + gain * gain * v1 / (rest + 2)))
        below += np.sum(np.log10(1 + v1 / 2))
    return above / below


def edges(image):
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=float)
    gx = convolve2d(image, -sobel, mode="same")
    gy = convolve2d(image, -sobel.T[::-1], mode="same")
    with np.errstate(all="ignore"):
        angle = np.where(gx == 0, np.pi / 2, np.arctan(gy / gx))
    return np.sqrt(gx * gx + gy * gy), angle


def qabf(f, sources):
    gf, af = edges(f)
    above = below = 0.0
    for source in sources:
        gs, angle = edges(source)
        with np.errstate(all="ignore"):
            strength = np.where(gs == gf, gf, np.minimum(gs, gf) / np.maximum(gs, gf))
        orientation = 1 - np.abs(angle - af) / (np.pi / 2)
        q = 0.9994 / (1 + np.exp(-15 * (strength - 0.5)))
        q *= 0.9879 / (1 + np.exp(-22 * (orientation - 0.8)))
        above += np.sum(q * gs)
        below += np.sum(gs)
    return above / below


def nine_scores(vi, ir, f, blur, run):
    ssim = lambda s: structural_similarity(s, f, data_range=255)
    parts = {
        "EN": [lambda: entropy(f)],
        "SD": [lambda: np.std(f)],
        "SF": [lambda: spatial_frequency(f)],
        "AG": [lambda: average_gradient(f)],
        "MI": [lambda: mutual_information(f, vi), lambda: mutual_information(f, ir)],
        "SCD": [lambda: correlation(vi, f - ir), lambda: correlation(ir, f - vi)],
        "VIF": [lambda: vif(vi, f, blur), lambda: vif(ir, f, blur)],
        "Qabf": [lambda: qabf(f, (vi, ir))],
        "SSIM": [lambda: ssim(vi), lambda: ssim(ir)],
    }
    values = iter(list(run([part for both in parts.values() for part in both])))
    return {name: float(sum(next(values) for _ in both)) for name, both in parts.items()}


def triple():
    """Two painted sources and a fused image, 8 bits each."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:480, 0:640]
    vi = 110 + 50 * np.sin(x / 19 + y / 43) + 30 * ((x // 40 + y // 40) % 2)
    vi = gaussian_filter(vi, 1) + rng.normal(0, 4, vi.shape)
    ir = 60 + 30 * np.cos(y / 35) + 130 * np.exp(-((x - 400) ** 2 + (y - 200) ** 2) / 4000)
    ir = ir + rng.normal(0, 2, ir.shape)
    f = 0.5 * vi + 0.5 * ir + 0.7 * (vi - gaussian_filter(vi, 2))
    return [np.clip(np.round(image), 0, 255).astype(np.uint8) for image in (vi, ir, f)]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    command = ["cargo", "build", "--release", "--quiet", "-p", "isfm-metrics"]
    subprocess.run([*command, "--example", "nine_scores"], check=True, cwd=ROOT)
    images = triple()
    vi, ir, f = (image.astype(float) for image in images)
    one_by_one = lambda parts: [part() for part in parts]
    with ThreadPoolExecutor(int(THREADS)) as pool, tempfile.TemporaryDirectory() as folder:
        files = []
        for name, image in zip(("vi", "ir", "fused"), images):
            files.append(Path(folder) / f"{name}.png")
            Image.fromarray(image).save(files[-1])
        in_threads = lambda parts: pool.map(lambda part: part(), parts)
        rivals = {
            "Python, released": (by_two_dimensions, one_by_one),
            "Python, separable": (by_one_dimension, one_by_one),
            "Python, separable, 2 threads": (by_one_dimension, in_threads),
        }
        times = {name: [] for name in ["isfm-metrics", *rivals]}
        for _ in range(rounds):
            # The first run touches memory that the others find ready.
            program = [TARGET / "release/examples/nine_scores", *files, str(1 + RUNS)]
            ours = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
            assert ours["threads"] == int(THREADS)
            times["isfm-metrics"].append(median(ours["milliseconds"][1:]))
            for name, (blur, run) in rivals.items():
                milliseconds = []
                for _ in range(1 + RUNS):
                    start = time.perf_counter()
                    scores = nine_scores(vi, ir, f, blur, run)
                    milliseconds.append((time.perf_counter() - start) * 1e3)
                times[name].append(median(milliseconds[1:]))
                for metric, value in scores.items():
                    difference = abs(ours["scores"][metric] - value) / abs(value)
                    assert difference < 1e-6, (name, metric, ours["scores"][metric], value)
    middle = {name: median(values) for name, values in times.items()}
    print(f"640x480, {THREADS} threads, medians of {rounds} rounds")
    for name, value in middle.items():
        print(f"{name:<30} {value:9.2f} ms {value / middle['isfm-metrics']:8.1f} x")


if __name__ == "__main__":
    main()
