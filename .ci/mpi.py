"""What .ci/mpi needs besides: painted pairs, and the comparison of two runs."""

import json
import pathlib
import re
import struct
import sys


def paint(folder, count):
    """Pairs of differing sizes: stripes that only the visible picture has, a disc that only the infrared one has."""
    for side in ("vi", "ir"):
        (folder / side).mkdir(parents=True)
    for n in range(count):
        width, height = 48 + 3 * n, 40 + n
        places = [(x, y) for y in range(height) for x in range(width)]
        visible = bytes(
            value
            for x, y in places
            for value in ((90 if (x // 5 + y // (3 + n)) % 2 else 30) + x % 40, 60, y * 2 % 256)
        )
        infrared = bytes(230 if (x - 15 - n) ** 2 + (y - 20) ** 2 < 144 else 20 + y // 2 for x, y in places)
        (folder / "vi" / f"{n}.ppm").write_bytes(b"P6 %d %d 255\n" % (width, height) + visible)
        (folder / "ir" / f"{n}.pgm").write_bytes(b"P5 %d %d 255\n" % (width, height) + infrared)


def tensors(path):
    """The header of a safetensors file, and the bytes of its tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def left(run):
    """What a run has left, but for the times it took."""
    files = {}
    for path in sorted(run.iterdir()):
        if path.suffix == ".safetensors":
            header, values = tensors(path)
            metadata = header["__metadata__"]
            metadata.pop("training_seconds", None)
            if "isfm-train" in metadata:
                metadata["isfm-train"] = re.sub(r'"seconds":[^,}]*', "", metadata["isfm-train"])
            files[path.name] = header, values
        elif path.name == "log.jsonl":
            files[path.name] = re.sub(r',"seconds":[^,}]*', "", path.read_text())
        elif path.name != ".lock":
            files[path.name] = path.read_bytes()
    # The one before the last depends on when checkpoints were written.
    files.pop("previous.safetensors", None)
    return files


def same(first, second):
    first, second = left(first), left(second)
    needed = {"log.jsonl", "validation.jsonl", "last.safetensors", "weights.safetensors", "best.safetensors"}
    missing = needed - first.keys()
    differ = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    if missing or differ or first["log.jsonl"].count("\n") != 50:
        sys.exit(f"the runs differ in {differ}, lack {missing}, or are not of 50 steps")
    print(f"the same bytes in {len(first)} files:", ", ".join(first))


def step(run):
    header, _ = tensors(run / "last.safetensors")
    print(json.loads(header["__metadata__"]["isfm-train"])["step"])


def spoil(source, target):
    """Makes the first weight of all so large that what is computed with it is no number."""
    header, values = tensors(source)
    header = json.dumps(header).encode()
    values = struct.pack("<f", 3e38) + values[4:]
    target.write_bytes(struct.pack("<Q", len(header)) + header + values)


match sys.argv[1:]:
    case ["paint", folder, count]:
        paint(pathlib.Path(folder), int(count))
    case ["same", first, second]:
        same(pathlib.Path(first), pathlib.Path(second))
    case ["step", run]:
        step(pathlib.Path(run))
    case ["spoil", source, target]:
        spoil(pathlib.Path(source), pathlib.Path(target))
    case other:
        sys.exit(f"unknown: {other}")
