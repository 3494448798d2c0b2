"""Secrets go in everywhere and come out nowhere: no answer, page, log line, event, file or row holds one.

Every secret that the product ever gets hold of is a canary here, a text that occurs nowhere else. The test works with
them, through the API, the admin and the jobs, right and wrong, and then searches everything that came of it.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from apps.api.operations import run_operation
from apps.api.services import create_token
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job, JobEvent
from apps.jobs.operations import NodeOperation
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from apps.storage.s3 import S3Store
from tests.api.canaries import Canaries, Harvest, database_leaks, wrong_bodies
from tests.api.conftest import V1, token_client
from tests.support import RunJob, story

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]

DEAD = "http://127.0.0.1:9"
#: More pages than this admin has: the crawl must come to its end by itself.
MOST_PAGES = 1500


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def harvest() -> Harvest:
    return Harvest()


@pytest.fixture
def node(tmp_path: Path, canaries: Canaries) -> Iterator[SandboxNode]:
    """A node that wants its key."""
    with SandboxNode(tmp_path / "node", api_key=canaries["key of the cluster"]) as started:
        yield started


class Presigned(list[str]):
    """Presigned addresses that were made; with `quoted`, the node refuses them and repeats each one, as Qdrant does."""

    quoted = False


@pytest.fixture
def presigned(monkeypatch: pytest.MonkeyPatch, canaries: Canaries, node: SandboxNode) -> Presigned:
    """The presigned addresses that were made; their signatures become canaries."""
    made = Presigned()
    original = S3Store.presign

    def presign(self: S3Store, key: str, seconds: int) -> str:
        url = original(self, key, seconds)
        canaries.known[f"signature {len(made)}"] = parse_qs(urlsplit(url).query)["X-Amz-Signature"][0]
        made.append(url)
        node.faults.clear()
        if made.quoted:
            sentence = f"Bad request: Failed to download snapshot from {url}: status - 403 Forbidden ({quote(url)})"
            body = {"status": {"error": sentence}, "time": 0}
            status = (400, 500, 404)[len(made) % 3]
            node.faults.add(action="status", method="PUT", path=".*/snapshots/recover", status=status, body=body)
        return url

    monkeypatch.setattr(S3Store, "presign", presign)
    return made


def bucket_fields(s3_config: StorageConfig, **changes: Any) -> dict[str, Any]:
    return {
        "name": "bucket", "type": "s3", "s3_endpoint": s3_config.s3_endpoint, "s3_bucket": s3_config.s3_bucket,
        "s3_region": s3_config.s3_region, "s3_access_key": s3_config.s3_access_key,
        "s3_secret_key": s3_config.s3_secret_key.reveal(), "s3_prefix": s3_config.s3_prefix,
    } | changes  # fmt: skip


def by_api(harvest: Harvest, api: APIClient, canaries: Canaries, node: SandboxNode, s3_config: StorageConfig) -> None:
    """Register, change, test and recover; well, and in every wrong way."""

    def send(method: str, path: str, body: Any) -> Any:
        return harvest.keep(f"{method} {path}", getattr(api, method)(f"{V1}/{path}", body, format="json"))

    cluster = {"name": "main", "url": node.url, "api_key": canaries["key of the cluster"]}
    dead = {"name": "dead", "url": DEAD, "api_key": canaries["key of the dead cluster"]}
    dead["restore_api_key"] = canaries["key for restores of the dead cluster"]
    wrong = {"name": "wrong", "url": node.url, "api_key": canaries["wrong key of a cluster"]}
    for body in (cluster, dead, wrong):
        send("post", "clusters/test", body)
        assert send("post", "clusters", body).status_code == 200
        for broken in wrong_bodies(body, "api_key"):
            send("post", "clusters/test", broken)
            send("post", "clusters", broken | {"url": f"http://ana:{canaries['password in an address']}@h"})
    bucket = bucket_fields(s3_config)
    refused = bucket | {"name": "refused", "s3_secret_key": canaries["wrong secret of a storage"]}
    away = refused | {"name": "away", "s3_endpoint": DEAD, "s3_access_key": canaries["access key of a storage"]}
    for body in (bucket, refused, away):
        send("post", "storage/test", body)
        assert send("post", "storage/config", body).status_code == 200
        for broken in wrong_bodies(body, "s3_secret_key"):
            send("post", "storage/test", {**broken, "s3_endpoint": broken["s3_endpoint"] and DEAD} if
                 "s3_endpoint" in broken else broken)  # fmt: skip
    endpoint = f"https://ana:{canaries['password in an address']}@s3.example.com"
    send("post", "storage/config", away | {"name": "x", "s3_endpoint": endpoint})
    away_id = StorageConfig.objects.get(name="away").pk
    changed = {"s3_secret_key": canaries["changed secret of a storage"]}
    send("put", f"storage/config/{away_id}", changed | {"s3_bucket": ""})
    send("put", f"storage/config/{away_id}", changed)

    locations = [
        f"{DEAD}/x?X-Amz-Signature={canaries['signature of a given address']}",
        f"{node.url}/collections/films/snapshots/x?token={canaries['token of a given address']}",
        f"http://169.254.169.254/x?sig={canaries['signature of a given address']}",
        f"http://nowhere.invalid/x?sig={canaries['signature of a given address']}",
        f"http://ana:{canaries['password in an address']}@127.0.0.1/x",
        f"file:///x?{canaries['token of a given address']}",
        f"ftp://ana:{canaries['password in an address']}@h/",
    ]
    for location in locations:
        for more in ({}, {"checksum": "0" * 64}, {"checksum": 1}, {"priority": "none"}):
            body = {"location": location, "api_key": canaries["key of a source"], **more}
            send("post", "collections/again/snapshots/recover", body)
            send("post", "collections/again/shards/0/snapshots/recover?cluster=dead", body)
            send("post", "collections/again/snapshots/recover?wait=false", body)
    for broken in wrong_bodies({"location": locations[0], "api_key": canaries["key of a source"]}, "api_key"):
        send("post", "collections/again/snapshots/recover", broken)
    malformed = json.dumps(cluster | {"api_key": canaries["key in malformed JSON"]})[:-1]
    harvest.keep("malformed", api.generic("POST", f"{V1}/clusters", malformed, content_type="application/json"))

    basic = base64.b64encode(f"ana:{canaries['password of ana']}".encode()).decode()
    for headers in (
        {"HTTP_API_KEY": canaries["unknown API token"]},
        {"HTTP_AUTHORIZATION": f"Bearer {canaries['unknown API token']}"},
        {"HTTP_AUTHORIZATION": f"Basic {basic}"},
    ):
        for path in (f"{V1}/jobs", f"{V1}/nowhere", "/api/none", "/metrics"):
            harvest.keep(f"wrong sign-in {path}", APIClient(raise_request_exception=False).get(path, **headers))
    made = api.post(f"{V1}/tokens", {"name": "t", "scope": "read"}, format="json").json()["result"]["token"]
    canaries.known["API token made by the API"] = made.split("_", 2)[2]  # the random part may hold a _ itself
    harvest.keep("with a token", APIClient().get(f"{V1}/jobs", HTTP_API_KEY=made))
    harvest.keep("with half a token", APIClient().get(f"{V1}/jobs", HTTP_API_KEY=made[:-1]))


def by_channels(harvest: Harvest, api: APIClient, canaries: Canaries) -> None:
    """Make channels whose address or key is the secret, rightly and wrongly, and send over each: all of them fail."""

    def send(method: str, path: str, body: Any) -> Any:
        return harvest.keep(f"{method} {path}", getattr(api, method)(f"{V1}/{path}", body, format="json"))

    host = DEAD.partition("://")[2]
    addresses = {
        "webhook": f"{DEAD}/hook/{canaries['token of a webhook']}",
        "ping": f"{DEAD}/{canaries['key of a ping']}",
        "kuma": f"{DEAD}/api/push/{canaries['token of a monitor']}",
        "url": f"{DEAD}/{canaries['key in a template']}?s={{state}}",
        "apprise": f"gotify://{host}/{canaries['token of a push service']}",
    }
    for kind, address in addresses.items():
        body = {"name": kind, "kind": kind, "address": address, "signing_key": canaries[f"signing key of {kind}"]}
        body = body if kind == "webhook" else body | {"signing_key": ""}
        made = send("post", "channels", body)
        assert made.status_code == 200, made.content
        for field in ("address", "signing_key") if kind == "webhook" else ("address",):
            for broken in wrong_bodies(body | {"name": "broken"}, field):
                send("post", "channels", broken)
        path = f"channels/{made.json()['result']['id']}"
        send("put", path, {"address": address, "digest": "hourly"})
        assert send("post", f"{path}/test", {}).json()["result"]["state"] == "dead"
        harvest.keep(f"GET {path}", api.get(f"{V1}/{path}"))
    for path in ("channels", "deliveries"):
        harvest.keep(f"GET {path}", api.get(f"{V1}/{path}"))


def by_operations() -> None:
    """Do what was asked for without waiting; every one of these fails."""
    assert NodeOperation.objects.count() >= 4
    for operation in NodeOperation.objects.all():
        run_operation(str(operation.pk))
    assert set(NodeOperation.objects.values_list("status", flat=True)) == {"failed"}


def by_jobs(run: RunJob, presigned: Presigned) -> None:
    """Back up and restore, and fail at every place where a secret is used."""
    main, bucket = Cluster.objects.get(name="main"), StorageConfig.objects.get(name="bucket")
    backup = run("backup", "films", cluster=main, storage=bucket)
    assert backup.status == "completed", story(backup)
    restored = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="restored")
    assert restored.status == "completed", story(restored)
    assert "pulled by the node" in story(restored)
    for cluster, storage in (("dead", "bucket"), ("wrong", "bucket"), ("main", "refused"), ("main", "away")):
        failed = run("backup", "films", cluster=Cluster.objects.get(name=cluster),
                     storage=StorageConfig.objects.get(name=storage))  # fmt: skip
        assert failed.status == "failed", story(failed)
    presigned.quoted = True
    for number in range(3):
        run("restore", "films", snapshot_name=backup.snapshot_name, target_collection=f"restored-{number}")


def by_own_storage(harvest: Harvest, api: APIClient, canaries: Canaries, presigned: Presigned) -> None:
    """Recover from an own storage, with a node that repeats the presigned address and with one that fetches it."""
    part = Job.objects.get(type="restore", target_collection="restored").backup.parts.first()  # type: ignore[union-attr]
    assert part is not None
    body = {"location": f"s3://bucket/{part.key}", "checksum": "0" * 64, "api_key": canaries["key of a source"]}
    for presigned.quoted in (True, False):
        for _ in range(3):
            for path in ("restored/snapshots/recover", "restored/shards/0/snapshots/recover"):
                response = api.post(f"{V1}/collections/{path}", body, format="json")
                assert response.status_code >= 400
                harvest.keep(f"recover {path}", response)


def by_admin(harvest: Harvest, root: Client, canaries: Canaries, node: SandboxNode) -> None:
    """Fill in the forms, rightly and wrongly; press the buttons; sign in and change passwords."""

    def post(address: str, fields: dict[str, Any]) -> Any:
        return harvest.keep(f"POST {address}", root.post(address, fields, follow=True))

    cluster = {"name": "by hand", "url": node.url, "api_key": canaries["key of a cluster by hand"], "verify_tls": "on"}
    add, change = reverse("admin:clusters_cluster_add"), "admin:clusters_cluster_change"
    for wrong in ({"name": ""}, {"url": "nonsense"}, {"ca": "nonsense"}, {"api_key": cluster["api_key"] + "\n é"}):
        post(add, cluster | wrong)
    refused = post(add, cluster | {"url": "http://ana:typed@h"})  # what was typed into a plain field stands there again
    assert "credentials out of the address" in refused.content.decode()
    post(add, cluster)
    made = Cluster.objects.get(name="by hand")
    post(reverse(change, args=[made.pk]), cluster | {"api_key": canaries["second key by hand"], "clear_api_key": "on"})
    post(reverse(change, args=[made.pk]), cluster | {"api_key": canaries["second key by hand"], "url": ""})
    post(reverse(change, args=[made.pk]), cluster | {"api_key": canaries["second key by hand"]})
    post(reverse(change, args=[made.pk]), cluster | {"restore_api_key": canaries["restore key by hand"]})
    storage = {
        "name": "by hand", "type": "s3", "s3_endpoint": DEAD, "s3_bucket": "bucket", "s3_region": "r",
        "s3_access_key": canaries["access key of a storage"], "s3_secret_key": canaries["secret by hand"],
        "s3_addressing_style": "auto", "verify_tls": "on",
    }  # fmt: skip
    for wrong in ({"name": ""}, {"s3_endpoint": ""}, {"s3_bucket": "x"}, {"s3_endpoint": "https://h/?x"}):
        # What was typed stands in the form again: an access key as well, but no secret key.
        post(reverse("admin:storage_storageconfig_add"), storage | wrong | {"s3_access_key": "AK"})
    post(reverse("admin:storage_storageconfig_add"), storage)
    for found in StorageConfig.objects.all():
        post(reverse("admin:storage_storageconfig_test", args=[found.pk]), {})
        post(reverse("admin:backups_backup_rescan", args=[found.pk]), {})
    for each in Cluster.objects.all():
        post(reverse("admin:clusters_cluster_test", args=[each.pk]), {})

    ana = User.objects.create_user("ana", password=canaries["password of ana"], is_staff=True)
    login = reverse("admin:login")
    for password in (canaries["wrong password of ana"], canaries["password of ana"]):
        harvest.keep("sign in", Client().post(login, {"username": "ana", "password": password}))
    for _ in range(12):
        guess = {"username": "eve", "password": canaries["wrong password of eve"]}
        harvest.keep("sign in too often", Client().post(login, guess))
    new = canaries["new password of ana"]
    for pair in ((new, f"{new}x"), (new, new)):
        fields = dict(zip(("password1", "password2"), pair, strict=True)) | {"usable_password": "true"}
        post(reverse("admin:auth_user_password_change", args=[ana.pk]), fields)
        post(reverse("admin:auth_user_add"), fields | {"username": f"user{len(pair)}"})

    page = root.get(reverse("admin:api_apitoken_add")).content.decode()
    confirmation = re.findall(r'name="confirmation" value="([^"]+)"', page)[0]
    fields = {"name": "by hand", "scope": "read", "user": root.session["_auth_user_id"], "confirmation": confirmation}
    shown = root.post(reverse("admin:api_apitoken_add"), fields).content.decode()
    canaries.known["API token made by hand"] = re.findall(r"bmgr_[0-9a-f]{12}_([\w-]{43})", shown)[0]
    post(reverse("admin:api_apitoken_add"), fields)


def crawl(harvest: Harvest, root: Client, api: APIClient) -> set[str]:
    """Open every page of the admin that a link leads to, and everything that the API lists."""
    start = reverse("admin:index")
    seen, waiting = {start}, deque([start])
    while waiting:
        address = waiting.popleft()
        response = harvest.keep(f"GET {address}", root.get(address))
        links = [response.url] if response.status_code in (301, 302) else re.findall(
            r'(?:href|hx-get|action)="([^"#]+)', response.content.decode()
        ) if "html" in response.get("Content-Type", "") else []  # fmt: skip
        for link in links:
            target = urljoin(address, html.unescape(link)).partition("#")[0]
            query = parse_qs(urlsplit(target).query, keep_blank_values=True)
            is_list = re.fullmatch(r"/admin/\w+/\w+/(coverage/)?", urlsplit(target).path)
            # Not a list in every order and with every combination of filters, nor what a script still has to complete;
            # of months, which go on for ever, this one.
            skipped = "/logout/" in target or "'" in target or "month" in query
            skipped = skipped or (is_list and (len(query) > 1 or {"o", "sort"} & set(query)))
            if target.startswith(start) and not skipped and target not in seen:
                seen.add(target)
                waiting.append(target)
        assert len(seen) < MOST_PAGES, sorted(seen)[-20:]

    listed = ["clusters", "storage/config", "jobs?limit=100", "backups?limit=100", "tokens", "metrics", "cluster"]
    listed.append("audit?limit=100")
    listed += ["operations", *(f"operations/{operation.pk}" for operation in NodeOperation.objects.all())]
    for path in [*listed, "cluster/nodes", "collections", "schema", "collections/films", "collections/films/snapshots"]:
        harvest.keep(f"GET {path}", api.get(f"{V1}/{path}"))
    for job in Job.objects.all():
        for path in (f"jobs/{job.pk}", f"jobs/{job.pk}/events"):
            harvest.keep(f"GET {path}", api.get(f"{V1}/{path}"))
    for cluster in Cluster.objects.all():
        for path in (f"clusters/{cluster.pk}", f"cluster?cluster={cluster.pk}", f"collections?cluster={cluster.pk}"):
            harvest.keep(f"GET {path}", api.get(f"{V1}/{path}"))
    return seen


@pytest.mark.timeout(300)
def test_no_secret_comes_out_anywhere(
    transactional_db: None,
    node: SandboxNode,
    s3_config: StorageConfig,
    run: RunJob,
    canaries: Canaries,
    harvest: Harvest,
    presigned: Presigned,
    settings: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    make_collection: Callable[[], None],
) -> None:
    caplog.set_level(logging.DEBUG)  # the loggers that settings keep at WARNING stay there
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    canaries.known["secret of the real storage"] = s3_config.s3_secret_key.reveal()
    canaries.known_to_the_database.add("access key of a storage")
    owner = User.objects.create_superuser("root", password=canaries["password of root"])
    api = token_client(Scope.ADMINISTER, owner)
    api.raise_request_exception = False
    canaries.known["API token of the caller"] = api._credentials["HTTP_API_KEY"].split("_", 2)[2]
    root = Client()
    credentials = {"username": "root", "password": canaries["password of root"]}
    harvest.keep("sign in", root.post(reverse("admin:login"), credentials))
    make_collection()

    by_api(harvest, api, canaries, node, s3_config)
    by_channels(harvest, api, canaries)
    by_operations()
    by_jobs(run, presigned)
    by_own_storage(harvest, api, canaries, presigned)
    by_admin(harvest, root, canaries, node)
    pages = crawl(harvest, root, api)

    assert len(pages) > 30 and len(harvest.answers) > 300
    assert len(presigned) >= 10
    assert JobEvent.objects.count() > 20
    leaks = [f"{where}: {name}" for where, content in harvest.answers for name in canaries.in_clear(content)]
    leaks += [f"log: {name}" for name in canaries.in_clear(caplog.text)]
    out, err = capfd.readouterr()
    leaks += [f"standard output: {name}" for name in canaries.in_clear(out + err)]
    leaks += [
        f"file {path.name}: {name}"
        for path in settings.DATA_DIR.rglob("*")
        if path.is_file()
        for name in canaries.in_clear(path.read_bytes())
    ]
    leaks += database_leaks(canaries)
    assert not leaks, "\n".join(leaks)


@pytest.fixture
def make_collection(node: SandboxNode, canaries: Canaries) -> Callable[[], None]:
    """Make the collection "films" on the node that wants its key."""
    import requests

    def make() -> None:
        with requests.Session() as session:
            session.headers["api-key"] = canaries["key of the cluster"]
            vectors = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 2}
            session.put(f"{node.url}/collections/films", json=vectors, timeout=30).raise_for_status()
            points = [{"id": number, "vector": [number, 1, 2, 3]} for number in range(50)]
            url = f"{node.url}/collections/films/points?wait=true"
            session.put(url, json={"points": points}, timeout=30).raise_for_status()

    return make


@pytest.mark.parametrize(
    "written",
    [
        "{}", "a={}&b", "x{}", "xx{}y", "xxx{}yy",
    ],
)  # fmt: skip
def test_the_search_finds_a_secret_however_it_is_written(canaries: Canaries, written: str) -> None:
    text = written.format(canaries["planted secret"])

    assert canaries.in_clear(text) == ["planted secret"]
    assert canaries.in_clear(base64.b64encode(text.encode())) == ["planted secret"]
    assert canaries.in_clear(base64.urlsafe_b64encode(text.encode())) == ["planted secret"]
    assert canaries.in_clear(text.encode().hex()) == ["planted secret"]
    assert canaries.in_clear("nothing") == []


def test_the_search_of_the_database_finds_what_is_planted_there(transactional_db: None, canaries: Canaries) -> None:
    owner = User.objects.create(username="x")
    assert database_leaks(canaries) == []

    create_token(user=owner, name=canaries["planted"], scope=Scope.READ, now=timezone.now())

    assert {leak.partition(":")[0] for leak in database_leaks(canaries)} >= {"table api_apitoken"}
    assert connection.vendor != "sqlite" or any("sqlite3-wal" in leak for leak in database_leaks(canaries))
