"""What a node says of itself in its data folder, for the command line and its next start."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATE_FILE = "node.json"
LOCK_FILE = "node.lock"


@dataclass(frozen=True)
class NodeState:
    """What a running node says of itself, kept in the data folder for the command line.

    Attributes:
        pid: The supervisor.
        ae_title: What peers call.
        dicom: Address and port of the DICOM listener.
        web: Address and port of HTTP, or None.
        processes: Restarts by process name.
        pids: Process ids by process name, of those that live.
        failing: Names of processes that are down, or are being restarted.
        waits: Why what the node left when it last ended is not finished yet; empty when it is.
    """

    pid: int
    ae_title: str
    dicom: tuple[str, int]
    web: tuple[str, int] | None
    processes: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    failing: tuple[str, ...] = ()
    waits: str = ""


def write_state(data_dir: Path, state: NodeState) -> None:
    """Note the state of the node that runs on a data folder.

    Raises:
        OSError: It cannot be written.
    """
    content = json.dumps(asdict(state)).encode()
    path = data_dir / STATE_FILE
    fresh = data_dir / f"{STATE_FILE}.new"
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError:
        # On a full disk there is still the room of the last one: JSON may end in blanks.
        with path.open("r+b", buffering=0) as file:
            file.write(content.ljust(path.stat().st_size))


def node_state(data_dir: Path) -> NodeState | None:
    """The state of the node that runs on a data folder, or None when none does."""
    try:
        with (data_dir / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return last_state(data_dir)
    except FileNotFoundError:
        return None


def last_state(data_dir: Path) -> NodeState | None:
    """What a node last said of itself, whether it runs or not."""
    try:
        content = json.loads((data_dir / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    web = content.pop("web")
    return NodeState(
        **{
            **content,
            "dicom": tuple(content["dicom"]),
            "web": tuple(web) if web else None,
            "failing": tuple(content["failing"]),
        }
    )
