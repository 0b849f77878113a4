"""Whatever is done to an archive: it is unpacked below its folder, or refused in a sentence."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.archive import unpack
from config.errors import ModelFileError

NAMES = st.lists(
    st.text(st.sampled_from("ab.é/\\:\n\0~-"), min_size=1, max_size=12), min_size=1, max_size=5
)


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(zipfile.ZipInfo(name), b"content " * 40)
    return buffer.getvalue()


def tarred(names: list[str], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 320
            packed.addfile(info, io.BytesIO(b"content " * 40))
    return buffer.getvalue()


def gzipped(names: list[str]) -> bytes:
    return tarred(names, "w:gz")


def assert_unpacks_inside(content: bytes) -> bool:
    """Whether it was taken; nothing may lie outside its folder either way."""
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        source, into = outer / "source", outer / "in" / "to"
        source.write_bytes(content)
        into.mkdir(parents=True)
        try:
            unpack(source, into)
            taken = True
        except ModelFileError:
            taken = False
        beside = {path for path in outer.rglob("*") if into not in (path, *path.parents)}
        assert beside == {source, into.parent}
        assert not any(path.is_symlink() for path in into.rglob("*"))
        return taken


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of the module that packs them
@settings(max_examples=150, deadline=None)
@given(NAMES, st.sampled_from([zipped, tarred, gzipped]))
def test_no_name_leads_out(names: list[str], packed: Callable[[list[str]], bytes]) -> None:
    assert_unpacks_inside(packed(names))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([zipped, tarred, gzipped]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 20),
)
def test_no_damage_is_more_than_a_sentence(
    packed: Callable[[list[str]], bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(packed(["m/model.toml", "m/model.onnx", "m/golden/a.npz"]))
    for place, value in changes:
        content[place % len(content)] = value
    cuts = cut % 3 == 0
    taken = assert_unpacks_inside(
        bytes(content[: len(content) - cut % len(content)] if cuts else content)
    )
    assert taken or changes or cuts
