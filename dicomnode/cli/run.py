"""``medai-node run``."""

from __future__ import annotations

from dicomnode.cli.common import (
    START_CHECKS,
    ConfigFile,
    complain,
    read_settings,
    say,
    silent_canaries,
)


def run(config: ConfigFile = None) -> None:
    """Start the node; prints one line when it is ready, ends on SIGTERM or Ctrl-C."""
    from dicomnode.node import Node, start_logging  # noqa: PLC0415
    from dicomnode.state import NodeState  # noqa: PLC0415

    settings = read_settings(config, START_CHECKS)
    for sentence in silent_canaries(settings):
        complain(sentence)

    def ready(state: NodeState) -> None:
        host, port = state.dicom
        http = f", HTTP on {state.web[0]}:{state.web[1]}" if state.web else ""
        callers = "" if settings.peers else "; no peers are listed, so only this machine may call"
        failing = ", ".join(state.failing)
        down = f"; not running yet: {failing}, see the log" if failing else ""
        waits = f"; takes nothing yet, see the log: {state.waits}" if state.waits else ""
        say(f"medai-node is ready: {state.ae_title} on {host}:{port}{http}{down}{waits}{callers}")

    settings.node.data_dir.mkdir(parents=True, exist_ok=True)
    start_logging(settings.node.data_dir)
    Node(settings).run(ready)
