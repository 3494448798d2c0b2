"""Blackouts of a cluster: they count for every schedule on it."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.schema import operation
from apps.api.v1.lookup import cluster_of_id
from apps.api.v1.schedules import BlackoutSerializer, read_windows
from apps.api.views import ApiView
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.schedules.cluster_blackouts import cluster_windows, set_cluster_windows


class ClusterBlackoutsSerializer(serializers.Serializer[Any]):
    """All blackouts of a cluster; weekly ones by the clock of each schedule's zone."""

    blackouts = BlackoutSerializer(many=True)


class ClusterBlackoutsView(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER}

    @operation(
        "getClusterBlackouts",
        "The times in which no schedule backs the cluster up",
        tag="clusters",
        answer=ClusterBlackoutsSerializer,
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(_shown(cluster_of_id(self.path_uuid())))

    @operation(
        "setClusterBlackouts",
        "Replace them, and work out the next runs of its schedules anew",
        tag="clusters",
        body=ClusterBlackoutsSerializer,
        answer=ClusterBlackoutsSerializer,
    )
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        cluster = cluster_of_id(self.path_uuid())
        windows = read_windows(self.body(ClusterBlackoutsSerializer)["blackouts"])
        set_cluster_windows(cluster=cluster, windows=windows, now=timezone.now())
        return Response(_shown(cluster))


def _shown(cluster: Cluster) -> dict[str, Any]:
    return {"blackouts": [BlackoutSerializer().to_representation(window) for window in cluster_windows(cluster)]}
