"""The bed: a sandbox node with data, an S3 server, a database with one cluster and two storages. All in one folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import s3server
from demolib.children import Child

from .processes import BenchError, clean_environment, run_python

MIB = 1024 * 1024
POINT_BYTES = 64 * 1024
_POINTS_AT_ONCE = 128
_SHARD = 0
# Printable characters that JSON carries as they are: too many to be worth compressing, as vectors are.
_PRINTABLE = bytes(code for code in range(33, 127) if chr(code) not in '"\\')
_TABLE = bytes(_PRINTABLE[code % len(_PRINTABLE)] for code in range(256))


@dataclass(frozen=True)
class Snapshot:
    """A shard snapshot that lies on the node."""

    name: str
    url: str
    size_bytes: int
    sha256: str


class Bed:
    """Everything that runs. `stack` ends it; the folder is the caller's to remove."""

    def __init__(self, folder: Path, stack: ExitStack, *, step_seconds: float) -> None:
        """Start the servers and make the database. `step_seconds` bounds each later step. Raises: BenchError."""
        self.folder = folder
        self.step_seconds = step_seconds
        self.plain = folder / "plain"
        self._storage = folder / "storages" / "folder"
        for path in (self.plain, self._storage):
            path.mkdir(parents=True)
        self._session = requests.Session()
        self._session.trust_env = False
        stack.callback(self._session.close)
        self._node = Child(
            "sandbox node",
            ["-m", "apps.sandbox", "--data", str(folder / "node")],
            log=folder / "logs" / "node.log",
            environment=clean_environment(),
        )
        stack.callback(self._node.stop)
        self.node_url = str(json.loads(self._node.first_line())["url"])
        self.s3 = s3server.S3Server(folder / "s3")
        stack.callback(self.s3.stop)
        self.s3.start()
        self.environment = self._installation()
        run_python("job_process", ["prepare"], self.environment | self._rows(), 120)

    def load(self, collection: str, size_mib: int) -> None:
        """Make a collection of one shard with so much payload in it. Raises: BenchError."""
        config = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 1, "hnsw_config": {"m": 0}}
        self._call("PUT", f"/collections/{collection}", config)
        count = size_mib * MIB // POINT_BYTES
        for start in range(0, count, _POINTS_AT_ONCE):
            points = [_point(number) for number in range(start, min(start + _POINTS_AT_ONCE, count))]
            self._call("PUT", f"/collections/{collection}/points?wait=true", {"points": points})

    def unload(self, collection: str) -> None:
        self._call("DELETE", f"/collections/{collection}")

    @contextmanager
    def snapshot(self, collection: str) -> Iterator[Snapshot]:
        """Make a snapshot the way a script would; it is deleted afterwards. Raises: BenchError."""
        path = f"/collections/{collection}/shards/{_SHARD}/snapshots"
        made = self._call("POST", f"{path}?wait=true")
        url = f"{self.node_url}{path}/{made['name']}"
        try:
            yield Snapshot(made["name"], url, made["size"], made["checksum"])
        finally:
            self._call("DELETE", f"{path}/{made['name']}")

    def settle(self) -> None:
        """Remove what the step before stored, and let the disk come to rest: every step begins alike."""
        for folder in (self.plain, self._storage):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        client = self.s3_client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.s3.bucket):
            for found in page.get("Contents", []):
                client.delete_object(Bucket=self.s3.bucket, Key=found["Key"])
        os.sync()
        time.sleep(0.5)

    def stored_size(self, key: str) -> int:
        """Return the size of an object in the bucket."""
        return int(self.s3_client().head_object(Bucket=self.s3.bucket, Key=key)["ContentLength"])

    def s3_client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.s3.endpoint,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name=self.s3.region,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def _installation(self) -> dict[str, str]:
        return {
            **clean_environment(),
            "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
            "BACKUPMGR_DATA_DIR": str(self.folder),
            "BACKUPMGR_LOCAL_ROOTS": str(self._storage.parent),
            "BACKUPMGR_SECRET_KEY": secrets.token_urlsafe(48),
            "BACKUPMGR_FIELD_KEYS": "",  # made in the folder
            "DATABASE_URL": f"sqlite:///{self.folder / 'backupmgr.sqlite3'}",
        }

    def _rows(self) -> dict[str, str]:
        """What the database is to hold; in the environment, because a command line is for all to read."""
        bucket = {
            "name": "s3",
            "type": "s3",
            "s3_endpoint": self.s3.endpoint,
            "s3_bucket": self.s3.bucket,
            "s3_region": self.s3.region,
            "s3_access_key": self.s3.access_key,
            "s3_secret_key": self.s3.secret_key,
            "s3_addressing_style": "path",
        }
        folder = {"name": "folder", "type": "local", "path": str(self._storage)}
        return {"BENCH_ROWS": json.dumps({"node": self.node_url, "storages": [folder, bucket]})}

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        self._node.check()
        try:
            answer = self._session.request(method, self.node_url + path, json=body, timeout=self.step_seconds)
            answer.raise_for_status()
            return answer.json()["result"]
        except requests.RequestException as error:
            raise BenchError(f"The sandbox node refused {method} {path.partition('?')[0]}: {error}") from error


def _point(number: int) -> dict[str, Any]:
    text = os.urandom(POINT_BYTES).translate(_TABLE).decode("ascii")
    return {"id": number, "vector": [1.0, 0.0, 0.5, number % 7 / 7], "payload": {"text": text}}
