"""gunicorn's settings for the demo. For real installations see docs/operations.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demolib import die

wsgi_app = "backupmgr.wsgi"
worker_class = "gthread"
workers = 1
threads = 8
timeout = 60
graceful_timeout = 5
control_socket_disable = True
_arbiter = os.getpid()


def post_fork(server: Any, worker: Any) -> None:
    """The process that answers must not outlive the one that watches it."""
    die.with_parent(_arbiter)
