from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import IntegrityError, connection
from django.db.models.base import Model

from apps.backups.models import Backup
from apps.core.crypto import UndecryptableSecret
from apps.core.errors import Conflict, InvalidRequest, NotFound
from apps.storage.errors import (
    DefaultStorageNeeded,
    StorageChanged,
    StorageInUse,
    StorageInvalid,
    StorageMissing,
    StorageNameTaken,
)
from apps.storage.models import StorageConfig
from apps.storage.services import (
    create_storage,
    delete_storage,
    draft_storage,
    open_store,
    probe_store,
    update_storage,
)

pytestmark = pytest.mark.django_db

S3 = {
    "name": "bucket",
    "type": "s3",
    "s3_endpoint": "https://s3.example.org",
    "s3_bucket": "backups",
    "s3_region": "eu-central-1",
    "s3_access_key": "AKIA0123456789",
    "s3_secret_key": "canary-secret",
}


def _defaults() -> list[str]:
    return list(StorageConfig.objects.filter(is_default=True).values_list("name", flat=True))


def _folder(root: Path, name: str, **more: Any) -> StorageConfig:
    return create_storage(data={"name": name, "type": "local", "path": f"{root}/{name}"} | more)


def test_the_first_storage_becomes_the_default_and_its_folder_is_made(folder_root: Path) -> None:
    storage = _folder(folder_root, "one", is_default=False)

    assert storage.is_default
    assert (folder_root / "one").is_dir()
    assert open_store(storage).put("a", b"x").size_bytes == 1


def test_there_is_always_exactly_one_default(folder_root: Path) -> None:
    one = _folder(folder_root, "one")
    two = _folder(folder_root, "two")
    assert _defaults() == ["one"]

    _folder(folder_root, "three", is_default=True)
    assert _defaults() == ["three"]
    update_storage(storage=two, data={"is_default": True})
    assert _defaults() == ["two"]
    # `one` was read while it was the default: a change of something else must not make it that again.
    assert one.is_default
    update_storage(storage=one, data={"name": "uno"})
    assert _defaults() == ["two"]


def test_the_default_cannot_be_given_up_but_only_handed_over(folder_root: Path) -> None:
    one = _folder(folder_root, "one")

    with pytest.raises(DefaultStorageNeeded, match="make another one the default") as caught:
        update_storage(storage=one, data={"is_default": False})

    assert isinstance(caught.value, InvalidRequest)
    assert _defaults() == ["one"]


def test_a_storage_can_be_deleted_unless_it_is_the_default(folder_root: Path) -> None:
    one, two = _folder(folder_root, "one"), _folder(folder_root, "two")

    with pytest.raises(DefaultStorageNeeded) as caught:
        delete_storage(storage=one)
    delete_storage(storage=two)

    assert caught.value.http_status == 400
    assert list(StorageConfig.objects.values_list("name", flat=True)) == ["one"]
    assert (folder_root / "two").is_dir()  # what is stored stays
    with pytest.raises(StorageMissing) as gone:
        delete_storage(storage=StorageConfig(pk=two.pk, name="two"))
    assert isinstance(gone.value, NotFound)
    with pytest.raises(StorageMissing):
        update_storage(storage=StorageConfig(pk=two.pk, name="two"), data={"name": "x"})


def test_a_storage_that_backups_refer_to_stays(folder_root: Path) -> None:
    _folder(folder_root, "one")
    two = _folder(folder_root, "two")
    for number in range(2):
        _backup(two, f"run-{number}")

    with pytest.raises(StorageInUse, match="2 backups") as caught:
        delete_storage(storage=two)

    assert isinstance(caught.value, Conflict)
    assert StorageConfig.objects.filter(pk=two.pk).exists()


def _backup(storage: StorageConfig, name: str) -> Backup:
    """Make a backup with something in every column that has to hold something."""
    now = datetime.datetime.now(datetime.UTC)
    fields: dict[str, Any] = {"storage": storage, "snapshot_name": name, "path": f"c/x/{name}"}
    for field in Backup._meta.concrete_fields:
        if field.name in fields or field.null or field.has_default() or field.primary_key:
            continue
        kind = field.get_internal_type()
        if kind == "DateTimeField":
            fields[field.name] = now
        elif kind == "UUIDField":
            fields[field.name] = uuid.uuid4()
        elif kind in {"CharField", "TextField"}:
            fields[field.name] = field.choices[0][0] if field.choices else "x"
        elif kind == "JSONField":
            fields[field.name] = {}
        elif kind.endswith("IntegerField"):
            fields[field.name] = 1
    return Backup.objects.create(**fields)


def test_a_name_is_given_once(folder_root: Path) -> None:
    _folder(folder_root, "one")
    two = _folder(folder_root, "two")

    with pytest.raises(StorageNameTaken, match="one") as caught:
        _folder(folder_root, "one")
    with pytest.raises(StorageNameTaken):
        update_storage(storage=two, data={"name": " one "})

    assert caught.value.http_status == 409


def test_everything_that_is_wrong_is_said_at_once_by_field(folder_root: Path) -> None:
    with pytest.raises(StorageInvalid) as caught:
        create_storage(data={"name": "n" * 101, "type": "s3", "s3_endpoint": "nowhere", "verify_tls": "perhaps"})

    problems = caught.value.fields
    assert {"name", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_secret_key", "verify_tls"} == set(
        problems
    )
    assert problems["s3_endpoint"] == "Write the endpoint as https://host or http://host:port."
    assert all(sentence in str(caught.value) for sentence in problems.values())
    assert not StorageConfig.objects.exists()


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"type": "local", "path": "/etc"}, "path"),
        ({"type": "ftp"}, "type"),
        ({"type": None}, "type"),
        ({"type": "local", "path": ["/x"]}, "path"),
        ({"type": "s3", "s3_secret_key": 5}, "s3_secret_key"),
        ({"type": "local", "colour": "red"}, "colour"),
        ({"type": "local", "path": "/x", "name": ""}, "name"),
    ],
)
def test_data_of_the_wrong_kind_is_refused(folder_root: Path, data: dict[str, Any], field: str) -> None:
    with pytest.raises(StorageInvalid) as caught:
        create_storage(data={"name": "n"} | data)

    assert field in caught.value.fields


def test_a_draft_is_checked_but_not_saved() -> None:
    assert draft_storage(data=S3).s3_bucket == "backups"
    with pytest.raises(StorageInvalid):
        draft_storage(data=S3 | {"s3_bucket": ""})

    assert not StorageConfig.objects.exists()


def test_an_update_that_leaves_the_secret_out_keeps_it() -> None:
    storage = create_storage(data=S3)

    for data in (
        {"name": "renamed"},
        {"s3_secret_key": ""},
        {"s3_secret_key": None},
        {"s3_access_key": storage.masked_access_key},
    ):
        storage = update_storage(storage=storage, data=data)

    storage.refresh_from_db()
    assert (storage.name, storage.s3_access_key) == ("renamed", "AKIA0123456789")
    assert storage.s3_secret_key.reveal() == "canary-secret"
    assert update_storage(storage=storage, data={"s3_secret_key": "new"}).s3_secret_key.reveal() == "new"


def test_the_secret_is_encrypted_in_the_database_and_shown_nowhere() -> None:
    storage = create_storage(data=S3)

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM storage_storageconfig")
        raw = repr(cursor.fetchall())

    assert "AKIA0123456789" in raw
    assert "canary-secret" not in raw
    assert "canary-secret" not in repr(storage) + str(storage) + repr(vars(storage)) + storage.location


def test_a_lost_field_key_is_said_and_can_be_mended(settings: Any) -> None:
    storage = create_storage(data=S3)
    settings.BACKUPMGR_FIELD_KEYS = [Fernet.generate_key().decode()]
    storage = StorageConfig.objects.get(pk=storage.pk)  # can still be read and listed

    with pytest.raises(UndecryptableSecret, match="BACKUPMGR_FIELD_KEYS"):
        open_store(storage)
    result = probe_store(storage)
    assert not result.success
    assert "enter the secret again" in result.message

    storage = update_storage(storage=storage, data={"s3_secret_key": "again"})
    assert storage.s3_secret_key.reveal() == "again"


def test_a_lost_race_for_the_default_is_run_again(folder_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Model.save
    collisions = [2]

    def save(self: Model, *args: Any, **kwargs: Any) -> None:
        if collisions[0]:
            collisions[0] -= 1
            raise IntegrityError("UNIQUE constraint failed: one_default_storage")
        real(self, *args, **kwargs)

    monkeypatch.setattr(Model, "save", save)
    assert _folder(folder_root, "one").is_default

    collisions[0] = 9
    with pytest.raises(StorageChanged, match="try again") as caught:
        _folder(folder_root, "two")
    assert isinstance(caught.value, Conflict)


_RACE = """
import django, json, sys, threading
django.setup()
from django.core.management import call_command
from apps.core.errors import Conflict
from apps.storage.models import StorageConfig
from apps.storage.services import create_storage
call_command("migrate", verbosity=0)
root = sys.argv[1]
outcomes, start = [], threading.Barrier(6)
def create(number):
    start.wait()
    name = f"s{number // 2}"  # every name twice
    try:
        create_storage(data={"name": name, "type": "local", "path": f"{root}/{name}", "is_default": number % 3 == 0})
        outcomes.append("created")
    except Conflict as error:
        outcomes.append(type(error).__name__)
threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
rows = StorageConfig.objects
print(json.dumps([sorted(outcomes), rows.count(), rows.filter(is_default=True).count()]))
"""


def test_storages_created_at_the_same_moment_leave_one_default(folder_root: Path, tmp_path: Path) -> None:
    """In a process of its own, on a database in a file: threads cannot truly race on the tests' one in memory."""
    done = subprocess.run(
        [sys.executable, "-c", _RACE, str(folder_root)],
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "BACKUPMGR_DATA_DIR": str(tmp_path / "data"),
            "BACKUPMGR_LOCAL_ROOTS": str(folder_root),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    outcomes, count, defaults = json.loads(done.stdout.strip().splitlines()[-1])
    assert outcomes == ["StorageNameTaken"] * 3 + ["created"] * 3
    assert (count, defaults) == (3, 1)
