"""Channels and incidents over the API: what is wrong is said by field, and no secret comes back."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.alerts.models import Channel, Incident
from apps.core.permissions import Scope
from tests.api.conftest import V1, error_of, result_of, token_client

CANARY = "canary-in-the-address"


def body(httpserver: Any, **fields: Any) -> dict[str, Any]:
    return {
        "name": "ops", "kind": "webhook", "address": httpserver.url_for(f"/{CANARY}"), "signing_key": CANARY, **fields
    }  # fmt: skip


@pytest.fixture
def incident(db: None) -> Incident:
    now = timezone.now()
    return Incident.objects.create(
        rule="failing", target_key="a/b", severity="critical", summary="b fails.", opened_at=now, last_seen_at=now
    )


def test_a_channel_is_made_tried_changed_and_deleted_and_its_secrets_stay(api: APIClient, httpserver: Any) -> None:
    httpserver.expect_request(f"/{CANARY}").respond_with_data("ok")

    answers = [api.post(f"{V1}/channels", body(httpserver), format="json")]
    made = result_of(answers[0])
    answers.append(api.post(f"{V1}/channels/{made['id']}/test"))
    answers.append(api.put(f"{V1}/channels/{made['id']}", {"digest": "weekly", "address": ""}, format="json"))
    answers.append(api.get(f"{V1}/channels"))
    answers.append(api.get(f"{V1}/deliveries"))

    assert result_of(answers[1])["state"] == "sent"
    assert result_of(answers[2])["digest"] == "weekly"
    assert len(httpserver.log) == 1
    assert all(CANARY not in answer.content.decode() for answer in answers)
    assert Channel.objects.get().address.reveal().endswith(CANARY)
    assert result_of(api.delete(f"{V1}/channels/{made['id']}")) is True
    assert api.get(f"{V1}/channels/{made['id']}").status_code == 404


def test_wrong_fields_are_named_and_nothing_is_saved(api: APIClient, httpserver: Any) -> None:
    for fields in ({"address": "http://169.254.169.254/"}, {"time_zone": "Mars"}, {"rules": ["x"]}, {"kind": "pigeon"}):
        answer = api.post(f"{V1}/channels", body(httpserver) | fields, format="json")
        assert answer.status_code in (400, 422), fields
        assert error_of(answer)
    assert not Channel.objects.exists()
    result_of(api.post(f"{V1}/channels", body(httpserver), format="json"))
    assert api.post(f"{V1}/channels", body(httpserver), format="json").status_code == 409


def test_incidents_are_listed_and_acknowledged(incident: Incident) -> None:
    viewer, operator = token_client(Scope.READ), token_client(Scope.OPERATE)

    listed = result_of(viewer.get(f"{V1}/incidents", {"open": "true", "rule": "failing"}))
    assert [item["summary"] for item in listed["items"]] == ["b fails."]
    assert result_of(viewer.get(f"{V1}/incidents", {"open": "false"}))["total"] == 0
    assert viewer.post(f"{V1}/incidents/{incident.pk}/acknowledge", {}, format="json").status_code == 403
    known = result_of(operator.post(f"{V1}/incidents/{incident.pk}/acknowledge", {}, format="json"))
    assert known["acknowledged_by"]
    Incident.objects.update(resolved_at=timezone.now())
    assert operator.post(f"{V1}/incidents/{incident.pk}/acknowledge", {}, format="json").status_code == 409
