"""pynetdicom's upper layer service, which ends in order whatever a peer sent."""

from __future__ import annotations

import logging

from pynetdicom.dul import DULServiceProvider

log = logging.getLogger(__name__)


class PeerProvider(DULServiceProvider):
    """The upper layer of one association with a peer that called."""

    def run_reactor(self) -> None:
        """Serve the connection until it is closed.

        A command set that cannot be read, or a PDU that the state machine has no row for, ends
        pynetdicom's thread by an exception. Here the peer hears an A-ABORT and the association
        ends at once: one that still waits for a request would else wait for its whole time.
        """
        try:
            super().run_reactor()
        except Exception as error:
            # The border of the association: the next peer is served. The text of the error may
            # hold what the peer sent.
            log.warning("an association was aborted: %s", type(error).__name__)
            self.assoc.outcome = "aborted"
            self.socket.break_off()
        finally:
            self.assoc.dimse.end()
            self.to_user_queue.put(None)
            self.socket.close()
