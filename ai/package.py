"""One model package on disk: its manifest, its files and their proof."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ai.inputs import Input
from ai.manifest import Manifest, parse_manifest
from ai.types import Volume
from config.errors import Fault, ManifestError, ModelFileError

MANIFEST = "model.toml"
SIGNATURE = "model.sig"
"""A signature of the package's digest; the one file that the manifest cannot name."""


@dataclass(frozen=True)
class Package:
    """A package whose manifest was read and whose files were found to be the ones it names.

    Attributes:
        folder: ``NAME/VERSION``.
        digest: SHA-256 over the sorted SHA-256 of every file, ``model.toml`` among them; it names
            the model in provenance, so one changed byte makes another model.
    """

    folder: Path
    manifest: Manifest
    digest: str

    def read(self, name: str) -> bytes:
        """Bytes of a file of the package, proved against the manifest at every call.

        Raises:
            ModelFileError: It is not of the package, missing, or not the file that was named.
        """
        expected = self.manifest.files.get(name)
        if expected is None:
            raise ModelFileError(f"{self.manifest.reference} has no file {name!r}")
        content = _read(self.folder, name)
        if hashlib.sha256(content).hexdigest() != expected:
            raise ModelFileError(
                f"{name} of {self.manifest.reference} is not the file that model.toml names: "
                "its SHA-256 differs"
            )
        return content

    def signature(self) -> bytes | None:
        """The bytes of ``model.sig``, or None where the package has none.

        Raises:
            ModelFileError: It cannot be read.
        """
        there = (self.folder / SIGNATURE).exists()
        return _read(self.folder, SIGNATURE) if there else None

    def accepts(self, volume: Volume, modality: str, role: str | None = None) -> str | None:
        """Why the model cannot take this input, as a plain sentence, or None when it can.

        Args:
            volume: The input.
            modality: Its modality.
            role: Which input it is to be; the primary one unless told otherwise.
        """
        wanted = self._spec(role).modality
        if modality not in wanted:
            return f"modality {modality} where {' or '.join(wanted)} is wanted"
        return self.misfit(volume, role)

    def _shares_space(self, spec: Input) -> bool:
        """Whether other inputs are brought together with this one by their places."""
        beside = [each for each in self.manifest.inputs if not each.prior]
        return not spec.prior and len(beside) > 1

    def _spec(self, role: str | None) -> Input:
        return self.manifest.input if role is None else self.manifest.role(role)

    def misfit(self, volume: Volume, role: str | None = None) -> str | None:
        """As `accepts`, for what the array itself says."""
        spec, output = self._spec(role), self.manifest.output
        if volume.voxels.ndim != 3 or 0 in volume.voxels.shape:
            return "the input is not an array of slices, rows and columns"
        if volume.voxels.dtype.kind not in "iuf":
            return "the input's values are not real numbers"
        slices, spacing = volume.voxels.shape[0], volume.spacing
        used = spacing if spec.orientation else spacing[3 - spec.axes :]
        single = spec.apply == "whole" and spec.axes == 2
        problems = [
            (single and slices != 1, f"{slices} slices where a single image is wanted"),
            (volume.colour and spec.colour == "refused", "the image is in colour"),
            (volume.units != spec.units, f"units {volume.units} where {spec.units} are wanted"),
            (slices < spec.min_slices, f"{slices} slices, fewer than {spec.min_slices}"),
            (slices > spec.max_slices, f"{slices} slices, more than {spec.max_slices}"),
            (
                spec.orientation is not None and volume.affine is None,
                "the orientation in the patient is not known",
            ),
            (spec.spacing is not None and None in used, "the spacing is not known"),
            (
                self._shares_space(spec) and volume.affine is None,
                "its place in the patient is not known",
            ),
            (
                output.measures_size and not spec.prior and volume.voxel_volume_ml is None,
                "the spacing is not known, so no volume can be measured",
            ),
        ]
        return next((reason for fails, reason in problems if fails), None)


def read_package(folder: Path, *, prove: bool = True) -> Package:
    """Reads ``model.toml`` and proves every file of the package.

    Args:
        folder: ``NAME/VERSION``.
        prove: Without it the files beside the manifest are taken as they are, for a list.

    Raises:
        ManifestError: The manifest is wrong, or the folder is not called NAME/VERSION after it.
        ModelFileError: A file is missing, differs, or is there without being named.
    """
    raw = _read(folder, MANIFEST)
    where = f"{folder.parent.name}/{folder.name}/{MANIFEST}"
    try:
        manifest = parse_manifest(raw.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        raise ManifestError([Fault(where, "-", "bytes that are no UTF-8", "UTF-8")]) from error
    named = (folder.parent.name, folder.name)
    if named != (manifest.name, manifest.version):
        fault = Fault(where, "name", manifest.reference, f"the folder is {'/'.join(named)}")
        raise ManifestError([fault])
    unnamed = sorted(set(list_files(folder)) - set(manifest.files))
    if unnamed and prove:
        raise ModelFileError(f"{manifest.reference} holds files it does not name: {unnamed}")
    own = hashlib.sha256(raw).hexdigest()
    digest = hashlib.sha256("\n".join(sorted([own, *manifest.files.values()])).encode())
    package = Package(folder, manifest, digest.hexdigest())
    for name in manifest.files if prove else ():
        package.read(name)
    return package


def list_files(folder: Path) -> list[str]:
    """Sorted relative names, with forward slashes, of every file that a manifest names."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in (MANIFEST, SIGNATURE))


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        # A link could lead out of the package, to a file that nobody proved.
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelFileError(f"{name} of {folder.parent.name}/{folder.name} leads elsewhere")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{name} of {folder.parent.name}/{folder.name} cannot be read: {error.strerror}"
        ) from error
