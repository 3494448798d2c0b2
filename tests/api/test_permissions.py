"""Every operation × every kind of caller: what is allowed is what the operation declares, no more and no less."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.api.auth import MAX_FAILURES
from apps.api.checks import check_scopes_declared
from apps.api.services import create_token, revoke_token
from apps.api.views import ApiView
from apps.core.permissions import GROUP_SCOPES, Scope
from apps.jobs.models import Job
from tests.api.conftest import V1, client_with, error_of, make_user, token_client

NOBODY = "6f1c2f6e-0000-4000-8000-000000000000"


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, Scope]]:
    """Every method and address of the schema with the scope it declares; ids are of nothing."""
    values = {"id": NOBODY, "name": "c", "snapshotName": "s", "shardId": "0", "tag": "t"}
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield method, V1 + path.format(**values), Scope[operation["x-scope"].upper()]


def call(client: APIClient, method: str, path: str) -> Any:
    return client.generic(method.upper(), path, b"{}", content_type="application/json")


@pytest.fixture
def callers(db: None) -> dict[str, tuple[APIClient, int]]:
    """Name → client and the highest scope it should have; 0 for those who must sign in first."""
    now = timezone.now()
    found: dict[str, tuple[APIClient, int]] = {"anonymous": (APIClient(raise_request_exception=False), 0)}
    for group, scope in GROUP_SCOPES.items():
        client = APIClient(raise_request_exception=False)
        client.force_login(make_user(group))
        found[group] = (client, scope)
    for scope in Scope:
        found[f"token {scope.label}"] = (token_client(scope), scope)
        for group, limit in GROUP_SCOPES.items():
            found[f"{group}'s token {scope.label}"] = (token_client(scope, make_user(group)), min(scope, limit))
    owner = make_user(superuser=True)
    expired = create_token(
        user=owner, name="e", scope=Scope.ADMINISTER, now=now - timedelta(2), expires_at=now - timedelta(1)
    )
    revoked = create_token(user=owner, name="r", scope=Scope.ADMINISTER, now=now)
    revoke_token(token_id=revoked[0].pk, now=now)
    found["expired"] = (client_with(expired[1]), 0)
    found["revoked"] = (client_with(revoked[1]), 0)
    return found


def test_every_operation_lets_in_whom_it_declares(
    schema: dict[str, Any], callers: dict[str, tuple[APIClient, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.api.auth.MAX_FAILURES", 10**6)
    seen = 0
    for method, path, needed in operations(schema):
        for name, (client, has) in callers.items():
            status = call(client, method, path).status_code
            expected = "in" if has >= needed else "403" if has else "401"
            got = str(status) if status in (401, 403) else "in"
            assert got == expected, (method, path, name, status)
            assert status < 500, (method, path, name, status)
            seen += 1
    assert seen >= 26 * len(callers)
    assert MAX_FAILURES == 20


def test_restores_need_the_scope_restore(make_job: Any, make_backup: Any) -> None:
    operate, restore = token_client(Scope.OPERATE), token_client(Scope.RESTORE)
    backup = make_backup()
    body = {"type": "Restore", "collection_name": "films", "snapshot_name": backup.snapshot_name}
    failed = make_job(type="restore", status="failed", backup=backup)

    for path, data in ((f"{V1}/jobs", body), (f"{V1}/jobs/{failed.pk}/retry", None)):
        response = operate.post(path, data, format="json")
        assert response.status_code == 403
        assert "restore" in error_of(response)
        assert restore.post(path, data, format="json").status_code == 200
    assert Job.objects.get(pk=failed.pk).status == "pending"


def test_forgotten_declaration_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.api.v1.jobs import JobsView

    assert check_scopes_declared() == []
    monkeypatch.setattr(JobsView, "scopes", {"GET": Scope.READ})

    (problem,) = check_scopes_declared()
    assert "JobsView.post" in problem.msg


def test_undeclared_method_is_refused_to_everybody(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.api.v1.jobs import JobsView

    monkeypatch.setattr(JobsView, "scopes", {})

    assert issubclass(JobsView, ApiView)
    assert api.get(f"{V1}/jobs").status_code == 403
