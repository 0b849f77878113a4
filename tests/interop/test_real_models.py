"""The bundled models on images of real people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from dicomnode.series.volume import load_series
from tests.interop.real import brain_mask, head_mr

pytestmark = pytest.mark.tools


def test_the_whole_brain_lies_in_the_foreground_of_a_real_head(tmp_path: Path) -> None:
    series = load_series(head_mr(tmp_path))
    engine = Engine(Registry([bundled_models_path()]), SessionCache(("cpu",), 2))
    answer = engine.run("mr-foreground", {"image": series.volume})
    assert answer.labels is not None
    brain = brain_mask()
    assert not np.any(brain & (answer.labels == 0))
    for rows in (slice(0, 12), slice(-12, None)):
        for columns in (slice(0, 12), slice(-12, None)):
            assert not answer.labels[:, rows, columns].any(), "the corners are air"
    (body,) = answer.findings
    assert 3000 < body.measurements[0].value < 5000  # mL; a head and some neck
