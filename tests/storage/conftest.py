"""What the tests of storages share: a folder inside the allowed roots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps.storage.models import StorageConfig


@pytest.fixture
def folder_root(tmp_path: Path, settings: Any) -> Path:
    """The only folder below which folder storages may lie."""
    root = tmp_path / "roots"
    root.mkdir()
    settings.BACKUPMGR_LOCAL_ROOTS = [str(root)]
    return root


@pytest.fixture
def local_config(folder_root: Path) -> StorageConfig:
    """A folder storage whose folder exists; not saved."""
    (folder_root / "one").mkdir()
    return StorageConfig(name="folder", type="local", path=str(folder_root / "one"))
