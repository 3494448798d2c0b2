"""A whole backupmgr with everything around it, and proxies on the ways out: web server, workers, node, S3 server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import requests
import s3server
from demolib import children
from demolib.children import Child
from demolib.errors import DemoError

from .api import Api
from .clock import Clock
from .database import Database, Postgres, Sqlite
from .errors import FaultsError
from .proxy import Proxy
from .workers import WorkerGroup
from .world import BucketKeys, World

SMALL, LARGE = "films", "archive"
_READY_SECONDS = 120.0
_BACKUPS = "SELECT b.id, b.path, s.name FROM backups_backup b JOIN storage_storageconfig s ON s.id = b.storage_id"
_DATA_MIB, _TIGHT_MIB = 64, 12
_LIBRARY = Path(__file__).resolve().parent

#: Short times, so that what has to wait for a time-out does not wait long.
QUICK = {
    "BACKUPMGR_WORKERS": "1",
    "BACKUPMGR_TICK_SECONDS": "0.4",
    "BACKUPMGR_LEASE_SECONDS": "4",
    "BACKUPMGR_STUCK_SECONDS": "4",
    "BACKUPMGR_STALL_SECONDS": "2",
    "BACKUPMGR_OUTAGE_SECONDS": "0",
    "BACKUPMGR_QDRANT_TIMEOUT_SECONDS": "2",
    "BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS": "8",
    "BACKUPMGR_LOST_ANSWER_SECONDS": "3",
    "BACKUPMGR_LEFTOVER_SECONDS": "2",
    "BACKUPMGR_RETRY_DELAYS_SECONDS": "1,3",
}
#: The times of an installation: a job that has to stop within seconds must not wait for any of them.
PATIENT = {
    name: QUICK[name]
    for name in (
        "BACKUPMGR_WORKERS",
        "BACKUPMGR_TICK_SECONDS",
        "BACKUPMGR_LEFTOVER_SECONDS",
        "BACKUPMGR_LOST_ANSWER_SECONDS",
    )
}


@dataclass(frozen=True)
class Needs:
    """What a bed is to have."""

    database: str = "sqlite"
    s3: bool = True
    #: Seconds that SQLite waits for a lock.
    lock_seconds: float = 20
    #: Whether the clock of web server and workers can be set.
    clock: bool = False
    #: Collections to fill: SMALL, LARGE.
    collections: tuple[str, ...] = (SMALL,)


@dataclass
class Mounts:
    """File systems of a few MiB, to be filled; none where this process may not mount."""

    places: list[Path] = field(default_factory=list)

    def add(self, place: Path, mib: int) -> bool:
        """Mount one at `place`; False when that is not allowed here."""
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done:
            self.places.append(place)
        return done

    def remove(self) -> None:
        for place in reversed(self.places):
            subprocess.run(["umount", "-l", str(place)], capture_output=True, timeout=10, check=False)
        self.places.clear()


class Bed:
    """Everything that runs. `stack` ends it all."""

    def __init__(self, folder: Path, stack: ExitStack, needs: Needs) -> None:
        """Start the servers, make the database, fill the collections. Raises: FaultsError."""
        self.folder = folder
        self.needs = needs
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self._stack = stack
        self._worker_count = 0
        self.clock = Clock(folder)
        self.workers: list[WorkerGroup] = []
        mounts = Mounts()
        stack.callback(mounts.remove)
        self.data = folder / "data"
        self.data_is_small = mounts.add(self.data, _DATA_MIB)
        self.storages = {"folder": folder / "storages" / "folder"}
        self.storages["folder"].mkdir(parents=True)
        if mounts.add(folder / "storages" / "tight", _TIGHT_MIB):
            self.storages["tight"] = folder / "storages" / "tight"
        self.database: Database = self._make_database()
        self.node_proxy, node_url = self._start_node()
        self.s3_proxy: Proxy | None = None
        keys = self._start_s3() if needs.s3 else None
        self.world = World(node_url, self.storages, keys)
        self.environment = self._environment()
        token = self._prepare()
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self._web_port = probe.getsockname()[1]
        self._web: Child | None = None
        self.start_web()
        stack.callback(self.stop_web)
        self.api = Api(f"http://127.0.0.1:{self._web_port}", token)
        self._register(keys)
        self._fill()

    # --- processes --------------------------------------------------------------------------------------------
    def start_web(self) -> None:
        """Start the web server, always on the same port, and wait until it answers. Raises: FaultsError."""
        config = str(_LIBRARY.parent / "demolib" / "gunicorn_conf.py")
        command = ["-m", "gunicorn", "--config", config, "--bind", f"127.0.0.1:{self._web_port}"]
        self._web = Child("web server", command, log=self.logs / "web.log", environment=self.environment)
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            try:
                self._web.check()
                if requests.get(f"http://127.0.0.1:{self._web_port}/healthz", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                time.sleep(0.1)
            except DemoError as error:
                raise FaultsError(str(error)) from error
        raise FaultsError(f"The web server was not ready within {_READY_SECONDS:.0f} seconds.")

    def stop_web(self, *, kill: bool = False) -> None:
        if self._web is not None:
            if kill:
                self._web.kill()
            self._web.stop()
            self._web = None

    def start_worker(self, settings: dict[str, str]) -> WorkerGroup:
        """Start a worker and wait until it looks after jobs. Raises: FaultsError."""
        before = self.known_workers()
        log = self.logs / f"worker-{self._worker_count}.log"
        self._worker_count += 1
        worker = WorkerGroup(log, self.environment | settings)
        self._stack.callback(worker.stop)
        self.workers.append(worker)
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if not worker.is_running:
                raise FaultsError(f"A worker ended at once: {log.read_text(errors='replace').strip()[-300:]}")
            if self.known_workers() > before:
                return worker
            time.sleep(0.05)
        raise FaultsError(f"A worker was not ready within {_READY_SECONDS:.0f} seconds.")

    def stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.workers.clear()

    def known_workers(self) -> int:
        """Return how many workers have ever entered themselves."""
        return int(self.database.rows("SELECT count(*) FROM jobs_worker")[0][0])

    def delete_backup(self, backup_id: str) -> None:
        """Delete a backup through the API, and wait until it is gone. Raises: Refused, FaultsError."""
        self.api.call("DELETE", f"/backups/{backup_id}")
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if all(backup["id"] != backup_id for backup in self.api.backups()):
                return
            time.sleep(0.1)
        raise FaultsError("a deleted backup is still listed")

    def wipe(self, pristine: dict[str, str]) -> None:
        """Remove whatever was not there when `pristine` was taken, past the product. Raises: FaultsError."""
        for name in sorted(self.world.state().keys() - pristine.keys()):
            self.world.remove(name)
        self.database.change("DELETE FROM backups_leftover")
        for table, column in (("backups_part", "backup_id"), ("backups_backup", "id")):
            rows = self.database.rows(_BACKUPS)
            for key, path, storage in rows:
                if self.world.stored(storage, f"{path}/manifest.json") not in pristine:
                    if column == "id":
                        self.database.change("UPDATE jobs_job SET backup_id = NULL WHERE backup_id = ?", key)
                    self.database.change(f"DELETE FROM {table} WHERE {column} = ?", key)

    def proxies(self) -> list[Proxy]:
        return [self.node_proxy] if self.s3_proxy is None else [self.node_proxy, self.s3_proxy]

    # --- making it ----------------------------------------------------------------------------------------------
    def _make_database(self) -> Database:
        if self.needs.database == "sqlite":
            return Sqlite(self.data / "backupmgr.sqlite3", timeout_seconds=self.needs.lock_seconds)
        server = Postgres()
        self._stack.callback(server.remove)
        return server

    def _start_node(self) -> tuple[Proxy, str]:
        command = ["-m", "apps.sandbox", "--data", str(self.folder / "node")]
        node = Child("sandbox node", command, log=self.logs / "node.log", environment=dict(os.environ))
        self._stack.callback(node.stop)
        try:
            url = str(json.loads(node.first_line())["url"])
        except (DemoError, ValueError, KeyError) as error:
            raise FaultsError(f"The sandbox node did not start: {error}") from error
        proxy = Proxy(url, "node")
        self._stack.callback(proxy.close)
        return proxy, url

    def _start_s3(self) -> BucketKeys:
        server = s3server.S3Server(self.folder / "s3")
        self._stack.callback(server.stop)
        try:
            server.start()
        except RuntimeError as error:
            raise FaultsError(str(error)) from error
        self.s3_proxy = Proxy(server.endpoint, "s3")
        self._stack.callback(self.s3_proxy.close)
        return BucketKeys(
            server.endpoint, server.bucket, server.region, server.access_key, server.secret_key, "backups"
        )

    def _environment(self) -> dict[str, str]:
        dropped = ("AWS_", "S3_", "BACKUPMGR_", "DATABASE_URL", "DJANGO_", "QDRANT_", "GUNICORN_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(dropped) and not name.lower().endswith("_proxy")
        }
        return kept | {
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
            "BACKUPMGR_DATA_DIR": str(self.data),
            "BACKUPMGR_LOCAL_ROOTS": str(self.folder / "storages"),
            "BACKUPMGR_SECRET_KEY": secrets.token_urlsafe(48),
            "BACKUPMGR_FIELD_KEYS": "",  # made in the folder
            "BACKUPMGR_LOG_LEVEL": "INFO",
            "DATABASE_URL": self.database.url,
            **(self.clock.environment() if self.needs.clock else {}),
        }

    def _prepare(self) -> str:
        try:
            return children.run(
                "preparation of the database",
                [str(_LIBRARY.parent / "demolib" / "prepare.py")],
                environment=self.environment
                | {"DJANGO_SUPERUSER_PASSWORD": secrets.token_urlsafe(12), "PYTHONPATH": str(children.REPOSITORY)},
                log=self.logs / "prepare.log",
            ).strip()
        except DemoError as error:
            raise FaultsError(str(error)) from error

    def _register(self, keys: BucketKeys | None) -> None:
        self.cluster_id = str(self.api.call("POST", "/clusters", {"name": "main", "url": self.node_proxy.url})["id"])
        self.storage_ids = {}
        for name, path in self.storages.items():
            body = {"name": name, "type": "local", "path": str(path)}
            self.storage_ids[name] = str(self.api.call("POST", "/storage/config", body)["id"])
        if keys is None or self.s3_proxy is None:
            return
        body = {
            "name": "s3",
            "type": "s3",
            "s3_endpoint": self.s3_proxy.url,
            "s3_bucket": keys.bucket,
            "s3_region": keys.region,
            "s3_access_key": keys.access_key,
            "s3_secret_key": keys.secret_key,
            "s3_prefix": keys.prefix,
            "s3_addressing_style": "path",
        }
        self.storage_ids["s3"] = str(self.api.call("POST", "/storage/config", body)["id"])

    def _fill(self) -> None:
        for name in self.needs.collections:
            if name == SMALL:
                self.world.fill(SMALL, points=160, payload_bytes=16_000)
            else:
                self.world.fill(LARGE, points=260, payload_bytes=128 * 1024)
        self.world.plant(list(self.needs.collections))
        # A snapshot of ours made within three seconds of these would have to wait for another name.
        time.sleep(3)


def fresh_folder(folder: Path) -> Path:
    """Make the folder. Raises: FaultsError when it exists: it may be another run's."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise FaultsError(f"{folder} exists already: another run's? Remove it, or give another --dir.") from error
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
