"""The page and the programs that docs/ gives to whoever writes a client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.api.services import create_token
from apps.core.permissions import Scope
from tests.api.conftest import make_user
from tests.support import REPOSITORY, Collections, WorkerProcess

EXAMPLES = REPOSITORY / "docs" / "examples"
COMMANDS = {
    "backup_restore.py": [sys.executable, str(EXAMPLES / "backup_restore.py")],
    "backup_restore.sh": ["bash", str(EXAMPLES / "backup_restore.sh")],
}


def test_the_page_is_what_the_schema_says() -> None:
    call_command("write_api_docs", check=True)


def test_a_page_that_says_something_else_is_noticed(settings: Any, tmp_path: Path) -> None:
    settings.BASE_DIR = tmp_path
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "api.md").write_text("old")

    with pytest.raises(CommandError, match="out of date"):
        call_command("write_api_docs", check=True)


@pytest.mark.worker
@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_backs_up_and_restores(
    name: str,
    start_worker: Callable[..., WorkerProcess],
    live_server: Any,
    cluster: Any,
    storage: Any,
    collections: Collections,
) -> None:
    collections.create("films", points=50)
    start_worker()
    _, token = create_token(user=make_user(superuser=True), name="t", scope=Scope.RESTORE, now=timezone.now())
    environment = {
        "PATH": os.environ["PATH"],
        "BACKUPMGR_API": f"{live_server.url}/api/v1",
        "BACKUPMGR_TOKEN": token,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMANDS[name], *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = run("films", "copy")
    refused = run("no such", "copy")

    assert done.returncode == 0, done.stderr
    assert "Restored as copy" in done.stdout
    assert collections.points("copy") == collections.points("films")
    assert refused.returncode != 0
    assert "no such collection" in refused.stderr
