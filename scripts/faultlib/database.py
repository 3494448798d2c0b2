"""The database under the product, seen from outside: read, locked, and (PostgreSQL) restarted."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from .errors import FaultsError

#: A lock is asked for so often until somebody else's short transaction is over.
_LOCK_TRIES = 2000


class Database(Protocol):
    """What the cells need of either database."""

    url: str
    vendor: str

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read; placeholders are '?'."""

    def change(self, sql: str, *values: object) -> int:
        """Write, at once committed; returns how many rows."""

    def key(self, identifier: str) -> str:
        """Return a UUID as the database stores it."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that every write of a job needs."""


class Sqlite:
    """A database file. Other processes write to it meanwhile."""

    vendor = "sqlite"

    def __init__(self, path: Path, *, timeout_seconds: float = 20) -> None:
        self.path = path
        self.url = f"sqlite:///{path}?timeout={timeout_seconds:g}"

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            return connection.execute(sql, values).fetchall()

    def change(self, sql: str, *values: object) -> int:
        with closing(self._connect()) as connection:
            return connection.execute(sql, values).rowcount

    def key(self, identifier: str) -> str:
        return identifier.replace("-", "")

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(self._connect(0)) as connection:
            for left in range(_LOCK_TRIES, -1, -1):
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    break
                except sqlite3.OperationalError:
                    if not left:
                        raise FaultsError("The database is never free for a lock.") from None
                    time.sleep(0.0005)
            yield
            connection.execute("ROLLBACK")

    def _connect(self, timeout: float = 20) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=timeout, isolation_level=None, check_same_thread=False)


class Postgres:
    """A server of our own in a temporary folder (Debian's postgresql package)."""

    vendor = "postgres"

    def __init__(self) -> None:
        """Make and start it. Raises: FaultsError when the package is missing."""
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise FaultsError("PostgreSQL's server is missing: apt-get install postgresql")
        self._bin = programs[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="faults-postgres-"))
        self._as: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = ["runuser", "-u", "postgres", "--"]
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"postgres://backupmgr@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-D", str(self._data), "-U", "backupmgr", "--auth=trust", "--no-sync")
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self._port} -c unix_socket_directories={self._folder}"
        self._run(
            "pg_ctl",
            "-D",
            str(self._data),
            "-l",
            str(self._folder / "log"),
            "-w",
            "-o",
            options + " -c fsync=off",
            "start",
        )

    def stop(self) -> None:
        """End it as a crash does: every connection breaks in the middle."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        with suppress(FaultsError):  # it may not run
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            return connection.execute(sql.replace("?", "%s"), values).fetchall()

    def change(self, sql: str, *values: object) -> int:
        with self._connect() as connection:
            return int(connection.execute(sql.replace("?", "%s"), values).rowcount)

    def key(self, identifier: str) -> str:
        return identifier

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._connect() as connection, connection.transaction(force_rollback=True):
            connection.execute("LOCK TABLE jobs_job IN EXCLUSIVE MODE")
            yield

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.url, autocommit=True, connect_timeout=10)

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(
            [*self._as, str(self._bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        if result.returncode:
            raise FaultsError(f"PostgreSQL's {program} failed: {result.stderr.decode(errors='replace').strip()[-300:]}")
