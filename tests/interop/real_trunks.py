"""CT of real trunks with and without contrast medium: fetched once, pinned, never committed.

They lie in ``.cache/trunks`` of the repository; ``docs/content.md`` has the commands. What each of
them shows was seen by eye and in its aorta, before anything judged it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from ai.types import Volume

CACHE = Path(__file__).parents[2] / ".cache" / "trunks"


@dataclass(frozen=True)
class Scan:
    """One scan.

    Attributes:
        path: Of a file or folder: the repository's name and the path in it.
        sha256: Of the file; of a folder that of its list as ``sha256sum`` writes it, by name.
        licence: Of the image.
    """

    path: str
    sha256: str
    licence: str

    def files(self) -> list[Path]:
        """The file or files, as they were when their digest was taken."""
        path = CACHE / self.path
        assert path.exists(), f"{path} is not there: docs/content.md says how to fetch it"
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256
            return [path]
        files = sorted(each for each in path.iterdir() if each.suffix != ".md")
        digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in files]
        listed = "".join(
            f"{digest}  {each.name}\n" for digest, each in zip(digests, files, strict=True)
        )
        assert hashlib.sha256(listed.encode()).hexdigest() == self.sha256
        return files

    def volume(self) -> Volume:
        """HU; read by SimpleITK, since one of them has a frame of reference for each slice."""
        files = self.files()
        if len(files) > 1:
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(files[0].parent))
            assert len(names) == len(files)
            image = sitk.ReadImage(names)
        else:
            image = sitk.ReadImage(str(files[0]))
        columns, rows, slices = image.GetSpacing()
        affine = np.eye(4)
        turned = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, :3], affine[:3, 3] = turned[:, ::-1], image.GetOrigin()
        voxels = sitk.GetArrayFromImage(image).astype(np.int16)
        return Volume(voxels, "[hnsf'U]", affine, (slices, rows, columns), (-1024.0, 3071.0))


_TOTALSEGMENTATOR = "TotalSegmentator/tests/reference_files"
SCANS = {
    "portal 1004": Scan(
        "mirp/test/data/ct_images_seg/CRLM-CT-1004/image",
        "35c0c68f4ec35c30a0c547d8312f9f616f7f4be8ceac2c045c1d3e04ec8fe64b",
        "CC BY 4.0",
    ),
    "portal 1006": Scan(
        "mirp/test/data/ct_images_seg/CRLM-CT-1006/image",
        "e0981fa7b63244f017d862d5e9ae16e0a25c685d0f4b232fb7e1de3b88da209f",
        "CC BY 4.0",
    ),
    "native chest": Scan(
        "data/dicom/andrei_abdomen/data",
        "7488cfcd28829e5d7d9e64c7d821d93aff64f6cdb7ef3a383cb7ad119472806a",
        "Apache-2.0",
    ),
    "native abdomen": Scan(
        f"{_TOTALSEGMENTATOR}/example_ct.nii.gz",
        "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
        "Apache-2.0",
    ),
    "four centimetres": Scan(
        f"{_TOTALSEGMENTATOR}/example_ct_dicom",
        "cb296a70a6457e000d4244a78eec9240766a55f4aaf7b41682619bc30d617810",
        "Apache-2.0",
    ),
    "cut to the aorta": Scan(
        f"{_TOTALSEGMENTATOR}/aorta_report/test_result/models/ct_cropped.nii.gz",
        "f776ecfa1326e7e21a8c30e5530f517c16f16a59a68fc06e8119cefc7c3b87a0",
        "Apache-2.0",
    ),
}
