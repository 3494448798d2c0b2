"""The client against a real node over HTTP, and what it makes of answers that are none."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.clusters.qdrant import (
    CollectionNotFound,
    DownloadBroken,
    Endpoint,
    NotQdrant,
    QdrantDenied,
    QdrantFault,
    QdrantNode,
    QdrantRejected,
    QdrantTimeout,
    QdrantTlsRefused,
    QdrantUnreachable,
    SnapshotChanged,
    SnapshotDownload,
    SnapshotNotFound,
    check_collection_name,
    check_node_url,
    check_snapshot_possible,
    create_snapshot,
)
from apps.clusters.qdrant.node import read_answer
from apps.core.abort import Abort
from apps.sandbox import SandboxNode
from tests.support import Collections, wait_until

DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"


@pytest.fixture
def endpoint(node: SandboxNode) -> Endpoint:
    return Endpoint(url=node.url, timeout_seconds=5, stall_seconds=2)


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[QdrantNode]:
    with QdrantNode(endpoint) as client:
        yield client


def test_it_reads_what_a_node_says_of_itself(client: QdrantNode, collections: Collections) -> None:
    collections.create("films", points=100)

    info, placement = client.info(), client.placement("films")

    assert (info.version, info.peer_id) == ("1.18.3", None)
    assert client.collections() == ["films"]
    assert [shard.state for shard in placement.local_shards] == ["Active", "Active"]
    assert client.count("films") == 100 == sum(client.count("films", shard) for shard in (0, 1))
    assert client.is_ready()
    assert client.find_collection("nope") is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"Must provide an API key", QdrantDenied),
        (403, b"Forbidden", QdrantDenied),
        (404, b'{"status":{"error":"Not found: Collection `x` doesn\'t exist!"},"time":0.0}', CollectionNotFound),
        (404, b"Not found: Snapshot missing.snapshot not found", SnapshotNotFound),
        (404, b"", QdrantRejected),
        (408, b"{}", QdrantTimeout),
        (409, b'{"status":{"error":"Wrong input"},"time":0}', QdrantRejected),
        (422, b"not json", QdrantRejected),
        (429, b"slow down", QdrantFault),
        (500, b'{"status":{"error":"Service internal error: disk"},"time":0}', QdrantFault),
        (502, b"<html><body>Bad gateway</body></html>", QdrantFault),
        (302, b"", NotQdrant),
        (200, b"<html>hello</html>", NotQdrant),
        (200, b"[1, 2]", NotQdrant),
        (200, b'{"result": true}', NotQdrant),
    ],
)
def test_answers_are_told_apart_by_status_and_never_quote_a_web_page(
    status: int, body: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        read_answer(Endpoint(url="http://q:6333"), status, body)

    assert "<" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_overloaded_node_says_when_to_ask_again() -> None:
    with pytest.raises(QdrantFault) as caught:
        read_answer(Endpoint(url="http://q:6333"), 429, b"slow down", retry_after="90")

    assert caught.value.retry_after_seconds == 90


def test_nobody_listening_is_unreachable() -> None:
    with (
        QdrantNode(Endpoint(url="http://127.0.0.1:9")) as client,
        pytest.raises(QdrantUnreachable, match="is it running"),
    ):
        client.info()
    with pytest.raises(QdrantUnreachable):
        create_snapshot(Endpoint(url="http://127.0.0.1:9"), "films", 0, Abort())


def test_environment_proxies_and_netrc_are_not_used(
    client: QdrantNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")

    assert client.info().version == "1.18.3"


class TestDownload:
    @pytest.fixture
    def snapshot(self, endpoint: Endpoint, collections: Collections) -> str:
        collections.create("films", points=300, shards=1)
        return create_snapshot(endpoint, "films", 0, Abort()).name

    def read(self, endpoint: Endpoint, snapshot: str) -> bytes:
        with SnapshotDownload(endpoint, "films", 0, snapshot, Abort()) as download:
            buffer = bytearray(download.size_bytes + 10)
            count = download.readinto(memoryview(buffer))
            assert count == download.size_bytes
            assert download.readinto(memoryview(buffer)) == 0
            return bytes(buffer[:count])

    def test_cuts_in_many_places_change_no_byte(self, endpoint: Endpoint, snapshot: str, node: SandboxNode) -> None:
        whole = self.read(endpoint, snapshot)
        for kind, at in (("truncate", 1), ("reset", 1000), ("truncate", 65_536), ("stall", 70_000), ("truncate", 0)):
            node.faults.add(action=kind, method="GET", path=DOWNLOAD, bytes=at, times=1)

        assert self.read(endpoint, snapshot) == whole

    def test_no_byte_is_fetched_twice(self, endpoint: Endpoint, snapshot: str, node: SandboxNode) -> None:
        size = len(self.read(endpoint, snapshot))
        # The node writes its log after the last byte.
        wait_until(lambda: any(entry["path"].endswith(snapshot) for entry in node.log()), seconds=5)
        node.clear_log()
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=size * 9 // 10, times=1)

        self.read(endpoint, snapshot)

        sent = sum(entry["bytes"] for entry in node.log() if entry["method"] == "GET")
        assert sent <= size * 1.1

    def test_a_node_that_is_overloaded_or_away_for_a_moment_costs_no_byte(
        self, endpoint: Endpoint, snapshot: str, node: SandboxNode
    ) -> None:
        whole = self.read(endpoint, snapshot)
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=100_000, times=1)
        node.faults.add(action="status", method="GET", path=DOWNLOAD, status=503, body="later", after=1, times=1)
        node.faults.add(action="reset", method="GET", path=DOWNLOAD, bytes=0, after=2, times=1)
        breaks: list[str] = []

        with SnapshotDownload(endpoint, "films", 0, snapshot, Abort(), on_break=breaks.append) as download:
            buffer = bytearray(download.size_bytes)
            assert download.readinto(memoryview(buffer)) == len(whole)

        assert bytes(buffer) == whole
        assert len(breaks) == 3
        assert "the node answered 503" in breaks[1]

    def test_a_node_that_cannot_be_reached_any_more_is_given_up_with_a_sentence(
        self, endpoint: Endpoint, snapshot: str, node: SandboxNode
    ) -> None:
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=5000, times=1)
        with SnapshotDownload(endpoint, "films", 0, snapshot, Abort()) as download:
            download.readinto(memoryview(bytearray(4000)))
            node.stop()

            with pytest.raises(DownloadBroken, match="broke off after .* cannot be reached"):
                download.readinto(memoryview(bytearray(download.size_bytes)))

    def test_a_snapshot_that_is_gone_before_the_first_byte_is_a_changed_one(
        self, endpoint: Endpoint, node: SandboxNode, collections: Collections
    ) -> None:
        collections.create("films", points=5)

        with pytest.raises(SnapshotChanged), SnapshotDownload(endpoint, "films", 0, "gone.snapshot", Abort()):
            pass

    def test_a_snapshot_made_anew_in_between_is_noticed(
        self, endpoint: Endpoint, snapshot: str, node: SandboxNode, collections: Collections
    ) -> None:
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=5000, times=1)
        with SnapshotDownload(endpoint, "films", 0, snapshot, Abort()) as download:
            download.readinto(memoryview(bytearray(4000)))
            collections.call("DELETE", f"/collections/films/shards/0/snapshots/{snapshot}")

            with pytest.raises(SnapshotChanged, match="gone or was made anew"):
                download.readinto(memoryview(bytearray(download.size_bytes)))

    def test_an_abort_breaks_a_read_that_hangs(self, snapshot: str, node: SandboxNode) -> None:
        endpoint = Endpoint(url=node.url, stall_seconds=60)
        node.faults.add(action="stall", method="GET", path=DOWNLOAD, bytes=5000)
        abort = Abort()
        threading.Timer(0.5, lambda: abort.trip(KeyboardInterrupt("stop"))).start()

        with (
            SnapshotDownload(endpoint, "films", 0, snapshot, abort) as download,
            pytest.raises(KeyboardInterrupt, match="stop"),
        ):
            download.readinto(memoryview(bytearray(download.size_bytes)))


class TestNames:
    @pytest.mark.parametrize("name", ["films", "my shop.v2", "łódź", "..hidden", "a" * 255, "日本"])
    def test_good_ones(self, name: str) -> None:
        check_collection_name(name)

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\x7fb", *'<>:"|?*', "a" * 256, "ł" * 128])
    def test_bad_ones(self, name: str) -> None:
        with pytest.raises(ValueError, match="collection name"):
            check_collection_name(name)

    def test_long_ones_cannot_be_snapshotted(self) -> None:
        check_snapshot_possible("a" * 190)
        with pytest.raises(ValueError, match="file name becomes too long"):
            check_snapshot_possible("ł" * 96)

    @pytest.mark.parametrize("url", ["http://q:6333", "https://q.example", "http://[::1]:6333/base"])
    def test_good_addresses(self, url: str) -> None:
        check_node_url(url)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "q:6333",
            "ftp://q",
            "http://",
            "http://u:p@q",
            "http://q?x=1",
            "http://q#x",
            "http://q /",
            "http://q:99999",
        ],
    )
    def test_bad_addresses(self, url: str) -> None:
        with pytest.raises(ValueError, match="ddress"):
            check_node_url(url)


class TestTls:
    """A node behind a certificate of an own CA."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> tuple[str, str]:
        """Return an address that answers as Qdrant over TLS, and the CA's PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        chain = tmp_path / "chain.pem"
        chain.write_bytes(
            pem
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = (
                    b'{"title":"qdrant - vector search engine","version":"1.18.3"}'
                    if self.path == "/"
                    else b'{"result":{"status":"disabled"},"status":"ok","time":0}'
                )
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"https://localhost:{server.server_address[1]}", pem.decode()

    def version(self, endpoint: Endpoint) -> str:
        with QdrantNode(endpoint) as client:
            return client.info().version

    def test_it_is_trusted_with_the_ca(self, authority: tuple[str, str]) -> None:
        url, ca = authority

        assert self.version(Endpoint(url=url, ca=ca)) == "1.18.3"
        endpoint = Endpoint(url=url, ca=ca)
        connection = endpoint.connect(5)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()

    def test_it_is_refused_without(self, authority: tuple[str, str]) -> None:
        with pytest.raises(QdrantTlsRefused, match="certificate"):
            self.version(Endpoint(url=authority[0]))

    def test_it_is_taken_as_it_is_when_told_so(self, authority: tuple[str, str]) -> None:
        assert self.version(Endpoint(url=authority[0], verify_tls=False)) == "1.18.3"

    def test_a_ca_that_is_none_is_said_so(self) -> None:
        with pytest.raises(ValueError, match="not PEM"):
            Endpoint(url="https://q", ca="hello").ssl_context()
