from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from apps.clusters.models import Cluster
from apps.core.crypto import UndecryptableSecret, decrypt, encrypt, rotate
from apps.core.fields import Secret

SECRET = "canary-5a1f"


def key() -> str:
    return Fernet.generate_key().decode()


def test_what_was_encrypted_comes_back() -> None:
    assert decrypt(encrypt(SECRET)) == SECRET
    assert SECRET not in encrypt(SECRET)


def test_another_key_is_an_error_that_says_what_to_do(settings: Any) -> None:
    token = encrypt(SECRET)

    settings.BACKUPMGR_FIELD_KEYS = [key()]

    with pytest.raises(UndecryptableSecret, match="BACKUPMGR_FIELD_KEYS"):
        decrypt(token)


def test_a_secret_tells_when_it_was_set_also_after_a_rotation(settings: Any) -> None:
    before = timezone.now().replace(microsecond=0)
    secret = Secret.of(SECRET)

    old, new = settings.BACKUPMGR_FIELD_KEYS[0], key()
    settings.BACKUPMGR_FIELD_KEYS = [new, old]
    rotated = Secret(rotate(secret.token))

    assert secret.set_at is not None
    assert before <= secret.set_at <= timezone.now()
    assert rotated != secret
    assert rotated.set_at == secret.set_at
    settings.BACKUPMGR_FIELD_KEYS = [key()]
    assert secret.set_at is None, "nobody can tell without the key"
    assert Secret().set_at is None


def test_an_altered_token_is_an_error() -> None:
    token = encrypt(SECRET)
    altered = token[:-4] + ("A" if token[-4] != "A" else "B") + token[-3:]

    with pytest.raises(UndecryptableSecret):
        decrypt(altered)


@pytest.mark.parametrize("keys", [[], ["short"], ["no base64 at all, but long enough to be a key"]])
def test_keys_that_are_none_are_a_configuration_error(settings: Any, keys: list[str]) -> None:
    settings.BACKUPMGR_FIELD_KEYS = keys

    with pytest.raises(ImproperlyConfigured, match="BACKUPMGR_FIELD_KEYS"):
        encrypt(SECRET)


def test_a_secret_never_shows_itself() -> None:
    secret = Secret.of(SECRET)

    assert SECRET not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == SECRET
    assert not Secret.of("")


@pytest.mark.django_db
def test_the_column_holds_no_plain_text_and_the_row_gives_it_back() -> None:
    Cluster.objects.create(name="main", url="http://127.0.0.1:1", api_key=SECRET)

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM clusters_cluster")
        assert SECRET not in repr(cursor.fetchall())
    assert Cluster.objects.get().endpoint.api_key == SECRET
    assert SECRET not in repr(Cluster.objects.get().endpoint)
    assert SECRET not in repr(Cluster.objects.get().__dict__)


@pytest.mark.django_db
def test_a_row_with_a_lost_key_can_be_listed_and_repaired(settings: Any) -> None:
    Cluster.objects.create(name="main", url="http://127.0.0.1:1", api_key=SECRET)
    settings.BACKUPMGR_FIELD_KEYS = [key()]

    cluster = Cluster.objects.get()

    with pytest.raises(UndecryptableSecret):
        cluster.endpoint  # noqa: B018 - the access is what is tested
    cluster.api_key = "new"
    cluster.save()
    assert Cluster.objects.get().endpoint.api_key == "new"


@pytest.mark.django_db
def test_rotation_moves_every_secret_to_the_newest_key(settings: Any) -> None:
    old, new = settings.BACKUPMGR_FIELD_KEYS, key()
    Cluster.objects.create(name="a", url="http://127.0.0.1:1", api_key=SECRET)
    Cluster.objects.create(name="b", url="http://127.0.0.1:1")
    settings.BACKUPMGR_FIELD_KEYS = [new, *old]

    call_command("rotate_field_keys")

    settings.BACKUPMGR_FIELD_KEYS = [new]
    assert Cluster.objects.get(name="a").endpoint.api_key == SECRET
    assert Cluster.objects.get(name="b").endpoint.api_key == ""


@pytest.mark.django_db
def test_rotation_without_the_old_key_changes_nothing_and_names_the_row(settings: Any) -> None:
    Cluster.objects.create(name="a", url="http://127.0.0.1:1", api_key=SECRET)
    before = Cluster.objects.get().api_key.token
    settings.BACKUPMGR_FIELD_KEYS = [key()]

    with pytest.raises(CommandError, match="a, api_key"):
        call_command("rotate_field_keys")

    assert Cluster.objects.get().api_key.token == before
