from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps.storage.backends import folder_backend
from apps.storage.errors import StorageDenied
from apps.storage.models import StorageConfig
from apps.storage.validation import check_config, resolve_folder


def _s3(**changes: Any) -> StorageConfig:
    fields: dict[str, Any] = {
        "name": "n",
        "type": "s3",
        "s3_endpoint": "https://s3.example.org",
        "s3_bucket": "backups",
        "s3_region": "eu-central-1",
        "s3_access_key": "AK",
        "s3_secret_key": "SK",
    }
    return StorageConfig(**(fields | changes))


def test_a_complete_bucket_is_accepted() -> None:
    assert check_config(_s3()) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s3_endpoint", ""),
        ("s3_endpoint", "s3.example.org"),
        ("s3_endpoint", "ftp://s3.example.org"),
        ("s3_endpoint", "https://user:pw@s3.example.org"),
        ("s3_endpoint", "https://s3.example.org/?x=1"),
        ("s3_endpoint", "https://s3.example.org:99999"),
        ("s3_endpoint", "https://[::1"),
        ("s3_bucket", ""),
        ("s3_bucket", "ab"),
        ("s3_bucket", "a/b/c"),
        ("s3_region", ""),
        ("s3_access_key", ""),
        ("s3_access_key", "AK\r\nX-Evil: 1"),
        ("s3_secret_key", ""),
        ("s3_prefix", "a/../b"),
        ("s3_prefix", "a\x00b"),
        ("ca", "not a certificate"),
        ("name", "half \ud800 of a character"),
    ],
)
def test_a_field_that_cannot_be_is_named(field: str, value: str) -> None:
    assert list(check_config(_s3(**{field: value}))) == [field]


def test_a_folder_below_a_root_is_accepted(folder_root: Path) -> None:
    assert resolve_folder(f"{folder_root}/a/b") == folder_root / "a" / "b"


@pytest.mark.parametrize("path", ["", "relative", "/", "/etc", "{root}/../other", "{root}-beside", "{root}/a\x00b"])
def test_a_folder_outside_the_roots_is_refused(folder_root: Path, path: str) -> None:
    config = StorageConfig(name="n", type="local", path=path.format(root=folder_root))

    assert list(check_config(config)) == ["path"]


def test_a_link_that_leads_out_of_the_roots_is_refused(folder_root: Path, tmp_path: Path) -> None:
    (folder_root / "link").symlink_to(tmp_path)

    with pytest.raises(ValueError, match="must lie below"):
        resolve_folder(f"{folder_root}/link/x")


def test_a_loop_of_links_is_refused(folder_root: Path) -> None:
    (folder_root / "loop").symlink_to(folder_root / "loop")

    assert list(check_config(StorageConfig(name="n", type="local", path=f"{folder_root}/loop/x"))) == ["path"]


def test_a_folder_that_became_a_link_since_it_was_saved_is_refused_when_opened(
    local_config: StorageConfig, tmp_path: Path
) -> None:
    Path(local_config.path).rmdir()
    Path(local_config.path).symlink_to(tmp_path)

    with pytest.raises(StorageDenied, match="must lie below"):
        folder_backend(local_config)
