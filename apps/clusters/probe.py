"""The test of a cluster: who answers, what is wrong, what the keys may do, and what is known of the version."""

from __future__ import annotations

from dataclasses import dataclass, replace

from apps.clusters.advisories import Advisory, advisories_for
from apps.clusters.keys import KeyCheck, check_keys
from apps.clusters.models import Cluster, Purpose
from apps.clusters.nodes import ResolvedCluster, resolve_nodes
from apps.clusters.qdrant import QdrantNode
from apps.clusters.registry import ClusterReport, Problem
from apps.core.errors import BackupmgrError
from apps.core.text import plural

#: Somebody waits for a connection test.
PROBE_TIMEOUT_SECONDS = 5.0
_ASKS = 4
#: Between the asks of one address, so that what grows has the time to be seen growing.
_PAUSE_SECONDS = 0.1
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class ClusterProbe:
    """What became of asking a cluster, saved or not; `message` sums it up in words."""

    success: bool
    message: str
    version: str | None = None
    #: Of the node at the first address; None on a standalone node.
    peer_id: int | None = None
    report: ClusterReport | None = None
    keys: tuple[KeyCheck, ...] = ()
    #: Everything that is wrong or odd, the keys included; errors first.
    problems: tuple[Problem, ...] = ()
    advisories: tuple[Advisory, ...] = ()


def probe_cluster(cluster: Cluster) -> ClusterProbe:
    """Ask every address of the cluster, saved or not, who it is. A node that does not answer is a result, too."""
    try:
        resolved = resolve_nodes(
            cluster, asks=_ASKS, timeout_seconds=PROBE_TIMEOUT_SECONDS, pause_seconds=_PAUSE_SECONDS
        )
        count, keys, trouble = _look_inside(cluster, resolved)
    except BackupmgrError as error:
        return ClusterProbe(False, str(error))
    report = resolved.report
    problems = [*report.problems, *(key.problem for key in keys if key.problem is not None)]
    problems.sort(key=lambda problem: not problem.is_error)
    errors = [problem.message for problem in problems if problem.is_error]
    if trouble and not errors:
        errors = [trouble]
    return ClusterProbe(
        success=not errors,
        message=_sum_up(errors) if errors else _greeting(report, count),
        version=report.versions[0] if report.versions else None,
        peer_id=_first_peer(cluster, report),
        report=report,
        keys=keys,
        problems=tuple(problems),
        advisories=advisories_of(report),
    )


def advisories_of(report: ClusterReport) -> tuple[Advisory, ...]:
    """Return what is known of the versions that run, each once."""
    return tuple(dict.fromkeys(one for version in report.versions for one in advisories_for(version)))


def _look_inside(cluster: Cluster, resolved: ResolvedCluster) -> tuple[int, tuple[KeyCheck, ...], str]:
    """Return how many collections there are, what the keys may do, and why that could not be told."""
    try:
        first = replace(resolved.first, timeout_seconds=PROBE_TIMEOUT_SECONDS)
    except BackupmgrError:
        return 0, (), ""  # the report says why
    restore = cluster.quick_endpoint(PROBE_TIMEOUT_SECONDS, Purpose.RESTORE, first.url)
    keys = check_keys(first, restore, is_shared=not cluster.restore_api_key)
    try:
        with QdrantNode(first) as node:
            return len(node.collections()), keys, ""
    except BackupmgrError as error:
        return 0, keys, str(error)


def _first_peer(cluster: Cluster, report: ClusterReport) -> int | None:
    urls = {url: peer for peer, url in report.addresses.items()}
    return next((urls[url] for url in cluster.addresses if url in urls), None)


def _greeting(report: ClusterReport, count: int) -> str:
    if not report.distributed:
        return f"Qdrant {report.versions[0]} answers: standalone, {plural(count, 'collection')}."
    nodes = plural(len(report.addresses), "node")
    return f"Qdrant {report.versions[0]} answers: a cluster of {nodes}, {plural(count, 'collection')}."


def _sum_up(errors: list[str]) -> str:
    more = len(errors) - _SHOWN_PROBLEMS
    rest = f" And {plural(more, 'more problem')}." if more > 0 else ""
    return " ".join(errors[:_SHOWN_PROBLEMS]) + rest
