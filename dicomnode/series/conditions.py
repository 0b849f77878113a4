"""The conditions of a rule: a ``when`` table of the settings, compiled and tested.

    { Modality = "CT" }                  equals
    { Modality = ["CT", "MR"] }          one of
    { StudyDescription = { regex = "(?i)chest" } }
    { slices = { min = 10, max = 400 } }
    { ContrastBolusAgent = { exists = true } }
    { ImageType = { not = "DERIVED" } }
    { any = [ { Modality = "CT" }, { Modality = "MR" } ] }     also all = […], not = {…}

The keys of one table must all hold. A condition on an attribute holds when it does in every image
of the series; of an attribute with several values one suffices.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from config.errors import Fault, SettingsError
from dicomnode.series.facts import FACTS, ORIENTATIONS, Facts

MAX_PATTERN = 200
MAX_TESTED = 64
MAX_REPEATS = 3
MAX_OPTIONALS = 6
_NUMERIC_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
_VALUELESS_VRS = frozenset({"SQ", "OB", "OW", "OD", "OF", "OL", "OV", "OB or OW", "UN"})
_TESTS = ("regex", "min", "max", "exists", "not")
_GROUPS = ("any", "all", "not")

NOT_SHOWN = "(not shown)"
_SHOWN_OF_PATIENT = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"})
_HIDDEN_VRS = frozenset({"PN", "DA", "DT", "TM", "LT", "ST", "UT", "UI", "UC", "UR"})
_SHOWN_UIDS = frozenset({"SOPClassUID"})
_HIDDEN = frozenset(
    {"AccessionNumber", "StudyID", "InstitutionName", "DeviceSerialNumber", "StationName"}
)

Test = Callable[[object], bool]


@dataclass(frozen=True)
class Outcome:
    """What one condition came to.

    Attributes:
        key: Attribute keyword, derived fact, or ``any``, ``all``, ``not`` for a group.
        wanted: What the rule asks, in words.
        found: What the series has, in words; never an attribute that identifies a patient.
        held: Whether it holds.
        parts: The conditions of a group.
    """

    key: str
    wanted: str
    found: str
    held: bool
    parts: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Condition:
    """One attribute or fact and what it must pass."""

    key: str
    wanted: str
    test: Test

    def check(self, facts: Facts) -> Outcome:
        """Test it against a series."""
        hidden = identifies(self.key)
        candidates = facts.values(self.key)
        return Outcome(
            self.key,
            NOT_SHOWN if hidden else self.wanted,
            NOT_SHOWN if hidden else _show(candidates),
            all(map(self.test, candidates)),
        )


@dataclass(frozen=True)
class Group:
    """Conditions joined by ``any``, ``all`` or ``not`` (none of them together)."""

    key: str
    parts: tuple[Condition | Group, ...]

    def check(self, facts: Facts) -> Outcome:
        """Test it against a series."""
        parts = tuple(part.check(facts) for part in self.parts)
        held = [part.held for part in parts]
        verdict = any(held) if self.key == "any" else all(held)
        if self.key == "not":
            verdict = not verdict
        wanted = {"any": "at least one", "all": "all", "not": "not all of"}[self.key]
        return Outcome(self.key, wanted, f"{sum(held)} of {len(held)} hold", verdict, parts)


@dataclass(frozen=True)
class Rule:
    """A compiled ``when`` table.

    Attributes:
        conditions: All must hold; none at all matches every series.
        keys: Every attribute and fact that is mentioned anywhere in it.
    """

    conditions: tuple[Condition | Group, ...]
    keys: frozenset[str]

    def check(self, facts: Facts) -> tuple[Outcome, ...]:
        """Test every condition, even after one has failed."""
        return tuple(condition.check(facts) for condition in self.conditions)


def compile_rule(when: Mapping[str, Any], *, where: str = "settings", key: str = "when") -> Rule:
    """Compile a ``when`` table.

    Args:
        when: As it stands in the file.
        where: File and line, for the faults.
        key: Dotted path of the table, ``routes.0.when``.

    Raises:
        SettingsError: With every fault; an unknown key comes with the nearest known one.
    """
    compiler = _Compiler(where)
    conditions = compiler.table(when, key)
    if compiler.faults:
        raise SettingsError(compiler.faults)
    return Rule(conditions, frozenset(compiler.keys))


def identifies(key: str) -> bool:
    """Whether the values of an attribute can identify a patient, so that they are not shown."""
    if key in FACTS or key in _SHOWN_OF_PATIENT | _SHOWN_UIDS:
        return False
    tag = tag_for_keyword(key)
    return tag is None or tag >> 16 == 0x0010 or key in _HIDDEN or dictionary_VR(tag) in _HIDDEN_VRS


class _Compiler:
    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[Fault] = []
        self.keys: set[str] = set()

    def fault(self, path: str, found: object, allowed: str) -> None:
        self.faults.append(Fault(self.where, path, repr(found)[:80], allowed))

    def table(self, when: object, path: str) -> tuple[Condition | Group, ...]:
        if not isinstance(when, Mapping):
            self.fault(path, when, 'a table such as { Modality = "CT" } is wanted')
            return ()
        made = [self.entry(str(key), wanted, f"{path}.{key}") for key, wanted in when.items()]
        return tuple(condition for condition in made if condition is not None)

    def entry(self, key: str, wanted: object, path: str) -> Condition | Group | None:
        if key in _GROUPS:
            return self.group(key, wanted, path)
        kind = _kind(key)
        if kind is None:
            near = difflib.get_close_matches(key, [*FACTS, *_GROUPS, *keyword_dict], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.fault(path, key, f"no such DICOM attribute or derived fact{hint}")
            return None
        self.keys.add(key)
        test = self.test(kind, wanted, path)
        return Condition(key, _words(wanted), test) if test else None

    def group(self, key: str, wanted: object, path: str) -> Group | None:
        if key == "not":
            return Group(key, self.table(wanted, path))
        if not isinstance(wanted, list | tuple) or not wanted:
            self.fault(path, wanted, 'a list of tables such as [{ Modality = "CT" }] is wanted')
            return None
        tables = [self.table(entry, f"{path}.{index}") for index, entry in enumerate(wanted)]
        return Group(
            key, tuple(made[0] if len(made) == 1 else Group("all", made) for made in tables)
        )

    def test(self, kind: str, wanted: object, path: str) -> Test | None:
        if isinstance(wanted, Mapping):
            return self.tests(kind, wanted, path)
        choices = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not choices:
            self.fault(path, wanted, "a list needs at least one value")
            return None
        for choice in choices:
            if not _fits(kind, choice):
                self.fault(path, choice, f"{_KIND_WORDS[kind]} is wanted")
                return None
        return lambda found: any(
            _equal(entry, choice) for entry in _each(found) for choice in choices
        )

    def tests(self, kind: str, wanted: Mapping[str, Any], path: str) -> Test | None:
        if not wanted:
            self.fault(path, wanted, f"one of {', '.join(_TESTS)} is wanted")
            return None
        made = [self.operator(kind, name, wanted[name], f"{path}.{name}") for name in wanted]
        tests = [test for test in made if test]
        return (
            (lambda found: all(test(found) for test in tests)) if len(tests) == len(made) else None
        )

    def operator(self, kind: str, name: str, wanted: Any, path: str) -> Test | None:
        if name == "exists" and isinstance(wanted, bool):
            return lambda found: (found != ()) is wanted
        if name == "not":
            inner = self.test(kind, wanted, path)
            return (lambda found: not inner(found)) if inner else None
        if name in ("min", "max") and kind == "number" and _fits("number", wanted):
            sign = 1 if name == "min" else -1
            return lambda found: any(
                _is_number(entry) and sign * float(entry) >= sign * wanted for entry in _each(found)
            )
        if name == "regex" and kind == "text" and isinstance(wanted, str):
            return self.regex(wanted, path)
        allowed = {
            "exists": "true or false is wanted",
            "min": "a number is wanted, for an attribute that is one",
            "max": "a number is wanted, for an attribute that is one",
            "regex": "a pattern in quotes is wanted, for an attribute that is text",
        }
        near = difflib.get_close_matches(name, _TESTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.fault(path, wanted, allowed.get(name, f"one of {', '.join(_TESTS)} is wanted{hint}"))
        return None

    def regex(self, pattern: str, path: str) -> Test | None:
        if objection := _objection(pattern):
            self.fault(path, pattern, objection)
            return None
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            self.fault(path, pattern, f"not a regular expression: {error}")
            return None
        return lambda found: any(
            compiled.search(str(entry)[:MAX_TESTED]) is not None for entry in _each(found)
        )


_KIND_WORDS = {
    "text": "text",
    "plane": f"one of {', '.join(ORIENTATIONS)}",
    "number": "a number",
    "truth": "true or false",
    "none": "{ exists = true } or { exists = false }",
}


def _kind(key: str) -> str | None:
    if key in FACTS:
        return FACTS[key]
    tag = tag_for_keyword(key) if key else None
    # Command sets and file meta information (PS3.7, PS3.10 7.1) are no part of the data set.
    if tag is None or tag >> 16 < 0x0008:
        return None
    vr = dictionary_VR(tag)
    if vr in _VALUELESS_VRS:
        return "none"
    return "number" if vr.split(" or ")[0] in _NUMERIC_VRS else "text"


def _fits(kind: str, wanted: object) -> bool:
    if kind == "plane":
        return wanted in ORIENTATIONS
    if kind == "number":
        return _is_number(wanted) and math.isfinite(wanted)  # type: ignore[arg-type]
    return isinstance(wanted, {"text": str, "truth": bool}.get(kind, ()))


def _is_number(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


def _each(found: object) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _equal(found: object, wanted: object) -> bool:
    if _is_number(found) and _is_number(wanted):
        return math.isclose(float(found), float(wanted), rel_tol=1e-6)  # type: ignore[arg-type]
    return type(found) is type(wanted) and found == wanted


def _objection(pattern: str) -> str | None:
    """Why a pattern could take very long on some text, or None.

    Repeats inside a repeated group make matching exponential, many of them in a row polynomial of
    a high degree; with what is left the worst text of `MAX_TESTED` characters takes milliseconds.
    """
    if len(pattern) > MAX_PATTERN:
        return f"a pattern has at most {MAX_PATTERN} characters"
    bare = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    if re.search(r"\\[1-9]|\(\?P=", pattern):
        return "back references are not taken"
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", bare)
    bare = re.sub(r"\(\?(?:[aiLmsux-]+[:)]|P<\w+>|[:=!]|<[=!])", "(", bare)
    repeats = len(re.findall(r"[*+]|\{\d*,?\d*\}", bare))
    optionals = len(re.findall(r"(?<![*+?}])\?", bare))
    if repeats > MAX_REPEATS or optionals > MAX_OPTIONALS:
        return f"a pattern has at most {MAX_REPEATS} repeats and {MAX_OPTIONALS} optional parts"
    depth_repeats = [False]
    for index, character in enumerate(bare):
        if character == "(":
            depth_repeats.append(False)
        elif character in "*+{|?":
            depth_repeats[-1] = True
        elif character == ")" and len(depth_repeats) > 1:
            inner = depth_repeats.pop()
            if inner and bare[index + 1 : index + 2] in ("*", "+", "{"):
                return (
                    "a repeated group holds a repeat or a choice itself, which can take very long"
                )
            depth_repeats[-1] |= inner
    return None


def _words(wanted: object) -> str:
    if isinstance(wanted, Mapping):
        return " and ".join(_test_words(name, entry) for name, entry in wanted.items())
    if isinstance(wanted, list | tuple):
        return "one of " + ", ".join(map(_words, wanted))
    return str(wanted).lower() if isinstance(wanted, bool) else str(wanted)


def _test_words(name: str, entry: object) -> str:
    if name == "exists":
        return "is there" if entry else "is not there"
    words = {"regex": "matches ", "min": "at least ", "max": "at most ", "not": "not "}
    return words[name] + _words(entry)


def _show(candidates: tuple[object, ...]) -> str:
    """At most three different values, each at most 64 printable characters."""
    shown = []
    for found in candidates[:3]:
        each = "\\".join(_words(entry) for entry in _each(found))
        clean = "".join(c if c.isprintable() else "?" for c in each)
        shown.append(clean[:64] if found != () else "nothing")
    more = f" and {len(candidates) - 3} more" if len(candidates) > 3 else ""
    return " | ".join(shown) + more
