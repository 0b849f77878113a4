"""Tests that need the extra ``import``; without it there is nothing here to collect."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]
# TensorFlow and triton, which torch loads late, bring the same library: the process is aborted
# where TensorFlow's is there first. An import of a model loads only one of them.
if find_spec("triton") and find_spec("tensorflow"):
    importlib.import_module("triton")
