"""Damaged files of every kind that is read: no crash, no hang, no flood of memory, no damage that a checksum shows.

Files are read in a process of its own, which the system ends when it takes too much memory or time:
`python tests/test_fuzz.py FOLDER FIRST LAST` reads mutations, and prints a line for each that is left standing.
"""

import gzip
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

MEMORY = 512 << 20
"""Bytes that the process may take beyond what its imports take."""
SECONDS = 5
"""For one file."""
SHAPE = (7, 6, 5)
KINDS = ("nii", "nii.gz", "raw.nrrd", "gzip.nrrd", "raw.mha", "zlib.mha", "png", "tif", "npz", "dcm")
LARGE = (0x7FFFFFFF, 0xFFFFFFFF, 30_000, 0xFFFF, 0, 0x80000000)


def write_originals(folder):
    """Writes a sound file of every kind; some of them packed."""
    import nibabel
    import SimpleITK as sitk
    from PIL import Image
    from test_dicom import write_slice

    values = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    for kind in KINDS:
        path = folder / f"a.{kind}"
        if "nii" in kind:
            nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)
        elif kind[-3:] in ("mha", "rrd"):
            sitk.WriteImage(image, str(path), useCompression=not kind.startswith("raw"))
        elif kind == "npz":
            np.savez_compressed(path, a=values.astype(np.uint8))
        elif kind == "dcm":
            write_slice(path, values[0], [0, 0, 0], np.eye(3)[:2])
        else:
            Image.fromarray(values[..., 0].astype(np.uint8)).save(path)


def mutate(content, rng):
    """Flips bits, cuts, blanks, repeats, or writes large numbers into the header."""
    changed, size = bytearray(content), len(content)
    how = rng.integers(6)
    start, length = int(rng.integers(size)), int(rng.integers(1, 65))
    if how < 2:
        for place in rng.integers(8 * size, size=int(rng.integers(1, 9 if how else 2))).tolist():
            changed[place // 8] ^= 1 << place % 8
    elif how == 2:
        del changed[start : size if rng.random() < 0.7 else start + length]
    elif how == 3:
        changed[start : start + length] = bytes(min(length, size - start))
    elif how == 4:
        changed[start:start] = changed[start : start + length]
    else:
        start, width = int(rng.integers(min(size, 400))), int(rng.choice([2, 4]))
        number = int(rng.choice(LARGE)) % (1 << 8 * width)
        changed[start : start + width] = number.to_bytes(width, ["little", "big"][int(rng.integers(2))])
    return bytes(changed)


def bombs(kind, content):
    """Headers that claim far more than there is, and streams that grow when they are unpacked."""
    if kind == "nii.gz":
        header = bytearray(gzip.decompress(content))
        yield gzip.compress(bytes(header)) + 800 * gzip.compress(bytes(1 << 20))
        header[42:48] = np.array([30_000] * 3, "<i2").tobytes()
        yield gzip.compress(bytes(header))
    if kind == "nii":
        yield content[:42] + np.array([30_000] * 3, "<i2").tobytes() + content[48:]
    if kind[-3:] in ("mha", "rrd"):
        for sizes in (b"5 6 7", b"7 6 5"):
            yield content.replace(sizes, b"30000 30000 30000")
            yield content.replace(sizes, b"900 900 900")


def cases(kind, content, first, last):
    """Yields number and content of mutations; bombs come first."""
    extra = list(bombs(kind, content))
    for number in range(first, last):
        rng = np.random.default_rng([KINDS.index(kind), number])
        yield number, extra[number] if number < len(extra) else mutate(content, rng)


def read(path, kind):
    """Reads a file as the project does; returns what its values and grid are."""
    from mvg.data.dicom import find_series, read_series
    from mvg.data.location import Location, read_grid

    if kind == "dcm":
        found = [read_series(series) for series in find_series(path)]
        if not found:
            raise ValueError(f"{path}: no image")
        return hashlib.sha256(found[0].values.tobytes() + found[0].affine.tobytes()).hexdigest()
    grid = read_grid(Location(path, "a/3" if kind == "npz" else ""))
    return hashlib.sha256(np.ascontiguousarray(grid.values).tobytes() + str(grid.values.shape).encode()).hexdigest()


def worker(folder, first, last):
    """Reads mutations of all kinds; a line of JSON before and after each."""
    import SimpleITK  # noqa: F401  imports belong to neither limit

    from mvg.data import location  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for kind in KINDS:
        original = folder / f"a.{kind}"
        content = original.read_bytes()
        place = folder / f"work-{first}-{kind}"
        place.mkdir()
        path, true = place / f"b.{kind}", read(original, kind)
        for number, changed in cases(kind, content, first, last):
            path.write_bytes(changed)
            print(json.dumps([kind, number, "begun"]), flush=True)
            signal.alarm(SECONDS)
            try:
                found = read(path, kind)
                said = "sound" if changed == content else "same" if found == true else "other"
            except ValueError as error:
                said = "refused" if str(path) in str(error) else f"unnamed: {error}"
            signal.alarm(0)
            print(json.dumps([kind, number, said]), flush=True)


def fuzz(folder, first, last):
    """Lets a process read mutations; returns kind, number and outcome of each."""
    words = [sys.executable, __file__, str(folder), str(first), str(last)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=380, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0, f"the process ended with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
    return [line for line in lines if line[2] != "begun"]


def protected(kind, content, changed):
    """Whether a checksum covers what was changed: of packed MetaImage and NRRD that is all but the header."""
    if kind in ("nii.gz", "png", "npz"):
        return True
    if kind in ("gzip.nrrd", "zlib.mha"):
        header = content.index(b"\n\n") if kind == "gzip.nrrd" else content.index(b"LOCAL")
        return changed[: header + 6] == content[: header + 6]
    return False


def check(folder, outcomes):
    """Compares outcomes with what must be."""
    from mvg.data.location import Location, fingerprint

    for kind in KINDS:
        content = (folder / f"a.{kind}").read_bytes()
        numbers = [number for of, number, _ in outcomes if of == kind]
        said = {number: outcome for of, number, outcome in outcomes if of == kind}
        for number, changed in cases(kind, content, min(numbers), max(numbers) + 1):
            assert said[number] in ("sound", "same", "refused", "other"), (kind, number, said[number])
            assert not (said[number] == "other" and protected(kind, content, changed)), (kind, number)
            if said[number] == "other" and kind != "npz":
                (folder / f"c.{kind}").write_bytes(changed)
                assert fingerprint(Location(folder / f"c.{kind}")) != fingerprint(Location(folder / f"a.{kind}"))
    counts = Counter((kind, outcome) for kind, _, outcome in outcomes)
    assert all(counts[kind, "refused"] for kind in KINDS)
    return counts


def test_damaged_files_are_refused_or_harmless(tmp_path):
    write_originals(tmp_path)
    check(tmp_path, fuzz(tmp_path, 0, 40))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_ten_thousand_damaged_files_are_refused_or_harmless(tmp_path, first):
    write_originals(tmp_path)
    counts = check(tmp_path, fuzz(tmp_path, first, first + 250))
    assert sum(counts.values()) == 250 * len(KINDS)


if __name__ == "__main__":
    worker(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
