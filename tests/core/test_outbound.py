"""One policy for every address: what it refuses, however it is written, and where a connection has really led."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from apps.clusters.qdrant import Endpoint, QdrantNode
from apps.core.outbound import AddressRefused, Guard, Policy, Rules, current_policy, host_of, split_url

NAMES = {
    "public.example": ["203.0.113.7"],
    "private.example": ["10.1.2.3"],
    "both.example": ["203.0.113.7", "169.254.169.254"],
    "six.example": ["2001:db8::7"],
    "hidden.example": ["::ffff:169.254.169.254"],
    "localhost": ["127.0.0.1", "::1"],
}


def resolve(host: str, port: int) -> list[str]:
    if host not in NAMES:
        raise OSError("no such host")
    return NAMES[host]


def policy(allow: str = "", deny: str = "") -> Policy:
    return Policy(Rules.of(allow.split(",")), Rules.of(deny.split(",")))


def check(url: str, given: Policy | None = None) -> None:
    (given or Policy()).check_url(url, resolve=resolve)


@pytest.mark.parametrize(
    "url",
    [
        "http://public.example/x", "https://public.example:8443/x?signature=1", "http://private.example",
        "http://localhost:6333/", "http://127.0.0.1:6333/", "http://[::1]:6333/", "http://10.0.0.1", "http://192.168.1.9",
        "http://[fd12::1]/", "HTTP://PUBLIC.EXAMPLE/", "http://public.example./", "http://six.example",
        "http://[::ffff:10.0.0.1]/", "http://100.64.0.1",
    ],
)  # fmt: skip
def test_by_default_the_internet_and_private_networks_are_open(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "http://169.254.169.254./", "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/", "http://[::169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://[fd20:ce::254]/",
        "http://0.0.0.0/", "http://[::]/", "http://0.1.2.3/", "http://224.0.0.1/", "http://[ff02::1]/",
        "http://255.255.255.255/", "http://240.0.0.1/", "http://192.0.0.192/", "http://100.100.100.200/",
        "http://168.63.129.16/", "http://both.example/", "http://hidden.example/", "http://metadata.google.internal/",
        "http://Metadata.Google.Internal./", "http://[fec0::1]/", "http://[4000::1]/",
    ],
)  # fmt: skip
def test_metadata_link_local_multicast_and_reserved_are_closed(url: str) -> None:
    with pytest.raises(AddressRefused):
        check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://2852039166/", "http://0xa9fea9fe/", "http://0xA9.0xFE.0xA9.0xFE/", "http://0251.0376.0251.0376/",
        "http://169.254.43518/", "http://127.1/", "http://0177.0.0.1/", "http://0x7f.1/", "http://127.0.0.1.0x1",
        "http://1.2.3.4.5/", "http://１６９.254.169.254/", "http://169。254。169。254/", "http://bücher.example/",
        "http://%31%36%39.254.169.254/", "http://[fe80::1%25eth0]/", "http://", "http:///x", "http:x", "http://./",
        "http://../", "http://a..b/", "http://-a.example/", "http://a b/", "http://a\\@b/", "http://a\n/", "\thttp://a/",
        "http://public.example\\@169.254.169.254/", "http://public.example:0/", "http://public.example:65536/",
        "http://public.example:x/", "http://[::1/", "ftp://public.example/", "file:///etc/passwd", "//public.example/",
        "javascript:alert(1)", "",
        "gopher://x",
        "http://" + "a" * 64 + ".example/", "http://" + "a." * 130 + "example/",
    ],
)  # fmt: skip
def test_what_readers_could_understand_in_different_ways_is_no_address(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        check(url)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://user:canary@public.example/", "http://canary@public.example/", "http://@h/"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        check(url)

    assert "canary" not in str(refused.value)


def test_refusals_do_not_repeat_the_query() -> None:
    for url in ("http://169.254.169.254/?X-Amz-Signature=canary", "http://nowhere.example/?token=canary"):
        with pytest.raises(AddressRefused) as refused:
            check(url)
        assert "canary" not in str(refused.value)


def test_what_is_denied_is_refused_by_name_and_by_address() -> None:
    given = policy(deny="*.example,10.0.0.0/8,127.0.0.0/8,::1")

    for url in ("http://public.example/", "http://10.9.9.9/", "http://[::ffff:10.9.9.9]/", "http://localhost/"):
        with pytest.raises(AddressRefused, match="BACKUPMGR_OUTBOUND_DENY"):
            check(url, given)
    check("http://192.168.1.1/", given)


def test_when_anything_is_allowed_nothing_else_is() -> None:
    given = policy(allow="*.example,10.0.0.0/8")

    for url in ("http://public.example/", "http://10.9.9.9/"):
        check(url, given)
    for url in ("http://localhost/", "http://192.168.1.1/", "http://8.8.8.8/"):
        with pytest.raises(AddressRefused, match="BACKUPMGR_OUTBOUND_ALLOW"):
            check(url, given)


def test_a_name_that_is_allowed_still_may_not_lead_to_what_is_closed() -> None:
    with pytest.raises(AddressRefused):
        check("http://both.example/", policy(allow="both.example"))
    with pytest.raises(AddressRefused, match="DENY"):
        check("http://private.example/", policy(allow="private.example", deny="10.0.0.0/8"))


def test_a_link_local_network_can_be_opened_on_purpose_only() -> None:
    check("http://169.254.7.1/", policy(allow="169.254.7.0/24"))
    for allow in ("0.0.0.0/0", "*"):
        with pytest.raises(AddressRefused):
            check("http://169.254.7.1/", policy(allow=allow))
    with pytest.raises(AddressRefused):
        check("http://169.254.7.1/", policy(allow="169.254.7.0/24", deny="169.254.0.0/16"))


def test_a_name_nobody_here_can_look_up_is_refused_unless_it_is_allowed_by_name() -> None:
    with pytest.raises(AddressRefused, match="looked up"):
        check("http://only-the-node-knows/")
    check("http://only-the-node-knows/", policy(allow="only-the-node-*"))


@pytest.mark.parametrize("entry", ["http://x", "10.0.0.0/33", "a b", "ex/ample", "1.2.3", "host:80", "*.1"])
def test_entries_that_are_neither_network_nor_name_are_named(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Rules.of([entry])


def test_the_settings_are_read_each_time(settings: Any) -> None:
    current_policy().check_host("10.0.0.1")
    settings.BACKUPMGR_OUTBOUND_DENY = ["10.0.0.0/8"]

    with pytest.raises(AddressRefused):
        current_policy().check_host("10.0.0.1")


def test_hosts_are_compared_in_one_form() -> None:
    assert host_of(split_url("https://S3.Example.COM.:443/x")) == "s3.example.com"


# --- connections -------------------------------------------------------------------------------------------
class _Handler(http.server.BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A server on 127.0.0.1, and what it was asked."""
    seen: list[str] = []
    handler = type("Handler", (_Handler,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port, seen
        running.shutdown()


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stood for something harmless when it was checked, and stands for 127.0.0.1 now."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: real("127.0.0.1" if host == "rebound.example" else host, *args, **more),
    )


GUARD = Guard(policy(deny="127.0.0.0/8"), "rebound.example")


def test_a_name_that_leads_elsewhere_by_now_is_noticed_before_a_byte_is_sent(
    rebound: None, server: tuple[int, list[str]]
) -> None:
    port, seen = server
    endpoint = Endpoint(f"http://rebound.example:{port}", api_key="canary", guard=GUARD)

    with QdrantNode(endpoint) as node, pytest.raises(AddressRefused, match="127.0.0.1"):
        node.call("GET", "/")
    with pytest.raises(AddressRefused, match="127.0.0.1"):
        endpoint.connect(5)
    assert seen == []


def test_without_a_reason_to_refuse_the_connection_is_used(rebound: None, server: tuple[int, list[str]]) -> None:
    port, seen = server

    with QdrantNode(Endpoint(f"http://rebound.example:{port}", guard=Guard(Policy(), "rebound.example"))) as node:
        assert node.send("GET", "/here").status_code == 200
    assert seen == ["/here"]


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_connections_to_buckets_are_checked_as_well(
    rebound: None, server: tuple[int, list[str]], settings: Any, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.storage.models import StorageConfig
    from apps.storage.probe import probe_store
    from apps.storage.validation import check_config

    if style == "virtual":
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *args, **more: real(host.removeprefix("bucket."), *args, **more)
        )
    port, seen = server
    settings.BACKUPMGR_OUTBOUND_DENY = ["127.0.0.0/8"]
    config = StorageConfig(
        name="n", type="s3", s3_endpoint=f"http://rebound.example:{port}", s3_bucket="bucket", s3_region="r",
        s3_access_key="AK", s3_secret_key="SK", s3_addressing_style=style,
    )  # fmt: skip
    assert check_config(config) == {}

    result = probe_store(config)

    assert not result.success
    assert "127.0.0.1" in result.message and "BACKUPMGR_OUTBOUND_DENY" in result.message
    assert seen == []


def test_storages_and_clusters_are_checked_when_they_are_saved(db: None, settings: Any) -> None:
    from apps.clusters.models import Cluster
    from apps.clusters.probe import probe_cluster
    from apps.clusters.services import ClusterInvalid, create_cluster
    from apps.storage.errors import StorageInvalid
    from apps.storage.services import create_storage

    bucket = {"name": "n", "type": "s3", "s3_bucket": "bucket", "s3_region": "r", "s3_access_key": "a"}
    for url in ("http://169.254.169.254", "http://0x7f.1:9000", "http://metadata.google.internal"):
        with pytest.raises(StorageInvalid, match="endpoint"):
            create_storage(data=bucket | {"s3_secret_key": "s", "s3_endpoint": url})
        with pytest.raises(ClusterInvalid):
            create_cluster(data={"name": "n", "url": url})
        assert not probe_cluster(Cluster(name="n", url=url)).success
