"""What can be done with clusters: register, change, forget, complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from apps.audit.trail import record_action
from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.probe import PROBE_TIMEOUT_SECONDS
from apps.core.errors import Conflict, InvalidRequest


class ClusterInvalid(InvalidRequest):
    """The fields do not describe a cluster."""


class DefaultClusterNeeded(InvalidRequest):
    """There is always a default cluster, as long as there is one at all."""


class ClusterNameTaken(Conflict):
    """Another cluster has that name."""


class ClusterInUse(Conflict):
    """Jobs refer to the cluster."""


def create_cluster(*, data: Mapping[str, Any]) -> Cluster:
    """Register a cluster; the first one becomes the default.

    `urls` among the data is the list of all addresses (`with_addresses`).
    Raises: ClusterInvalid, ClusterNameTaken, Conflict.
    """
    return _save(Cluster(), data)


def update_cluster(*, cluster: Cluster, data: Mapping[str, Any]) -> Cluster:
    """Change the given fields. Raises: as create_cluster; DefaultClusterNeeded."""
    if cluster.is_default and data.get("is_default") is False:
        raise DefaultClusterNeeded(f"{cluster.name!r} is the default cluster: make another one the default instead.")
    return _save(cluster, data)


def delete_cluster(*, cluster: Cluster) -> None:
    """Forget the cluster; its backups stay. Raises: DefaultClusterNeeded, ClusterInUse."""
    if cluster.is_default and Cluster.objects.exclude(pk=cluster.pk).exists():
        raise DefaultClusterNeeded(f"{cluster.name!r} is the default cluster: make another one the default first.")
    try:
        with transaction.atomic():
            record_action("cluster.delete", f"Deleted the cluster {cluster.name}.", about=cluster)
            cluster.delete()
    except ProtectedError as error:
        raise ClusterInUse(
            f"Jobs refer to the cluster {cluster.name!r}: it stays for as long as they are kept."
        ) from error


def adopt_suggestions(*, cluster: Cluster) -> tuple[dict[int, str], dict[int, str]]:
    """Ask the REST addresses that peers without one may have, and add those that answer as that very peer.

    Returns: peer → address that was added, and peer → why the suggestion was not taken. Raises: ClusterInvalid,
    Conflict when somebody else changed the cluster meanwhile; crypto.UndecryptableSecret.
    """
    suggested = resolve_nodes(cluster, timeout_seconds=PROBE_TIMEOUT_SECONDS).report.suggestions
    if not suggested:
        return {}, {}
    known = list(cluster.other_urls)
    trial = Cluster(
        name=cluster.name,
        url=cluster.url,
        other_urls=[*known, *suggested.values()],
        nodes=cluster.nodes,
        api_key=cluster.api_key,
        verify_tls=cluster.verify_tls,
        ca=cluster.ca,
    )
    found = resolve_nodes(trial, timeout_seconds=PROBE_TIMEOUT_SECONDS).report
    added, refused = {}, {}
    for peer, url in suggested.items():
        if found.addresses.get(peer) == url:
            added[peer] = url
        else:
            own = [problem.message for problem in found.problems if problem.url == url]
            refused[peer] = own[0] if own else f"{url} does not answer as peer {peer}."
    if added:
        trial.other_urls = [*known, *added.values()]
        try:
            trial.clean()
        except ValidationError as error:
            raise ClusterInvalid(" ".join(error.messages)) from error
        changed = Cluster.objects.filter(pk=cluster.pk, updated_at=cluster.updated_at).update(
            other_urls=trial.other_urls, updated_at=timezone.now()
        )
        if not changed:
            raise Conflict("Somebody else changed the cluster at the same moment: try again.")
    return added, refused


def with_addresses(cluster: Cluster, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `urls` (all addresses of the cluster, in any order) stands for, beside the others.

    `url`, when it is given as well, comes first. The list replaces all that were there; `nodes` stays for those
    addresses that are still in it.
    """
    fields = {name: value for name, value in data.items() if name != "urls"}
    if "urls" in data:
        urls = list(dict.fromkeys(url.rstrip("/") for url in data["urls"]))
        first = str(fields.get("url") or (urls[0] if urls else "")).rstrip("/")
        fields["url"] = first
        fields["other_urls"] = [url for url in urls if url != first]
        if "nodes" not in data:
            fields["nodes"] = {peer: url for peer, url in cluster.nodes.items() if url.rstrip("/") in urls}
    return fields


def _save(cluster: Cluster, data: Mapping[str, Any]) -> Cluster:
    for field, value in with_addresses(cluster, data).items():
        setattr(cluster, field, value)
    try:
        cluster.clean()
    except ValidationError as error:
        raise ClusterInvalid(" ".join(error.messages)) from error
    try:
        with transaction.atomic():
            cluster.save()
    except IntegrityError as error:
        if Cluster.objects.exclude(pk=cluster.pk).filter(name=cluster.name).exists():
            raise ClusterNameTaken(
                f"There is a cluster named {cluster.name!r} already: choose another name."
            ) from error
        raise Conflict("Somebody else changed the clusters at the same moment: try again.") from error
    return cluster
