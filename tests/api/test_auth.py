"""Signing in: tokens, sessions, throttling, groups, the command."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from apps.api.groups import ensure_groups
from apps.api.models import ApiToken
from apps.api.services import create_token, find_token, revoke_token
from apps.core.permissions import GROUP_PERMISSIONS, Scope
from tests.api.conftest import V1, client_with, error_of, make_user, result_of, token_client


def new_token(**options: Any) -> tuple[ApiToken, str]:
    values: dict[str, Any] = {"name": "t", "scope": Scope.READ, "now": timezone.now(), **options}
    return create_token(user=values.pop("user", None) or make_user(superuser=True), **values)


def test_both_headers_open_the_door(anonymous: APIClient) -> None:
    _, secret = new_token()

    for headers in ({"HTTP_API_KEY": secret}, {"HTTP_AUTHORIZATION": f"Bearer {secret}"},
                    {"HTTP_AUTHORIZATION": f"bearer  {secret} "}):  # fmt: skip
        assert anonymous.get(f"{V1}/jobs", **headers).status_code == 200


def test_secret_is_kept_as_a_hash_only(db: None) -> None:
    token, secret = new_token()

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM api_apitoken")
        row = " ".join(str(value) for value in cursor.fetchone())
    assert len(secret) >= 43
    assert secret not in row
    assert secret.split("_", 2)[2] not in row
    assert token.prefix in secret


@pytest.mark.parametrize("secret", ["", "x", "bmgr_", "bmgr__", "bmgr_000000000000_x", "ключ", "a" * 5000, "bmgr_%_%"])
def test_wrong_keys_are_401(anonymous: APIClient, secret: str) -> None:
    response = anonymous.get(f"{V1}/jobs", HTTP_API_KEY=secret)

    assert response.status_code == 401
    assert "token" in error_of(response)


def test_right_prefix_with_wrong_secret_is_401(anonymous: APIClient) -> None:
    _, secret = new_token()

    assert anonymous.get(f"{V1}/jobs", HTTP_API_KEY=secret[:-1] + "~").status_code == 401


def test_expired_revoked_and_orphaned_tokens_are_401(anonymous: APIClient) -> None:
    now = timezone.now()
    _, expired = new_token(now=now - timedelta(days=2), expires_at=now - timedelta(days=1))
    revoked_token, revoked = new_token()
    revoke_token(token_id=revoked_token.pk, now=now)
    inactive_token, inactive = new_token()
    User.objects.filter(pk=inactive_token.user_id).update(is_active=False)

    for secret in (expired, revoked, inactive):
        assert anonymous.get(f"{V1}/jobs", HTTP_API_KEY=secret).status_code == 401


def test_last_use_is_written_at_most_once_a_minute(db: None) -> None:
    token, secret = new_token()
    start = timezone.now()

    for seconds in (0, 30, 59, 61):
        find_token(secret=secret, now=start + timedelta(seconds=seconds))
        token.refresh_from_db()
        assert token.last_used_at == start + timedelta(seconds=61 if seconds == 61 else 0)


def test_token_never_exceeds_its_owner(db: None) -> None:
    viewer = token_client(Scope.ADMINISTER, make_user("viewer"))

    assert viewer.get(f"{V1}/jobs").status_code == 200
    response = viewer.post(f"{V1}/storage/config", {}, format="json")
    assert response.status_code == 403
    assert "administer" in error_of(response)


def test_many_wrong_keys_from_one_address_are_throttled(anonymous: APIClient) -> None:
    _, secret = new_token()
    codes = [anonymous.get(f"{V1}/jobs", HTTP_API_KEY=f"wrong-{i}").status_code for i in range(20)]

    response = anonymous.get(f"{V1}/jobs", HTTP_API_KEY="wrong")

    assert set(codes) == {401}
    assert response.status_code == 429
    assert error_of(response)
    assert 1 <= int(response["Retry-After"]) <= 61
    assert anonymous.get(f"{V1}/jobs", HTTP_API_KEY="wrong", REMOTE_ADDR="10.0.0.9").status_code == 401
    assert anonymous.get(f"{V1}/jobs", HTTP_API_KEY=secret).status_code == 200


def test_session_works_and_writing_needs_the_csrf_token(db: None) -> None:
    client = APIClient(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(make_user("administrator"))

    assert client.get(f"{V1}/jobs").status_code == 200
    refused = client.post(f"{V1}/tokens", {"name": "n", "scope": "read"}, format="json")
    assert refused.status_code == 403
    assert "CSRF" in error_of(refused)
    client.cookies["backupmgr_csrf"] = "a" * 32
    granted = client.post(f"{V1}/tokens", {"name": "n", "scope": "read"}, format="json", HTTP_X_CSRFTOKEN="a" * 32)
    assert granted.status_code == 200


def test_nobody_reads_anonymously_unless_a_setting_says_so(anonymous: APIClient, settings: Any) -> None:
    assert anonymous.get(f"{V1}/jobs").status_code == 401

    settings.BACKUPMGR_ANONYMOUS_READ = True

    assert anonymous.get(f"{V1}/jobs").status_code == 200
    assert anonymous.get(f"{V1}/collections/c/snapshots/s").status_code == 401
    assert anonymous.get(f"{V1}/tokens").status_code == 401
    assert anonymous.post(f"{V1}/jobs", {}, format="json").status_code == 401


def test_groups_exist_after_migrate_and_making_them_again_changes_nothing(db: None) -> None:
    Group.objects.get(name="viewer").permissions.clear()

    ensure_groups()
    ensure_groups()

    for name, permissions in GROUP_PERMISSIONS.items():
        given = Group.objects.get(name=name).permissions.select_related("content_type")
        assert {f"{p.content_type.app_label}.{p.codename}" for p in given} == set(permissions)


def test_command_prints_a_secret_that_works_and_nothing_else(anonymous: APIClient) -> None:
    user = make_user(superuser=True)
    out, err = StringIO(), StringIO()

    call_command("create_token", user=user.username, name="cli", scope="read", expires_days=3, stdout=out, stderr=err)

    secret = out.getvalue().strip()
    assert anonymous.get(f"{V1}/jobs", HTTP_API_KEY=secret).status_code == 200
    assert secret not in err.getvalue()
    token = ApiToken.objects.get(name="cli")
    assert token.expires_at is not None and token.expires_at - token.created_at == timedelta(days=3)


@pytest.mark.parametrize("options", [{"user": "nobody"}, {"expires_days": 0}, {"name": " "}, {"expires_days": 10**9}])
def test_command_refuses_nonsense(db: None, options: dict[str, Any]) -> None:
    user = make_user()

    with pytest.raises(CommandError):
        call_command("create_token", **{"user": user.username, "name": "n", "scope": "read", **options})
    assert not ApiToken.objects.exists()


def test_tokens_are_made_listed_and_revoked_over_the_api(api: APIClient) -> None:
    made = result_of(api.post(f"{V1}/tokens", {"name": "ci", "scope": "OPERATE", "expires_days": 7}, format="json"))

    assert client_with(made["token"]).get(f"{V1}/jobs").status_code == 200
    listed = next(t for t in result_of(api.get(f"{V1}/tokens"))["items"] if t["id"] == made["id"])
    assert listed == {k: v for k, v in made.items() if k != "token"} | {"last_used_at": listed["last_used_at"]}
    assert made["scope"] == "operate"
    assert made["token"] not in api.get(f"{V1}/tokens").content.decode()
    assert result_of(api.delete(f"{V1}/tokens/{made['id']}")) is True
    assert client_with(made["token"]).get(f"{V1}/jobs").status_code == 401
    for missing in ("nope", "6f1c2f6e-0000-4000-8000-000000000000"):
        assert api.delete(f"{V1}/tokens/{missing}").status_code == 404
