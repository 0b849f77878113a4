"""One receiver process of the node, as the supervisor starts it.

``python -m tests.bench.intaking.serve FOLDER LISTENER INDEX [PROFILE]``: the data folder, the file
descriptor of the socket that the receivers share, the number of this one, and a file for its
profile. A process of its own kind keeps the memory of the benchmark out of the figures.
"""

from __future__ import annotations

import socket
import sys
from multiprocessing import Pipe
from pathlib import Path

from config.schema import Settings
from dicomnode.net.scp import run_receiver
from dicomnode.node import start_logging
from tests.bench.intaking.threadprofile import profiled_threads

AE_TITLE = "BENCH"


def main(folder: str, listener: str, index: str, profile: str = "") -> None:
    """Receive until SIGTERM."""
    data_dir = Path(folder)
    settings = Settings(node={"ae_title": AE_TITLE, "data_dir": data_dir})
    start_logging(data_dir, "warning")
    keep, stop = Pipe()
    with keep, stop, socket.socket(fileno=int(listener)) as sock, profiled_threads(profile):
        run_receiver(settings, data_dir, sock, int(index), stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
