"""Endpoints of collections, aliases and payload indexes."""

from __future__ import annotations

from typing import Any

from .config import create_config, patch_config
from .errors import bad_format, bad_request
from .jsonbody import need
from .messages import Request
from .names import check_collection_name
from .reach import info
from .routing import Router
from .schema import check_field_schema
from .store import Store


class CollectionsApi:
    """What clients do with collections as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, router: Router) -> None:
        """Add the endpoints."""
        router.add("GET", "/collections", self.list)
        router.add("GET", "/aliases", lambda _: {"aliases": self._store.aliases()})
        router.add("POST", "/collections/aliases", self.change_aliases, access="manage")
        router.add("GET", "/collections/{name}", self.describe)
        router.add("PUT", "/collections/{name}", self.create, access="manage")
        router.add("PATCH", "/collections/{name}", self.patch, access="manage")
        router.add("DELETE", "/collections/{name}", self.delete, access="manage")
        router.add("GET", "/collections/{name}/exists", self.exists)
        router.add("GET", "/collections/{name}/aliases", self.aliases)
        router.add("GET", "/collections/{name}/cluster", lambda request: self._store.placement(self._get(request)))
        router.add("GET", "/collections/{name}/shards", self.shard_keys)
        # A node of a cluster serves these before we come to refuse them (cluster_api.py).
        for method, path in (("POST", "cluster"), ("PUT", "shards"), ("POST", "shards/delete")):
            router.add(method, f"/collections/{{name}}/{path}", self.needs_cluster, access="manage")
        router.add("PUT", "/collections/{name}/index", self.create_index, access="manage")
        router.add("DELETE", "/collections/{name}/index/{field}", self.delete_index, access="manage")

    def _get(self, request: Request) -> Any:
        return self._store.get(request.params["name"])

    def list(self, request: Request) -> dict[str, Any]:
        """Return the names of all collections."""
        return {"collections": [{"name": collection.name} for collection in self._store.collections()]}

    def create(self, request: Request) -> bool:
        """Make a collection."""
        body = request.json()
        check_collection_name(request.params["name"])
        self._store.create(request.params["name"], create_config(body, request.raw))
        return True

    def patch(self, request: Request) -> bool:
        """Change what can be changed of a collection's configuration."""
        body = request.json()
        collection = self._get(request)
        self._store.set_config(collection, patch_config(collection.config, body, request.raw))
        return True

    def delete(self, request: Request) -> bool:
        """Delete a collection; its snapshots stay on disk, unlisted."""
        return self._store.delete(request.params["name"])

    def exists(self, request: Request) -> dict[str, bool]:
        """Say whether there is such a collection or alias."""
        return {"exists": self._store.find(request.params["name"]) is not None}

    def aliases(self, request: Request) -> dict[str, Any]:
        """Return the aliases of one collection."""
        return {"aliases": self._store.aliases(self._get(request).name)}

    def change_aliases(self, request: Request) -> bool:
        """Apply alias actions, all or none."""
        actions = need(request.json(), "actions", request.raw)
        if not isinstance(actions, list):
            raise bad_format("invalid type: expected a sequence at line 1 column 0")
        self._store.change_aliases(actions)
        return True

    def describe(self, request: Request) -> dict[str, Any]:
        """Return the configuration, the payload schema and the counts of all shards together."""
        collection = self._get(request)
        return collection.describe([info(target) for target in self._store.targets(collection, None)])

    def shard_keys(self, request: Request) -> dict[str, Any]:
        """Return the shard keys; nothing where there can be none."""
        keys = self._store.keys(self._get(request))
        return {} if keys is None else {"shard_keys": [{"key": key} for key in keys]}

    def needs_cluster(self, request: Request) -> None:
        """Refuse what only a cluster can do."""
        raise bad_request("Distributed mode disabled")

    def create_index(self, request: Request) -> dict[str, Any]:
        """Index a payload field."""
        body = request.json()
        field = need(body, "field_name", request.raw)
        schema = check_field_schema(body.get("field_schema"), request.raw)
        return self._done(request, self._store.create_index(self._get(request), field, schema))

    def delete_index(self, request: Request) -> dict[str, Any]:
        """Drop the index of a payload field."""
        return self._done(request, self._store.delete_index(self._get(request), request.params["field"]))

    def _done(self, request: Request, operation: int) -> dict[str, Any]:
        status = "completed" if request.flag("wait", False) else "acknowledged"
        return {"operation_id": operation, "status": status}
