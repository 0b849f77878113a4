"""What becomes of real files: every one that comes with pydicom and with pydicom-data.

``python -m tests.real_files`` writes ``docs/real-files.md``. Each file of the two top folders is
explained by itself, since many of them are one image in several encodings; the folders below hold
studies and are explained as such. Where a bundled model takes a unit it is run on it, and its
results pass the gate. A row names a file, never a value of its header.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pydicom.data

from ai.registry import Registry, bundled_models_path
from config.errors import MedAIError
from config.schema import ModelsSettings, RouteSettings, Settings
from dicomnode.results.provenance import Provenance, made_here
from dicomnode.results.uids import result_uid
from dicomnode.series.decode import Decoder
from dicomnode.series.decode_pool import DecodePool
from dicomnode.series.explain import explain
from dicomnode.series.unit import UnitExplanation
from dicomnode.series.volume import load_series
from dicomnode.work.models import make_engine
from dicomnode.work.pipeline import analyse, model_facts, software_version

TABLE = Path(__file__).parent.parent / "docs" / "real-files.md"
FOLDERS = {
    "pydicom": Path(pydicom.data.__file__).parent / "test_files",
    "pydicom-data": Path(str(resources.files("data_store"))) / "data",
}

INTRODUCTION = """# Real files

What the node makes of the files that come with pydicom and pydicom-data, one line a file, or a unit
of work where a folder holds a study. Written by `python -m tests.real_files`; a test shows that it
is current and that none of them ends in a fault.

- *taken*: slices × rows × columns, the units of the values and what is to be noted; with the name
  of a bundled model where one takes it and its results passed the gate.
- *refused*: the codes and sentences that `medai-node explain` prints.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    answer: str

    def __str__(self) -> str:
        return f"| `{self.name}` | {self.what} | {self.answer} |"


def batches() -> Iterator[tuple[str, list[Path]]]:
    """What is explained together, with its name, in a fixed order."""
    for source, folder in FOLDERS.items():
        for entry in sorted(folder.iterdir()):
            if entry.is_file():
                yield f"{source}/{entry.name}", [entry]
                continue
            below = {path.parent for path in entry.rglob("*") if path.is_file()}
            for parent in sorted(below):
                files = sorted(path for path in parent.iterdir() if path.is_file())
                yield f"{source}/{parent.relative_to(folder).as_posix()}", files


def rows(decoder: Decoder) -> Iterator[Row]:
    """Every line of the table."""
    settings = Settings(models=ModelsSettings(workers=1))
    registry = Registry([bundled_models_path()])
    routes = [
        RouteSettings(
            name=package.manifest.name,
            when={"Modality": list(package.manifest.input.modality)},
            model=package.manifest.reference,
        )
        for package in registry.packages()
    ]
    for name, files in batches():
        found = explain(files, routes, registry, made_here)
        for unit in found.units:
            many = f" ({len(unit.unit.files)} files)" if len(files) > 1 else ""
            modality = unit.quality.modality or "none"
            yield Row(name + many, modality, _answer(unit, settings, registry, decoder))
        for refused in found.refused:
            own = f"{name}/{refused.path.name}" if len(files) > 1 else name
            yield Row(own, "", f"refused: {refused.why}")


def table(decoder: Decoder) -> str:
    """The whole page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about these files
        lines = [str(row) for row in rows(decoder)]
    head = ["| file | modality | answer |", "|---|---|---|"]
    return "\n".join([INTRODUCTION, *head, *lines, ""])


def _answer(unit: UnitExplanation, settings: Settings, registry: Registry, decoder: Decoder) -> str:
    if unit.answer.why_none in ("own-result", "not-an-image"):
        return "refused: it is no image"
    if not unit.quality.ok:
        return "refused: " + "; ".join(
            f"{reason.code}: {reason.text}" for reason in unit.quality.reasons
        )
    try:
        volume = load_series(unit.unit.files, decoder).volume
        models = [
            _run(unit.unit.files, model, settings, registry, decoder) for model in _models(unit)
        ]
    except MedAIError as error:
        return f"refused: {error}"
    size = " × ".join(map(str, volume.voxels.shape))
    noted = "".join(f"; {note.code}" for note in unit.quality.notes)
    return f"taken: {size}, `{volume.units}`{noted}" + "".join(f"; {model}" for model in models)


def _models(unit: UnitExplanation) -> list[str]:
    return [package.manifest.name for _, package in unit.runs]


def _run(
    files: Sequence[Path], model: str, settings: Settings, registry: Registry, decoder: Decoder
) -> str:
    package = registry.find(model)
    identity = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    provenance = Provenance(
        identity=identity,
        created=datetime(2024, 1, 1, tzinfo=UTC),
        ae_title=settings.node.ae_title,
        node_uid=result_uid(identity, "offline"),
        software_version=software_version(),
        model=model_facts(package),
    )
    analyse(files, package, make_engine(settings, registry), provenance, decoder=decoder)
    return f"**{model}** ran"


def main() -> None:
    """Write the page."""
    with DecodePool(2) as decoder:
        TABLE.write_text(table(decoder))


if __name__ == "__main__":
    main()
