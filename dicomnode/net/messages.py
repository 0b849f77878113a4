"""pynetdicom's reader of DIMSE messages, which keeps no data set in memory.

pynetdicom collects the fragments of a message in a buffer, the whole data set of a C-STORE among
them. Here those go to the intake as they come, as on the short path; what else a peer may send has
a bound.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage

from config.errors import MalformedError
from dicomnode.net.intake import Intake, Reception, StoreCommand
from dicomnode.net.status import FAILED, Answer

MAX_BUFFERED = 1 << 20
"""Longest command set, and longest data set of anything but a C-STORE, in bytes."""


class _Bounded(BytesIO):
    """Fragments that are put together in memory."""

    def write(self, fragment: Any, /) -> int:
        if self.tell() + len(fragment) > MAX_BUFFERED:
            raise MalformedError(f"a message of more than {MAX_BUFFERED} bytes")
        return super().write(fragment)


class ArrivingDataSet(_Bounded):
    """The data set of one message; that of a C-STORE is received while it comes.

    Attributes:
        answer: What the peer is to hear of an object that is complete.
    """

    def __init__(self, message: DIMSEMessage, assoc: Any, intake: Intake) -> None:
        super().__init__()
        self._message = message
        self._assoc = assoc
        self._intake = intake
        self._reception: Reception | None = None
        self.answer: Answer = FAILED

    def write(self, fragment: Any, /) -> int:
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(fragment)
        self._open()
        if self._reception is not None:
            self._reception.write(fragment)
        return len(fragment)

    def _open(self) -> None:
        context = self._assoc._accepted_cx.get(self._message.context_id)
        # Without an accepted context pynetdicom ends the association when the message is whole.
        if self._reception is None and context is not None:
            command = self._message.command_set
            self._reception = self._intake.begin(
                StoreCommand(
                    str(command.get("AffectedSOPClassUID", "")),
                    str(command.get("AffectedSOPInstanceUID", "")),
                    str(context.abstract_syntax),
                    str(context.transfer_syntax[0]),
                ),
                self._assoc.link,
            )

    def finish(self) -> None:
        """The message is whole: make its object durable, or note why not."""
        if isinstance(self._message, C_STORE_RQ):
            self._open()
            reception, self._reception = self._reception, None
            if reception is not None:
                self.answer = reception.finish()

    def discard(self) -> None:
        """The message will not become whole: nothing of it stays."""
        if self._reception is not None:
            self._reception.discard()


class PeerMessages(DIMSEServiceProvider):
    """The DIMSE provider of one association with a peer that called."""

    def __init__(self, assoc: Any, intake: Intake) -> None:
        super().__init__(assoc)
        self.message: Any = None
        self._intake = intake

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments of one P-DATA indication.

        Raises:
            MalformedError: The message is longer than any that is taken here.
        """
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = _Bounded()
            self.message.data_set = ArrivingDataSet(self.message, self.assoc, self._intake)
        super().receive_primitive(primitive)

    def end(self) -> None:
        """The connection is gone; called in the thread that received."""
        if self.message is not None:
            self.message.data_set.discard()
        self._intake.ledger.close()  # this thread's connection


def on_message(event: evt.Event) -> None:
    """A DIMSE message is whole; still in the thread that received it."""
    event.message.data_set.finish()
