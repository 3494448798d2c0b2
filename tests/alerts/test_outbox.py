"""Deliveries leave at least once, under one key, and a receiver that fails keeps nobody from anything."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone
from werkzeug import Response

from apps.alerts import outbox
from apps.alerts.messages import delivery_key
from apps.alerts.models import Channel, Delivery, DeliveryState
from apps.alerts.outbox import claim, deliver_due, send_claimed
from apps.alerts.senders.webhook import signature
from apps.alerts.services import ChannelInvalid, save_channel
from apps.alerts.services import test_channel as try_channel
from tests.alerts.conftest import NOW
from tests.support import worker_environment

pytestmark = pytest.mark.django_db


def write(channel: Channel, name: str = "a", **fields: Any) -> Delivery:
    values = {
        "channel": channel, "kind": "alert", "key": delivery_key(channel.pk, name), "subject": "[backupmgr] products",
        "text": "products on berlin: the node refused.", "payload": {"event": "alert"}, "next_try_at": NOW,
        "created_at": NOW,
    }  # fmt: skip
    return Delivery.objects.create(**(values | fields))


def at(moment: datetime) -> Callable[[], datetime]:
    return lambda: moment


def test_a_webhook_is_signed_and_carries_its_key(channel: Callable[..., Channel], httpserver: Any) -> None:
    httpserver.expect_request("/ops", method="POST").respond_with_data("ok")
    delivery = write(channel(signing_key="shared-key"))

    assert deliver_due(clock=at(NOW)) == 1

    ((request, _),) = httpserver.log
    assert request.headers["Idempotency-Key"] == str(delivery.key)
    stamp = request.headers["X-Backupmgr-Timestamp"]
    assert abs(int(stamp) - time.time()) < 60
    assert request.headers["X-Backupmgr-Signature"] == f"sha256={signature('shared-key', stamp, request.data)}"
    assert json.loads(request.data)["event"] == "alert"
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == (DeliveryState.SENT, 1)
    assert deliver_due(clock=at(NOW)) == 0


def test_a_receiver_that_fails_is_asked_again_ever_less_often_and_given_up_after_a_day(
    channel: Callable[..., Channel], httpserver: Any
) -> None:
    httpserver.expect_request("/ops").respond_with_data("no room", status=500, content_type="text/plain")
    delivery = write(channel())
    tries: list[float] = []
    for minute in range(26 * 60):
        now = NOW + timedelta(minutes=minute)
        before = len(httpserver.log)
        deliver_due(clock=at(now))
        tries += [minute] * (len(httpserver.log) - before)

    assert tries[:5] == [0, 1, 6, 21, 81]
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.DEAD
    assert delivery.error == "The receiver answered 500: no room."
    assert delivery.channel.last_error


def test_one_message_claimed_twice_is_sent_once(channel: Callable[..., Channel], httpserver: Any) -> None:
    httpserver.expect_request("/ops").respond_with_data("ok")
    delivery = write(channel())

    first, second = claim(delivery.pk, now=NOW), claim(delivery.pk, now=NOW)

    assert first is not None
    assert second is None
    assert send_claimed(first, at(NOW))
    assert len(httpserver.log) == 1


def test_a_sender_that_stalls_loses_its_claim_and_cannot_undo_the_next_one(
    channel: Callable[..., Channel], httpserver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/ops").respond_with_data("ok")
    delivery = write(channel())
    stalled = claim(delivery.pk, now=NOW)
    assert stalled is not None
    deliver_due(clock=at(NOW + outbox.LEASE + timedelta(seconds=1)))

    monkeypatch.setattr("apps.alerts.outbox.send", _refuse)
    send_claimed(stalled, at(NOW + timedelta(minutes=2)))

    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.SENT


def _refuse(*args: Any) -> None:
    raise outbox.NotDelivered("Too late.")


KILLED = """
import os, django
django.setup()
from django.utils import timezone
from apps.alerts import outbox
real = outbox.send
def send_and_die(channel, delivery):
    real(channel, delivery)
    os.kill(os.getpid(), 9)
outbox.send = send_and_die
outbox.deliver_due(clock=timezone.now)
"""


@pytest.mark.django_db(transaction=True)
def test_a_kill_between_sending_and_saying_so_repeats_the_message_once_under_the_same_key(
    channel: Callable[..., Channel], httpserver: Any
) -> None:
    httpserver.expect_request("/ops").respond_with_data("ok")
    delivery = write(channel(), next_try_at=timezone.now(), created_at=timezone.now())

    killed = subprocess.run([sys.executable, "-c", KILLED], env=worker_environment(), timeout=60, check=False)

    assert killed.returncode == -signal.SIGKILL
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.SENDING
    assert deliver_due(clock=timezone.now) == 0  # its lease still runs
    assert deliver_due(clock=at(timezone.now() + outbox.LEASE + timedelta(seconds=5))) == 1
    keys = [request.headers["Idempotency-Key"] for request, _ in httpserver.log]
    assert keys == [str(delivery.key)] * 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(status=302, headers={"Location": "http://169.254.169.254/"}), "redirects"),
        (Response("<html>secret page</html>", status=403, content_type="text/html"), "answered 403."),
    ],
)
def test_what_a_receiver_answers_is_told_in_words(
    channel: Callable[..., Channel], httpserver: Any, answer: Response, words: str
) -> None:
    httpserver.expect_request("/ops").respond_with_response(answer)

    delivery = try_channel(channel=channel(), now=NOW, clock=at(NOW))

    assert delivery.state == DeliveryState.DEAD
    assert words in delivery.error
    assert "secret" not in delivery.error


def test_a_receiver_that_hangs_is_left(channel: Callable[..., Channel], httpserver: Any, settings: Any) -> None:
    settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS = 0.3
    httpserver.expect_request("/ops").respond_with_handler(lambda request: time.sleep(1.5) or Response("ok"))

    assert "did not answer" in try_channel(channel=channel(), now=NOW, clock=at(NOW)).error


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/", "http://2852039166/", "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/", "http://[::ffff:169.254.169.254]/", "http://metadata.google.internal/",
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "http://user:pw@example.com/",
        "http://exa mple.com/", "http:///nowhere", "http://１２７.0.0.1/", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_addresses_that_nobody_may_be_sent_to_are_refused(url: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        save_channel(channel=None, data={"name": "bad", "kind": "webhook", "address": url})
    assert "address" in refused.value.problems


def test_a_name_that_leads_elsewhere_later_is_refused_at_the_connection(
    channel: Callable[..., Channel], httpserver: Any, settings: Any
) -> None:
    made = channel()
    settings.BACKUPMGR_OUTBOUND_DENY = ["127.0.0.0/8", "::1"]

    assert try_channel(channel=made, now=NOW, clock=at(NOW)).state == DeliveryState.DEAD
    assert httpserver.log == []


def test_mail_goes_through_djangos_backend(db: None, settings: Any) -> None:
    settings.BACKUPMGR_EMAIL_CONFIGURED = True
    made = save_channel(
        channel=None, data={"name": "mail", "kind": "email", "address": "ana@example.com, ben@example.com"}
    )
    write(made)

    assert deliver_due(clock=at(NOW)) == 1

    (message,) = mail.outbox
    assert message.to == ["ana@example.com", "ben@example.com"]
    assert message.subject == "[backupmgr] products"
    assert "ana@" not in made.masked


def test_a_mail_server_that_refuses_is_told_in_words(db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.BACKUPMGR_EMAIL_CONFIGURED = True
    made = save_channel(channel=None, data={"name": "mail", "kind": "email", "address": "ana@example.com"})

    def refuse(self: Any, messages: Any) -> int:
        raise smtplib.SMTPAuthenticationError(535, b"wrong password for user canary")

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)

    assert try_channel(channel=made, now=NOW, clock=at(NOW)).error == "The mail server refuses user name or password."


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": " x"}, "name"), ({"kind": "pigeon"}, "kind"), ({"address": ""}, "address"),
        ({"kind": "email", "address": "nobody"}, "address"), ({"rules": ["nonsense"]}, "rules"),
        ({"clusters": "berlin"}, "clusters"), ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"digest": "hourly"}, "digest"), ({"kind": "apprise", "address": "syslog://"}, "address"),
        ({"kind": "apprise", "address": "dbus://"}, "address"),
    ],
)  # fmt: skip
def test_each_wrong_field_is_named(db: None, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        save_channel(channel=None, data={"name": "x", "kind": "webhook", "address": "http://127.0.0.1:9/"} | fields)
    assert field in refused.value.problems


def test_apprise_carries_it_to_a_push_service(db: None, httpserver: Any) -> None:
    pytest.importorskip("apprise")
    httpserver.expect_request("/").respond_with_json({"id": "x"})
    httpserver.expect_request("/alerts").respond_with_json({"id": "x"})
    made = save_channel(
        channel=None,
        data={"name": "push", "kind": "apprise", "address": f"ntfy://127.0.0.1:{httpserver.port}/alerts"},
    )
    write(made)

    assert deliver_due(clock=at(NOW)) == 1
    assert b"products" in b"".join(request.data for request, _ in httpserver.log)
    assert made.masked == "ntfy://…"


def test_why_a_push_service_took_no_message_is_told_without_its_secrets(db: None, httpserver: Any) -> None:
    pytest.importorskip("apprise")
    httpserver.expect_request("/").respond_with_json({"code": 403, "error": "no"}, status=403)
    made = save_channel(
        channel=None,
        data={
            "name": "push",
            "kind": "apprise",
            "address": f"ntfy://Zebra7:pass%2Fword9@127.0.0.1:{httpserver.port}/topic-5x",
        },
    )
    write(made)

    assert deliver_due(clock=at(NOW)) == 0

    made.refresh_from_db()
    assert "did not take the message" in made.last_error
    assert "403" in made.last_error
    assert not any(secret in made.last_error.lower() for secret in ("zebra7", "pass", "word9", "topic-5x", "127.0.0.1"))


def test_no_piece_of_an_address_is_left_in_a_reason() -> None:
    from apps.alerts.senders.apprise import without_secrets

    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?note=a%20b"
    said = "Failed: t1jj3t3l2\n /A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ 'a b' a%20b error=404."
    assert without_secrets(said, url) == "Failed: … /…/… '…' … error=404."
