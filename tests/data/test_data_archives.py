"""Files that promise more than they hold are refused by their headers, before memory is asked for."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from privbench.core import UserError
from privbench.data.archives import read_archive, read_array
from privbench.data.npz import open_npz
from privbench.data.pictures import read_pictures


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive(path: Path, shape: tuple[int, ...], mebibytes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open("images.npy", "w") as member:
        member.write(header(shape))
        for _ in range(mebibytes):
            member.write(bytes(2**20))
    return path


@pytest.mark.parametrize("read", [open_npz, read_pictures, read_archive], ids=lambda read: read.__name__)
def test_an_archive_that_claims_petabytes_is_refused_at_once(read: object, tmp_path: Path) -> None:
    assert callable(read)
    with pytest.raises(UserError, match=r"images says that it has 3,000,000,000,000,128 bytes, and \d+ are there"):
        read(archive(tmp_path / "a.npz", (10**9, 1000, 1000, 3), 0))


def test_a_lone_array_that_claims_petabytes_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header((10**9, 1000, 1000, 3)))
    for read in (read_array, read_pictures):
        with pytest.raises(UserError, match=r"says that it has 3,000,000,000,000,128 bytes, and 128 are there"):
            read(tmp_path / "a.npy")


def test_an_archive_that_unpacks_to_hundreds_of_times_its_size_is_refused_without_unpacking(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", (300, 1024, 1024, 1), 300)
    started = time.process_time()
    with pytest.raises(UserError, match=r"images unpacks to 315 MB from [\d.]+; that is no array of pictures"):
        open_npz(path)
    assert time.process_time() - started < 0.1


def test_what_numpy_writes_is_read_as_it_was(tmp_path: Path) -> None:
    values = {"images": np.arange(2 * 3 * 4 * 5, dtype=">u2").reshape(2, 3, 4, 5), "labels": np.asfortranarray(np.eye(3))}
    np.savez_compressed(tmp_path / "a.npz", images=values["images"], labels=values["labels"])
    found, names = read_archive(tmp_path / "a.npz")
    assert names == ("images", "labels")
    np.save(tmp_path / "a.npy", values["images"])
    for name in names:
        np.testing.assert_array_equal(found[name], values[name])
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), values["images"])
    assert read_archive(tmp_path / "a.npz", ["labels"])[0].keys() == {"labels"}
