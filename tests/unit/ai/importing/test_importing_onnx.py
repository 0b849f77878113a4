from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk  # noqa: N813
from onnx import TensorProto, external_data_helper, helper

from ai.engine import Engine
from ai.golden import read_cases, verify
from ai.importing.build import import_model
from ai.importing.draft import Answers, Draft, Options, completed, read_answers
from ai.importing.extra import need
from ai.importing.onnx_file import read_graph
from ai.models.graph import Graph
from ai.registry import Registry
from ai.session import SessionCache
from config.errors import InferenceError, ManifestError, ModelFileError, UsageError
from tests.unit.ai.importing.sources import (
    ABOUT,
    DETECTION,
    OPACITY,
    RADIOGRAPH,
    VOLUME,
    answered,
    mean_graph,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_graph())
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return answered(tmp_path, ABOUT + RADIOGRAPH + OPACITY)


@pytest.mark.feature("F25")
def test_an_onnx_file_and_answers_become_a_package_that_passes_its_golden_case(
    tmp_path: Path, source: Path, answers: Answers
) -> None:
    made = import_model("onnx", source, tmp_path / "site", answers)
    assert made.package.folder == tmp_path / "site/imported/1.0.0"
    assert made.notes == ("the golden case random expects opacity",)
    registry = Registry([tmp_path / "site"])
    assert registry.faults == {}
    package = registry.find("imported@1.0.0")
    assert package.digest == made.package.digest
    assert package.manifest.status == "development"
    (spec,) = package.manifest.inputs
    assert (spec.tensor, spec.layout, spec.size) == ("x", "NCHW", (32, 24))
    (finding,) = package.manifest.output.finding
    assert finding.score is not None
    assert finding.score.tensor == "score"
    report = verify(package, Engine(registry, SessionCache(("cpu",), 1)))
    assert report.passed
    assert [entry.name for entry in (tmp_path / "site").iterdir()] == ["imported"]


def test_what_the_file_does_not_tell_is_asked_and_nothing_is_made(
    tmp_path: Path, source: Path
) -> None:
    draft = tmp_path / "draft.toml"
    with pytest.raises(ManifestError) as error:
        import_model("onnx", source, tmp_path / "site", read_answers(None), draft=draft)
    asked = {fault.key for fault in error.value.faults}
    assert asked == {
        *("name", "version", "vendor", "intended_use", "description", "basis", "licence"),
        *("clinical_domain", "results", "output.task", "inputs.image.modality"),
        *("inputs.image.units", "inputs.image.apply", "inputs.image.normalisation"),
    }
    assert not (tmp_path / "site").exists()
    text = draft.read_text("utf-8")
    for key in asked:
        assert f"# {key.rpartition('.')[2]} = ?  " in text
    assert "score (? × 1)" in text


def test_a_draft_whose_questions_are_answered_is_a_file_of_answers(
    tmp_path: Path, source: Path, answers: Answers
) -> None:
    draft = tmp_path / "draft.toml"
    first = import_model("onnx", source, tmp_path / "one", answers, draft=draft)
    again = import_model("onnx", source, tmp_path / "two", read_answers(draft))
    assert again.package.digest == first.package.digest


def test_an_answer_on_the_command_line_wins(tmp_path: Path, source: Path, answers: Answers) -> None:
    del answers
    pairs = ("name=other-name", "inputs.image.size=[16, 16]", 'output.finding.opacity.severity="x"')
    said = answered(tmp_path, ABOUT + RADIOGRAPH + OPACITY, *pairs)
    with pytest.raises(ManifestError, match=r"answers\.toml:\d+: output.finding.opacity.severity"):
        import_model("onnx", source, tmp_path / "site", said)
    said = answered(tmp_path, ABOUT + RADIOGRAPH + OPACITY, pairs[0])
    made = import_model("onnx", source, tmp_path / "site", said)
    assert made.package.manifest.name == "other-name"


@pytest.mark.parametrize("pair", ["name", "=1", "a b=1"])
def test_a_pair_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        read_answers(None, [pair])


def test_answers_that_are_no_toml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"answers\.toml is no TOML"):
        answered(tmp_path, "name = ")


def test_an_unknown_option_is_told_with_the_known_ones(tmp_path: Path, source: Path) -> None:
    said = answered(tmp_path, ABOUT + RADIOGRAPH + OPACITY + "[import]\nfold = 1\n")
    with pytest.raises(
        ManifestError, match=r"answers\.toml:\d+: import\.fold: .*known keys: as_is"
    ):
        import_model("onnx", source, tmp_path / "site", said)


def test_a_finding_that_is_left_out_needs_no_code(tmp_path: Path, source: Path) -> None:
    text = ABOUT + RADIOGRAPH + OPACITY + "[output.finding.other]\nseverity = 0.1\n"
    with pytest.raises(ManifestError, match=r"output\.finding\.other\.category"):
        import_model("onnx", source, tmp_path / "site", answered(tmp_path, text))
    text += '[import]\nleave_out = ["other"]\n'
    made = import_model("onnx", source, tmp_path / "site", answered(tmp_path, text))
    assert [each.name for each in made.package.manifest.output.finding] == ["opacity"]


def test_a_version_that_is_there_is_not_replaced(
    tmp_path: Path, source: Path, answers: Answers
) -> None:
    import_model("onnx", source, tmp_path / "site", answers)
    with pytest.raises(UsageError, match=r"there is a imported@1\.0\.0"):
        import_model("onnx", source, tmp_path / "site", answers)


def test_an_answer_that_does_not_fit_the_graph_leaves_nothing_behind(
    tmp_path: Path, source: Path, answers: Answers
) -> None:
    del answers
    said = answered(tmp_path, ABOUT + RADIOGRAPH + OPACITY, "inputs.image.size=[8, 8]")
    with pytest.raises(InferenceError):
        import_model("onnx", source, tmp_path / "site", said)
    assert list((tmp_path / "site").iterdir()) == []


def test_a_given_image_becomes_the_golden_case(
    tmp_path: Path, source: Path, answers: Answers
) -> None:
    image = tmp_path / "dark.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(600, dtype=np.int16).reshape(20, 30)), image)
    made = import_model("onnx", source, tmp_path / "site", answers, image=image)
    assert sorted(made.package.manifest.files) == [
        *("golden/given.json", "golden/given.npz", "model.onnx"),
    ]


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x08\x09" * 40])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx is no ONNX file"):
        read_graph(path)


@pytest.mark.parametrize("inside", [False, True])
def test_custom_operators_are_refused_wherever_they_stand(tmp_path: Path, inside: bool) -> None:
    shape = ("N", 1, 8, 8)
    node = helper.make_node("Magic", ["x"], ["y"], domain="org.example")
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "y")]
    if inside:
        body = helper.make_graph([node], "body", [], ends[1])
        flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
        branch = helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body)
        out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)]
        graph = helper.make_graph([branch], "g", ends[0], out, [flag])
    else:
        graph = helper.make_graph([node], "g", *ends)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(ModelFileError, match=r"needs custom operators: org\.example\.Magic"):
        read_graph(path)


def with_weights_beside(folder: Path, location: str) -> Path:
    """A graph whose weights lie in another file."""
    folder.mkdir()
    weights = onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    g = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, 8, 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 1, 8, 64))],
        [weights],
    )
    model = helper.make_model(g)
    (folder / "weights.bin").write_bytes(np.arange(64, dtype=np.float32).tobytes())
    (tensor,) = model.graph.initializer
    external_data_helper.set_external_data(tensor, location, offset=0, length=256)
    tensor.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_file_beside_the_graph_are_taken_in(tmp_path: Path) -> None:
    graph = read_graph(with_weights_beside(tmp_path / "m", "weights.bin"))
    (tensor,) = onnx.load_from_string(graph.content).graph.initializer
    assert not external_data_helper.uses_external_data(tensor)
    assert onnx.numpy_helper.to_array(tensor).tolist() == list(range(64))


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "link.bin"])
def test_weights_that_lie_elsewhere_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(256))
    path = with_weights_beside(tmp_path / "m", location)
    os.symlink(tmp_path / "outside.bin", tmp_path / "m" / "link.bin")
    with pytest.raises(ModelFileError, match="names weights that lie elsewhere"):
        read_graph(path)


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path / "m", "absent.bin")
    with pytest.raises(ModelFileError, match=r"the weights of model\.onnx cannot be read"):
        read_graph(path)


def test_an_input_of_another_type_is_refused(tmp_path: Path) -> None:
    g = Graph("bytes")
    g.named("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    shape = ("N", 1, 8, 8)
    path = tmp_path / "model.onnx"
    path.write_bytes(
        g.serialized([("x", TensorProto.UINT8, shape)], [("y", TensorProto.FLOAT, shape)])
    )
    with pytest.raises(ModelFileError, match="the input x is UINT8, not FLOAT"):
        import_model("onnx", path, tmp_path / "site", read_answers(None))


def test_kinds_and_sources_that_are_not_there_are_told(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UsageError, match="'keras' is no kind of source; there are onnx, monai"):
        import_model("keras", source, tmp_path, read_answers(None))
    with pytest.raises(UsageError, match="there is no "):
        import_model("onnx", tmp_path / "absent", tmp_path, read_answers(None))


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(UsageError, match=r"skops is not installed .*-r requirements-import\.txt$"):
        need("skops.io")
    assert need("onnx.compose") is onnx.compose


def test_segments_that_are_left_out_leave_no_gap(tmp_path: Path) -> None:
    text = (
        'output = { task = "segmentation", segment = { a = { number = 1 }, b = { number = 2 }, '
        "c = { number = 3, channel = 7 } } }\n"
    )
    draft = Draft({}, lambda *_: None)
    options = Options(leave_out=("a",))
    known = completed(draft, answered(tmp_path, text), options).known
    assert known["output"]["segment"] == {
        "b": {"number": 1, "channel": 2},
        "c": {"number": 2, "channel": 7},
    }


def test_a_3d_graph_of_one_size_asks_whether_it_takes_patches(tmp_path: Path) -> None:
    g = Graph("one size")
    g.named("Cast", [g.op("Greater", "x", g.real(0.0))], ["y"], to=TensorProto.UINT8)
    shape = ("N", 1, 16, 24, 32)
    path = tmp_path / "model.onnx"
    path.write_bytes(
        g.serialized([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.UINT8, shape)])
    )
    with pytest.raises(ManifestError, match=r"inputs\.image\.sliding: .*patch = \[16, 24, 32\]"):
        import_model("onnx", path, tmp_path / "site", read_answers(None))
    text = ABOUT + VOLUME
    with pytest.raises(ManifestError, match=r"inputs\.image\.sliding: ") as error:
        import_model("onnx", path, tmp_path / "site", answered(tmp_path, text))
    assert len(error.value.faults) == 1
    said = answered(tmp_path, text, "inputs.image.size=[16, 24, 32]")
    made = import_model("onnx", path, tmp_path / "site", said)
    assert made.package.manifest.output.segment[0].label == "dense"


def test_a_draft_keeps_what_was_said_about_the_import(tmp_path: Path, source: Path) -> None:
    text = ABOUT + RADIOGRAPH + OPACITY + '[import]\nleave_out = ["other"]\n'
    draft = tmp_path / "draft.toml"
    import_model("onnx", source, tmp_path / "one", answered(tmp_path, text), draft=draft)
    assert read_answers(draft).options == {"leave_out": ["other"]}


def test_a_detector_comes_in_with_its_boxes(tmp_path: Path) -> None:
    g = Graph("detector")
    whole = g.array(np.array([[2.0, 3.0, 10.0, 12.0]], np.float32))
    g.named("Identity", [whole], ["boxes"])
    g.named("Reshape", [g.op("ReduceMax", "x", keepdims=0), g.whole(1, 1)], ["scores"])
    path = tmp_path / "model.onnx"
    ends = [("boxes", TensorProto.FLOAT, (1, 4)), ("scores", TensorProto.FLOAT, (1, 1))]
    path.write_bytes(g.serialized([("x", TensorProto.FLOAT, ("N", 1, 32, 24))], ends))
    text = ABOUT + RADIOGRAPH + DETECTION
    with pytest.raises(ManifestError) as error:
        import_model("onnx", path, tmp_path / "site", answered(tmp_path, text))
    assert [fault.key for fault in error.value.faults] == ["output.boxes.activation"]
    said = answered(tmp_path, text, "output.boxes.activation=none")
    made = import_model("onnx", path, tmp_path / "site", said)
    assert [each.name for each in made.package.manifest.output.object] == ["nodule"]
    (case,) = read_cases(made.package)
    assert len(case.findings) == 1
