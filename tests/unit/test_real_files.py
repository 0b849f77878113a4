"""Real files are taken or refused in plain words, as the page about them says."""

from __future__ import annotations

import pytest

from dicomnode.series.decode_pool import DecodePool
from tests.real_files import TABLE, table


@pytest.mark.feature("F19", "P02")
def test_the_table_of_real_files_is_current() -> None:
    """Whatever fault one of them caused would go through here."""
    with DecodePool(2) as decoder:
        found = table(decoder)
    assert len(found.splitlines()) > 150
    assert found == TABLE.read_text(), "write it again: python -m tests.real_files"
