"""Whatever a source holds, an import tells a draft or a plain fault."""

from __future__ import annotations

import copy
import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.importing import monai_bundle, nnunet, onnx_graph, toml
from ai.importing.draft import Answers, Draft, Options, completed, settled, told
from ai.importing.monai_config import Config
from config.errors import ManifestError, ModelFileError
from tests.unit.ai.importing.sources import mean_graph, write_bundle, write_nnunet

NAMES = st.text(min_size=1, max_size=8)
PLAIN = st.one_of(
    *(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=12)),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(PLAIN, max_size=3),
        st.lists(st.dictionaries(NAMES, PLAIN, max_size=2), max_size=3),
        st.dictionaries(NAMES, inner, max_size=3),
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        PLAIN,
        st.sampled_from(["@a", "@b#a", "@a#c", "$[1]", "@spacing", "$x()", "Orientationd"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_written_as_toml_is_read_back(tree: dict[str, Any]) -> None:
    assert tomllib.loads(toml.written(tree)) == tree


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key, value in entries:
            deeper = isinstance(value, dict | list)
            found += places(value, (*path, key)) if deeper else [(*path, key)]
    return found


def damage(path: Path, data: st.DataObject) -> None:
    """Puts something else into one place of a file of JSON."""
    tree = json.loads(path.read_text("utf-8"))
    *parents, last = data.draw(st.sampled_from(places(tree)))
    here = tree
    for key in parents:
        here = here[key]
    here[last] = data.draw(JSON)
    path.write_text(json.dumps(tree), "utf-8")


def assert_draft_or_plain_fault(read: Callable[[], Draft]) -> None:
    """Goes the way of an import up to the manifest, which lacks what nobody answered."""
    answers = Answers("answers.toml", {}, {}, {})
    fault = None
    try:
        draft = read()
    except ModelFileError as error:
        fault = str(error)
    if fault is not None:
        assert fault.isprintable()
        return
    whole = completed(draft, answers, Options())
    assert tomllib.loads(told(whole, "source"))["status"] == "development"
    with pytest.raises(ManifestError):
        settled(whole, answers, "source")


Write = Callable[[Path], Path]
Read = Callable[[Path], Draft]
SOURCES: dict[str, tuple[Write, Read, list[str]]] = {
    "monai": (
        lambda folder: write_bundle(folder / "b"),
        lambda path: monai_bundle.read(path, monai_bundle.BundleOptions(), {}),
        ["configs/metadata.json", "configs/inference.json"],
    ),
    "nnunet": (
        write_nnunet,
        lambda path: nnunet.read(path, nnunet.NnunetOptions(), {}),
        ["plans.json", "dataset.json"],
    ),
}


@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("kind", list(SOURCES))
@given(data=st.data())
def test_a_damaged_description_is_a_draft_or_a_plain_fault(kind: str, data: st.DataObject) -> None:
    write, read, files = SOURCES[kind]
    with tempfile.TemporaryDirectory() as work:
        source = write(Path(work))
        damage(source / data.draw(st.sampled_from(files)), data)
        assert_draft_or_plain_fault(lambda: read(source))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_graph_is_a_draft_or_a_plain_fault(data: st.DataObject) -> None:
    content = bytearray(mean_graph())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "model.onnx"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        assert_draft_or_plain_fault(lambda: onnx_graph.read(path, Options(), {}))


@settings(max_examples=100, deadline=None)
@given(tree=st.dictionaries(st.sampled_from("abc"), JSON, max_size=3))
def test_references_end_whatever_they_lead_to(tree: dict[str, Any]) -> None:
    before = copy.deepcopy(tree)
    for name in tree:
        Config(tree).get(name, "b", "0")
        Config(tree).get(name)
    assert tree == before
