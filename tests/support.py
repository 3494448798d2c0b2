"""What tests of several rooms use: collections on a node, a real worker, and what to look at afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from apps.jobs.models import Job
    from apps.storage.models import StorageConfig

REPOSITORY = Path(__file__).resolve().parent.parent

RunJob = Callable[..., "Job"]


class Collections:
    """Makes collections on a node and reads them back, over plain HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create(self, name: str, points: int = 200, shards: int = 2, payload_bytes: int = 0) -> None:
        """Create a collection with a dense and a sparse vector, two payload indexes and `points` points."""
        body = {
            "vectors": {"text": {"size": 8, "distance": "Cosine"}},
            "sparse_vectors": {"words": {}},
            "shard_number": shards,
            "hnsw_config": {"m": 8},
        }
        self.put(f"/collections/{self.quote(name)}", body)
        for field, schema in (("city", "keyword"), ("n", "integer")):
            self.put(f"/collections/{self.quote(name)}/index?wait=true", {"field_name": field, "field_schema": schema})
        self.fill(name, range(points), payload_bytes=payload_bytes)

    def fill(self, name: str, ids: range, payload_bytes: int = 0) -> None:
        for start in range(ids.start, ids.stop, 500):
            batch = [self.point(i, payload_bytes) for i in range(start, min(start + 500, ids.stop))]
            self.put(f"/collections/{self.quote(name)}/points?wait=true", {"points": batch})

    @staticmethod
    def point(i: int, payload_bytes: int = 0) -> dict[str, Any]:
        payload = {"city": ("Kyiv", "Łódź", "Berlin")[i % 3], "n": i, "tags": ["a", "b"][: i % 3]}
        if payload_bytes:
            # Random, so that no layer can make it smaller.
            payload["text"] = os.urandom(payload_bytes // 2).hex()
        return {
            "id": i,
            "vector": {
                "text": [((i * 31 + k * 17) % 97) / 97 + 0.01 for k in range(8)],
                "words": {"indices": [i % 50, 50 + i % 7], "values": [0.5, 1.0 + i % 5]},
            },
            "payload": payload,
        }

    def points(self, name: str) -> list[dict[str, Any]]:
        """Every point of the collection with payload and vectors, by id."""
        found: list[dict[str, Any]] = []
        offset = None
        while True:
            body = {"limit": 500, "with_payload": True, "with_vector": True, "offset": offset}
            answer = self.call("POST", f"/collections/{self.quote(name)}/points/scroll", body)["result"]
            found += answer["points"]
            offset = answer["next_page_offset"]
            if offset is None:
                return sorted(found, key=lambda point: str(point["id"]))

    def names(self) -> list[str]:
        return sorted(entry["name"] for entry in self.call("GET", "/collections")["result"]["collections"])

    def count(self, name: str) -> int:
        answer = self.call("POST", f"/collections/{self.quote(name)}/points/count", {"exact": True})
        return int(answer["result"]["count"])

    def delete(self, name: str) -> None:
        self.call("DELETE", f"/collections/{self.quote(name)}")

    def snapshots(self, name: str, shards: int = 2) -> list[str]:
        """The names of all snapshots of the collection and its shards that lie on the node."""
        paths = [f"/collections/{self.quote(name)}/snapshots"]
        paths += [f"/collections/{self.quote(name)}/shards/{shard}/snapshots" for shard in range(shards)]
        return [entry["name"] for path in paths for entry in self.call("GET", path)["result"]]

    @staticmethod
    def quote(name: str) -> str:
        return requests.utils.quote(name, safe="")

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self.call("PUT", path, body)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = requests.request(method, self.url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()


def _database_url(database: dict[str, Any]) -> str:
    """Return the address of the test's database, for another process."""
    if database["ENGINE"].endswith("sqlite3"):
        return f"sqlite:///{database['NAME']}"
    return f"postgres://{database['USER']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"


def worker_environment() -> dict[str, str]:
    """The environment in which another process works on the test's database, with its keys."""
    from django.conf import settings
    from django.db import connection

    return {
        **os.environ,
        "DATABASE_URL": _database_url(connection.settings_dict),
        "BACKUPMGR_DATA_DIR": str(settings.DATA_DIR),
        "BACKUPMGR_FIELD_KEYS": ",".join(settings.BACKUPMGR_FIELD_KEYS),
        "BACKUPMGR_SECRET_KEY": settings.SECRET_KEY,
        "BACKUPMGR_LOCAL_ROOTS": ",".join(settings.BACKUPMGR_LOCAL_ROOTS),
        "BACKUPMGR_OUTAGE_SECONDS": str(settings.BACKUPMGR_OUTAGE_SECONDS),
        "BACKUPMGR_RETRY_DELAYS_SECONDS": ",".join(map(str, settings.BACKUPMGR_RETRY_DELAYS_SECONDS)),
    }


class WorkerProcess:
    """A real `manage.py worker`, in a process group of its own, on the test's database."""

    def __init__(self, log: Path, **environment: str) -> None:
        self.log = log
        self._environment = {
            **worker_environment(),
            "BACKUPMGR_TICK_SECONDS": "0.5",
            "BACKUPMGR_LEASE_SECONDS": "6",
            "BACKUPMGR_WORKERS": "1",
            # A check of the cluster would meet the faults that a test has prepared for a job.
            "BACKUPMGR_CHECK_SECONDS": "0",
            "BACKUPMGR_RECONCILE_HOURS": "0",
            **environment,
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(REPOSITORY / "manage.py"), "worker"],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, timeout: float = 30) -> int:
        """Send SIGTERM to the whole group, as systemd does, and return the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Kill -9 the supervisor; everything below it must die with it."""
        self.process.kill()
        self.process.wait(10)

    def family(self) -> list[int]:
        """The pids of all live processes of the worker, the supervisor first."""
        pids = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                pids.append(int(entry.name))
        return sorted(pids)


def wait_until(condition: Callable[[], Any], seconds: float = 30, what: str = "the condition") -> Any:
    """Poll until the condition is true and return its value; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def files(folder: Path) -> list[str]:
    """Every file below the folder, relative, hidden and unfinished ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def story(job: Job) -> str:
    """The job's events as one text."""
    return "\n".join(job.events.order_by("id").values_list("message", flat=True))


def assert_failed_cleanly(job: Job, words: str, folder: Path | None = None) -> None:
    """The job failed with one sentence that holds `words`, lists no backup and left nothing behind."""
    from apps.backups.models import Backup, Leftover

    assert job.status == "failed", story(job)
    assert words in job.error, job.error
    assert "\n" not in job.error
    assert "Traceback" not in job.error
    assert job.completed_at is not None
    assert job.checkpoint == {}
    assert not Backup.objects.filter(job_id=job.pk).exists()
    assert not Leftover.objects.exists(), list(Leftover.objects.values_list("kind", "last_error"))
    if folder is not None:
        assert files(folder) == []


def open_uploads(bucket: StorageConfig) -> list[str]:
    """The keys of unfinished multipart uploads below the storage's prefix, asked of the server itself."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=bucket.s3_endpoint,
        region_name=bucket.s3_region,
        aws_access_key_id=bucket.s3_access_key,
        aws_secret_access_key=bucket.s3_secret_key.reveal(),
        config=Config(s3={"addressing_style": "path"}),
    )
    answer = client.list_multipart_uploads(Bucket=bucket.s3_bucket)
    return [entry["Key"] for entry in answer.get("Uploads", []) if entry["Key"].startswith(bucket.s3_prefix)]
