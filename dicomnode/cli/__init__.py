"""The command line, ``medai-node``."""

from __future__ import annotations

from dicomnode.cli.app import main

__all__ = ["main"]
