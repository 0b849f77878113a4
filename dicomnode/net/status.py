"""What a C-STORE is answered with: one table of statuses, with their clause and Error Comment."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_COMMENT = 64
"""Error Comment (0000,0902) is an LO (PS3.7 E.1, PS3.5 6.2)."""


@dataclass(frozen=True)
class Answer:
    """A status and why.

    Attributes:
        status: Status (0000,0900).
        comment: Error Comment (0000,0902); empty with Success.
        clause: Where the standard gives the status.
        reason: Short stable code for logs, metrics and the audit chain.
        error_id: Error ID (0000,0903) where the service class has one.
    """

    status: int
    comment: str
    clause: str
    reason: str
    error_id: int | None = None

    @property
    def kept(self) -> bool:
        """Whether the object is stored."""
        return self.status == 0

    def because(self, detail: str) -> Answer:
        """The same status with a comment of this one case, in what the element holds.

        The place in the bytes goes first, then whole words: half a number would say another one.
        """
        text = detail.encode("ascii", "replace").decode("ascii").replace("\\", "/")
        if len(text) > MAX_COMMENT:
            text = text.partition(" (at byte ")[0]
        if len(text) > MAX_COMMENT:
            whole, _, _ = text[: MAX_COMMENT + 1].rpartition(" ")
            text = whole or text[:MAX_COMMENT]
        return replace(self, comment=text)


STORED = Answer(0x0000, "", "PS3.7 Annex C", "stored")
OUT_OF_SPACE = Answer(
    0xA700, "Out of disk space: object not stored, please resend later", "PS3.4 B.2.3", "space"
)
STORAGE_FAULT = Answer(
    0xA700, "Storage failed: object not stored, please resend later", "PS3.4 B.2.3", "storage"
)
DRAINING = Answer(
    0xA700, "Node is shutting down: object not stored, please resend", "PS3.4 B.2.3", "draining"
)
DISAGREES = Answer(
    0xA900, "SOP class or instance UID of command and data set differ", "PS3.4 B.2.3", "disagrees"
)
MALFORMED = Answer(0xC000, "Data set is not well-formed", "PS3.4 B.2.3", "malformed")
NOT_ACCEPTED = Answer(
    0x0122, "SOP class is not the one of this presentation context", "PS3.7 Annex C", "sop-class"
)
OWN_RESULT = Answer(
    0x0122, "A result of this node: results are not taken back here", "PS3.7 Annex C", "own-result"
)
NOT_AUTHORISED = Answer(
    0x0124, "This AE title may not store here", "PS3.7 Annex C", "not-authorised"
)
FAILED = Answer(0x0110, "Processing failure: object not stored", "PS3.7 Annex C", "fault")
ANSWERS = (
    STORED,
    OUT_OF_SPACE,
    STORAGE_FAULT,
    DRAINING,
    DISAGREES,
    MALFORMED,
    NOT_ACCEPTED,
    OWN_RESULT,
    NOT_AUTHORISED,
    FAILED,
)


def accepted_by_peer(status: int) -> bool:
    """Whether a peer's C-STORE status means that it has the object.

    Success, the warnings 0xBxxx (PS3.4 B.2.3) and Duplicate SOP Instance 0x0111 (PS3.7 Annex C): it
    has that instance already.
    """
    return status in (0x0000, 0x0111) or status >> 12 == 0xB
