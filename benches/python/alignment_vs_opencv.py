"""Aligns the same pairs by isfm-align and by what OpenCV offers.

    python3 benches/python/alignment_vs_opencv.py [DATA]

DATA is a folder of pairs, vi/NAME and ir/NAME; RoadScene's test pairs unless another is named. Needs Rust and
pip; makes a virtual environment under target/ the first time. `crates/isfm-align/benches/accuracy.rs` draws the
warps, says what isfm-align makes of them and leaves the pictures here, on which the others run:

- ECC: findTransformECC up to a homography over a pyramid of three levels, from the identity, on gradient
  magnitudes (on brightness it finds next to nothing);
- ORB with RANSAC: 2000 features of each picture, cross-checked, findHomography within 3 pixels;
- phase correlation of gradient magnitudes with a Hanning window: a shift.

Of eight frames, ECC and phase correlation take the median of the single estimates' corners, ORB all matches
together. The error is the mean distance of the corners, from the warp and from the warp after the data
set's own misalignment.
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

import cv2  # noqa: E402
import numpy as np  # noqa: E402


def edges(picture):
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.5)
    return np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))


def ecc(visible, infrared):
    """From infrared pixels to visible ones, or nothing."""
    seen, found, mask = edges(visible), edges(infrared), (infrared > 0).astype(np.uint8)
    mask = cv2.erode(mask, np.ones((9, 9), np.uint8))
    warp = np.eye(3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    for level in (2, 1, 0):
        size = lambda p: (max(p.shape[1] >> level, 1), max(p.shape[0] >> level, 1))  # noqa: E731
        small = [cv2.resize(p, size(p), interpolation=cv2.INTER_AREA) for p in (seen, found, mask)]
        scale = np.diag([2.0**level, 2.0**level, 1]).astype(np.float32)
        own = np.linalg.inv(scale) @ warp @ scale
        try:
            _, own = cv2.findTransformECC(
                small[0], small[1], own.astype(np.float32), cv2.MOTION_HOMOGRAPHY, stop, small[2], 5
            )
        except cv2.error:
            return None
        warp = scale @ own @ np.linalg.inv(scale)
    # OpenCV's leads from the template, the visible picture, to the other one.
    return np.linalg.inv(warp)


def matches(visible, infrared):
    orb = cv2.ORB_create(2000)
    (a, da), (b, db) = (orb.detectAndCompute(p, None) for p in (infrared, visible))
    if da is None or db is None:
        return []
    found = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(da, db)
    return [(a[m.queryIdx].pt, b[m.trainIdx].pt) for m in found]


def by_points(points):
    if len(points) < 4:
        return None
    source, target = (np.float32([p[k] for p in points]) for k in (0, 1))
    return cv2.findHomography(source, target, cv2.RANSAC, 3.0)[0]


def phase(visible, infrared):
    window = cv2.createHanningWindow(visible.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(edges(infrared), edges(visible), window)
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def corners(matrix, size):
    width, height = size[0] - 1, size[1] - 1
    square = np.array([[[0, 0], [width, 0], [0, height], [width, height]]], np.float64)
    return cv2.perspectiveTransform(square, np.asarray(matrix, np.float64))[0]


def middle(estimates, size):
    """The map through the median of the corners."""
    found = [corners(e, size) for e in estimates if e is not None]
    if not found:
        return None
    width, height = size[0] - 1, size[1] - 1
    square = np.float32([[0, 0], [width, 0], [0, height], [width, height]])
    return cv2.getPerspectiveTransform(square, np.median(found, axis=0).astype(np.float32))


METHODS = {
    "ECC": lambda pairs, size: middle([ecc(*p) for p in pairs], size),
    "ORB and RANSAC": lambda pairs, size: by_points(sum((matches(*p) for p in pairs), [])),
    "phase correlation": lambda pairs, size: middle([phase(*p) for p in pairs], size),
}


def table(folder, limits):
    cases = json.loads(Path(folder, "cases.json").read_text())
    errors, seconds = {}, {}
    for case in cases:
        read = lambda name, what: cv2.imread(str(Path(folder, f"{name}-{what}.png")), 0)  # noqa: E731
        pairs = [(read(n, "visible"), read(n, "infrared")) for n in case["pairs"]]
        size = pairs[0][1].shape[::-1]
        truths = [np.reshape(case[k], (3, 3)) for k in ("truth", "reference")]
        own = case["found"] and np.reshape(case["found"], (3, 3))
        estimates = {"isfm-align": (own, case["seconds"])}
        for name, method in METHODS.items():
            start = time.perf_counter()
            estimates[name] = method(pairs, size), time.perf_counter() - start
        # The data set's pairs as they are, by ECC: how far they are from lying on each other.
        plain = [(p[0], read(n, "unwarped")) for p, n in zip(pairs, case["pairs"])]
        size_of_plain = plain[0][1].shape[::-1]
        own_by_ecc = middle([ecc(*p) for p in plain], size_of_plain)
        if own_by_ecc is not None:
            still = corners(np.eye(3), size_of_plain)
            off = np.linalg.norm(corners(own_by_ecc, size_of_plain) - still, axis=1).mean()
            errors.setdefault("the data set's own, by ECC", []).append([off, off])
        for name, (matrix, took) in estimates.items():
            off = [np.inf, np.inf]
            if matrix is not None:
                there = corners(matrix, size)
                off = [np.linalg.norm(there - corners(t, size), axis=1).mean() for t in truths]
            errors.setdefault(name, []).append(off)
            seconds.setdefault(name, []).append(took)
    print(f"| method | median | below {limits[0]} | below {limits[1]} | the same less the data set's | s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, off in errors.items():
        cells = []
        for e in np.transpose(off):
            share = [f"{100 * np.mean(e < limit):.0f} %" for limit in limits]
            cells.append([f"{np.median(e):.2f}", *share])
        took = f"{np.mean(seconds[name]):.2f}" if name in seconds else ""
        print("|", " | ".join([name, *cells[0], ", ".join(cells[1]), took]), "|", flush=True)


def main():
    cv2.setNumThreads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        command = ["cargo", "bench", "-p", "isfm-align", "--bench", "accuracy", "--", "--write", folder]
        command += ["--data", str(Path(sys.argv[1]).resolve())] if len(sys.argv) > 1 else []
        subprocess.run(command, check=True, cwd=ROOT)
        for name, limits in (("single", (1.5, 3)), ("eight", (0.7, 2))):
            print(f"\n{name}\n")
            table(Path(folder, name), limits)


if __name__ == "__main__":
    main()
