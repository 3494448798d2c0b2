"""What makes a node one of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .caretaker import Caretaker
from .cluster_api import ClusterApi
from .consensus import Consensus
from .member_recovery import MemberRecovery
from .member_store import MemberStore
from .routing import Router
from .snapshots import Snapshots

if TYPE_CHECKING:
    from .recovery import Recovery
    from .store import Store

# From the REST port to the one for peers, in Qdrant's defaults; nothing listens there.
_TO_PEER_PORT = 2


class Membership:
    """The place of a node in a cluster, while it runs and while it does not."""

    def __init__(self, consensus: Consensus, caretaker: Caretaker) -> None:
        self._consensus = consensus
        self._caretaker = caretaker

    def open(self, data_dir: Path, router: Router) -> tuple[Store, Snapshots, Recovery]:
        """Open the node's data and add the endpoints of clusters. Raises: QdrantError, OSError."""
        store = MemberStore(data_dir, self._consensus)
        store.open()
        snapshots = Snapshots(store)
        ClusterApi(store, self._caretaker).register(router)
        return store, snapshots, MemberRecovery(store, snapshots, self._caretaker)

    def join(self, store: Store, host: str, port: int) -> None:
        """Enter the cluster, or come back to it."""
        assert isinstance(store, MemberStore)
        self._consensus.join(store.peer_id, f"http://{host}:{port + _TO_PEER_PORT}/", store)

    def leave(self, store: Store) -> None:
        """Be away."""
        self._consensus.leave(store.peer_id)
