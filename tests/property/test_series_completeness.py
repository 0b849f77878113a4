"""For any arrival of a series: it is complete when the evidence says so, and never before."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.series.assembly import Announced, Complete, Evidence, Waiting, completeness

EXAMPLES = settings(max_examples=200, deadline=None)

START = 1.8e9  # seconds since the epoch, so that doubles are as coarse as they are in use
seconds = st.floats(0, 2000)
limits = st.tuples(st.floats(0, 100), st.floats(0, 1000))


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    sources = st.builds(Announced, st.just("C-FIND"), st.integers(1, 20), st.booleans())
    return Evidence(
        received=draw(st.integers(1, 20)),
        last_object=START + draw(seconds),
        open_associations=draw(st.integers(0, 2)),
        announced=tuple(draw(st.lists(sources, max_size=3))),
        single_image=draw(st.booleans()),
        gap=draw(st.booleans()),
        forced=draw(st.booleans()),
    )


@EXAMPLES
@given(known=evidence(), silence=seconds, limit=limits)
def test_the_reason_is_the_first_that_holds(
    known: Evidence, silence: float, limit: tuple[float, float]
) -> None:
    now = known.last_object + silence
    quiet, give_up = limit
    last = known.last_object
    told = [each for each in known.announced if each.instances >= known.received]
    counted = bool(told) and told[0].instances == known.received
    expected = [
        (counted and not (known.gap and told[0].provisional), "count"),
        (known.single_image, "single-image"),
        (not known.open_associations and not known.gap and now >= last + quiet, "quiet"),
        (now >= last + give_up, "timeout"),
        (known.forced, "forced"),
    ]
    reasons = [reason for holds, reason in expected if holds]
    verdict = completeness(known, now, quiet, give_up)
    if reasons:
        assert isinstance(verdict, Complete)
        assert verdict.reason == reasons[0]
        assert verdict.evidence
    else:
        assert isinstance(verdict, Waiting)
        assert verdict.until > now


@EXAMPLES
@given(known=evidence(), silence=seconds, limit=limits)
def test_a_silence_ends_when_it_was_said_to(
    known: Evidence, silence: float, limit: tuple[float, float]
) -> None:
    verdict = completeness(known, known.last_object + silence, *limit)
    if isinstance(verdict, Waiting):
        then = completeness(known, verdict.until, *limit)
        assert isinstance(then, Complete)
        assert then.reason == ("timeout" if known.open_associations or known.gap else then.reason)
    else:
        later = completeness(known, known.last_object + silence + 60, *limit)
        assert isinstance(later, Complete)


arrivals = st.lists(
    st.tuples(st.floats(0, 30), st.sampled_from(["object", "open", "release"])),
    min_size=1,
    max_size=30,
)


@EXAMPLES
@given(events=arrivals, quiet=st.floats(0.5, 20), patience=st.floats(0, 100))
def test_never_while_an_association_is_open_before_give_up(
    events: list[tuple[float, str]], quiet: float, patience: float
) -> None:
    """Objects, openings and releases in any order; judged before and at each of them."""
    give_up = quiet + patience
    now, last, received, associations = START, START, 1, 1
    for pause, event in events:
        known = Evidence(received=received, last_object=last, open_associations=associations)
        before = completeness(known, now + pause, quiet, give_up)
        assert isinstance(before, Complete) == (
            now + pause >= last + (give_up if associations else quiet)
        )
        now += pause
        if event == "object":
            received, last = received + 1, now
        else:
            associations = max(0, associations + (1 if event == "open" else -1))


@EXAMPLES
@given(quiet=st.floats(0.5, 20), patience=st.floats(0.5, 100), share=st.floats(0, 0.99))
def test_a_gap_delays_to_give_up(quiet: float, patience: float, share: float) -> None:
    give_up = quiet + patience
    known = Evidence(received=9, last_object=START, open_associations=0, gap=True)
    verdict = completeness(known, START + share * give_up, quiet, give_up)
    assert isinstance(verdict, Waiting)
    assert abs(verdict.until - (START + give_up)) < 1e-6
    assert "missing" in verdict.why
    end = completeness(known, START + give_up + 1e-6, quiet, give_up)
    assert isinstance(end, Complete)
    assert end.reason == "timeout"
    assert "missing" in end.evidence
    whole = completeness(replace(known, gap=False), START + quiet + 1e-6, quiet, give_up)
    assert isinstance(whole, Complete)
    assert whole.reason == "quiet"


@EXAMPLES
@given(known=evidence(), limit=limits)
def test_single_images_and_what_is_forced_do_not_wait(
    known: Evidence, limit: tuple[float, float]
) -> None:
    now = known.last_object
    for each in (replace(known, single_image=True), replace(known, forced=True)):
        assert isinstance(completeness(each, now, *limit), Complete)


def test_a_count_that_does_not_agree_is_told_and_does_not_hold_up() -> None:
    known = Evidence(
        received=9, last_object=START, open_associations=0, announced=(Announced("MPPS", 10),)
    )
    waiting = completeness(known, START, 10, 900)
    assert isinstance(waiting, Waiting)
    assert "MPPS announced 10, 1 not here" in waiting.why
    quiet = completeness(known, START + 10, 10, 900)
    assert isinstance(quiet, Complete)
    assert (quiet.reason, "MPPS announced 10, 1 not here" in quiet.evidence) == ("quiet", True)
