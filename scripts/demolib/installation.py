"""A whole backupmgr in one folder: database, admin user, token, web server, worker; and the node beside it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import requests

from .children import REPOSITORY, Child, run
from .errors import DemoError

_READY_SECONDS = 60.0
_DEFAULT_PORT = 8000
_LIBRARY = Path(__file__).resolve().parent


class Installation:
    """Processes and secrets of one run. `stack` ends the processes, the last one first."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.storages = folder / "storages"
        self.logs = folder / "logs"
        self.user = "admin"
        self.password = secrets.token_urlsafe(12)
        self.token = ""
        self.url = ""
        #: Of the worker's supervisor, which leads a session of its own; 0 before `start`.
        self.worker_pid = 0
        self._stack = stack
        self._children: list[Child] = []
        self._environment = _environment(folder, self.storages)

    def prepare(self) -> None:
        """Migrate, and make the admin user and the token. Raises: DemoError."""
        (self.storages / "folder").mkdir(parents=True)
        output = run(
            "preparation of the database",
            [str(_LIBRARY / "prepare.py")],
            environment=self._environment | {"DJANGO_SUPERUSER_PASSWORD": self.password},
            log=self.logs / "prepare.log",
        )
        self.token = output.strip()
        if not self.token:
            raise DemoError("No API token was made: see logs/prepare.log in the demo's folder.")

    def start_nodes(self, count: int = 1) -> tuple[list[str], str]:
        """Start a sandbox node, or a cluster of them; return the addresses and the key. Raises: DemoError."""
        key = secrets.token_urlsafe(24)
        node = self._start(
            "sandbox node",
            "node",
            ["-m", "apps.sandbox", "--data", str(self.folder / "node"), "--nodes", str(count)],
            extra={"SANDBOX_API_KEY": key},
        )
        try:
            return [str(url) for url in json.loads(node.first_line())["urls"]], key
        except (ValueError, KeyError) as error:
            raise DemoError(f"The sandbox node did not say where it listens (log {node.log}).") from error

    def start(self, port: int | None) -> None:
        """Start the web server and a worker and wait until both are ready. Raises: DemoError."""
        with _listen(port) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._start(
                "web server",
                "web",
                [
                    "-m",
                    "gunicorn",
                    "--config",
                    str(_LIBRARY / "gunicorn_conf.py"),
                    "--bind",
                    f"fd://{listener.fileno()}",
                ],
                fds=(listener.fileno(),),
            )
        self.worker_pid = self._start("worker", "worker", [str(REPOSITORY / "manage.py"), "worker"]).pid
        self._wait_until_ready()

    def check(self) -> None:
        """Raise DemoError when one of the processes has ended."""
        for child in self._children:
            child.check()

    def _start(
        self,
        name: str,
        log: str,
        command: list[str],
        *,
        extra: dict[str, str] | None = None,
        fds: tuple[int, ...] = (),
    ) -> Child:
        child = Child(
            name, command, log=self.logs / f"{log}.log", environment=self._environment | (extra or {}), fds=fds
        )
        self._stack.callback(child.stop)
        self._children.append(child)
        return child

    def _wait_until_ready(self) -> None:
        def ask() -> str:
            try:
                with requests.Session() as session:
                    session.trust_env = False
                    answer = session.get(f"{self.url}/readyz", timeout=5)
            except requests.RequestException:
                return "no answer"
            return "" if answer.status_code == 200 else answer.text[:200]

        _wait(ask, self.check)


def _wait(ask: Callable[[], str], check: Callable[[], None]) -> None:
    """Ask until nothing is missing any more. Raises: DemoError."""
    deadline, missing = time.monotonic() + _READY_SECONDS, ""
    while time.monotonic() < deadline:
        check()
        missing = ask()
        if not missing:
            return
        time.sleep(0.1)
    raise DemoError(f"backupmgr was not ready within {_READY_SECONDS:.0f} seconds: {missing}")


def _environment(folder: Path, storages: Path) -> dict[str, str]:
    """Nothing of an installation on this host gets in: neither its environment nor its .env file."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKUPMGR_", "DATABASE_", "DJANGO_", "QDRANT_", "AWS_", "GUNICORN_", "PYTHONPATH"))
        and not name.lower().endswith("_proxy")
    }
    return kept | {
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
        "BACKUPMGR_DATA_DIR": str(folder),
        "BACKUPMGR_LOCAL_ROOTS": str(storages),
        "BACKUPMGR_SECRET_KEY": secrets.token_urlsafe(48),
        "BACKUPMGR_FIELD_KEYS": "",  # made in the folder
        "BACKUPMGR_ALLOWED_HOSTS": "127.0.0.1,localhost",
        "BACKUPMGR_TRUSTED_ORIGINS": "",
        "BACKUPMGR_ANONYMOUS_READ": "false",
        "BACKUPMGR_HTTPS": "false",
        "BACKUPMGR_DEBUG": "false",
        "BACKUPMGR_WORKERS": "2",
        "BACKUPMGR_TICK_SECONDS": "1",
        "BACKUPMGR_LOG_LEVEL": "INFO",
        "DATABASE_URL": f"sqlite:///{folder / 'backupmgr.sqlite3'}",
    }


def _listen(port: int | None) -> socket.socket:
    """Listen on loopback; without a wish, on port 8000 or else on a free one. Raises: DemoError."""
    try:
        return socket.create_server(("127.0.0.1", _DEFAULT_PORT if port is None else port), backlog=128)
    except OSError as error:
        if port is None:
            return socket.create_server(("127.0.0.1", 0), backlog=128)
        raise DemoError(
            f"Port {port} cannot be used ({os.strerror(error.errno or 0)}): give another one with --port."
        ) from error
