"""Times isfm-dwt and PyWavelets side by side on f32 data of one size, and prints ratios.

    pip install PyWavelets numpy && python benches/python/wavelets_vs_pywavelets.py

Runs `cargo bench -p isfm-dwt --bench wavelet_times` and PyWavelets in turn, several rounds, so
that both meet the same machine; of each the shortest of five runs a round counts, after one that warms up. PyWavelets has one thread;
isfm-dwt those of RAYON_NUM_THREADS. Haar is also compared with a copy of its input: `of copy` is
the share of the copy's bandwidth that it reaches, the copy made by as many threads into fresh
memory, as the transform's result is.
"""

import argparse
import json
import pathlib
import subprocess
import time

import numpy
import pywt

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
rounds = parser.parse_args().rounds
root = pathlib.Path(__file__).resolve().parent.parent.parent
random = numpy.random.default_rng(1)
x = random.standard_normal((2048, 2048)).astype(numpy.float32)
line = random.standard_normal(1 << 22).astype(numpy.float32)


def cases():
    for side in (2048, 1024, 512, 256):
        part = numpy.ascontiguousarray(x[:side, :side])
        yield f"dwt2 haar {side}", lambda part=part: pywt.dwt2(part, "haar")
        bands = pywt.dwt2(part, "haar")
        yield f"idwt2 haar {side}", lambda bands=bands: pywt.idwt2(bands, "haar")
    for name in ("haar", "db4", "sym8"):
        for mode in ("symmetric", "periodization"):
            level = pywt.dwt_max_level(2048, name)
            run = lambda name=name, mode=mode, level=level: pywt.wavedec2(x, name, mode, level)
            yield f"wavedec2 {name} {mode}", run
            c = run()
            yield f"waverec2 {name} {mode}", lambda c=c, name=name, mode=mode: pywt.waverec2(c, name, mode)
    small = numpy.ascontiguousarray(x[:1024, :1024])
    yield "swt2 db4", lambda: pywt.swt2(small, "db4", 2, trim_approx=True)
    c = pywt.swt2(small, "db4", 2, trim_approx=True)
    yield "iswt2 db4", lambda: pywt.iswt2(c, "db4")
    yield "wavedec db4", lambda: pywt.wavedec(line, "db4", level=10)


def best(f):
    f()
    shortest = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        f()
        shortest = min(shortest, 1e3 * (time.perf_counter() - start))
    return shortest


ours, theirs = {}, {}
command = ["cargo", "bench", "--quiet", "-p", "isfm-dwt", "--bench", "wavelet_times"]
for _ in range(rounds):
    out = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    times = json.loads(out.strip().splitlines()[-1])
    threads = times.pop("threads")
    for name, ms in times.items():
        ours[name] = min(ms, ours.get(name, ms))
    for name, f in cases():
        ms = best(f)
        theirs[name] = min(ms, theirs.get(name, ms))

print(f"{threads} threads, PyWavelets {pywt.__version__}, f32, milliseconds, best of {rounds} rounds")
print(f"{'':32}{'isfm-dwt':>10}{'PyWavelets':>12}{'ratio':>8}{'of copy':>9}")
for name, their_ms in theirs.items():
    ms = ours[name]
    row = f"{name:32}{ms:10.2f}{their_ms:12.2f}{their_ms / ms:8.1f}"
    if "dwt2 haar" in name:
        row += f"{ours['copy ' + name.split()[-1]] / ms:9.0%}"
    print(row)
for side in (2048, 1024, 512, 256):
    fast, plain = ours[f"copy {side}"], ours[f"candle copy {side}"]
    print(f"copy of {side}x{side}: {fast:.3f} ms with all threads, Candle's {plain:.3f} ms")
