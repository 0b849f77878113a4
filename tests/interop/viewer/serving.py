"""The viewer's files and a DICOMweb root under one origin, as a site's web server has them."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.interop.viewer import OHIF

_SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "dicomweb",
    "configuration": {
        "friendlyName": "PACS",
        "name": "PACS",
        **dict.fromkeys(("wadoUriRoot", "qidoRoot", "wadoRoot"), "/dicom-web"),
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": False,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    },
}
_CONFIG = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [_SOURCE],
}


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, directory=str(OHIF.folder / "dist"), **options)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web"):
            self._pass_on()
        elif path == "/app-config.js":
            config = f"window.config = {json.dumps(_CONFIG)};"
            self._answer(200, "text/javascript", config.encode())
        else:
            if not (Path(self.directory) / path.lstrip("/")).is_file():
                self.path = "/index.html"  # the viewer's own routes
            super().do_GET()

    def _pass_on(self) -> None:
        accept = {"Accept": self.headers.get("Accept", "*/*")}
        where = f"http://127.0.0.1:{self.server.pacs}{self.path}"
        request = urllib.request.Request(where, headers=accept)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                self._answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, "text/plain", error.read())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the tests' output to the tests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, pacs: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pacs = pacs


@contextlib.contextmanager
def viewer(pacs: int) -> Iterator[str]:
    """Serve the viewer; gives its address.

    Args:
        pacs: The port on this machine whose ``/dicom-web`` the viewer asks.
    """
    server = _Server(pacs)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
