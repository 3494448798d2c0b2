"""Every answer in its envelope, whatever the client does wrong."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.db import OperationalError
from django.test import RequestFactory
from rest_framework.test import APIClient

from apps.api import exceptions
from apps.api.exceptions import describe
from tests.api.conftest import V1, error_of, result_of

UNKNOWN = ["", "/", "/nope", "/jobs/", "/jobs/x/nope", "/collections/a/b/c", "/storage", "/%00", "/../admin/", "//"]
ANY_METHOD = ["get", "post", "put", "patch", "delete", "options"]


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ANY_METHOD)
def test_unknown_path_is_404_in_the_envelope(anonymous: APIClient, path: str, method: str) -> None:
    response = getattr(anonymous, method)(f"{V1}{path}")

    assert response.status_code == 404
    assert "operation" in error_of(response)


@pytest.mark.parametrize(("path", "allowed"), [("/jobs", {"GET", "POST", "HEAD"}), ("/storage/test", {"POST"})])
@pytest.mark.parametrize("method", ["patch", "delete", "put", "options", "trace"])
def test_wrong_method_is_405_with_allow(api: APIClient, path: str, allowed: set[str], method: str) -> None:
    response = api.generic(method.upper(), f"{V1}{path}")

    assert response.status_code == 405
    assert error_of(response)
    assert {each.strip() for each in response["Allow"].split(",")} == allowed


@pytest.mark.parametrize(
    "body",
    ["{", "", "nope", "[1", '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": "\\u0000"}',
     '{"\\u0000": 1}', "[" * 100_000, '{"a":' * 100 + "1" + "}" * 100, "1" * 5000, "\xff", "[]", "1", "null", '"x"'],
)  # fmt: skip
def test_malformed_json_is_400(api: APIClient, body: str) -> None:
    response = api.generic("POST", f"{V1}/jobs", body.encode("latin-1"), content_type="application/json")

    assert response.status_code == 400, response.content
    assert error_of(response)


def test_wrong_content_type_is_415(api: APIClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = api.generic("POST", f"{V1}/jobs", b"type=backup", content_type=content_type)

        assert response.status_code == 415
        assert "application/json" in error_of(response)


def test_too_large_a_body_is_413(api: APIClient) -> None:
    body = json.dumps({"type": "backup", "collection_name": "x" * 1024 * 1024})

    response = api.generic("POST", f"{V1}/jobs", body, content_type="application/json")

    assert response.status_code == 413
    assert "1 MiB" in error_of(response)


def test_a_client_that_does_not_accept_json_gets_406(api: APIClient) -> None:
    response = api.get(f"{V1}/jobs", HTTP_ACCEPT="text/html")

    assert response.status_code == 406
    assert error_of(response)


def test_format_parameter_means_nothing(api: APIClient) -> None:
    assert api.get(f"{V1}/jobs?format=api").status_code == 200


def test_no_credentials_is_401_with_www_authenticate(anonymous: APIClient) -> None:
    response = anonymous.get(f"{V1}/jobs")

    assert response.status_code == 401
    assert "api-key" in error_of(response)
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_success_is_in_the_envelope_with_an_honest_time(api: APIClient) -> None:
    response = api.get(f"{V1}/storage/config")

    assert result_of(response) == []
    assert 0 < response.json()["time"] < 30


def test_unexpected_failure_is_500_with_a_reference_that_the_log_has(
    api: APIClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("apps.api.v1.jobs.read_page", fail)
    with caplog.at_level(logging.ERROR):
        response = api.get(f"{V1}/jobs")

    assert response.status_code == 500
    sentence = error_of(response)
    assert "secret detail" not in sentence
    assert sentence.split()[-1].rstrip(".") in caplog.text


def test_busy_database_is_503(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("apps.api.v1.jobs.read_page", fail)
    response = api.get(f"{V1}/jobs")

    assert response.status_code == 503
    assert error_of(response)
    assert response["Retry-After"]


def test_head_answers_like_get_without_a_body(api: APIClient) -> None:
    response = api.head(f"{V1}/jobs")

    assert response.status_code == 200
    assert response.content == b""


def test_describe_names_fields_and_flattens() -> None:
    detail = {"type": ["Wrong."], "nodes": {"1": ["Bad address."]}, "non_field_errors": ["All of it."]}

    assert describe(detail) == "type: Wrong. nodes.1: Bad address. All of it."


def test_what_django_refuses_itself_is_in_the_envelope_below_the_api_only() -> None:
    request = RequestFactory().get(f"{V1}/jobs")
    elsewhere = RequestFactory().get("/nowhere")

    answers = {
        400: exceptions.handle_400(request, DisallowedHost()),
        413: exceptions.handle_400(request, RequestDataTooBig()),
        403: exceptions.handle_403(request, PermissionError()),
        404: exceptions.handle_404(request, ValueError()),
        500: exceptions.handle_500(request),
    }

    for status, answer in answers.items():
        assert answer.status_code == status
        assert json.loads(answer.content)["status"]["error"]
    assert b"<html" in exceptions.handle_500(elsewhere).content.lower()
    assert exceptions.handle_400(elsewhere, DisallowedHost()).status_code == 400
