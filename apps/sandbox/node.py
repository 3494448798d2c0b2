"""A node: its data directory, its server, its switches."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .collections_api import CollectionsApi
from .control_api import ControlApi, RequestLog
from .errors import QdrantError
from .faults import Faults
from .membership import Membership
from .points_api import PointsApi
from .recovery import Recovery
from .routing import Keys, Router
from .server import Application, Server
from .service_api import VERSION, ServiceApi
from .snapshots import Snapshots
from .snapshots_api import SnapshotsApi
from .store import Store

# Qdrant's default `flush_interval_sec`.
_FLUSH_SECONDS = 5.0


class SandboxNode:
    """A small Qdrant-compatible node on Qdrant's own engine.

    Use it as a context manager, or with start() and stop(). The data stays in `data_dir`; a node started
    there again has it all. `faults` may be changed while it runs.
    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int = 0,
        api_key: str | None = None,
        *,
        host: str = "127.0.0.1",
        read_only_api_key: str | None = None,
        version: str = VERSION,
        membership: Membership | None = None,
    ) -> None:
        """Prepare a node; nothing is opened yet. Port 0 takes a free one, the same again after a restart.

        `version` may be changed while it runs. `membership` makes it a node of a cluster (see SandboxCluster).
        """
        self._data_dir = Path(data_dir)
        self._host = host
        self._port = port
        self._keys = Keys(api_key or None, read_only_api_key or None)
        self.version = version
        self._membership = membership
        self.faults = Faults()
        self._log = RequestLog()
        self._server: Server | None = None
        self._router: Router | None = None
        self._store: Store | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The base address. Raises: RuntimeError before the first start."""
        if not self._port:
            raise RuntimeError("the node was not started yet")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def peer_id(self) -> int:
        """The id of this node. Raises: RuntimeError when it does not run."""
        if self._store is None:
            raise RuntimeError("the node does not run")
        return self._store.peer_id

    @property
    def snapshots_path(self) -> Path:
        """The directory of the snapshot files."""
        return self._data_dir / "snapshots"

    @property
    def runs(self) -> bool:
        """Whether the node answers."""
        return self._server is not None

    @property
    def router(self) -> Router | None:
        """What answers its requests, None while it does not run."""
        return self._router

    def set_keys(self, api_key: str | None, read_only_api_key: str | None = None) -> None:
        """Change the keys, at once and for every later start."""
        self._keys = Keys(api_key or None, read_only_api_key or None)
        if self._router is not None:
            self._router.keys = self._keys

    def log(self) -> list[dict[str, Any]]:
        """Return the last 1000 requests, oldest first: method, path, query, status, bytes."""
        return self._log.entries()

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def start(self) -> SandboxNode:
        """Open the data and answer requests from now on.

        Raises: OSError, QdrantError; RuntimeError when it runs already.
        """
        if self._server is not None:
            raise RuntimeError("the node runs already")
        self._stopping = threading.Event()
        router = Router(self._keys)
        ControlApi(self.faults, self._log).register(router)
        if self._membership is not None:
            store, snapshots, recovery = self._membership.open(self._data_dir, router)
        else:
            store = Store(self._data_dir)
            store.open()
            snapshots = Snapshots(store)
            recovery = Recovery(store, snapshots)
        ServiceApi(store, snapshots, lambda: self.version).register(router)
        CollectionsApi(store).register(router)
        PointsApi(store).register(router)
        SnapshotsApi(store, snapshots, recovery).register(router)
        try:
            server = Server((self._host, self._port), Application(router, self.faults, self._log, self._stopping))
        except BaseException:
            store.close()
            raise
        self._port = server.server_address[1]
        self._server, self._router, self._store = server, router, store
        if self._membership is not None:
            self._membership.join(store, self._host, self._port)
        serve = threading.Thread(target=server.serve_forever, args=(0.02,), name="sandbox-server", daemon=True)
        flush = threading.Thread(target=self._keep_flushing, args=(store,), name="sandbox-flush", daemon=True)
        self._threads = [serve, flush]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Stop answering and close the data; requests under way get so long to finish. Twice is fine."""
        server, router, store = self._server, self._router, self._store
        if server is None or router is None or store is None:
            return
        self._stopping.set()
        if self._membership is not None:
            self._membership.leave(store)
        server.shutdown()
        server.server_close()
        server.close_connections(grace_seconds)
        router.wait_for_background(grace_seconds)
        for thread in self._threads:
            thread.join()
        store.close()
        self._server = self._router = self._store = None

    def _keep_flushing(self, store: Store) -> None:
        while not self._stopping.wait(_FLUSH_SECONDS):
            try:
                store.flush()
            except QdrantError:
                continue  # a shard was replaced or deleted in this moment

    def __enter__(self) -> SandboxNode:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
