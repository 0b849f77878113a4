"""What somebody packed is copied, or refused with nothing written outside."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ai import archive
from ai.archive import unpack
from config.errors import ModelFileError

FILES = {"m/model.toml": b"name", "m/golden/a.npz": b"\x00\x01" * 500, "m/empty": b""}


def zipped(path: Path, files: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.mkdir("m")
        for name, content in (FILES if files is None else files).items():
            packed.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes] | None = None, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in (FILES if files is None else files).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def gzipped(path: Path, files: dict[str, bytes] | None = None) -> Path:
    return tarred(path, files, "w:gz")


def folder(path: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, content in (FILES if files is None else files).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def into(tmp_path: Path) -> Path:
    target = tmp_path / "outer" / "into"
    target.mkdir(parents=True)
    return target


def contents(target: Path) -> dict[str, bytes]:
    found = (path for path in target.rglob("*") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("packed", [zipped, tarred, gzipped, folder])
def test_every_form_comes_out_as_it_went_in(packed: Callable[..., Path], tmp_path: Path) -> None:
    target = into(tmp_path)
    unpack(packed(tmp_path / "no-ending"), target)
    assert contents(target) == FILES
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_names_may_begin_where_the_archive_lies(tmp_path: Path) -> None:
    target = into(tmp_path)
    unpack(gzipped(tmp_path / "packed", {"./m/a": b"1", "./b": b"2"}), target)
    assert contents(target) == {"m/a": b"1", "b": b"2"}


@pytest.mark.parametrize("packed", [zipped, tarred, gzipped])
@pytest.mark.parametrize(
    "name",
    ["../out", "/etc/out", "m/../../out", "m\\..\\out", "C:/out", "m//out", "m/./out", "a\nb",
     "/".join("d" * 20), "x" * 300],
    ids=["up", "absolute", "up from within", "backslash", "drive", "empty part", "dot", "line",
         "deep", "long"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(
    packed: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    target = into(tmp_path)
    with pytest.raises(ModelFileError, match="leads elsewhere"):
        unpack(packed(tmp_path / "packed", {name: b"x"}), target)
    assert contents(tmp_path / "outer") == {}


def test_links_and_devices_of_a_tar_are_refused(tmp_path: Path) -> None:
    for number, kind in enumerate(
        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    ):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as packed:
            info = tarfile.TarInfo("m/link")
            info.type, info.linkname = kind, "/etc/passwd"
            packed.addfile(info)
        target = tmp_path / f"into-{number}"
        target.mkdir()
        with pytest.raises(ModelFileError, match="a link or no plain file"):
            unpack(path, target)
        assert contents(target) == {}


def test_links_of_a_zip_and_of_a_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo("m/link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    source = folder(tmp_path / "source")
    (source / "link").symlink_to("/etc/passwd")
    piped = folder(tmp_path / "piped")
    os.mkfifo(piped / "pipe")
    linked = tmp_path / "linked"
    linked.symlink_to(source)
    for number, hostile in enumerate((path, source, piped, linked)):
        target = tmp_path / f"into-{number}"
        target.mkdir()
        with pytest.raises(ModelFileError, match=r"a link or no plain file|neither a folder"):
            unpack(hostile, target)
        assert "link" not in {name.rpartition("/")[2] for name in contents(target)}


@pytest.mark.parametrize("packed", [zipped, gzipped])
def test_a_bomb_is_stopped_while_it_grows(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED", 1 << 20)
    path = packed(tmp_path / "bomb", {"zeros": bytes(32 << 20)})
    assert path.stat().st_size < 64 << 10
    target = into(tmp_path)
    with pytest.raises(ModelFileError, match="grows beyond measure"):
        unpack(path, target)
    assert sum(map(len, contents(target).values())) < 16 << 20


def test_a_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    path = tmp_path / "packed.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ModelFileError):
        unpack(path, into(tmp_path))


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    for packed in (zipped, tarred, folder):
        target = tmp_path / f"into-{packed.__name__}"
        target.mkdir()
        with pytest.raises(ModelFileError, match="more than 2 files"):
            unpack(packed(tmp_path / packed.__name__), target)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.tar"
    tarred(path, {"a/b": b"1", "A/B": b"2"})
    with pytest.raises(ModelFileError, match="twice"):
        unpack(path, into(tmp_path))
    tarred(path, {"a": b"1", "a/b": b"2"})
    target = tmp_path / "second"
    target.mkdir()
    with pytest.raises(ModelFileError, match="twice"):
        unpack(path, target)


@pytest.mark.parametrize("packed", [zipped, tarred, gzipped])
def test_a_damaged_archive_says_so(packed: Callable[..., Path], tmp_path: Path) -> None:
    path = packed(tmp_path / "packed", {"m/data": os.urandom(40_000)})
    content = bytearray(path.read_bytes())
    content[20_000:20_100] = bytes(100)
    (tmp_path / "changed").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "text").write_text("no archive")
    said = "damaged archive|neither a folder nor a zip or tar archive"
    for number, name in enumerate(("changed", "cut", "text")):
        target = tmp_path / f"into-{number}"
        target.mkdir()
        if (name, packed) == ("changed", tarred):
            continue  # a plain tar holds no check of its contents; the package's digests do
        with pytest.raises(ModelFileError, match=said):
            unpack(tmp_path / name, target)


def test_encrypted_and_oddly_compressed_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("m/data", b"x" * 100)
    with pytest.raises(ModelFileError, match="neither stored nor deflated"):
        unpack(path, into(tmp_path))
    content = bytearray(zipped(path, {"m/data": b"x" * 100}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + offset] |= 1
    path.write_bytes(content)
    target = tmp_path / "second"
    target.mkdir()
    with pytest.raises(ModelFileError, match="encrypted"):
        unpack(path, target)
