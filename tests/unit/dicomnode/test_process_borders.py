"""What a process of the node says when it cannot even load what it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A library that is missing, as an installation that was broken has it.
PROCESS = """\
import sys
from pathlib import Path
from config.schema import Settings
from dicomnode import node

sys.modules[sys.argv[2]] = None
getattr(node, sys.argv[1])(Settings(), Path(sys.argv[3]), None)
"""


@pytest.mark.parametrize(
    ("main", "module"),
    [
        ("_receiver_main", "dicomnode.net.scp"),
        ("_worker_main", "dicomnode.work.worker"),
        ("_web_main", "dicomnode.web.service"),
    ],
)
def test_an_import_that_fails_is_told_through_the_log(
    main: str, module: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROCESS, main, module, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "logger=dicomnode.node event=process.crashed" in line
    assert "ModuleNotFoundError" in line
