"""The part of the gate that holds the meanings of codes against those the model gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from ai.types import Code as PlainCode
from dicomnode.results import codes
from dicomnode.results.content import items_of, walk
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.provenance import plain

_LONGEST = 64  # PS3.3 8.8: CodeMeaning is LO
Pair = tuple[str, str]


def check_meanings(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A reader sees meanings, not codes: each is the one that the model or this node gives.

    Args:
        dataset: An object of the bundle, read back; content items and segments are looked at.
        context: The answer.
    """
    known: dict[Pair, set[str]] = defaultdict(set)
    for code in _codes_in((context.answer.findings, context.answer.segments)):
        known[code.value, code.scheme] |= {code.meaning, plain(code.meaning, _LONGEST)}
    own = _own()
    for item in (*walk(dataset), *items_of(dataset, "SegmentSequence")):
        for keyword in item.dir("CodeSequence"):
            for code_item in items_of(item, keyword):
                pair = (
                    str(code_item.get("CodeValue")),
                    str(code_item.get("CodingSchemeDesignator")),
                )
                meanings = known.get(pair, set()) | own.get(pair, set())
                if pair in known and str(code_item.get("CodeMeaning")) not in meanings:
                    text = f"a code of {keyword} has another meaning than the model gave"
                    yield GateFinding("content", "PS3.3 8.8.3", text)


def _codes_in(value: object) -> Iterator[PlainCode]:
    if isinstance(value, PlainCode):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _codes_in(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _codes_in(getattr(value, field.name))


@cache
def _own() -> Mapping[Pair, set[str]]:
    found: dict[Pair, set[str]] = defaultdict(set)
    for value in vars(codes).values():
        for each in value.values() if isinstance(value, dict) else (value,):
            if isinstance(each, Code):
                found[each.value, each.scheme_designator].add(plain(each.meaning, _LONGEST))
    return found
