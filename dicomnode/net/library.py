"""The settings of pynetdicom and pydicom, which both keep for a whole process."""

from __future__ import annotations

import logging

import pydicom
from pynetdicom import _config


def quiet_pynetdicom() -> None:
    """Keep identifiers, and a line for every PDU or failed call, out of the log."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # What goes wrong in its threads ends the association, and that is logged or raised here.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # Both ways in which it tells of values that it doubts quote them.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def send_bytes_as_they_are() -> None:
    """Send files piece by piece: pynetdicom would decode each and encode it anew."""
    _config.STORE_SEND_CHUNKED_DATASET = True
