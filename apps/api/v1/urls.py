"""The operations below /api/v1. Path parameters carry the contract's names."""

from __future__ import annotations

from django.urls import path, re_path
from django.urls.resolvers import URLPattern, URLResolver

from apps.api.metrics import MetricsView
from apps.api.v1.ages import CollectionAgeView, TagAgeView
from apps.api.v1.audit import AuditView
from apps.api.v1.backups import BackupRestoreView, BackupsView, BackupView
from apps.api.v1.blackouts import ClusterBlackoutsView
from apps.api.v1.channels import (
    ChannelsView,
    ChannelTestView,
    ChannelView,
    DeliveriesView,
    IncidentAcknowledgeView,
    IncidentsView,
)
from apps.api.v1.cluster import ClusterNodesView, ClusterStatusView
from apps.api.v1.clusters import ClustersView, ClusterTestView, ClusterView, RegisteredClusterTestView
from apps.api.v1.collections import CollectionClusterView, CollectionsView, CollectionView
from apps.api.v1.coverage import CoverageView
from apps.api.v1.deleted import DeletedBackupsView, DeletedBackupView
from apps.api.v1.docs import DocsView, RedocView, SchemaView
from apps.api.v1.jobs import JobAttemptsView, JobCancelView, JobEventsView, JobRetryView, JobsView, JobView
from apps.api.v1.kept import KeptCollectionsView, KeptCollectionView, KeptForgetView, KeptSwitchBackView
from apps.api.v1.leftovers import LeftoverRetryView, LeftoversView, LeftoverView
from apps.api.v1.operations import OperationsView, OperationView
from apps.api.v1.orphans import (
    OrphanAdoptView,
    OrphanDeleteView,
    OrphanDismissView,
    OrphansView,
    OrphanView,
    ReconciliationsView,
    ReconciliationView,
)
from apps.api.v1.policies import (
    HoldsView,
    HoldView,
    PoliciesView,
    PolicyApplyView,
    PolicyPreviewView,
    PolicyView,
    RetentionRunsView,
    RetentionUndoView,
)
from apps.api.v1.protection import ProtectionView
from apps.api.v1.runs import RunsView, RunView
from apps.api.v1.schedules import (
    ScheduleForecastView,
    SchedulePauseView,
    SchedulePreviewView,
    ScheduleResumeView,
    ScheduleRunView,
    ScheduleSkipView,
    SchedulesView,
    ScheduleView,
)
from apps.api.v1.snapshots import (
    RecoverView,
    ShardRecoverView,
    ShardSnapshotsView,
    ShardSnapshotView,
    SnapshotsView,
    SnapshotView,
)
from apps.api.v1.storage import StorageConfigsView, StorageConfigView, StorageTestView
from apps.api.v1.tags import CollectionTagsView
from apps.api.v1.targets import ScheduleTargetsView
from apps.api.v1.tokens import TokensView, TokenView
from apps.api.v1.verifications import BackupVerificationsView, BackupVerifyView
from apps.api.views import UnknownPath

_COLLECTION = "collections/<str:name>"
_SHARD = f"{_COLLECTION}/shards/<str:shardId>"

urlpatterns: list[URLPattern | URLResolver] = [
    path("cluster", ClusterStatusView.as_view()),
    path("cluster/nodes", ClusterNodesView.as_view()),
    path("collections", CollectionsView.as_view()),
    path(_COLLECTION, CollectionView.as_view()),
    path(f"{_COLLECTION}/cluster", CollectionClusterView.as_view()),
    path(f"{_COLLECTION}/tags", CollectionTagsView.as_view()),
    path(f"{_COLLECTION}/max-age", CollectionAgeView.as_view()),
    path("tags/<str:tag>/max-age", TagAgeView.as_view()),
    path(f"{_COLLECTION}/snapshots", SnapshotsView.as_view()),
    path(f"{_COLLECTION}/snapshots/recover", RecoverView.as_view()),
    path(f"{_COLLECTION}/snapshots/<str:snapshotName>", SnapshotView.as_view(), name="api-snapshot"),
    path(f"{_SHARD}/snapshots", ShardSnapshotsView.as_view()),
    path(f"{_SHARD}/snapshots/recover", ShardRecoverView.as_view()),
    path(f"{_SHARD}/snapshots/<str:snapshotName>", ShardSnapshotView.as_view(), name="api-shard-snapshot"),
    path("storage/config", StorageConfigsView.as_view()),
    path("storage/config/<str:id>", StorageConfigView.as_view()),
    path("storage/test", StorageTestView.as_view()),
    path("clusters", ClustersView.as_view()),
    path("clusters/test", ClusterTestView.as_view()),
    path("clusters/<str:id>", ClusterView.as_view()),
    path("clusters/<str:id>/blackouts", ClusterBlackoutsView.as_view()),
    path("clusters/<str:id>/test", RegisteredClusterTestView.as_view()),
    path("jobs", JobsView.as_view()),
    path("jobs/<str:id>", JobView.as_view()),
    path("jobs/<str:id>/cancel", JobCancelView.as_view()),
    path("jobs/<str:id>/retry", JobRetryView.as_view()),
    path("jobs/<str:id>/attempts", JobAttemptsView.as_view()),
    path("jobs/<str:id>/events", JobEventsView.as_view()),
    path("audit", AuditView.as_view()),
    path("channels", ChannelsView.as_view()),
    path("channels/<str:id>", ChannelView.as_view()),
    path("channels/<str:id>/test", ChannelTestView.as_view()),
    path("incidents", IncidentsView.as_view()),
    path("incidents/<str:id>/acknowledge", IncidentAcknowledgeView.as_view()),
    path("deliveries", DeliveriesView.as_view()),
    path("backups", BackupsView.as_view()),
    path("backups/<str:id>", BackupView.as_view()),
    path("backups/<str:id>/restore", BackupRestoreView.as_view()),
    path("backups/<str:id>/verify", BackupVerifyView.as_view()),
    path("backups/<str:id>/verifications", BackupVerificationsView.as_view()),
    path("deleted-backups", DeletedBackupsView.as_view()),
    path("deleted-backups/<str:id>", DeletedBackupView.as_view()),
    path("leftovers", LeftoversView.as_view()),
    path("leftovers/<str:id>", LeftoverView.as_view()),
    path("leftovers/<str:id>/retry", LeftoverRetryView.as_view()),
    path("kept-collections", KeptCollectionsView.as_view()),
    path("kept-collections/<str:id>", KeptCollectionView.as_view()),
    path("kept-collections/<str:id>/forget", KeptForgetView.as_view()),
    path("kept-collections/<str:id>/switch-back", KeptSwitchBackView.as_view()),
    path("schedules", SchedulesView.as_view()),
    path("schedules/preview", SchedulePreviewView.as_view()),
    path("schedules/<str:id>", ScheduleView.as_view()),
    path("schedules/<str:id>/preview", ScheduleForecastView.as_view()),
    path("schedules/<str:id>/targets", ScheduleTargetsView.as_view()),
    path("schedules/<str:id>/pause", SchedulePauseView.as_view()),
    path("schedules/<str:id>/resume", ScheduleResumeView.as_view()),
    path("schedules/<str:id>/skip", ScheduleSkipView.as_view()),
    path("schedules/<str:id>/run", ScheduleRunView.as_view()),
    path("runs", RunsView.as_view()),
    path("runs/<str:id>", RunView.as_view()),
    path("policies", PoliciesView.as_view()),
    path("policies/<str:id>", PolicyView.as_view()),
    path("policies/<str:id>/preview", PolicyPreviewView.as_view()),
    path("policies/<str:id>/apply", PolicyApplyView.as_view()),
    path("retention", RetentionRunsView.as_view()),
    path("retention/<str:id>/undo", RetentionUndoView.as_view()),
    path("holds", HoldsView.as_view()),
    path("holds/<str:id>", HoldView.as_view()),
    path("protection", ProtectionView.as_view()),
    path("coverage", CoverageView.as_view()),
    path("operations", OperationsView.as_view()),
    path("operations/<str:id>", OperationView.as_view()),
    path("orphans", OrphansView.as_view()),
    path("orphans/<str:id>", OrphanView.as_view()),
    path("orphans/<str:id>/adopt", OrphanAdoptView.as_view()),
    path("orphans/<str:id>/dismiss", OrphanDismissView.as_view()),
    path("orphans/<str:id>/delete", OrphanDeleteView.as_view()),
    path("reconciliations", ReconciliationsView.as_view()),
    path("reconciliations/<str:id>", ReconciliationView.as_view()),
    path("tokens", TokensView.as_view()),
    path("tokens/<str:id>", TokenView.as_view()),
    path("metrics", MetricsView.as_view()),
    path("schema", SchemaView.as_view(), name="api-schema"),
    path("docs", DocsView.as_view(), name="api-docs"),
    path("redoc", RedocView.as_view(), name="api-redoc"),
    re_path(r"^.*\Z", UnknownPath.as_view()),
]
