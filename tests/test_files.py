import os
import stat

import pytest
import torch

from mvg.files import check_folder, write_atomically, write_whole
from mvg.weights import write_tensors

WRITERS = {
    "one": lambda path: write_atomically(path, lambda file: file.write(b"a")),
    "several": lambda path: write_whole({path: b"a"}),
    "tensors": lambda path: write_tensors(path, {"a": torch.ones(1)}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path, writer, mask):
    before = os.umask(mask)
    try:
        WRITERS[writer](tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_nothing_is_left_of_files_that_belong_together_if_one_cannot_be_written(tmp_path):
    (tmp_path / "folder").write_text("a file where a folder is wanted")
    with pytest.raises(OSError, match="folder"):
        write_whole({tmp_path / "a": b"new", tmp_path / "folder" / "b": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_where_nothing_can_be_written_is_said_before_any_work(tmp_path, monkeypatch):
    check_folder(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("a file where a folder is wanted")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match=r"file is a file, .*; name another output"):
            check_folder(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(ValueError, match=r"you may not write into .*change its permissions"):
        check_folder(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_old_content_stays_if_writing_breaks_off(tmp_path):
    def broken(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", broken)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
