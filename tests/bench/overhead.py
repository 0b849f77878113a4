"""What the node adds to a model's own run.

``python -m tests.bench.overhead [--smoke] [--images N] [--runs N]``

Radiographs of 1760 × 1760 go one after the other to a running node, `xr-quality` runs on each, and
the report goes to a stand-in PACS. Counted is the time from the last byte of an image to its report
at the PACS, less the run of the graph. The first one, for which graph and tables are loaded, is
told apart.

Then a CT of 200 × 512 × 512 goes from its first byte to segmentation and report through a 3D U-Net
of random weights, in windows of 96³ at 1.5 mm. Told is the share of all that is not its run.

Loopback and shared cores: read shares, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, generate_uid

from dicomnode.net.contexts import storage_classes
from dicomnode.net.scu import send
from dicomnode.net.standin import StandInPacs
from dicomnode.sample import set_pixels, write_sample_study
from tests.bench.endtoend import PATIENCE, split, table
from tests.bench.endtoend import send as send_folder
from tests.bench.networks import unet
from tests.factories import cr_image, ct_series, ct_series_200, write
from tests.harness import NodeUnderTest

ROUTE = """\
[models]
path = "{models}"

[[routes]]
name = "bench"
when = {{ Modality = "{modality}" }}
model = "{model}"
send_to = ["pacs"]
content = "off"

[[destinations]]
name = "pacs"
ae_title = "STANDIN"
host = "127.0.0.1"
port = {port}
results = [{results}]
"""
# The stand-in takes 40 ms to agree on all that could be stored: that is no time of the node's.
OTHERS = storage_classes() - {SegmentationStorage, Comprehensive3DSRStorage}
SIDE = 1760
WINDOWS = """\
spacing = [1.5, 1.5, 1.5]
sliding = { patch = [96, 96, 96], overlap = 0.25 }
"""


def radiographs(work: Path, images: int, side: int) -> tuple[list[float], list[dict[str, float]]]:
    """Send so many radiographs, each when the report of the one before is there.

    Returns:
        Seconds from the last byte to the report less the run of the graph, and the stages of each.
    """
    rng = np.random.default_rng(1)
    pixels = rng.integers(200, 3000, (side, side)).astype(np.uint16)
    seconds, stages = [], []
    with (
        StandInPacs(work / "pacs", refuses=OTHERS) as pacs,
        NodeUnderTest(work / "node", _route(pacs, "CR", "xr-quality", "sr"), quiet=0) as node,
    ):
        for number in range(images):
            image = cr_image(seed=number)
            image.SOPInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
            pixels[:64, :64] = number
            set_pixels(image, pixels, bits_stored=12)
            send(write(image, work / f"image{number}"), node.peer)
            if not pacs.wait_for(number + 1, PATIENCE):
                raise TimeoutError(f"no report after {PATIENCE:g} s\n{node.log.read_text()}")
            arrived = time.time()
            node.wait_until(node.at_rest, "everything noted", pause=0.01)
            (came,) = node.rows("SELECT received_at FROM instance ORDER BY id DESC LIMIT 1")
            (job,) = node.rows("SELECT * FROM job ORDER BY id DESC LIMIT 1")
            own = json.loads(job["seconds"])
            own |= {
                "store to job": job["created_at"] - came["received_at"],
                "deliver": arrived - job["finished_at"],
            }
            seconds.append(arrived - came["received_at"] - own["run"])
            stages.append(own)
    return seconds, stages


def volume(work: Path, smoke: bool) -> dict[str, float]:
    """One CT through the U-Net, after a small one; seconds by stage."""
    series, first = work / "series", work / "first"
    if not series.exists():
        (write_sample_study if smoke else ct_series_200)(series)
        write(ct_series(12, seed=9), first)
    unet(work / "models", more=WINDOWS, levels=(4, 8) if smoke else (16, 32, 64, 128))
    place = Path(tempfile.mkdtemp(dir=work))
    with (
        StandInPacs(place / "pacs", refuses=OTHERS) as pacs,
        NodeUnderTest(
            place / "node", _route(pacs, "CT", "unet", "seg", "sr", models=work / "models"), quiet=0
        ) as node,
    ):
        # The first job loads tables, and makes what could stand in at a PACS never asked before.
        send_folder(node.state.dicom[1], first, "MEDAI")
        if not pacs.wait_for(2, PATIENCE):
            raise TimeoutError(f"no report\n{node.log.read_text()}")
        node.wait_until(node.at_rest, "everything noted")
        send_folder(node.state.dicom[1], series, "MEDAI")
        if not pacs.wait_for(4, PATIENCE * 3):
            raise TimeoutError(f"no report\n{node.log.read_text()}")
        arrived = time.time()
        node.wait_until(node.at_rest, "everything noted")
        return dict(split(node, 0.0, arrived))


def _route(
    pacs: StandInPacs, modality: str, model: str, *results: str, models: Path = Path("models")
) -> str:
    kinds = ", ".join(f'"{kind}"' for kind in results)
    return ROUTE.format(
        models=models, modality=modality, model=model, port=pacs.port, results=kinds
    )


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="small images, few, one run")
    parser.add_argument("--images", type=int, default=40, help="radiographs")
    parser.add_argument("--runs", type=int, default=1, help="volumes")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    options = parser.parse_args()
    images, side = (4, 256) if options.smoke else (options.images, SIDE)
    with tempfile.TemporaryDirectory(prefix="bench-overhead-", dir=options.work) as name:
        work = Path(name)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        seconds, stages = radiographs(work / "radiographs", images, side)
        told = sorted(seconds[1:])
        print(f"\nradiograph of {side} × {side}, last byte to report less the graph's run, ms")
        print(f"first {1e3 * seconds[0]:.0f}, then {len(told)}:", end=" ")
        for percent in (50, 95):
            place = min(len(told) - 1, round(percent / 100 * len(told)))
            print(f"p{percent} {1e3 * told[place]:.0f}", end=" ")
        print("\n")
        for stage in stages[-1]:
            median = statistics.median(each[stage] for each in stages[1:])
            print(f"{stage:17}{1e3 * median:>9.1f}")
        runs = [volume(work, options.smoke) for _ in range(1 if options.smoke else options.runs)]
    shares = [1 - stages["run"] / sum(stages.values()) for stages in runs]
    print(
        f"\nCT through a U-Net, {len(runs)} runs: all but its run {statistics.median(shares):.0%}"
    )
    table(runs)


if __name__ == "__main__":
    main()
