"""``model.toml``: what a model is, what it wants, what it gives.

Only what the node really does can be declared; every other key is refused. The format is described
for authors of packages in ``docs/model-packages.md``.
"""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from ai.ensemble import Ensemble
from ai.inputs import Input
from ai.outputs import Occlusion, Output
from ai.tables import FileName, Sentence, Table
from ai.variants import Provider, Variant
from config.errors import Fault, ManifestError
from config.kinds import ResultKind
from config.lines import Path, key_lines

Status = Literal["development", "validation", "production", "retired"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


# What says how the grid of the model lies; the inputs of one model share it.
_GRID_KEYS = (
    *("dimensions", "apply", "batch", "neighbours", "orientation", "crop", "spacing", "size"),
    *("fit", "pad", "least", "multiple_of", "sliding"),
)


# What an input of an earlier study shares all the same: how the graph is run.
_SHARED_KEYS = ("apply", "sliding")


def _doubled(names: Iterable[str]) -> bool:
    known = list(names)
    return len(set(known)) != len(known)


class Manifest(Table):
    """The whole file.

    Attributes:
        basis: ``rules`` for fixed rules, ``trained`` for parameters learnt from data; results and
            reports say which.
        graph: The ONNX file, one of `files`.
        results: Kinds of result objects made of every answer, beside those a destination asks for.
        files: Relative name of every file of the package but ``model.toml`` → SHA-256.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}$")]
    # PS3.5 6.2: manufacturer and model name are LO, at most 64 characters, no backslash.
    vendor: Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")]
    intended_use: Sentence
    description: Sentence
    basis: Literal["rules", "trained"]
    status: Status
    licence: Annotated[str, Field(min_length=1, max_length=64)]
    clinical_domain: Annotated[str, Field(min_length=1, max_length=64)]
    regulatory_ids: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    graph: FileName = "model.onnx"
    results: Annotated[tuple[ResultKind, ...], Field(min_length=1)]
    inputs: Annotated[tuple[Input, ...], Field(min_length=1, max_length=8)]
    variants: Annotated[tuple[Variant, ...], Field(max_length=8)] = ()
    output: Output
    ensemble: Ensemble = Ensemble()
    files: dict[FileName, Digest]

    @property
    def input(self) -> Input:
        """The primary input, whose geometry the results take."""
        return next((entry for entry in self.inputs if entry.primary), self.inputs[0])

    def role(self, name: str) -> Input:
        """The input of a role.

        Raises:
            KeyError: There is none of that name.
        """
        return {entry.role: entry for entry in self.inputs}[name]

    def graph_for(self, provider: Provider) -> str:
        """The graph that is run where a provider runs."""
        fitting = (entry.graph for entry in self.variants if provider in entry.providers)
        return next(fitting, self.graph)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every ONNX file that may be run."""
        return (self.graph, *(entry.graph for entry in self.variants), *self.ensemble.graphs)

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def version_key(self) -> tuple[int, ...]:
        """Orders versions: ``1.10.0`` is above ``1.9.0``."""
        return tuple(int(part) for part in self.version.split("."))

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        sees_all = self.input.apply == "whole"
        problems = [
            (
                sum(entry.primary for entry in self.inputs) != 1,
                "exactly one of the inputs is primary",
            ),
            (_doubled(entry.role for entry in self.inputs), "each input has a role of its own"),
            (
                _doubled(name for each in self.inputs for name in (each.tensor, *each.facts)),
                "each input and fact has a tensor of its own",
            ),
            *(
                (
                    getattr(each, key) != getattr(self.input, key),
                    f"{key} of the input {each.role!r} is that of the primary one",
                )
                for each in self.inputs
                for key in (_SHARED_KEYS if each.prior else _GRID_KEYS)
            ),
            (
                any(each.prior for each in self.inputs)
                and (self.input.apply != "whole" or self.input.sliding is not None),
                'a prior input goes with apply = "whole" and without sliding',
            ),
            *(
                (graph not in self.files, f"graph {graph!r} is not in files")
                for graph in self.graphs
            ),
            (
                _doubled(name for entry in self.variants for name in entry.providers),
                "a provider is named by one of the variants at most",
            ),
            *(
                (kind in self.results and not there, f'results "{kind}" needs {what}')
                for kind, there, what in self._needed()
            ),
            (
                self.basis == "rules" and self.output.has_confidence,
                'a model with basis = "rules" defines no confidence',
            ),
            (
                bool(self.output.finding) and sees_all == (self.output.over_slices is not None),
                'findings of apply = "slices" need output.over_slices, and only they',
            ),
            (
                bool(self.variants) and bool(self.ensemble.graphs),
                "variants stand in for one graph, and the ensemble has several",
            ),
            (
                self.input.sliding is not None
                and self.output.boxes is None
                and (self.output.labels is None or self.output.labels.encoding != "channels"),
                'sliding needs scores to blend, output.labels with encoding = "channels", or boxes',
            ),
            (
                self.input.sliding is not None and bool(self.output.finding),
                "a tensor of a patch is no answer: sliding and findings exclude each other",
            ),
            (
                self.output.has_regions and (self.input.axes == 3 or bool(self.input.orientation)),
                'regions need dimensions = "2D" and no orientation',
            ),
            (
                isinstance(self.output.saliency, Occlusion)
                and len(self.output.saliency.patch) != self.input.axes,
                f"saliency.patch has {self.input.axes} entries for dimensions = "
                f"{self.input.dimensions!r}",
            ),
            (
                self.output.boxes is not None and self.output.boxes.columns.axes != self.input.axes,
                f"output.boxes.format has {self.input.axes} axes for dimensions = "
                f"{self.input.dimensions!r}",
            ),
            (
                self.output.labels is not None
                and ("D" in self.output.labels.layout) != (self.input.axes == 3),
                "output.labels.layout has D for 3D, and only then",
            ),
        ]
        problems += self.ensemble.problems(self.inputs, self.output)
        wrong = [text for fails, text in problems if fails]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _needed(self) -> Iterator[tuple[str, bool, str]]:
        labels = self.output.labels
        for kind in ("seg", "labelmap"):
            yield kind, labels is not None, 'task = "segmentation"'
        yield "labelmap", not self.output.overlap, "output.labels.overlap = false"
        kept = labels is not None and labels.probabilities
        yield "fractional", kept, "output.labels.probabilities = true"
        yield "saliency", self.output.saliency is not None, "[output.saliency]"


def parse_manifest(text: str, where: str = "model.toml") -> Manifest:
    """Reads the text of a ``model.toml``.

    Args:
        text: TOML.
        where: What faults call the file.

    Raises:
        ManifestError: With every fault found, each with its line where one can be told.
    """
    try:
        raw, lines = tomllib.loads(text), key_lines(text)
    except (ValueError, RecursionError) as error:
        # Beside its own errors tomllib raises these for numbers of thousands of digits and for
        # values nested as deeply.
        line = re.search(r"line (\d+)", str(error))
        place = f"{where}:{line[1]}" if line else where
        raise ManifestError([Fault(place, "-", "no TOML", str(error))]) from error
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        faults = [fault for entry in _every(raw, error) for fault in _faults(entry, lines, where)]
        raise ManifestError(faults) from error


# What stands for a key that is wrong or missing, so that the rest can be looked at as a whole.
_STAND_INS: dict[str, Any] = {
    **dict.fromkeys(("vendor", "intended_use", "description", "licence", "clinical_domain"), "-"),
    "name": "x",
    "version": "0.0.0",
    "basis": "trained",
    "status": "development",
}
_ROUNDS = 4


def _every(raw: dict[str, Any], first: ValidationError) -> list[Any]:
    """The errors of a file and those that only show when what caused the first ones is gone."""
    told: dict[tuple[Any, str], Any] = {}
    wrong: set[Path] = set()
    error = first
    for _ in range(_ROUNDS):
        entries = [entry for entry in error.errors() if not _echo(entry, error.errors())]
        new = [entry for entry in entries if not _follows(entry, wrong)]
        fresh = {(entry["loc"], entry["msg"]): entry for entry in new}
        if not fresh.keys() - told.keys():
            break
        told |= fresh
        wrong |= {tuple(entry["loc"]) for entry in new if entry["type"] != "value_error"}
        raw = copy.deepcopy(raw)
        for path in wrong:
            _take_out(raw, path)
        try:
            Manifest.model_validate(raw)
        except ValidationError as more:
            error = more
        else:
            break
    return list(told.values())


def _follows(entry: Any, wrong: Set[Path]) -> bool:
    """Whether an error is one only because a wrong key was taken out."""
    return entry["type"] == "missing" and tuple(entry["loc"]) in wrong


def _take_out(raw: dict[str, Any], path: Path) -> None:
    table: Any = raw
    for part in path[:-1]:
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(table, dict):
        table.pop(path[-1], None)
        if len(path) == 1 and path[0] in _STAND_INS:
            table[path[0]] = _STAND_INS[str(path[0])]


def _echo(entry: Any, entries: Sequence[Any]) -> bool:
    # pydantic drops a faulty element and then finds the array too short as well.
    path = entry["loc"]
    return entry["type"] == "too_short" and any(
        len(other["loc"]) > len(path) and other["loc"][: len(path)] == path for other in entries
    )


def _faults(entry: Any, lines: Mapping[Path, int], where: str) -> Iterator[Fault]:
    path: Path = tuple(entry["loc"])
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
    found = {"missing": "nothing", "extra_forbidden": "an unknown key"}.get(entry["type"])
    if found is None:
        value = entry["input"]
        found = "a table" if isinstance(value, dict | BaseModel) else repr(value)[:80]
    said = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        said = _known(path)
    for allowed in said.split("\n"):
        yield Fault(
            where=f"{where}:{line}" if line else where,
            key=".".join(str(part) for part in path) or "-",
            found=found,
            allowed=allowed,
        )


def _known(path: Path) -> str:
    """What may stand in the table that holds an unknown key."""
    table: type[BaseModel] = Manifest
    for part in path[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            table = next(_tables(table.model_fields[part].annotation), table)
    keys = sorted(table.model_fields)
    near = difflib.get_close_matches(str(path[-1]), keys, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}known keys: {', '.join(keys)}"


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _tables(part)
