"""Endpoints of points."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from .collection import Collection
from .config import dense_vectors
from .errors import bad_format, bad_request, invalid, not_found
from .filters import parse_filter
from .jsonbody import need
from .messages import Request
from .names import parse_shard_id
from .placement import ShardKey
from .points import (
    PointId,
    PointReader,
    id_order,
    id_to_json,
    parse_id,
    parse_ids,
    parse_with_payload,
    parse_with_vector,
    read_sparse,
    record_to_json,
    shortest_floats,
    split_batch,
    vector_to_json,
)
from .reach import Target, count, place
from .routing import Router
from .store import Store

# A point as the engine gives it, and the shard key it was found under.
Hit = tuple[Any, ShardKey | None]
_SMALLER_IS_BETTER = ("Euclid", "Manhattan")


class PointsApi:
    """What clients do with points."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, router: Router) -> None:
        """Add the endpoints."""
        base = "/collections/{name}/points"
        router.add("PUT", base, self.upsert, access="manage")
        router.add("POST", base, self.retrieve)
        router.add("POST", f"{base}/scroll", self.scroll)
        router.add("POST", f"{base}/count", self.count)
        router.add("POST", "/collections/{name}/shards/{shard}/points", self.retrieve_shard)
        router.add("POST", "/collections/{name}/shards/{shard}/points/count", self.count_shard)
        router.add("POST", f"{base}/query", self.query)
        router.add("POST", f"{base}/delete", self.delete, access="manage")
        router.add("POST", f"{base}/payload", self.set_payload, access="manage")
        router.add("PUT", f"{base}/payload", self.overwrite_payload, access="manage")
        router.add("POST", f"{base}/payload/delete", self.delete_payload, access="manage")
        router.add("POST", f"{base}/payload/clear", self.clear_payload, access="manage")
        router.add("GET", f"{base}/{{id}}", self.get)

    def _get(self, request: Request) -> Collection:
        return self._store.get(request.params["name"])

    def _targets(self, request: Request, keys: list[ShardKey] | None) -> list[Target]:
        return self._store.targets(self._get(request), keys)

    # Writing

    def upsert(self, request: Request) -> dict[str, Any]:
        """Insert or overwrite points, given one by one or as a batch of columns."""
        body = request.json()
        points = split_batch(body["batch"]) if "batch" in body else need(body, "points", request.raw)
        if not isinstance(points, list):
            raise bad_format("invalid type: expected a sequence at line 1 column 0")
        collection = self._get(request)
        reader = PointReader(collection.config)
        # The last of several points with one id wins, as when they come one after another.
        read: dict[PointId, edge.Point] = {point.id: point for point in map(reader.read, points)}

        def write(ids: list[PointId]) -> edge.UpdateOperation:
            return edge.UpdateOperation.upsert_points([read[point_id] for point_id in ids])

        self._write_where_they_belong(collection, _keys(body), list(read), write)
        return self._done(request, collection)

    def _write_where_they_belong(
        self,
        collection: Collection,
        keys: list[ShardKey] | None,
        ids: list[PointId],
        write: Callable[[list[PointId]], edge.UpdateOperation],
    ) -> None:
        with self._store.writing(collection):
            for targets in self._store.written_targets(collection, keys):
                for shard_id, some in place(targets, ids, look=collection.placed_elsewhere).items():
                    next(one for one in targets if one.shard_id == shard_id).update(write(some))

    def _write_everywhere(
        self, collection: Collection, keys: list[ShardKey] | None, operation: edge.UpdateOperation
    ) -> None:
        with self._store.writing(collection):
            for target in self._store.targets(collection, keys):
                target.update(operation)

    def delete(self, request: Request) -> dict[str, Any]:
        """Delete points by id or by filter."""
        return self._change(
            request,
            edge.UpdateOperation.delete_points,
            edge.UpdateOperation.delete_points_by_filter,
            missing_ok=True,
        )

    def set_payload(self, request: Request) -> dict[str, Any]:
        """Set some keys of the payload of points."""
        payload, key = need(request.json(), "payload", request.raw), request.json().get("key")
        return self._change(
            request,
            lambda ids: edge.UpdateOperation.set_payload(ids, payload, key),
            lambda matching: edge.UpdateOperation.set_payload_by_filter(matching, payload, key),
        )

    def overwrite_payload(self, request: Request) -> dict[str, Any]:
        """Replace the payload of points."""
        payload, key = need(request.json(), "payload", request.raw), request.json().get("key")
        return self._change(
            request,
            lambda ids: edge.UpdateOperation.overwrite_payload(ids, payload, key),
            lambda matching: edge.UpdateOperation.overwrite_payload_by_filter(matching, payload, key),
        )

    def delete_payload(self, request: Request) -> dict[str, Any]:
        """Delete some keys of the payload of points."""
        keys = need(request.json(), "keys", request.raw)
        return self._change(
            request,
            lambda ids: edge.UpdateOperation.delete_payload(ids, keys),
            lambda matching: edge.UpdateOperation.delete_payload_by_filter(matching, keys),
        )

    def clear_payload(self, request: Request) -> dict[str, Any]:
        """Delete the whole payload of points."""
        return self._change(request, edge.UpdateOperation.clear_payload, edge.UpdateOperation.clear_payload_by_filter)

    def _change(
        self,
        request: Request,
        by_ids: Callable[[list[PointId]], edge.UpdateOperation],
        by_filter: Callable[[edge.Filter], edge.UpdateOperation],
        *,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        body = request.json()
        collection = self._get(request)
        keys = _keys(body)
        if body.get("points") is not None:
            ids = parse_ids(body["points"])
            if missing_ok:
                # A deleted point may lie anywhere, and need not be there at all.
                self._store.written_targets(collection, keys)
                self._write_everywhere(collection, keys, by_ids(ids))
            else:
                self._write_where_they_belong(collection, keys, ids, by_ids)
        elif body.get("filter") is not None:
            matching = parse_filter(body["filter"])
            assert matching is not None
            self._write_everywhere(collection, keys, by_filter(matching))
        else:
            raise bad_format("data did not match any variant of untagged enum PointsSelector at line 1 column 0")
        return self._done(request, collection)

    def _done(self, request: Request, collection: Collection) -> dict[str, Any]:
        # Updates are always applied before the answer; only the word differs.
        status = "completed" if request.flag("wait", False) else "acknowledged"
        return {"operation_id": collection.next_operation(), "status": status}

    # Reading

    def get(self, request: Request) -> dict[str, Any]:
        """Return one point with payload and vectors."""
        text = request.params["id"]
        point_id = parse_id(int(text) if text.isdecimal() else text)
        found = _retrieve(self._targets(request, None), [point_id], True, True)
        if not found:
            raise not_found(f"Point with id {text} does not exists!")
        return _found(found[point_id], True, True)

    def retrieve(self, request: Request) -> list[dict[str, Any]]:
        """Return the points that are there, in the order they were asked for."""
        body = request.json()
        ids = parse_ids(need(body, "ids", request.raw))
        payload = parse_with_payload(body.get("with_payload", True))
        vector = parse_with_vector(body.get("with_vector", False))
        found = _retrieve(self._targets(request, _keys(body)), ids, payload, vector)
        return [_found(found[one], payload, vector) for one in dict.fromkeys(ids) if one in found]

    def retrieve_shard(self, request: Request) -> list[dict[str, Any]]:
        """Return the points that the replica of one shard on this node has."""
        body = request.json()
        ids = parse_ids(need(body, "ids", request.raw))
        payload = parse_with_payload(body.get("with_payload", True))
        vector = parse_with_vector(body.get("with_vector", False))
        shard = self._store.local_shard(self._get(request), parse_shard_id(request.params["shard"]))
        found = {
            one.id: (one, None)
            for one in shard.read(lambda each: each.retrieve(ids, with_payload=payload, with_vector=vector))
        }
        return [_found(found[one], payload, vector) for one in dict.fromkeys(ids) if one in found]

    def scroll(self, request: Request) -> dict[str, Any]:
        """Return a page of points in the order of their ids."""
        body = request.json()
        limit = _limit(body, "scroll_request", 10)
        if body.get("order_by") is not None:
            raise bad_request("this sandbox does not serve scroll with order_by")
        offset = None if body.get("offset") is None else parse_id(body["offset"])
        payload = parse_with_payload(_default(body.get("with_payload"), True))
        vector = parse_with_vector(_default(body.get("with_vector"), False))
        matching = parse_filter(body.get("filter"))
        records = _page(self._targets(request, _keys(body)), offset, limit + 1, matching, payload, vector)
        following = id_to_json(records[limit][0].id) if len(records) > limit else None
        return {"points": [_found(one, payload, vector) for one in records[:limit]], "next_page_offset": following}

    def count(self, request: Request) -> dict[str, int]:
        """Count points; always exactly."""
        counting = _counting(request)
        return {"count": sum(count(one, counting) for one in self._targets(request, _keys(request.json())))}

    def count_shard(self, request: Request) -> dict[str, int]:
        """Count the points of one shard, those of the replica on this node."""
        counting = _counting(request)
        shard = self._store.local_shard(self._get(request), parse_shard_id(request.params["shard"]))
        return {"count": shard.count(counting)}

    def query(self, request: Request) -> dict[str, Any]:
        """Return the points nearest to a vector or to a point; without a query, the first ones by id."""
        body = request.json()
        collection = self._get(request)
        targets = self._targets(request, _keys(body))
        limit, skip = _limit(body, "query_request", 10), body.get("offset") or 0
        payload = parse_with_payload(_default(body.get("with_payload"), False))
        vector = parse_with_vector(_default(body.get("with_vector"), False))
        matching = parse_filter(body.get("filter"))
        if body.get("query") is None:
            records = _page(targets, None, limit + skip, matching, payload, vector)
            return {
                "points": [
                    {"id": id_to_json(one[0].id), "version": 0, "score": 0.0} | _found(one, payload, vector)
                    for one in records[skip:]
                ]
            }
        using = body.get("using") or ""
        asked = edge.QueryRequest(
            limit=limit + skip,
            query=edge.Query.Nearest(_query_vector(targets, body["query"], using), using or None),
            filter=matching,
            with_payload=payload,
            with_vector=vector,
            score_threshold=body.get("score_threshold"),
        )
        found = [one for target in targets for one in target.read(lambda each: each.query(asked))]
        distance = dense_vectors(collection.config).get(using, {}).get("distance")
        found.sort(key=lambda one: one.score, reverse=distance not in _SMALLER_IS_BETTER)
        return {"points": [_scored(one, payload, vector) for one in found[skip : skip + limit]]}


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _limit(body: dict[str, Any], label: str, default: int) -> int:
    limit = _default(body.get("limit"), default)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise bad_format("invalid type for `limit`, expected usize at line 1 column 0")
    if limit < 1:
        raise invalid(f"{label}.limit: value {limit} invalid, must be 1 or larger")
    return limit


def _counting(request: Request) -> edge.CountRequest:
    matching = parse_filter(request.json().get("filter"))
    return edge.CountRequest(exact=True, filter=matching) if matching is not None else edge.CountRequest(exact=True)


def _keys(body: dict[str, Any]) -> list[ShardKey] | None:
    given = body.get("shard_key")
    if given is None:
        return None
    keys = given if isinstance(given, list) else [given]
    if not keys or not all(isinstance(key, int | str) and not isinstance(key, bool) for key in keys):
        raise bad_format("data did not match any variant of untagged enum ShardKeySelector at line 1 column 0")
    return keys


def _found(hit: Hit, payload: Any, vector: Any) -> dict[str, Any]:
    record, key = hit
    data = record_to_json(record, with_payload=payload is not False, with_vector=vector is not False)
    return data if key is None else {**data, "shard_key": key}


def _retrieve(targets: list[Target], ids: list[PointId], payload: Any, vector: Any) -> dict[PointId, Hit]:
    found: dict[PointId, Hit] = {}
    for target in targets:
        for record in target.read(lambda one: one.retrieve(ids, with_payload=payload, with_vector=vector)):
            found.setdefault(record.id, (record, target.key))
    return found


def _page(
    targets: list[Target],
    offset: PointId | None,
    limit: int,
    matching: edge.Filter | None,
    payload: Any,
    vector: Any,
) -> list[Hit]:
    asked = edge.ScrollRequest(offset=offset, limit=limit, filter=matching, with_payload=payload, with_vector=vector)
    pages = [[(record, one.key) for record in one.read(lambda shard: shard.scroll(asked)[0])] for one in targets]
    merged: list[Hit] = []
    for hit in heapq.merge(*pages, key=lambda one: id_order(one[0].id)):
        # The same id in two shards shows once, as in a real scroll.
        if not merged or merged[-1][0].id != hit[0].id:
            merged.append(hit)
    return merged[:limit]


def _query_vector(targets: list[Target], query: Any, using: str) -> Any:
    if isinstance(query, dict) and "nearest" in query:
        query = query["nearest"]
    if isinstance(query, list):
        return query
    if isinstance(query, dict) and "indices" in query:
        return read_sparse(query)
    if isinstance(query, int | str):
        point_id = parse_id(query)
        hit = _retrieve(targets, [point_id], False, [using] if using else True).get(point_id)
        if hit is None:
            raise not_found(f"No point with id {query} found")
        record = hit[0]
        return record.vector[using] if isinstance(record.vector, dict) else record.vector
    raise bad_request("this sandbox serves queries by dense vector, sparse vector or point id")


def _scored(point: Any, payload: Any, vector: Any) -> dict[str, Any]:
    data = {"id": id_to_json(point.id), "version": point.version, "score": shortest_floats([point.score])[0]}
    if payload is not False:
        data["payload"] = point.payload or {}
    if vector is not False and point.vector is not None:
        data["vector"] = vector_to_json(point.vector)
    return data
