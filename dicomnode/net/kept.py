"""The last good certificates of the DICOM port, kept in the memory of the supervisor.

A receiver that is started again while what lies on disk cannot be used (half of a change, or
expired meanwhile) goes on with these, as one does that runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from config.schema import TlsSettings
from dicomnode.net.tls import server_faults


class KeptCertificates:
    """Copies of the files that ``[node.tls]`` names, for the processes this one starts.

    Args:
        tls: The settings, with absolute paths.
    """

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._kept: TlsSettings | None = None
        self._fds: list[int] = []

    def look(self) -> TlsSettings | None:
        """Take up what lies on disk if it is good.

        Returns:
            Where the last good files are to be read while this process lives; None before any was.
        """
        paths: dict[str, Path] = {}
        fds: list[int] = []
        for name in ("certificate", "private_key", "client_ca"):
            path: Path | None = getattr(self._tls, name)
            if path is not None:
                fds.append(os.memfd_create(name, os.MFD_CLOEXEC))
                paths[name] = Path(f"/proc/{os.getpid()}/fd/{fds[-1]}")
                try:
                    paths[name].write_bytes(path.read_bytes())
                except OSError:  # it stays empty, and so is at fault
                    continue
        found = self._tls.model_copy(update=paths)
        good = not any(server_faults(found))
        if good:
            self._kept, self._fds, fds = found, fds, self._fds
        for fd in fds:
            os.close(fd)
        return self._kept
