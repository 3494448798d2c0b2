"""The chain of causes in words."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
import requests
from botocore.exceptions import ClientError
from django.db import OperationalError

from apps.core.causes import causes_of, is_refused_certificate, mask
from apps.core.errors import BackupmgrError, Unavailable


def raised(*errors: BaseException) -> BaseException:
    """The last of `errors`, each raised because of the one before it."""
    caused = errors[0]
    for error in errors[1:]:
        error.__cause__ = caused
        caused = error
    return caused


def test_the_chain_is_told_from_the_nearest_to_the_first() -> None:
    reset = ConnectionResetError(errno.ECONNRESET, "reset by peer")
    error = raised(reset, Unavailable("The storage broke off."), BackupmgrError("The backup failed."))

    assert causes_of(error) == ["The storage broke off.", "connection reset by peer"]


def test_what_was_raised_while_another_error_was_handled_has_it_as_its_cause() -> None:
    with pytest.raises(BackupmgrError) as caught:
        try:
            raise TimeoutError
        except TimeoutError:
            raise BackupmgrError("No answer.")  # noqa: B904 - that is what is tested

    assert causes_of(caught.value) == ["it timed out"]


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host name could not be looked up"),
        (OSError(errno.ENOSPC, "no"), "no space left on device"),
        (OperationalError("database is locked\nSQL: SELECT secret"), "the database: database is locked"),
        (
            ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "PutObject"),
            "the storage answered SlowDown (503)",
        ),
        (requests.ConnectionError("http://u:p@host/?X-Amz-Signature=1"), "connection error"),
        (KeyError("api-key CANARY"), "an internal error (KeyError)"),
    ],
)
def test_each_kind_of_cause_has_words_and_none_gives_away_a_secret(cause: BaseException, words: str) -> None:
    assert causes_of(raised(cause, BackupmgrError("It failed."))) == [words]


def test_an_error_without_causes_and_a_loop_of_causes_end() -> None:
    first, second = BackupmgrError("one"), BackupmgrError("two")
    first.__cause__, second.__cause__ = second, first

    assert causes_of(BackupmgrError("alone")) == []
    assert causes_of(first) == ["two"]


@pytest.mark.parametrize(
    "text",
    [
        "https://s3/b/k?X-Amz-Credential=CANARY%2F2026&X-Amz-Signature=CANARY",
        "connect postgres://user:CANARY@db/name",
        "api-key: CANARY",
        'headers {"Authorization": "Bearer CANARY"}',
        "password=CANARY host=db",
    ],
)
def test_texts_of_others_lose_what_looks_like_a_secret(text: str) -> None:
    assert "CANARY" not in mask(text)


def test_a_refused_certificate_is_found_below_what_libraries_wrap_around_it() -> None:
    refused = ssl.SSLCertVerificationError(1, "self-signed certificate")

    assert is_refused_certificate(raised(refused, requests.exceptions.SSLError("wrapped")))
    assert not is_refused_certificate(raised(ssl.SSLEOFError(8, "EOF"), requests.exceptions.SSLError("wrapped")))
