"""Where messages may be sent: the ways to write an address that nobody should be sent to, all refused; others pass."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug import Response

from apps.alerts.models import Channel, DeliveryState
from apps.alerts.services import ChannelInvalid, save_channel
from apps.alerts.services import test_channel as try_channel
from tests.alerts.conftest import NOW

pytestmark = pytest.mark.django_db

METADATA = [
    # as numbers, octal, hexadecimal, and shortened
    "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://0xA9.0xFE.0xA9.0xFE/",
    "http://169.254.43518/", "http://0xa9.254.0251.254/",
    # IPv4 hidden in IPv6: mapped, compatible, NAT64, 6to4, Teredo
    "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/", "http://[::169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b::169.254.169.254]/", "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:a9fe:a9fe::1]/",
    # metadata, link-local, multicast, reserved
    "http://169.254.169.254/latest/meta-data", "http://169.254.169.254./", "http://169.254.1.1/", "http://0.0.0.0/",
    "http://192.0.0.192/", "http://100.100.100.200/", "http://168.63.129.16/", "http://224.0.0.1/",
    "http://255.255.255.255/", "http://[::]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/", "http://[ff02::1]/", "http://[fec0::1]/",
    # names of metadata services
    "http://metadata.google.internal/", "http://Metadata.Google.Internal./", "http://metadata/", "http://instance-data/",
    # what readers take apart differently
    "http://public.example@169.254.169.254/", "http://public.example\\@169.254.169.254/",
    "http://169.254.169.254\\.public.example/", "http://user:pw@example.com/", "http://%31%36%39.254.169.254/",
    "http://１６９.254.169.254/", "http://169。254。169。254/", "http:///169.254.169.254/", "http://169.254.169.254:99999/",
    # other ways out
    "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)", "//169.254.169.254/",
]  # fmt: skip
#: Refused where the operator closes loopback and private networks (BACKUPMGR_OUTBOUND_DENY).
INSIDE = [
    "http://127.0.0.1/", "http://127.0.0.1./", "http://127.8.8.8/", "http://[::1]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://10.1.2.3/",
    "http://[::ffff:10.1.2.3]/", "http://[2002:a01:203::]/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/",
    "http://127.1/",
]  # fmt: skip
OPEN = [
    "https://hooks.example.com/services/T0/B0/key", "http://192.0.2.7:8080/x", "https://[2001:db8::7]/x",
    "https://hooks.example.com./x", "https://HOOKS.example.com/x?to=http://169.254.169.254/",
    "https://example.com/@169.254.169.254/", "http://10.1.2.3/inside", "https://example.com/#@169.254.169.254/",
]  # fmt: skip
KINDS = ["webhook", "ping", "kuma", "url"]
CLOSED = ["127.0.0.0/8", "::1", "10.0.0.0/8"]


def save(kind: str, address: str) -> Channel:
    return save_channel(channel=None, data={"name": "x", "kind": kind, "address": address})


def test_there_are_as_many_as_we_say() -> None:
    assert len(set(METADATA)) == 47
    assert len(set(INSIDE)) == 15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", METADATA)
def test_addresses_that_nobody_may_be_sent_to_are_refused_in_every_kind(url: str, kind: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        save(kind, url)
    assert set(refused.value.problems) == {"address"}


@pytest.mark.parametrize("url", INSIDE)
def test_what_the_operator_closes_is_closed_however_it_is_written(url: str, settings: Any) -> None:
    settings.BACKUPMGR_OUTBOUND_DENY = CLOSED
    for kind in KINDS:
        with pytest.raises(ChannelInvalid):
            save(kind, url)


@pytest.mark.parametrize("url", OPEN)
@pytest.mark.parametrize("kind", KINDS)
def test_others_pass(url: str, kind: str) -> None:
    assert save(kind, url).masked.startswith(("http://", "https://"))


@pytest.mark.parametrize(
    "url",
    [
        "gotify://169.254.169.254/token", "gotify://2852039166/token", "gotify://0xa9fea9fe/token",
        "gotify://[::ffff:a9fe:a9fe]/token", "gotify://[fe80::1]/token", "gotify://metadata/token",
        # Another reader would take what follows the last @ for the host.
        "gotify://169.254.169.254/token?x=@public.example", "gotifys://169.254.169.254:443/token/@public.example",
        "ntfy://169.254.169.254/topic", "ntfys://user:pw@169.254.169.254/topic", "ntfy://2852039166/topic",
        "mmost://169.254.169.254/aaaaaaaaaaaaaaaaaaaaaaaa", "matrix://u:p@169.254.169.254/#room",
        "rocket://u:p@169.254.169.254/#room",
    ],
)  # fmt: skip
def test_hosts_in_apprise_urls_are_judged_as_apprise_reads_them(url: str) -> None:
    pytest.importorskip("apprise")
    with pytest.raises(ChannelInvalid) as refused:
        save("apprise", url)
    assert set(refused.value.problems) == {"address"}


@pytest.mark.parametrize("url", ["ntfy://topic", "gotify://push.example.com/token", "ntfys://push.example.com/topic"])
def test_other_apprise_urls_pass(url: str) -> None:
    pytest.importorskip("apprise")
    assert save("apprise", url).pk


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """A name that stood for something harmless when it was entered, and stands for this host by now: closed."""
    settings.BACKUPMGR_OUTBOUND_DENY = CLOSED
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: real("127.0.0.1" if host == "rebound.example" else host, *args, **more),
    )


@pytest.mark.parametrize("kind", [*KINDS, "apprise"])
def test_a_name_that_leads_elsewhere_by_now_gets_no_byte(rebound: None, httpserver: Any, kind: str) -> None:
    if kind == "apprise":
        pytest.importorskip("apprise")
    scheme = "gotify" if kind == "apprise" else "http"
    made = save(kind, f"{scheme}://rebound.example:{httpserver.port}/x")

    delivery = try_channel(channel=made, now=NOW, clock=lambda: NOW)

    assert delivery.state == DeliveryState.DEAD
    assert "not allowed here" in delivery.error
    assert httpserver.log == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", KINDS)
def test_no_redirect_is_followed(channel: Callable[..., Channel], httpserver: Any, status: int, kind: str) -> None:
    httpserver.expect_request("/elsewhere").respond_with_data("secret")
    to = {"Location": httpserver.url_for("/elsewhere")}
    for path in ("/ops", "/ops/log"):
        httpserver.expect_request(path).respond_with_response(Response(status=status, headers=to))

    delivery = try_channel(channel=channel(kind=kind), now=NOW, clock=lambda: NOW)

    assert delivery.error == "The receiver redirects to another address: enter that one."
    assert len(httpserver.log) == 1


def test_apprise_follows_no_redirect(httpserver: Any) -> None:
    pytest.importorskip("apprise")
    httpserver.expect_request("/message").respond_with_response(
        Response(status=307, headers={"Location": httpserver.url_for("/elsewhere")})
    )
    made = save("apprise", f"gotify://127.0.0.1:{httpserver.port}/token")

    assert try_channel(channel=made, now=NOW, clock=lambda: NOW).state == DeliveryState.DEAD
    assert {request.path for request, _ in httpserver.log} == {"/message"}
