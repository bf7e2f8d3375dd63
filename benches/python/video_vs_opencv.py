"""Times fused video beside a Laplacian pyramid by OpenCV that does the same work.

    python3 benches/python/video_vs_opencv.py [ROUNDS]

Needs Rust and pip; makes a virtual environment under target/ the first time. Both sides get two
threads and the same frames, I420 with GRAY16 of 320x256, and take turns of 30 frames, after 30 that
warm up. Each frame is given as planes in memory and its fused luma is in a buffer at the end: the
infrared counts are brought to their range (percentiles of a histogram), resized, and fused.

The pyramid is the training-free one that scores best here: two levels, the detail of higher local
energy, the larger base.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
THREADS = 2
PACKAGES = ["opencv-python-headless==4.14.0.94", "numpy==2.4.6"]


def in_virtual_environment():
    """Starts this script again with the packages, unless they are there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    python = target / "video-venv" / "bin" / "python"
    if Path(sys.prefix) == python.parent.parent:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    os.execv(python, [python, *sys.argv])


in_virtual_environment()

from statistics import median  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

INFRARED = (320, 256)
FRAMES = 30
LEVELS = 2


def scene(width, height):
    """Moving bars and a warm disc, with noise: luma planes and counts."""
    random = np.random.default_rng(0)
    visible, infrared = [], []
    for n in range(FRAMES):
        y, x = np.mgrid[:height, :width]
        luma = 110 + 50 * np.sin((x + 3 * n) / 17) + 30 * np.cos(y / 11)
        visible.append((luma + random.normal(0, 3, luma.shape)).clip(16, 235).astype(np.uint8))
        y, x = np.mgrid[: INFRARED[1], : INFRARED[0]]
        disc = np.hypot(x - 60 - 4 * n, y - 128) < 20
        counts = 7000 + 300 * np.cos(x / 40) + 1500 * disc + random.normal(0, 12, x.shape)
        infrared.append(counts.astype("<u2"))
    return visible, infrared


def span(counts):
    """The counts that 1 and 99 per cent of the pixels lie below."""
    below = np.cumsum(cv2.calcHist([counts], [0], None, [65536], [0, 65536]))
    return np.searchsorted(below, [0.01 * counts.size, 0.99 * counts.size])


def fuse(luma, counts):
    low, high = span(counts)
    heat = np.clip((counts.astype(np.float32) - low) / max(high - low, 1), 0, 1)
    height, width = luma.shape
    if heat.shape != luma.shape:
        heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_CUBIC)
    pictures = [(luma.astype(np.float32) - 16) / 219, heat]
    details = []
    for _ in range(LEVELS):
        smaller = [cv2.pyrDown(p) for p in pictures]
        v, i = (p - cv2.pyrUp(s, dstsize=p.shape[::-1]) for p, s in zip(pictures, smaller))
        energy = [cv2.boxFilter(d * d, -1, (5, 5), normalize=False) for d in (v, i)]
        details.append(np.where(energy[0] >= energy[1], v, i))
        pictures = smaller
    fused = np.maximum(*pictures)
    for detail in reversed(details):
        fused = cv2.pyrUp(fused, dstsize=detail.shape[::-1]) + detail
    return (fused * 219 + 16.5).clip(16, 235).astype(np.uint8)


def build():
    command = ["cargo", "bench", "-p", "isfm-benches", "--bench", "video", "--no-run"]
    command += ["--quiet", "--message-format=json"]
    out = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    built = [json.loads(line) for line in out.splitlines()]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == "video")


def measure(program, size, rounds):
    """The milliseconds of every frame of the turns that count, of both sides."""
    visible, infrared = scene(*size)
    with tempfile.TemporaryDirectory() as folder:
        grey = np.full(size[0] * size[1] // 2, 128, np.uint8).tobytes()
        frames = b"".join(luma.tobytes() + grey for luma in visible)
        Path(folder, "visible.yuv").write_bytes(frames)
        Path(folder, "infrared.raw").write_bytes(b"".join(c.tobytes() for c in infrared))
        command = [program, "--turns", folder, f"{size[0]}x{size[1]}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as ours:
            both = [], []
            for turn in range(rounds + 1):
                ours.stdin.write(f"{FRAMES}\n")
                ours.stdin.flush()
                times = json.loads(ours.stdout.readline()), []
                for luma, counts in zip(visible, infrared):
                    start = time.perf_counter()
                    fuse(luma, counts)
                    times[1].append((time.perf_counter() - start) * 1e3)
                if turn > 0:
                    for all_times, turns in zip(both, times):
                        all_times.extend(turns)
            ours.stdin.close()
    return both


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    cv2.setNumThreads(THREADS)
    program = build()
    print(f"{THREADS} threads, OpenCV {cv2.__version__}, {rounds} turns of {FRAMES} frames each")
    print(f"{'':10}{'isfm':>30}{'pyramid by OpenCV':>30}")
    for size in [(320, 256), (640, 480)]:
        row = f"{f'{size[0]}x{size[1]}':10}"
        medians = []
        for times in measure(program, size, rounds):
            times.sort()
            medians.append(median(times))
            last = times[int(0.99 * len(times))]
            row += f"{f'{medians[-1]:.1f} ms, 99 % {last:.1f} ms':>30}"
        print(f"{row}   ratio {medians[0] / medians[1]:.1f}", flush=True)


if __name__ == "__main__":
    main()
