"""Which presentation contexts the node accepts and which it asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache

from pydicom.uid import AllTransferSyntaxes
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
)
from pynetdicom.sop_class import StorageServiceClass, register_uid, uid_to_service_class

VERIFICATION = "1.2.840.10008.1.1"
PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
# What else than storing a peer may be let do: the SOP class, and the transfer syntaxes that its
# data sets come in. Those are read in memory, so that none is taken that may inflate.
_SERVICES = {
    "echo": (VERIFICATION, None),
    "mpps": (PROCEDURE_STEP, frozenset(f"1.2.840.10008.1.2{more}" for more in ("", ".1", ".2"))),
}
MAX_CONTEXTS = 128
"""Context ids are the odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""

# Transfer syntaxes that pydicom's list may lack: the retired JPEG processes of PS3.5 A.4.1 that
# stay legal in archives.
_ALSO_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (*range(50, 67), 70))


@cache
def storage_classes() -> frozenset[str]:
    """Every storage SOP class of the standard (PS3.4 B.5)."""
    return frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


@cache
def transfer_syntaxes() -> frozenset[str]:
    """Every transfer syntax a data set may arrive in: all of the standard, as they come."""
    return frozenset({str(uid) for uid in AllTransferSyntaxes} | _ALSO_SYNTAXES)


def register_storage_classes(sop_class_uids: Iterable[str]) -> None:
    """Tell pynetdicom that these UIDs belong to the storage service."""
    for uid in sop_class_uids:
        if uid_to_service_class(uid) is not StorageServiceClass:
            register_uid(uid, f"Storage_{uid.replace('.', '_')}", StorageServiceClass)


def supported(
    asked: Sequence[PresentationContext], private_classes: Sequence[str], may: Collection[str]
) -> list[PresentationContext]:
    """Of what a requestor asks for, what the node takes.

    The transfer syntaxes keep the requestor's order: it knows what its objects are stored in, and
    nothing is transcoded here.

    Args:
        asked: The requestor's presentation contexts.
        private_classes: SOP classes accepted beside the standard's.
        may: What the requestor may do beside storing, which is judged object by object.

    Returns:
        Contexts for negotiation, one an abstract syntax.
    """
    wanted: dict[str, dict[str, None]] = {}
    services = dict(_SERVICES[name] for name in may if name in _SERVICES)
    for context in asked:
        uid = str(context.abstract_syntax)
        if uid in storage_classes() or uid in private_classes or uid in services:
            taken = services.get(uid) or transfer_syntaxes()
            known = (str(syntax) for syntax in context.transfer_syntax)
            wanted.setdefault(uid, {}).update(
                dict.fromkeys(syntax for syntax in known if syntax in taken)
            )
    return [build_context(uid, list(syntaxes)) for uid, syntaxes in wanted.items() if syntaxes]


def requests(pairs: Iterable[tuple[str, str]]) -> list[list[PresentationContext]]:
    """Contexts that an SCU asks for, one a pair, in lists that fit an association each.

    Args:
        pairs: SOP class and transfer syntax of what is to be sent.
    """
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in dict.fromkeys(pairs)]
    return [contexts[i : i + MAX_CONTEXTS] for i in range(0, len(contexts), MAX_CONTEXTS)]
