"""Snapshots on nodes: make, delete, recover from one. A worker does it; the collection's page says how it went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.qdrant import check_snapshot_possible
from apps.clusters.qdrant.endpoint import segment
from apps.clusters.qdrant.node import snapshots_path
from apps.core.admin_kit import demand, person
from apps.core.admin_once import ConfirmationUnknown, new_confirmation, once
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.jobs.operations import NodeOperation, OperationKind, start_operation
from apps.protection.admin.collection_page import crumbs, find
from apps.protection.admin.steps import collection_address

if TYPE_CHECKING:
    from apps.protection.admin import CollectionAdmin

_SECONDS = 5.0


class _Asked:
    """What the address names: a collection, perhaps a node, a shard of it and a snapshot."""

    def __init__(self, request: HttpRequest) -> None:
        self.cluster, self.name = find(request)
        self.node = request.GET.get("node", "")[:20]
        shard = request.GET.get("shard", "")
        self.shard_id = int(shard) if shard.isascii() and shard.isdecimal() and len(shard) < 10 else None
        self.file = request.GET.get("file", "")[:300]

    @property
    def what(self) -> str:
        return f"shard {self.shard_id} of {self.name}" if self.shard_id is not None else self.name

    @property
    def where(self) -> str:
        return f" (peer {self.node})" if self.node else ""


def create_view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    asked = _Asked(request)
    if asked.cluster is None or not asked.name:
        return page.gone(request, "collection")
    error = ""
    try:
        check_snapshot_possible(asked.name)
    except ValueError as problem:
        error = str(problem)
    return _ask(
        page, request, asked, OperationKind.CREATE,
        title=f"Make a snapshot of {asked.what}?",
        sentences=[
            f"The node of {asked.cluster.name}{asked.where} makes a snapshot of its part of {asked.what} on its disk.",
            "This is Qdrant's own snapshot, and no backup: it lies on the node, and holds what that node holds.",
        ],
        verb="" if error else "Make snapshot", error=error,
    )  # fmt: skip


def delete_view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    asked = _Asked(request)
    if asked.cluster is None or not asked.name or not asked.file:
        return page.gone(request, "snapshot")
    return _ask(
        page, request, asked, OperationKind.DELETE,
        title=f"Delete the snapshot {asked.file}?",
        sentences=[
            f"This deletes {asked.file} from the disk of a node of {asked.cluster.name}{asked.where}, for good.",
            "Backups in storages are not touched.",
        ],
        verb="Delete snapshot", danger=True, keep="Keep it",
    )  # fmt: skip


def recover_view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.RESTORE])
    asked = _Asked(request)
    if asked.cluster is None or not asked.name or not asked.file:
        return page.gone(request, "snapshot")
    return _ask(
        page, request, asked, OperationKind.RECOVER,
        title=f"Recover {asked.what} from {asked.file}?",
        sentences=[
            f"Qdrant replaces {asked.what} on {asked.cluster.name}{asked.where} with what the snapshot holds.",
            "Points written since then are lost. Nothing is verified before, and nothing is compared afterwards: a "
            "restore from a backup does both.",
        ],
        warnings=["The snapshot holds one node's part only: on a cluster of several nodes restore from a backup."],
        verb="Recover", danger=True, keep="Leave it as it is", typed_name=asked.name,
    )  # fmt: skip


def _ask(
    page: CollectionAdmin, request: HttpRequest, asked: _Asked, kind: OperationKind, *,
    title: str, sentences: list[str], verb: str, error: str = "", danger: bool = False, keep: str = "Back",
    warnings: list[str] | None = None, typed_name: str = "",
) -> HttpResponse:  # fmt: skip
    """Confirm, and then leave it to a worker, once."""
    assert asked.cluster is not None
    back = collection_address(asked.cluster.pk, asked.name)
    if request.method == "POST" and verb:
        if typed_name and request.POST.get("typed_name") != typed_name:
            error = f"Type {typed_name} exactly as it is written."
        else:
            answer = _start(request, asked, kind)
            if not answer:
                messages.success(request, f"{verb}: left to a worker. Below stands what comes of it.")
                return HttpResponseRedirect(f"{back}#snapshots")
            error = answer
    return page.confirm(
        request, title=title, crumbs=crumbs(asked.cluster, asked.name), sentences=sentences, warnings=warnings,
        verb=verb, danger=danger, keep=keep, back=back, typed_name=typed_name, error=error,
        hidden=[("confirmation", new_confirmation(request))],
    )  # fmt: skip


def _start(request: HttpRequest, asked: _Asked, kind: OperationKind) -> str:
    """Queue it; a sentence instead: why that was refused."""
    assert asked.cluster is not None
    cluster = asked.cluster

    def begin() -> str:
        operation = NodeOperation(
            kind=kind,
            cluster=cluster,
            node=asked.node,
            collection_name=asked.name,
            shard_id=asked.shard_id,
            snapshot_name=asked.file if kind == OperationKind.DELETE else "",
            body=_recovery(cluster, asked) if kind == OperationKind.RECOVER else "",
        )
        return str(start_operation(operation=operation, now=timezone.now(), user=person(request)).pk)

    try:
        once(request, request.POST.get("confirmation", ""), begin)
    except ConfirmationUnknown:
        return "This confirmation is too old. Read it again and confirm it once more."
    except BackupmgrError as error:
        return str(error)
    return ""


def _recovery(cluster: Cluster, asked: _Asked) -> str:
    """The node fetches the file from itself, over HTTP: where its disk keeps it is nobody's business."""
    nodes = resolve_nodes(cluster, asks=1, timeout_seconds=_SECONDS)
    endpoint = nodes.endpoint_of(int(asked.node)) if asked.node.isdecimal() else nodes.first
    location = f"{endpoint.url}{snapshots_path(asked.name, asked.shard_id)}/{segment(asked.file)}"
    body = {"location": location, "priority": "snapshot"}
    return json.dumps(body | ({"api_key": endpoint.api_key} if endpoint.api_key else {}))


def snapshot_query(cluster: Cluster, name: str, **more: object) -> str:
    return urlencode({"cluster": str(cluster.pk), "name": name, **{key: str(value) for key, value in more.items()}})
