"""UIDs of results, derived from what they are results of.

The same analysis run again has the same UIDs; two different ones have different UIDs.
"""

from __future__ import annotations

import hashlib
import uuid


def result_uid(identity: str, role: str) -> str:
    """The UID that plays one role in the results of one job (PS3.5 B.2, RFC 9562 5.8).

    The root 2.25 is shared by everyone who makes UIDs from UUIDs, so nothing can be concluded from
    its pattern; `dicomnode.results.provenance.made_here` tells own objects.

    Args:
        identity: Digest of the job, or of a model for its device UID.
        role: What the UID names, ``seg/instance``; unique within the identity.

    Returns:
        ``2.25.`` and the decimal value of a UUIDv8 made of SHA-256 of both, at most 44 characters.
    """
    digest = hashlib.sha256(f"{identity}\0{role}".encode()).digest()
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76  # version 8
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant 10
    return f"2.25.{uuid.UUID(int=value).int}"
