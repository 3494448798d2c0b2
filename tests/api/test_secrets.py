"""Secrets go in and never come out: canaries are sent everywhere, and every answer and log line is searched."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.api.conftest import V1, result_of
from tests.api.test_permissions import call, operations

CANARY = "canary-7f3a"


def test_no_answer_and_no_log_line_holds_a_secret(
    api: APIClient, schema: dict[str, Any], make_backup: Any, make_job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = []
    cluster = {"name": "c", "url": "http://127.0.0.1:9", "api_key": f"{CANARY}-key"}
    s3 = {
        "name": "s", "type": "s3", "s3_endpoint": "http://127.0.0.1:9", "s3_bucket": "bucket", "s3_region": "r",
        "s3_access_key": f"{CANARY}-access", "s3_secret_key": f"{CANARY}-secret",
    }  # fmt: skip
    for path, body in (("clusters", cluster), ("clusters/test", cluster), ("storage/config", s3), ("storage/test", s3)):
        answers += [api.post(f"{V1}/{path}", body, format="json") for _ in range(2)]  # the second time: 409 with a name
        for broken in ({"name": 1}, {"type": "x", "url": "x"}):
            answers.append(api.post(f"{V1}/{path}", body | broken, format="json"))
    recover = {"location": "http://127.0.0.1:9/x", "api_key": f"{CANARY}-source", "checksum": "x"}
    for body in (recover, recover | {"checksum": "0" * 64}):
        answers.append(api.post(f"{V1}/collections/c/snapshots/recover", body, format="json"))
    backup, job = make_backup(), make_job()
    for path in (f"backups/{backup.pk}", f"jobs/{job.pk}", f"jobs/{job.pk}/events"):
        answers.append(api.get(f"{V1}/{path}"))
    for method, path, _ in operations(schema):
        answers.append(call(api, method, path))

    for answer in answers:
        assert CANARY not in answer.content.decode(), answer.content
    assert CANARY not in caplog.text


def test_token_is_shown_once_and_never_logged(api: APIClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = result_of(api.post(f"{V1}/tokens", {"name": "n", "scope": "read"}, format="json"))

    api.get(f"{V1}/jobs", HTTP_API_KEY=made["token"] + "x")

    secret = made["token"].split("_", 2)[2]  # the secret may hold an underscore itself
    assert secret not in caplog.text
    assert secret not in api.get(f"{V1}/tokens").content.decode()
