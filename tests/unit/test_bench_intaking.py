"""The parts of the intake benchmark whose mistakes would not show in its figures."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.intaking.figures import Case, Results, Run, percentile, run_of
from tests.bench.intaking.images import PDU_LENGTH, Shape, Stream, data_set, write_files
from tests.bench.intaking.plot import write_plot
from tests.bench.intaking.sender import Sent
from tests.contract.wire import parse_command

SHAPE = Shape(5, 128, 128)
CASE = Case("own", "small", 1)


def run_at(rate: float) -> Run:
    sent = [Sent(images=10, begun=5.0, ended=5.0 + 10 / rate, cpu=0.1, round_trips=[1 / rate] * 10)]
    return run_of(SHAPE, sent, pss=1.0, hwm=1.0, lag=None)


def test_the_stream_of_an_image_holds_its_command_and_its_data_set() -> None:
    stream = Stream(SHAPE, root=3)
    stream.image(1)
    left = memoryview(stream.image(4))
    values: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}
    while left:
        kind, _, length, inner, context, control = struct.unpack_from(">BBLLBB", left)
        assert (kind, context) == (4, 1)
        assert length == inner + 4 <= PDU_LENGTH
        values[control & 1] += left[12 : 6 + length]
        left = left[6 + length :]
    assert control == 2, "the last fragment says so"
    assert values[0] == data_set(SHAPE, 3, 4)
    assert parse_command(bytes(values[1]))[0x1000].rstrip(b"\x00") in values[0]


def test_files_are_shared_out_and_no_two_are_the_same(tmp_path: Path) -> None:
    folders = write_files(tmp_path, SHAPE, 2)
    files = [sorted(folder.iterdir()) for folder in folders]
    assert [len(part) for part in files] == SHAPE.shares(2) == [3, 2]
    assert len({path.read_bytes() for part in files for path in part}) == 5


def test_every_sender_has_an_image() -> None:
    assert Shape(2, 1, 1).shares(4) == [1, 1, 1, 1]


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (75, 3.0), (95, 4.0), (100, 4.0)])
def test_percentiles_are_values_that_were_seen(percent: int, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == value


def test_a_run_lasts_from_the_first_sender_to_the_last() -> None:
    sent = [Sent(4, 10.0, 12.0, 0.25), Sent(4, 11.0, 14.0, 0.5)]
    run = run_of(SHAPE, sent, pss=1.0, hwm=1.0, lag=None)
    assert (run.seconds, run.rate, run.sender_cpu) == (4.0, 2.0, 0.75)
    assert (run.slowest, run.fastest) == pytest.approx((4 / 3, 2.0))
    assert run.p50 is None


def test_rounds_are_paired_and_one_without_a_pair_does_not_count() -> None:
    results = Results()
    for rate in (10.0, 40.0, 1000.0):
        results.add(CASE, "node", run_at(rate))
    for rate in (10.0, 10.0):
        results.add(CASE, "storescp", run_at(rate))
    assert results.times_as_fast((CASE, "node"), (CASE, "storescp")) == pytest.approx(2.5)
    assert results.times_as_fast((CASE, "node"), (CASE, "Orthanc")) is None


def test_the_picture_has_a_bar_for_every_figure(tmp_path: Path) -> None:
    results = Results()
    cases = (CASE, Case("own", "small", 4), Case("dcmsend-nagle", "ct", 1))
    for case in cases:
        for number, name in enumerate(("node", "storescp", "Orthanc")):
            results.add(case, name, run_at(100.0 * (number + 1)))
    write_plot(tmp_path / "plot.svg", results, "1 < 2 & 3")
    picture = ElementTree.parse(tmp_path / "plot.svg").getroot()  # noqa: S314 - our own
    svg = "{http://www.w3.org/2000/svg}"
    bars = [one for one in picture.iter(f"{svg}rect") if one.find(f"{svg}title") is not None]
    assert len(bars) == 9
    assert len({bar.get("height") for bar in bars}) == 3
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    for bar in picture.iter(f"{svg}rect"):
        sides = (("x", "width", width), ("y", "height", height))
        assert all(
            0 <= float(bar.get(at, 0)) <= float(bar.get(at, 0)) + float(bar.get(size, 0)) <= most
            for at, size, most in sides
        )
