"""What a source tells of a package, what is answered beside it, and the manifest of both.

Until it is a manifest, a package is a tree of tables in which inputs stand by role, segments by
label and findings by name: ``inputs.image.spacing``, ``output.segment.liver.type``. Answers are
written the same way.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ai.importing import toml
from ai.importing.questions import HINTS, Question, asked, hint
from ai.manifest import Manifest, parse_manifest
from ai.tables import Table
from config.errors import Fault, ManifestError, UsageError
from config.lines import key_lines

Tree = dict[str, Any]

# Lists of tables in model.toml that stand by name here, and the key that holds the name.
_NAMED = {"inputs": "role", "segment": "label", "finding": "name", "object": "name"}
_ORDER = tuple(Manifest.model_fields)
_NO_DIGEST = "0" * 64


class Options(Table):
    """``[import]`` of the answers: what is said about the import and not about the model.

    Attributes:
        as_is: What the model takes as it comes, whatever it is.
        leave_out: Segments, findings and objects that are not reported, and need no codes.
        tolerance: Largest difference between the graph and what it was made of, as a share of the
            largest number either gave.
    """

    as_is: tuple[Literal["spacing", "orientation"], ...] = ()
    leave_out: tuple[str, ...] = ()
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-3


@dataclass(frozen=True)
class Draft:
    """What a source tells.

    Attributes:
        known: Part of a manifest.
        write: Writes the graph for a manifest to a path; gives a sentence on how it was compared
            with what it was made of, or None where it is that very graph.
        notes: What a reader should know, one sentence each.
        questions: What is asked beside what any manifest needs.
        options: ``[import]`` as it was answered.
    """

    known: Tree
    write: Callable[[Path, Manifest], str | None]
    notes: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    options: Tree = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What is answered: a file's text, then single keys.

    Attributes:
        where: What faults call the file.
        tree: Everything but ``[import]``.
        options: ``[import]``.
        lines: On which line of the file each key stands.
    """

    where: str
    tree: Tree
    options: Tree
    lines: Mapping[tuple[str | int, ...], int]


def read_answers(path: Path | None, pairs: Sequence[str] = ()) -> Answers:
    """Reads a file of answers and ``KEY=VALUE`` pairs, which win.

    A value is TOML; what is none is taken as a text.

    Raises:
        UsageError: A pair that is none, or a file that is not TOML.
    """
    text = "" if path is None else path.read_text("utf-8")
    where = "the answers" if path is None else path.name
    try:
        tree: Tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no TOML: {error}") from error
    for pair in pairs:
        tree = merged(tree, _pair(pair))
    options = tree.pop("import", {})
    if not isinstance(options, dict):
        raise UsageError("import is a table: [import]")
    return Answers(where, tree, options, key_lines(text))


def _pair(pair: str) -> Tree:
    name, equals, value = pair.partition("=")
    if equals and name.strip():
        for written in (value, toml.written({"v": value}).partition("= ")[2]):
            try:
                return tomllib.loads(f"{name.strip()} = {written.strip()}")
            except (ValueError, RecursionError):
                continue
    raise UsageError(f"{pair!r} is not KEY=VALUE, such as inputs.image.modality='[\"CT\"]'")


def read_options(kind: type[Options], answers: Answers) -> Any:
    """``[import]`` as a kind of source knows it.

    Raises:
        ManifestError: With every fault.
    """
    try:
        return kind.model_validate(answers.options)
    except ValidationError as error:
        known = f"known keys: {', '.join(sorted(kind.model_fields))}"
        raise ManifestError(
            [
                _fault(
                    answers,
                    ("import", *map(str, entry["loc"])),
                    repr(entry["input"])[:80],
                    known if entry["type"] == "extra_forbidden" else entry["msg"],
                )
                for entry in error.errors()
            ]
        ) from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Two trees as one; where both say something, `above` wins."""
    both = dict(below)
    for name, value in above.items():
        held = both.get(name)
        both[name] = (
            merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
        )
    return both


def completed(draft: Draft, answers: Answers, options: Options) -> Draft:
    """The draft with the answers in it, and with every question that is still open."""
    known = merged({"status": "development"} | draft.known, answers.tree)
    for table in ("segment", "finding", "object"):
        entries = known.get("output", {}).get(table)
        if isinstance(entries, dict):
            kept = {name: each for name, each in entries.items() if name not in options.leave_out}
            if table == "segment" and len(kept) < len(entries):
                kept = _renumbered(kept)
            known["output"] = known["output"] | {table: kept}
    _, faults = _checked(known)
    missing = [_question(fault) for fault in faults if fault.found == "nothing"]
    questions = {each.path: each for each in (*draft.questions, *asked(known, options.as_is))}
    questions |= {each.path: each for each in missing if each.path not in questions}
    still = {path: each for path, each in questions.items() if not _said(known, path)}
    deepest = [each for path, each in still.items() if not any(path == p[:-1] for p in still)]
    return replace(draft, known=known, questions=tuple(deepest), options=answers.options)


def _renumbered(segments: Tree) -> Tree:
    """Segments numbered from 1 without a gap (PS3.3 C.8.20.2), each with its channel."""
    numbered = {}
    for number, (name, entry) in enumerate(segments.items(), 1):
        own = {"channel": entry["number"]} if "number" in entry else {}
        numbered[name] = own | entry | {"number": number}
    return numbered


def settled(draft: Draft, answers: Answers, source: str) -> tuple[str, Manifest]:
    """The text of ``model.toml`` without its ``[files]``, and the manifest.

    Raises:
        ManifestError: With every question that is open, or every fault of what was said.
    """
    manifest, faults = _checked(draft.known)
    told = [fault for fault in faults if fault.found != "nothing"]
    wrong = [
        _fault(answers, tuple(each.key.split(".")), each.found, each.allowed, source)
        for each in told
    ]
    wrong += [
        Fault(source, ".".join(map(toml.key, each.path)), "nothing", each.text)
        for each in draft.questions
    ]
    if wrong or manifest is None:
        raise ManifestError(wrong)
    return toml.written(_listed(draft.known)), manifest


def told(draft: Draft, source: str) -> str:
    """Answers to be completed, as TOML: what is known, and each open question as a comment."""
    comments: dict[tuple[str, ...], list[str]] = {}
    tree = draft.known | ({"import": draft.options} if draft.options else {})
    for question in draft.questions:
        *table, name = question.path
        tree = merged(tree, _nested(table))
        comments.setdefault(tuple(table), []).append(f"{toml.key(name)} = ?  {question.text}")
    head = [f"What {source} tells; give an answer for each question mark."]
    return toml.written(tree, comments | {(): [*head, *comments.get((), [])]})


def _nested(path: Sequence[str]) -> Tree:
    tree: Tree = {}
    for name in reversed(path):
        tree = {name: tree}
    return tree


def _said(tree: Mapping[str, Any], path: Iterable[str]) -> bool:
    here: Any = tree
    for name in path:
        if not isinstance(here, Mapping) or name not in here:
            return False
        here = here[name]
    return bool(here != {})


def _listed(tree: Tree) -> Tree:
    """The tree as ``model.toml`` has it: named tables become lists, in their order."""
    listed = {key: tree[key] for key in (*_ORDER, *tree) if key in tree}
    for table, name in _NAMED.items():
        if isinstance(entries := listed.get(table), dict):
            listed[table] = [
                {name: each, **entry} if isinstance(entry, dict) else entry
                for each, entry in entries.items()
            ]
    if isinstance(output := listed.get("output"), dict):
        listed["output"] = _listed(output)
    return listed


def _checked(known: Tree) -> tuple[Manifest | None, list[Fault]]:
    """The manifest, or its faults with the names that entries have here."""
    listed = _listed(known)
    graph = listed.get("graph", "model.onnx")
    try:
        return parse_manifest(toml.written(listed | {"files": {str(graph): _NO_DIGEST}})), []
    except ManifestError as error:
        return None, [replace(fault, key=_named(fault.key, listed)) for fault in error.faults]


def _named(dotted: str, listed: Tree) -> str:
    parts: list[str] = []
    here: Any = listed
    for part in dotted.split("."):
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
            name = _NAMED.get(parts[-1], "")
            parts.append(str(here.get(name, part)) if isinstance(here, dict) else part)
        else:
            here = here.get(part) if isinstance(here, dict) else None
            parts.append(part)
    return ".".join(parts)


def _question(fault: Fault) -> Question:
    path = tuple(fault.key.split("."))
    return Question(path, hint(path) or HINTS["other"])


def _fault(
    answers: Answers, path: tuple[str, ...], found: str, allowed: str, source: str | None = None
) -> Fault:
    """A fault with its place: the line of an answer, or the source that said it."""
    lines = (answers.lines.get(path[:end]) for end in range(len(path), 0, -1))
    line = next((line for line in lines if line), None)
    there = answers.where if source is None or _said(answers.tree, path) else source
    where = f"{answers.where}:{line}" if line else there
    return Fault(where, ".".join(path), found, allowed)
