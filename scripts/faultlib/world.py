"""What lies on the node and in the storages, ours and others', seen past the proxies and past the product."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from .errors import FaultsError

_TIMEOUT_SECONDS = 60
_LOOKS = 5
_FOREIGN_FOLDER = "20200101T000000Z-somebody-elses"


class Wrong(Exception):
    """What is stored does not make the collection that was backed up; the message says in what."""


@dataclass(frozen=True)
class BucketKeys:
    """How to reach the S3 server itself."""

    endpoint: str
    bucket: str
    region: str
    access_key: str
    secret_key: str
    prefix: str


class World:
    """One node, one folder with storages in it, one bucket (or none)."""

    def __init__(self, node_url: str, folders: dict[str, Path], bucket: BucketKeys | None) -> None:
        self._node = node_url
        self._folders = folders
        self._keys = bucket
        self._session = requests.Session()
        self._session.trust_env = False
        self._s3 = _client(bucket) if bucket is not None else None
        self.digests: dict[str, str] = {}

    # --- making things --------------------------------------------------------------------------------------
    def fill(self, name: str, *, points: int, payload_bytes: int) -> None:
        """Make a collection of two shards; remember what is in it."""
        body = {
            "vectors": {"text": {"size": 8, "distance": "Cosine"}},
            "sparse_vectors": {"words": {}},
            "shard_number": 2,
            "hnsw_config": {"m": 8},
        }
        self.call("PUT", f"/collections/{name}", body)
        for field, schema in (("city", "keyword"), ("n", "integer")):
            self.call("PUT", f"/collections/{name}/index?wait=true", {"field_name": field, "field_schema": schema})
        step = max(1, 4_000_000 // max(payload_bytes, 1000))
        for start in range(0, points, step):
            batch = [_point(i, payload_bytes) for i in range(start, min(start + step, points))]
            self.call("PUT", f"/collections/{name}/points?wait=true", {"points": batch})
        self.digests[name] = self.digest(name)

    def plant(self, collections: list[str]) -> None:
        """Put things of others beside ours: nothing may ever touch them."""
        self.fill("foreign", points=40, payload_bytes=200)
        for name in ["foreign", *collections]:
            self.call("POST", f"/collections/{name}/snapshots?wait=true")
            for shard in (0, 1):
                self.call("POST", f"/collections/{name}/shards/{shard}/snapshots?wait=true")
        paths = ["README.txt", "main/notes.txt"]
        for name in collections:
            paths += [f"main/{name}/notes.txt", f"main/{name}/{_FOREIGN_FOLDER}/shard-0.snapshot"]
        for folder in self._folders.values():
            for path in paths:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(f"Not yours: {path}")
        if self._s3 is None or self._keys is None:
            return
        for path in [f"{self._keys.prefix}/{path}" for path in paths] + ["outside.txt"]:
            self._s3.put_object(Bucket=self._keys.bucket, Key=path, Body=f"Not yours: {path}".encode())
        for name in collections:
            self.open_upload(f"main/{name}/{_FOREIGN_FOLDER}/shard-1.snapshot")

    def open_upload(self, key: str) -> None:
        """Begin a multipart upload below the prefix, with a part in it, and leave it open."""
        assert self._s3 is not None and self._keys is not None
        where = {"Bucket": self._keys.bucket, "Key": f"{self._keys.prefix}/{key}"}
        upload = self._s3.create_multipart_upload(**where)["UploadId"]
        self._s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x" * 1000)

    # --- looking ----------------------------------------------------------------------------------------------
    def state(self) -> dict[str, str]:
        """Return everything that is there: what it is → what would change if it were touched."""
        found = self._node_state()
        for name, folder in self._folders.items():
            for path in folder.rglob("*"):
                if path.is_file():
                    facts = path.stat()
                    found[f"file {name}:{path.relative_to(folder)}"] = f"{facts.st_size} {facts.st_mtime_ns}"
        return found | self._bucket_state()

    def _node_state(self) -> dict[str, str]:
        """Look at the node; once more when a collection goes away meanwhile. Raises: FaultsError."""
        for _ in range(_LOOKS):
            before = self.collections()
            try:
                return self._look_at_node()
            except FaultsError:
                if set(before) <= set(self.collections()):
                    raise
        return self._look_at_node()

    def _look_at_node(self) -> dict[str, str]:
        found = {}
        for entry in self.call("GET", "/collections")["collections"]:
            name = entry["name"]
            info = self.call("GET", f"/collections/{quote(name, safe='')}")
            found[f"collection {name}"] = f"{info['points_count']} points, {len(info['payload_schema'])} indexes"
            shards = int(info["config"]["params"]["shard_number"])
            for place in ["", *(f"/shards/{shard}" for shard in range(shards))]:
                for one in self.call("GET", f"/collections/{quote(name, safe='')}{place}/snapshots"):
                    found[f"snapshot {name}{place}/{one['name']}"] = f"{one['size']} {one.get('checksum')}"
        for alias in self.call("GET", "/aliases")["aliases"]:
            found[f"alias {alias['alias_name']}"] = alias["collection_name"]
        return found

    def _bucket_state(self) -> dict[str, str]:
        if self._s3 is None or self._keys is None:
            return {}
        found = {}
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._keys.bucket):
            for entry in page.get("Contents", []):
                found[f"object {entry['Key']}"] = f"{entry['Size']} {entry['ETag']}"
        for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._keys.bucket):
            for entry in page.get("Uploads", []):
                found[f"upload {entry['Key']} {entry['UploadId']}"] = "open"
        return found

    def stored(self, storage: str, path: str) -> str:
        """Return how `state` calls an object of a storage."""
        if storage in self._folders:
            return f"file {storage}:{path}"
        assert self._keys is not None
        return f"object {self._keys.prefix}/{path}"

    def remove(self, name: str) -> None:
        """Remove one of the things that `state` names."""
        kind, _, rest = name.partition(" ")
        if kind == "collection":
            self.delete_collection(rest)
        elif kind == "alias":
            action = {"delete_alias": {"alias_name": rest}}
            self.call("POST", "/collections/aliases", {"actions": [action]})
        elif kind == "snapshot":
            place, _, file = rest.rpartition("/")
            if place.partition("/")[0] in self.collections():
                self.call("DELETE", f"/collections/{place}/snapshots/{file}")
        elif kind == "file":
            storage, _, path = rest.partition(":")
            (self._folders[storage] / path).unlink(missing_ok=True)
        elif self._s3 is not None and self._keys is not None:
            if kind == "object":
                self._s3.delete_object(Bucket=self._keys.bucket, Key=rest)
            else:
                key, _, upload = rest.rpartition(" ")
                self._s3.abort_multipart_upload(Bucket=self._keys.bucket, Key=key, UploadId=upload)

    def digest(self, name: str) -> str:
        """Return a hash of all points of a collection: ids, vectors, payloads."""
        total = hashlib.sha256()
        offset = None
        points: list[tuple[str, str]] = []
        while True:
            body = {"limit": 100, "with_payload": True, "with_vector": True, "offset": offset}
            answer = self.call("POST", f"/collections/{quote(name, safe='')}/points/scroll", body)
            points += [(str(point["id"]), json.dumps(point, sort_keys=True)) for point in answer["points"]]
            offset = answer["next_page_offset"]
            if offset is None:
                break
        for _, text in sorted(points):
            total.update(text.encode())
        return f"{len(points)} points {total.hexdigest()}"

    def collections(self) -> list[str]:
        return [entry["name"] for entry in self.call("GET", "/collections")["collections"]]

    def delete_collection(self, name: str) -> None:
        self.call("DELETE", f"/collections/{quote(name, safe='')}")

    def read(self, storage: str, path: str) -> bytes:
        """Return a stored object. Raises: Wrong."""
        if storage in self._folders:
            try:
                return (self._folders[storage] / path).read_bytes()
            except OSError as error:
                raise Wrong(f"{path} cannot be read ({error.strerror})") from error
        from botocore.exceptions import ClientError

        assert self._s3 is not None and self._keys is not None
        try:
            key = f"{self._keys.prefix}/{path}"
            return bytes(self._s3.get_object(Bucket=self._keys.bucket, Key=key)["Body"].read())
        except ClientError as error:
            raise Wrong(f"{path} cannot be read ({error.response['Error']['Code']})") from error

    def prove(self, storage: str, path: str, source: str) -> None:
        """Restore a backup by hand from its stored files, and compare it with its source. Raises: Wrong."""
        try:
            manifest = json.loads(self.read(storage, f"{path}/manifest.json"))
            parts = {part["shard_id"]: part for part in manifest["parts"]}
            config = dict(manifest["collection"]["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise Wrong(f"the manifest of {path} cannot be read ({type(error).__name__})") from error
        body = {**config["params"], "hnsw_config": config["hnsw_config"]}
        scratch = f"proof-{os.urandom(4).hex()}"
        self.call("PUT", f"/collections/{scratch}", {key: value for key, value in body.items() if value is not None})
        try:
            for shard, part in sorted(parts.items()):
                data = self.read(storage, f"{path}/{part['file']}")
                if hashlib.sha256(data).hexdigest() != part["sha256"]:
                    raise Wrong(f"{part['file']} is not what its manifest says (SHA-256)")
                self._upload(scratch, shard, data)
            found = self.digest(scratch)
        finally:
            self.delete_collection(scratch)
        if found != self.digests[source]:
            raise Wrong(f"the stored files hold {found[:40]}…, the collection {self.digests[source][:40]}…")

    def _upload(self, name: str, shard: int, data: bytes) -> None:
        answer = self._session.post(
            f"{self._node}/collections/{name}/shards/{shard}/snapshots/upload?priority=no_sync&wait=true",
            files={"snapshot": ("part.snapshot", data)},
            timeout=_TIMEOUT_SECONDS,
        )
        if answer.status_code != 200:
            raise Wrong(f"Qdrant does not take shard {shard} from the stored file: {answer.text[:200]}")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the node. Raises: FaultsError."""
        try:
            answer = self._session.request(method, self._node + path, json=body, timeout=_TIMEOUT_SECONDS)
            answer.raise_for_status()
            return answer.json()["result"]
        except requests.RequestException as error:
            raise FaultsError(f"The node itself refused {method} {path}: {error}") from error


def _point(i: int, payload_bytes: int) -> dict[str, Any]:
    return {
        "id": i,
        "vector": {
            "text": [((i * 31 + k * 17) % 97) / 97 + 0.01 for k in range(8)],
            "words": {"indices": [i % 50, 50 + i % 7], "values": [0.5, 1.0 + i % 5]},
        },
        # Random, so that no layer can make it smaller.
        "payload": {"city": ("Kyiv", "Łódź", "Berlin")[i % 3], "n": i, "text": os.urandom(payload_bytes // 2).hex()},
    }


def _client(keys: BucketKeys) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=keys.endpoint,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        region_name=keys.region,
        config=Config(s3={"addressing_style": "path"}, proxies={}, retries={"total_max_attempts": 3}),
    )
