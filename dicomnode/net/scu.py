"""The node as requestor: C-ECHO, and C-STORE of files whose bytes go out as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from config.errors import InputError, NotDicomError, PeerError, UnreadableError
from config.peers import DestinationSettings, DestinationTlsSettings, QuerySettings
from dicomnode.net.calling import Bounds, CallingAE
from dicomnode.net.contexts import VERIFICATION, requests
from dicomnode.net.library import quiet_pynetdicom, send_bytes_as_they_are
from dicomnode.net.status import accepted_by_peer
from dicomnode.net.tls import ClientContext, client_context
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

CONNECT_SECONDS = 10.0
ACSE_SECONDS = 30.0
DIMSE_SECONDS = 120.0

_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4

# PS3.8 9.3.4, Table 9-21: (source, reason) in words an administrator understands.
_REJECTIONS = {
    (1, 1): "it gave no reason",
    (1, 2): "it does not know the DICOM application context",
    (1, 3): "it does not know our AE title {calling}, or not from this address",
    (1, 7): "it is not called {called}",
    (2, 1): "it gave no reason",
    (2, 2): "it does not speak this version of the protocol",
    (3, 1): "it is busy",
    (3, 2): "it has no association left",
}


@dataclass(frozen=True)
class Peer:
    """Whom to call, and as whom.

    Attributes:
        ae_title: Called AE title.
        host: Name or address.
        port: Port.
        calling_ae: Our own AE title.
        tls: How to call it over TLS; None for plain DICOM.
    """

    ae_title: str
    host: str
    port: int
    calling_ae: str = "MEDAI"
    tls: DestinationTlsSettings | None = None

    @classmethod
    def of(cls, destination: DestinationSettings | QuerySettings, calling_ae: str) -> Peer:
        """A destination or source of the settings, called by this AE title."""
        return cls(
            destination.ae_title, destination.host, destination.port, calling_ae, destination.tls
        )

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class FileFacts:
    """What a Part 10 file says in its meta information.

    Attributes:
        path: The file.
        sop_class_uid: Media Storage SOP Class UID.
        sop_instance_uid: Media Storage SOP Instance UID.
        transfer_syntax_uid: Transfer Syntax UID.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Sent:
    """What became of one file.

    Attributes:
        path: The file.
        status: The peer's status; None when it could not be sent at all.
        why: What went wrong, empty when the peer has it.
    """

    path: Path
    status: int | None
    why: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the peer has it now."""
        return self.status is not None and accepted_by_peer(self.status)


def file_facts(path: Path) -> FileFacts:
    """Read what is needed to send a file.

    Raises:
        NotDicomError: It is not there, not a Part 10 file, or its meta information lacks a UID.
        UnreadableError: The system refused to read it.
    """
    try:
        meta = read_file_meta_info(path)
        return FileFacts(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except (InvalidDicomError, AttributeError, FileNotFoundError) as error:
        raise NotDicomError(f"{path.name} is not a DICOM Part 10 file") from error
    except OSError as error:
        if error.errno is None:  # no refusal of the system: pydicom says so of damaged bytes
            raise NotDicomError(f"{path.name} is not a DICOM Part 10 file") from error
        why = error.strerror or "reading failed"
        raise UnreadableError(f"{path.name} cannot be opened: {why}") from error


class Link:
    """An association that this node asked for; `store` sends one file after another."""

    def __init__(self, peer: Peer, assoc: Association) -> None:
        self._peer = peer
        self._assoc = assoc
        self._message = 0

    def echo(self) -> int:
        """C-ECHO; the peer's status.

        Raises:
            PeerError: No answer came, or verification was not accepted.
        """
        return self._ask(lambda: self._assoc.send_c_echo(self._next()), "verification")

    def accepts(self, facts: FileFacts) -> bool:
        """Whether the peer took a context for the file's SOP class and transfer syntax."""
        return any(
            context.abstract_syntax == facts.sop_class_uid
            and facts.transfer_syntax_uid in context.transfer_syntax
            for context in self._assoc.accepted_contexts
        )

    def syntaxes(self, sop_class_uid: str) -> frozenset[str]:
        """The transfer syntaxes in which the peer takes a SOP class."""
        return frozenset(
            str(syntax)
            for context in self._assoc.accepted_contexts
            if context.abstract_syntax == sop_class_uid
            for syntax in context.transfer_syntax
        )

    def store(self, path: Path) -> int:
        """C-STORE one Part 10 file, its data set's bytes as they are.

        Returns:
            The peer's status; see `accepted_by_peer`.

        Raises:
            NotDicomError: The file is not a Part 10 file.
            PeerError: No context fits the file, or the association ended without an answer.
        """
        facts = file_facts(path)
        if not self.accepts(facts):
            raise PeerError(
                f"{self._peer} accepts no presentation context for SOP class "
                f"{facts.sop_class_uid} in transfer syntax {facts.transfer_syntax_uid}"
            )
        return self._ask(lambda: self._assoc.send_c_store(path, self._next()), "the object")

    def find(self, identifier: Dataset, sop_class_uid: str) -> Iterator[Dataset]:
        """C-FIND; the identifiers of its matches as they come (PS3.4 C.4.1).

        Raises:
            PeerError: It refused, or the association ended before the last answer.
        """
        try:
            for answer, match in self._assoc.send_c_find(identifier, sop_class_uid, self._next()):
                status = self._status(answer)
                if status not in (0x0000, *_PENDING):
                    raise PeerError(f"{self._peer} answered the query with 0x{status:04X}")
                if match is not None:
                    yield match
        except (RuntimeError, ValueError) as error:
            raise PeerError(f"{self._peer} does not take the query: {error}") from error

    def _next(self) -> int:
        self._message = self._message % 0xFFFF + 1
        return self._message

    def _ask(self, request: Callable[[], object], what: str) -> int:
        try:
            answer = request()
        except (RuntimeError, ValueError) as error:
            raise PeerError(f"{self._peer} does not take {what}: {error}") from error
        return self._status(answer)

    def _status(self, answer: object) -> int:
        status = getattr(answer, "Status", None)
        if status is None:
            raise PeerError(f"{self._peer} ended the association, or gave no answer in time")
        return int(status)


@contextlib.contextmanager
def open_association_to(
    peer: Peer, contexts: Sequence[PresentationContext], bounds: Bounds | None = None
) -> Iterator[Link]:
    """An association with a peer; released at the end, aborted after an error.

    Args:
        peer: Whom to call.
        contexts: What to ask for, at most 128; see `contexts_for`.
        bounds: What it may cost; None where the usual timeouts are all.

    Raises:
        PeerError: The peer cannot be reached, rejects, or accepts nothing that was asked for.
        SettingsError: The certificates to call it with cannot be used.
    """
    quiet_pynetdicom()
    send_bytes_as_they_are()
    ae = CallingAE(ae_title=peer.calling_ae)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = CONNECT_SECONDS
    ae.acse_timeout = ACSE_SECONDS
    ae.dimse_timeout = ae.network_timeout = DIMSE_SECONDS
    ae.tls = None if peer.tls is None else client_context(peer.tls)
    ae.bounds = bounds
    reached: list[bool] = []
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            tls_args=_tls_arguments(peer, ae.tls),
            evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: reached.append(True))],
        )
    except OSError as error:
        ae.close()
        raise PeerError(f"{peer} cannot be reached: {error.strerror or error}") from error
    if not assoc.is_established:
        ae.close()
        raise PeerError(_why_not(peer, assoc, bool(reached), ae.tls))
    try:
        yield Link(peer, assoc)
        if assoc.is_established:
            assoc.release()
    except BaseException:
        assoc.abort()
        raise
    finally:
        ae.close()


def _tls_arguments(peer: Peer, context: ClientContext | None) -> tuple[ClientContext, str] | None:
    if peer.tls is None or context is None:
        return None
    return context, peer.tls.name or peer.host


def _why_not(peer: Peer, assoc: Association, reached: bool, tls: ClientContext | None) -> str:
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        reason = _REJECTIONS.get((answer.result_source, answer.diagnostic), "it gave no reason")
        said = reason.format(called=peer.ae_title, calling=peer.calling_ae)
        again = "; it may accept later" if answer.result == 2 else ""
        return f"{peer} rejected the association: {said}{again}"
    if tls is not None and tls.failure:
        return f"{peer} cannot be spoken to over TLS: {tls.failure}"
    if not reached:
        return f"{peer} cannot be reached: the connection was refused or timed out"
    if assoc.rejected_contexts:
        return f"{peer} accepted none of the presentation contexts that were asked for"
    over_tls = "; it may not trust our certificate" if tls is not None else ""
    return f"{peer} aborted the association, or did not answer in time{over_tls}"


def contexts_for(files: Iterable[FileFacts]) -> list[list[PresentationContext]]:
    """What to ask for to send these files, in lists that fit an association each."""
    return requests((facts.sop_class_uid, facts.transfer_syntax_uid) for facts in files)


def echo(peer: Peer) -> int:
    """C-ECHO to a peer; its status, 0 for Success.

    Raises:
        PeerError: It cannot be reached, rejects, or gives no answer.
    """
    with open_association_to(peer, [build_context(VERIFICATION)]) as link:
        return link.echo()


def send(
    paths: Sequence[Path], peer: Peer, on_progress: Callable[[Sent], None] | None = None
) -> list[Sent]:
    """C-STORE files to a peer, over as many associations as their contexts need.

    Args:
        paths: Part 10 files; what is none is reported and passed over.
        peer: Whom to send to.
        on_progress: Called after each file.

    Returns:
        What became of each file, in the order in which they went out.

    Raises:
        PeerError: No association can be had; files of earlier associations may have arrived.
    """
    results: list[Sent] = []

    def note(sent: Sent) -> None:
        results.append(sent)
        if on_progress is not None:
            on_progress(sent)

    files: list[FileFacts] = []
    for path in paths:
        try:
            files.append(file_facts(path))
        except InputError as error:
            note(Sent(path, None, str(error)))
    for contexts in contexts_for(files):
        asked = {(context.abstract_syntax, context.transfer_syntax[0]) for context in contexts}
        with open_association_to(peer, contexts) as link:
            for facts in files:
                if (facts.sop_class_uid, facts.transfer_syntax_uid) in asked:
                    note(_send_one(link, facts))
    return results


def _send_one(link: Link, facts: FileFacts) -> Sent:
    if not link.accepts(facts):
        return Sent(facts.path, None, "the peer takes no such SOP class and transfer syntax")
    status = link.store(facts.path)
    if accepted_by_peer(status):
        return Sent(facts.path, status)
    return Sent(facts.path, status, f"the peer answered 0x{status:04X}")
