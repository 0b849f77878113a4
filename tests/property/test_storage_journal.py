"""The records of the intake journal: whatever happens to a segment, no wrong object comes of it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from storage.segment import (
    BLOCK,
    Place,
    Record,
    extent,
    new_buffer,
    scan,
    seal_record,
    segment_head,
)
from tests.journals import Sent

TOKEN = "0123456789abcdef"  # noqa: S105 - names a run
BUFFER = new_buffer()
ROOM = 40 * BLOCK

# Sizes on both sides of a block's end; the last bytes may be zeros, which fill up blocks too.
SIZES = st.one_of(st.integers(0, 600), st.integers(BLOCK - 500, BLOCK + 20))
BATCHES = st.lists(st.lists(SIZES, min_size=1, max_size=3), min_size=1, max_size=4)


def written(batches: Sequence[Sequence[int]], generation: int = 1) -> tuple[bytearray, list[Sent]]:
    """A segment as the journal writes it, and what is in it."""
    data = bytearray(ROOM)
    data[:BLOCK] = segment_head(TOKEN, 0, generation)
    return data, add(data, batches, generation)


def add(data: bytearray, batches: Sequence[Sequence[int]], generation: int) -> list[Sent]:
    sent: list[Sent] = []
    at = BLOCK
    for batch in batches:
        batch_at = at
        for size in batch:
            content = (f"{generation}.{len(sent)} ".encode() * 1000)[:size]
            one = Sent(f"1.{generation}.{len(sent)}", content)
            length = len(one.head) + len(one.data)
            BUFFER[BLOCK : BLOCK + length] = one.head + one.data
            record = seal_record(
                BUFFER,
                length,
                len(one.head),
                place=Place(TOKEN, generation, at, batch_at),
                number=len(sent) + 1,
                arrival=one.arrival(),
            )
            data[at : at + len(record)] = record
            at += len(record)
            sent.append(one)
    return sent


def as_sent(record: Record) -> Sent:
    one = Sent(record.arrival.sop_instance_uid, bytes(record.content[record.head_length :]))
    assert bytes(record.content[: record.head_length]) == one.head
    assert record.arrival == one.arrival()
    return one


def spans(sent: Sequence[Sent]) -> list[tuple[int, int]]:
    found, at = [], BLOCK
    for one in sent:
        end = at + extent(len(one.head) + len(one.data))
        found.append((at, end))
        at = end
    return found


@given(BATCHES)
def test_any_batches_come_back_in_their_order(batches: list[list[int]]) -> None:
    data, sent = written(batches)
    found = scan(data, TOKEN)
    assert [as_sent(record) for record in found.records] == sent
    assert (found.damaged, found.head_is_damaged) == ([], False)
    assert scan(data, "f" * 16).records == []


@given(BATCHES, st.data())
def test_a_segment_cut_off_anywhere_gives_what_lies_before(
    batches: list[list[int]], data: st.DataObject
) -> None:
    whole, sent = written(batches)
    ends = [end for _, end in spans(sent)]
    cut = data.draw(st.integers(BLOCK, ends[-1]))
    found = scan(bytes(whole[:cut]) + bytes(len(whole) - cut), TOKEN)
    recovered = [as_sent(record) for record in found.records]
    # The last blocks may be cut off in the zeros that fill them up.
    assert recovered == sent[: len(recovered)]
    assert len(recovered) >= sum(end <= cut for end in ends)
    assert found.damaged == []


@given(BATCHES, st.data())
def test_a_flipped_bit_costs_its_own_object_at_most(
    batches: list[list[int]], data: st.DataObject
) -> None:
    whole, sent = written(batches)
    places = spans(sent)
    at = data.draw(st.integers(0, places[-1][1] - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found = scan(whole, TOKEN)
    recovered = [as_sent(record) for record in found.records]
    hit = [one for one, (begin, end) in zip(sent, places, strict=True) if begin <= at < end]
    assert [one for one in sent if one in recovered] == recovered
    lost = [one for one in sent if one not in recovered]
    assert lost in ([], hit)
    last = len(sent) - len(batches[-1])
    if lost and sent.index(lost[0]) < last:  # it was acknowledged: that is told
        assert found.damaged == [places[sent.index(lost[0])]]


@given(BATCHES, BATCHES)
def test_what_was_voided_does_not_come_back(old: list[list[int]], new: list[list[int]]) -> None:
    data, _ = written(old)
    data[:BLOCK] = segment_head(TOKEN, 0, 2)
    assert scan(data, TOKEN).records == []
    sent = add(data, new, 2)
    found = scan(data, TOKEN)
    assert [as_sent(record) for record in found.records] == sent
    assert found.damaged == []
