"""Manifests that name files in remote stores."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from test_readers import write_nifti

from mvg.data import ManifestSource
from mvg.data.manifest import read_manifest, write_manifest

fsspec = pytest.importorskip("fsspec", reason="remote files need fsspec")


@pytest.fixture
def store(tmp_path):
    """A store in memory with three cases, and the manifest that lists them."""
    memory, lines = fsspec.filesystem("memory"), ["case,split,role,path,sha256"]
    for number in range(3):
        path = write_nifti(tmp_path / f"{number}.nii.gz", np.random.default_rng(number).normal(size=(8, 7, 6)))
        memory.pipe(f"/scans/{number}.nii.gz", content := path.read_bytes())
        path.unlink()
        sha = hashlib.sha256(content).hexdigest()
        lines.append(f"c{number},train,image,memory://scans/{number}.nii.gz,{sha}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    yield memory
    memory.store.clear()


def source(tmp_path):
    return ManifestSource(str(tmp_path / "m.csv"), cache=str(tmp_path / "cache"), slices="axial")


def test_remote_files_are_fetched_once(tmp_path, store):
    items = list(source(tmp_path).items("train"))
    first = source(tmp_path).read(items[5]).images["image"]
    store.store.clear()
    again = source(tmp_path)
    assert list(again.items("train")) == items
    assert len(items) == 18
    assert np.array_equal(again.read(items[5]).images["image"], first)


def test_remote_files_of_another_kind_of_store_are_the_same_files(tmp_path, store):
    items = list(source(tmp_path).items("train"))
    local = tmp_path / "copy.nii.gz"
    local.write_bytes(store.cat("/scans/0.nii.gz"))
    text = (tmp_path / "m.csv").read_text().replace("memory://scans/0.nii.gz", f"file://{local}")
    (tmp_path / "m.csv").write_text(text)
    assert list(source(tmp_path).items("train")) == items


def test_files_of_a_server_are_the_same_files(tmp_path, store):
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    items = list(source(tmp_path).items("train"))
    (tmp_path / "cache").rename(tmp_path / "other")
    (tmp_path / "served").mkdir()
    for number in range(3):
        (tmp_path / "served" / f"{number}.nii.gz").write_bytes(store.cat(f"/scans/{number}.nii.gz"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        text = (tmp_path / "m.csv").read_text().replace("memory://scans", address)
        (tmp_path / "m.csv").write_text(text)
        assert list(source(tmp_path).items("train")) == items
        (tmp_path / "m.csv").write_text(text.replace("2.nii.gz", "3.nii.gz"))
        with pytest.raises(ValueError, match=r"3\.nii\.gz: the file does not exist"):
            source(tmp_path).items("train")
        server.shutdown()


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_remote_files_that_are_not_as_stated_are_refused_and_leave_nothing(tmp_path, store, how):
    if how == "changed":
        store.pipe("/scans/1.nii.gz", b"another file")
    else:
        store.rm("/scans/1.nii.gz")
    with pytest.raises(ValueError, match=r"memory://scans/1\.nii\.gz: the file (is not the one|does not exist)"):
        source(tmp_path).items("train")
    assert len([path for path in tmp_path.glob("cache/fetched/*/*") if path.is_file()]) == 1


def test_addresses_return_from_the_manifest(tmp_path, store):
    rows = read_manifest(tmp_path / "m.csv")
    write_manifest(tmp_path / "again.csv", rows)
    assert read_manifest(tmp_path / "again.csv") == rows
    assert "memory://scans/0.nii.gz," in (tmp_path / "again.csv").read_text()


@pytest.mark.parametrize(
    ("place", "sha256", "words"),
    [
        ("s3://bucket/a.nii.gz", "", "needs its sha256"),
        ("s3://bucket/..", "0" * 64, "no address of a file"),
        ("s3://bucket/a.npz#a/3", "0" * 64, "archives"),
        ("zip://a.nii.gz::s3://bucket/b.zip", "0" * 64, "one store"),
        ("nosuchstore://bucket/a.nii.gz", "0" * 64, "nosuchstore"),
    ],
)
def test_addresses_that_cannot_be_read_are_refused(tmp_path, place, sha256, words):
    (tmp_path / "m.csv").write_text(f"case,split,role,path,sha256\nc,train,image,{place},{sha256}\n")
    with pytest.raises(ValueError, match=words):
        source(tmp_path).items("train")
