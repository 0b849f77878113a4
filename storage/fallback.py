"""Which kinds of result a destination takes, and what goes out in place of one that it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.errors import StaleStateError
from storage.db import Ledger
from storage.records import Delivery, DestinationKind, Result


def note_kinds(ledger: Ledger, destination: str, accepted: Mapping[str, bool]) -> None:
    """Note which kinds of result a destination took in negotiation, where that is news."""
    query = DestinationKind.select(DestinationKind.kind, DestinationKind.accepted)
    known = dict(query.where(DestinationKind.destination == destination).tuples())
    news = {kind: taken for kind, taken in accepted.items() if known.get(kind) != taken}
    if not news:
        return
    with ledger.transaction() as change:
        for kind, taken in news.items():
            DestinationKind.insert(
                destination=destination, kind=kind, accepted=taken, noted_at=change.now
            ).on_conflict_replace().execute()


def accepted_kinds(destination: str) -> frozenset[str]:
    """The kinds of result that a destination took when it was last asked for them."""
    query = DestinationKind.select(DestinationKind.kind).where(
        (DestinationKind.destination == destination) & DestinationKind.accepted
    )
    return frozenset(kind for (kind,) in query.tuples())


def stand_ins(row: Delivery, chain: Sequence[str]) -> list[Result]:
    """What of the same job may go out in place of a delivery's result, best first.

    Args:
        row: The delivery.
        chain: Kinds, best first, that of the result among them.
    """
    after = list(chain[chain.index(row.result.kind) + 1 :]) if row.result.kind in chain else []
    found = Result.select().where((Result.job == row.result.job_id) & Result.kind.in_(after))
    return sorted(found, key=lambda result: after.index(result.kind))


def send_instead(ledger: Ledger, row: Delivery, result: Result, why: str) -> bool:
    """Send another form of the result instead; False where the destination gets that anyway.

    Args:
        ledger: The database.
        row: In state sending.
        result: Another result of the same job.
        why: A sentence without patient identifiers.
    """
    with ledger.transaction() as change:
        if (
            Delivery.select()
            .where((Delivery.result == result) & (Delivery.destination == row.destination))
            .exists()
        ):
            return False
        told = "; ".join(filter(None, (row.fell_back, f"{row.result.kind}: {why}")))
        fence = (Delivery.id == row.id) & (Delivery.state == "sending")
        fence &= Delivery.attempt == row.attempt
        if not Delivery.update(result=result, fell_back=told, failures=0).where(fence).execute():
            raise StaleStateError(f"{row.label()} is no longer being sent")
        change.audit(
            "delivery.fell_back",
            object=row.label(),
            detail={
                "destination": row.destination,
                "from": row.result.kind,
                "to": result.kind,
                "result": result.sop_instance_uid,
                "reason": why,
            },
        )
    row.result, row.fell_back, row.failures = result, told, 0
    return True
