"""The numbered steps of a backup and of a restore, as places in the conversation with node and S3 server."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .rules import Moment, Where

NODE, S3 = "node", "s3"
_SNAPSHOTS = "/collections/{c}/shards/{s}/snapshots"
_FILE = "/[^/]+[.]snapshot"


@dataclass(frozen=True)
class Point:
    """A step of a job. `where` is None for what no proxy sees; `side` is the proxy that sees it."""

    key: str
    title: str
    table: str
    side: str = NODE
    where: Where | None = None
    #: The database is locked from here on, so that the job stands still in front of its last write.
    before_last_write: bool = False

    @property
    def kind(self) -> str:
        return self.table.partition("-")[0]

    @property
    def storage(self) -> str:
        return self.table.partition("-")[2]

    def aimed(self, collection: str) -> Point:
        """Return the point for a job on this collection."""
        if self.where is None:
            return self
        return replace(self, where=replace(self.where, target=self.where.target.replace("{c}", collection)))

    @property
    def moment(self) -> Moment | None:
        return None if self.where is None else self.where.moment


def _snapshots(shard: int) -> str:
    return _SNAPSHOTS.replace("{s}", str(shard))


def _backup_on_the_node(table: str) -> list[Point]:
    def point(key: str, title: str, where: Where) -> Point:
        return Point(key, title, table, NODE, where)

    first, second = _snapshots(0), _snapshots(1)
    return [
        Point("pending", "pending", table),
        point("plan", "plan", Where("GET", "/collections/{c}")),
        point("placement", "placement", Where("GET", "/collections/{c}/cluster", Moment.ANSWER)),
        point("list", "list snapshots 1", Where("GET", first)),
        point("before-snapshot", "before snapshot 1", Where("POST", first + "[?]wait=true")),
        point("after-snapshot", "after snapshot 1", Where("POST", first + "[?]wait=true", Moment.ANSWER)),
        point("first-byte", "first byte", Where("GET", first + _FILE, Moment.DOWNLOAD, at=1)),
        point("middle", "middle of part 1", Where("GET", first + _FILE, Moment.DOWNLOAD, at=0.5)),
        point("last-byte", "last byte of part 1", Where("GET", first + _FILE, Moment.DOWNLOAD, at=-1)),
        point("clean-up", "clean-up 1", Where("DELETE", first + _FILE)),
        point("cleaned-up", "cleaned up 1", Where("DELETE", first + _FILE, Moment.ANSWER)),
        point("after-snapshot-2", "after snapshot 2", Where("POST", second + "[?]wait=true", Moment.ANSWER)),
        point("middle-2", "middle of part 2", Where("GET", second + _FILE, Moment.DOWNLOAD, at=0.5)),
        point("last-byte-2", "last byte of part 2", Where("GET", second + _FILE, Moment.DOWNLOAD, at=-1)),
        point("clean-up-2", "clean-up 2", Where("DELETE", second + _FILE)),
        point("look-again", "look again", Where("GET", "/collections/{c}", nth=2)),
        point("before-manifest", "before manifest", Where("GET", "/collections/{c}/cluster", Moment.ANSWER, nth=2)),
    ]


def _backup_in_the_bucket() -> list[Point]:
    def point(key: str, title: str, where: Where) -> Point:
        return Point(key, title, "backup-s3", S3, where)

    part = ".*/{c}/[^/]+/shard-%d[.]snapshot"
    one, two = part % 0, part % 1
    manifest = ".*/{c}/[^/]+/manifest[.]json"
    return [
        point("s3-plan", "plan (S3)", Where("HEAD", manifest)),
        point("s3-create", "create upload", Where("POST", one + "[?]uploads", Moment.ANSWER)),
        point("s3-part", "part under way", Where("PUT", one + "[?].*partNumber=1", Moment.UPLOAD, at=0.5)),
        point("s3-part-sent", "part stored", Where("PUT", one + "[?].*partNumber=2", Moment.ANSWER)),
        point("s3-last-part", "last part", Where("PUT", two + "[?].*partNumber=3", Moment.UPLOAD, at=-1)),
        point("s3-complete", "before complete", Where("POST", one + "[?]uploadId=.*")),
        point("s3-completed", "after complete", Where("POST", one + "[?]uploadId=.*", Moment.ANSWER)),
        point("s3-manifest", "before manifest", Where("PUT", manifest)),
        point("s3-manifested", "after manifest", Where("PUT", manifest, Moment.ANSWER)),
    ]


def _restore_on_the_node(table: str) -> list[Point]:
    def point(key: str, title: str, where: Where) -> Point:
        return Point(key, title, table, NODE, where)

    target = "/collections/{c}"
    first, second = _snapshots(0), _snapshots(1)
    common = [
        Point("pending", "pending", table),
        point("plan", "plan", Where("GET", target)),
        point("before-create", "before create", Where("PUT", target)),
        point("after-create", "after create", Where("PUT", target, Moment.ANSWER)),
        point("index", "payload index", Where("PUT", target + "/index[?]wait=true", Moment.ANSWER)),
    ]
    if table == "restore-folder":
        common += [
            point("upload-start", "upload 1 begins", Where("POST", first + "/upload[?].*", Moment.UPLOAD, at=1)),
            point("upload-middle", "upload 1 middle", Where("POST", first + "/upload[?].*", Moment.UPLOAD, at=0.5)),
            point("upload-end", "upload 1 sent", Where("POST", first + "/upload[?].*", Moment.UPLOAD, at=-1)),
            point("uploaded", "shard 1 restored", Where("POST", first + "/upload[?].*", Moment.ANSWER)),
            point("upload-2", "upload 2 middle", Where("POST", second + "/upload[?].*", Moment.UPLOAD, at=0.5)),
        ]
    else:
        common += [
            point("recover", "before recover 1", Where("PUT", first + "/recover[?].*")),
            point("recovered", "shard 1 restored", Where("PUT", first + "/recover[?].*", Moment.ANSWER)),
        ]
    return [
        *common,
        point("active", "wait active", Where("GET", target + "/cluster")),
        point("compare", "compare", Where("POST", target + "/shards/0/points/count")),
        point("aliases", "before aliases", Where("POST", "/collections/aliases")),
        point("aliased", "after aliases", Where("POST", "/collections/aliases", Moment.ANSWER)),
    ]


def _restore_from_the_bucket() -> list[Point]:
    def point(key: str, title: str, where: Where) -> Point:
        return Point(key, title, "restore-s3", S3, where)

    part = ".*/films/[^/]+/shard-0[.]snapshot"
    signed = part + "[?].*X-Amz-Signature.*"
    return [
        point("s3-manifest", "read manifest", Where("GET", ".*/films/[^/]+/manifest[.]json", Moment.ANSWER)),
        point("s3-verify-open", "open part", Where("GET", part)),
        point("s3-verify", "verify part", Where("GET", part, Moment.DOWNLOAD, at=0.5)),
        point("s3-pull", "node opens part", Where("GET", signed)),
        point("s3-pull-middle", "node reads part", Where("GET", signed, Moment.DOWNLOAD, at=0.5)),
        point("s3-pull-end", "node's last byte", Where("GET", signed, Moment.DOWNLOAD, at=-1)),
    ]


def _last(table: str) -> Point:
    """In front of the last write: reached by way of the last request that a proxy sees."""
    ways = {
        "backup-folder": Where("GET", "/collections/{c}/cluster", Moment.ANSWER, nth=2),
        "backup-s3": Where("PUT", ".*/{c}/[^/]+/manifest[.]json", Moment.ANSWER),
        "restore-folder": Where("POST", "/collections/aliases", Moment.ANSWER),
        "restore-s3": Where("POST", "/collections/aliases", Moment.ANSWER),
    }
    side = S3 if table == "backup-s3" else NODE
    return Point("last-write", "before last write", table, side, ways[table], before_last_write=True)


TABLES = {
    "backup-folder": "Backup to a folder",
    "backup-s3": "Backup to S3",
    "restore-folder": "Restore from a folder",
    "restore-s3": "Restore from S3",
}


def _all() -> dict[str, dict[str, Point]]:
    points = {
        "backup-folder": _backup_on_the_node("backup-folder"),
        "backup-s3": _backup_on_the_node("backup-s3") + _backup_in_the_bucket(),
        "restore-folder": _restore_on_the_node("restore-folder"),
        "restore-s3": _restore_from_the_bucket() + _restore_on_the_node("restore-s3"),
    }
    return {table: {point.key: point for point in [*found, _last(table)]} for table, found in points.items()}


POINTS = _all()
