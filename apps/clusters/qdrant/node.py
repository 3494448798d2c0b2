"""QdrantNode: the REST calls of one node. Small answers only; snapshots travel in transfer.py beside it.

Source of paths, bodies and answers: Qdrant's REST reference 1.18, and exchanges recorded from real nodes
(tests/recordings).
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakSet

import requests
import urllib3
from requests.adapters import HTTPAdapter

from apps.clusters.qdrant.endpoint import CONNECT_TIMEOUT_SECONDS, Endpoint, break_connection, segment
from apps.clusters.qdrant.errors import (
    CollectionNotFound,
    NotQdrant,
    QdrantDenied,
    QdrantError,
    QdrantFault,
    QdrantRejected,
    QdrantTimeout,
    QdrantTlsRefused,
    QdrantUnreachable,
    SnapshotNotFound,
)
from apps.clusters.qdrant.tls import innermost, why_refused
from apps.clusters.qdrant.types import CollectionInfo, NodeInfo, Placement, SnapshotDescription
from apps.core.abort import Abort
from apps.core.retry_after import parse_retry_after

# Whether certificates are checked is said per cluster, and shown there; a warning per request says it to nobody.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


class QdrantNode:
    """The REST calls of one node. Not shared between threads.

    Every call raises a QdrantError (errors.py) when the node cannot be reached, does not answer in time, answers
    with a fault or refuses; CollectionNotFound for a collection that is not there. With an `abort` a call ends at once
    when that trips, and raises its reason; the node may do all the same what it was asked for.
    """

    def __init__(self, endpoint: Endpoint, abort: Abort | None = None) -> None:
        self.endpoint = endpoint
        self._abort = abort
        self._clock_offset: timedelta | None = None
        self._session = requests.Session()
        # Nothing from the environment: a .netrc or a proxy variable must not decide where keys go.
        self._session.trust_env = False
        self._session.headers.update(endpoint.headers)
        self._session.verify = endpoint.verify_tls
        self._adapter = _Adapter(endpoint)
        self._session.mount("https://" if endpoint.url.startswith("https://") else "http://", self._adapter)

    def __enter__(self) -> QdrantNode:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    # --- the node ------------------------------------------------------------------------------------------
    def info(self) -> NodeInfo:
        """Ask who the node is (`GET /`, `GET /cluster`)."""
        root = self.call("GET", "/", enveloped=False)
        version = root.get("version") if isinstance(root, dict) else None
        if not isinstance(version, str) or "qdrant" not in str(root.get("title", "")).lower():
            raise NotQdrant(f"What answers at {self.endpoint.url} is not Qdrant: check the address.")
        cluster = self.call("GET", "/cluster")
        peer = cluster.get("peer_id") if cluster.get("status") == "enabled" else None
        return NodeInfo(version=version, peer_id=peer, cluster=cluster)

    def time(self, now: datetime) -> datetime | None:
        """Return what the node's own clock says at `now` of ours, to about two seconds.

        From the Date header of its last answer; None when no answer had one. A proxy in between may put in its own.
        """
        return None if self._clock_offset is None else now + self._clock_offset

    def is_ready(self) -> bool:
        """Tell whether all shards of the node are ready (`GET /readyz`)."""
        return self.send("GET", "/readyz").status_code == 200

    def running_snapshots(self, collection: str) -> int | None:
        """Return how many snapshots of `collection` the node is making now; None when it does not tell (< 1.16)."""
        text = self.send("GET", "/metrics").text
        wanted = f'snapshot_creation_running{{id="{collection}"}}'
        lines = [line for line in text.splitlines() if line.startswith("snapshot_creation_running{")]
        if not lines:
            return 0 if "app_info" in text else None
        return next((int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(wanted)), 0)

    # --- collections ---------------------------------------------------------------------------------------
    def collections(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(entry["name"] for entry in self.call("GET", "/collections")["collections"])

    def collection(self, name: str) -> CollectionInfo:
        return CollectionInfo.from_answer(self.call("GET", f"/collections/{segment(name)}"))

    def find_collection(self, name: str) -> CollectionInfo | None:
        """Return the collection, None when there is none of that name."""
        try:
            return self.collection(name)
        except CollectionNotFound:
            return None

    def placement(self, name: str) -> Placement:
        return Placement.from_answer(self.call("GET", f"/collections/{segment(name)}/cluster"))

    def count(self, name: str, shard_id: int | None = None, *, key: str | int | None = None) -> int:
        """Count exactly; with `shard_id` this node's replica of that shard only (Qdrant 1.11.1 and later), with `key`
        the points under that shard key.
        """
        where = "" if shard_id is None else f"/shards/{shard_id}"
        body: dict[str, Any] = {"exact": True}
        if key is not None:
            body["shard_key"] = key
        try:
            answer = self.call(
                "POST",
                f"/collections/{segment(name)}{where}/points/count",
                json=body,
                timeout_seconds=max(self.endpoint.timeout_seconds, 300),
            )
        except QdrantRejected as error:
            # Its words ("Set exact=false") are for searches.
            raise QdrantRejected(
                f"Qdrant refuses to count the points of {name!r} exactly; without that nothing proves that all are "
                f"there. If strict mode forbids it, switch search_allow_exact on.",
                status=error.status,
            ) from error
        return int(answer["count"])

    def points(self, name: str, shard_id: int, ids: Sequence[int | str]) -> list[dict[str, Any]]:
        """Return those of the points that this node's replica of the shard has, with payload and vectors
        (Qdrant 1.11.1 and later).
        """
        answer: list[dict[str, Any]] = self.call(
            "POST",
            f"/collections/{segment(name)}/shards/{shard_id}/points",
            json={"ids": list(ids), "with_payload": True, "with_vector": True},
            timeout_seconds=max(self.endpoint.timeout_seconds, 120),
        )
        return answer

    def create_collection(self, name: str, body: dict[str, Any]) -> None:
        self.call("PUT", f"/collections/{segment(name)}", json=body, timeout_seconds=120)

    def patch_collection(self, name: str, body: dict[str, Any]) -> None:
        self.call("PATCH", f"/collections/{segment(name)}", json=body, timeout_seconds=120)

    def delete_collection(self, name: str) -> bool:
        """Delete the collection; False when there was none."""
        return bool(self.call("DELETE", f"/collections/{segment(name)}", timeout_seconds=120))

    def create_index(self, collection: str, field: str, schema: Any) -> None:
        """Create a payload index and wait until it stands."""
        self.call(
            "PUT",
            f"/collections/{segment(collection)}/index",
            params={"wait": "true"},
            json={"field_name": field, "field_schema": schema},
            timeout_seconds=self.endpoint.snapshot_timeout_seconds,
        )

    def delete_index(self, collection: str, field: str) -> None:
        self.call(
            "DELETE",
            f"/collections/{segment(collection)}/index/{segment(field)}",
            params={"wait": "true"},
            timeout_seconds=120,
        )

    # --- shard keys ------------------------------------------------------------------------------------------
    def create_shard_key(self, collection: str, key: str | int, shards: int, *, replicas: int | None = None) -> None:
        """Create a shard key with so many shards; `replicas` None takes the collection's replication factor."""
        body: dict[str, Any] = {"shard_key": key, "shards_number": shards}
        if replicas is not None:
            body["replication_factor"] = replicas
        self.call("PUT", f"/collections/{segment(collection)}/shards", json=body, timeout_seconds=120)

    def delete_shard_key(self, collection: str, key: str | int) -> None:
        """Delete a shard key and its points."""
        self.call(
            "POST", f"/collections/{segment(collection)}/shards/delete", json={"shard_key": key}, timeout_seconds=120
        )

    # --- aliases -------------------------------------------------------------------------------------------
    def aliases(self) -> dict[str, str]:
        """Return alias → collection."""
        answer = self.call("GET", "/aliases")
        return {entry["alias_name"]: entry["collection_name"] for entry in answer["aliases"]}

    def collection_aliases(self, collection: str) -> list[str]:
        answer = self.call("GET", f"/collections/{segment(collection)}/aliases")
        return sorted(entry["alias_name"] for entry in answer["aliases"])

    def create_aliases(self, collection: str, names: Iterable[str]) -> None:
        """Point all of `names` at the collection, in one step."""
        actions = [{"create_alias": {"collection_name": collection, "alias_name": name}} for name in names]
        if actions:
            self.call("POST", "/collections/aliases", json={"actions": actions})

    def switch_aliases(self, names: Iterable[str], collection: str, *, create: Iterable[str] = ()) -> None:
        """Point aliases that exist at another collection, and make those of `create`, all in one step: nobody ever
        finds one missing.
        """
        actions: list[dict[str, Any]] = []
        for name in names:
            actions.append({"delete_alias": {"alias_name": name}})
            actions.append({"create_alias": {"collection_name": collection, "alias_name": name}})
        actions += [{"create_alias": {"collection_name": collection, "alias_name": name}} for name in create]
        if actions:
            self.call("POST", "/collections/aliases", json={"actions": actions})

    # --- snapshots of a collection and of a shard ------------------------------------------------------------
    # `shard_id` None means the snapshots of the collection (this node's part of it).
    def snapshots(self, collection: str, shard_id: int | None = None) -> list[SnapshotDescription]:
        """List the snapshots on this node's disk, in no order."""
        return [
            SnapshotDescription.from_answer(entry) for entry in self.call("GET", snapshots_path(collection, shard_id))
        ]

    def delete_snapshot(self, collection: str, name: str, shard_id: int | None = None) -> bool:
        """Delete a snapshot file; False when it was not there."""
        try:
            self.call("DELETE", f"{snapshots_path(collection, shard_id)}/{segment(name)}", timeout_seconds=120)
        except (SnapshotNotFound, CollectionNotFound):
            return False
        return True

    # --- one call -------------------------------------------------------------------------------------------
    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> requests.Response:
        """Make one request and return whatever came back.

        Raises: QdrantUnreachable, QdrantTimeout; the reason of the abort.
        """
        seconds = timeout_seconds or self.endpoint.timeout_seconds
        if self.endpoint.is_quick:
            seconds = min(seconds, self.endpoint.timeout_seconds)
        try:
            with nullcontext() if self._abort is None else self._abort.breaking(self._adapter.break_connections):
                response = self._session.request(
                    method,
                    self.endpoint.url + path,
                    json=json,
                    params=params,
                    timeout=(min(CONNECT_TIMEOUT_SECONDS, seconds), seconds),
                    allow_redirects=False,
                )
            self._look_at_clock(response.headers.get("Date"))
            return response
        except requests.exceptions.RequestException as error:
            if self._abort is not None:
                self._abort.check()
            if isinstance(error, requests.exceptions.Timeout) and not isinstance(
                error, requests.exceptions.ConnectTimeout
            ):
                raise timed_out(self.endpoint, seconds) from error
            raise unreachable(self.endpoint, error) from error

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
        enveloped: bool = True,
    ) -> Any:
        """Make one request and return `result` of the answer (the whole body when not `enveloped`)."""
        response = self.send(method, path, json=json, params=params, timeout_seconds=timeout_seconds)
        return read_answer(
            self.endpoint,
            response.status_code,
            response.content,
            enveloped=enveloped,
            retry_after=response.headers.get("Retry-After"),
        )

    def _look_at_clock(self, header: str | None) -> None:
        """Take note of how far the node's clock is from ours."""
        with suppress(TypeError, ValueError):  # no header, or none that is a date
            told = parsedate_to_datetime(header or "")
            if told.tzinfo is not None:
                self._clock_offset = told - datetime.now(UTC)


class _Adapter(HTTPAdapter):
    """Uses the endpoint's own TLS settings, and its guard; can break what its connections wait for."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connections: WeakSet[Any] = WeakSet()
        super().__init__()

    def break_connections(self) -> None:
        """Make every blocked call return at once; safe from another thread."""
        for connection in list(self._connections):
            with suppress(OSError):  # closed already
                break_connection(connection)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._endpoint.url.startswith("https://"):
            kwargs["ssl_context"] = self._endpoint.ssl_context()
        super().init_poolmanager(*args, **kwargs)
        manager = self.poolmanager
        pools = manager.pool_classes_by_scheme
        if self._endpoint.guard is not None:
            pools = self._endpoint.guard.pools(pools)
        manager.pool_classes_by_scheme = {scheme: self._tracked(pool) for scheme, pool in pools.items()}

    def _tracked(self, pool: Any) -> Any:
        """Return a pool class whose connections we know: urllib3 has no list of those that are in use."""
        known = self._connections

        class TrackedConnection(pool.ConnectionCls):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                known.add(self)

        return type(f"Tracked{pool.__name__}", (pool,), {"ConnectionCls": TrackedConnection})


def snapshots_path(collection: str, shard_id: int | None) -> str:
    """Return the path of the list of snapshots of a collection (None) or of one of its shards."""
    where = "" if shard_id is None else f"/shards/{shard_id}"
    return f"/collections/{segment(collection)}{where}/snapshots"


def read_answer(
    endpoint: Endpoint, status: int, body: bytes, *, enveloped: bool = True, retry_after: str | None = None
) -> Any:
    """Return the result in a Qdrant answer, or raise what its status and text mean.

    Faults are told apart by status alone: the texts change between versions. `retry_after` is the header of that name.
    """
    text = _error_text(body)
    if status >= 400 or status in (301, 302, 307, 308):
        raise _error(endpoint, status, text, parse_retry_after(retry_after))
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise NotQdrant(f"What answers at {endpoint.url} is not Qdrant: check the address.", status=status) from error
    if not enveloped:
        return answer
    if not isinstance(answer, dict) or "status" not in answer:
        raise NotQdrant(f"What answers at {endpoint.url} is not Qdrant: check the address.", status=status)
    return answer.get("result")


def _error(endpoint: Endpoint, status: int, text: str, retry_after_seconds: float | None) -> Exception:
    where = f"Qdrant at {endpoint.url}"
    if status == 401:
        return QdrantDenied(f"{where} does not accept the API key: set the right one on the cluster.", status=status)
    if status == 403:
        return QdrantDenied(f"{where} forbids this with the given API key: {text}", status=status)
    if status == 404:
        if "Collection" in text:
            return CollectionNotFound(f"{where} has no such collection: {text}")
        if "napshot" in text:
            return SnapshotNotFound(f"{where} has no such snapshot: {text}")
        return QdrantRejected(f"{where} answered 404: {text or 'it does not know this call'}", status=status)
    if status == 408:
        return QdrantTimeout(f"{where} gave up waiting: {text}", status=status)
    if status == 429 or status >= 500:
        return QdrantFault(
            f"{where} answered with a fault ({status}): {text or 'no explanation'}",
            status=status,
            retry_after_seconds=retry_after_seconds,
        )
    if status < 400:
        return NotQdrant(f"{where} answered with a redirect ({status}): enter the address it leads to.", status=status)
    return QdrantRejected(f"{where} refuses ({status}): {text or 'no explanation'}", status=status)


def _error_text(body: bytes) -> str:
    """Return Qdrant's explanation: JSON on most calls, plain text on downloads and from the key check."""
    try:
        answer = json.loads(body)
    except ValueError:
        text = body.decode("utf-8", "replace")
        return "" if "<html" in text.lower() else text.strip()[:500]
    if isinstance(answer, dict) and isinstance(answer.get("status"), dict):
        return str(answer["status"].get("error", ""))[:500]
    return ""


def unreachable(endpoint: Endpoint, error: BaseException | None = None) -> QdrantError:
    """Return the error for a connection that did not come about; `error` says whether TLS is to blame."""
    cause = innermost(error) if error is not None else None
    # A connection that ended in the middle of a handshake says nothing of certificates: the node may be restarting.
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return QdrantTlsRefused(why_refused(endpoint.url, cause, own_ca=bool(endpoint.ca)))
    if isinstance(cause, http.client.RemoteDisconnected | ConnectionResetError) and endpoint.url.startswith("http:"):
        return QdrantUnreachable(
            f"Qdrant at {endpoint.url} cannot be reached: it ends the connection without an answer. If it speaks TLS, "
            f"write https:// in the address."
        )
    return QdrantUnreachable(f"Qdrant at {endpoint.url} cannot be reached: is it running, and is the address right?")


def timed_out(endpoint: Endpoint, seconds: float) -> QdrantError:
    return QdrantTimeout(f"Qdrant at {endpoint.url} did not answer within {seconds:.0f} seconds.")
