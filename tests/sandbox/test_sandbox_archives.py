"""Archives that are broken or mean harm are refused, and nothing is changed by them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from apps.sandbox import SandboxNode
from apps.sandbox.archive import TarWriter
from apps.sandbox.errors import QdrantError
from apps.sandbox.shard import call_engine

FILMS = {
    "vectors": {
        "text": {"size": 32, "distance": "Cosine"},
        "image": {"size": 16, "distance": "Dot", "on_disk": True},
    },
    "sparse_vectors": {"keywords": {}},
}


def _tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


_INNER = _tar((tarfile.TarInfo("snapshot/files/../../../../escaped"), b"x"))


@pytest.mark.parametrize(
    "archive",
    [
        _tar((tarfile.TarInfo("../escaped"), b"x")),
        _tar((tarfile.TarInfo("/escaped"), b"x")),
        _tar((tarfile.TarInfo("segments/../../../escaped"), b"x")),
        _tar((tarfile.TarInfo("segments/a/files/../../../../escaped"), b"x")),
        _tar((tarfile.TarInfo("segments/a.tar"), _INNER)),
        _tar((_link("segments/a/files/escaped", "/etc/passwd", tarfile.SYMTYPE), b"")),
        _tar((_link("segments/a/files/escaped", "shard_config.json", tarfile.LNKTYPE), b"")),
        _tar((_link("segments/a/files/escaped", "", tarfile.FIFOTYPE), b"")),
    ],
    ids=[
        "up",
        "absolute",
        "up inside",
        "up in a segment",
        "up in a nested tar",
        "symlink",
        "hard link",
        "fifo",
    ],
)
def test_an_archive_that_climbs_or_links_is_refused(
    api: Any, node: SandboxNode, fill: Any, tmp_path: Path, same: Any, archive: bytes
) -> None:
    points = fill(api, count=10)
    for target in ("/collections/shop/shards/0/snapshots/upload", "/collections/new/snapshots/upload"):
        answer = api.upload(target, archive)
        assert answer.status == 500
    assert not list(tmp_path.rglob("escaped*"))
    assert list((node.snapshots_path.parent / "tmp").iterdir()) == []
    assert same(api.scroll("shop"), points)
    assert [one["name"] for one in api("GET", "/collections").result["collections"]] == ["shop"]


def _damaged(recordings: Path, scratch: Path, victim: str) -> bytes:
    """Pack a genuine shard again, with every file of one name overwritten."""
    edge.EdgeShard.unpack_snapshot(str(recordings / "films.shard-0.snapshot"), str(scratch))
    file = io.BytesIO()
    tar = TarWriter(file)
    for path in sorted(scratch.rglob("*")):
        if path.is_file() and "wal" not in path.parts:
            if path.name == victim:
                path.write_bytes(b"\xff" * 40)
            parts = path.relative_to(scratch).parts
            inner = [*parts[:2], "files", *parts[2:]] if parts[0] == "segments" else parts
            tar.add_file("/".join(inner), path)
    tar.finish()
    return file.getvalue()


@pytest.mark.parametrize("victim", ["mutable_id_tracker.mappings", "segment.json", "version.info", "tracker.dat"])
def test_damaged_segments_are_a_500_and_leave_the_shard_working(
    api: Any, recordings: Path, tmp_path: Path, victim: str, same: Any
) -> None:
    assert api("PUT", "/collections/one", FILMS).result is True
    genuine = (recordings / "films.shard-1.snapshot").read_bytes()
    assert api.upload("/collections/one/shards/0/snapshots/upload", genuine).status == 200
    before = api.scroll("one")

    bad = _damaged(recordings, tmp_path / "damaged", victim)
    answer = api.upload("/collections/one/shards/0/snapshots/upload", bad)

    assert answer.status == 500, answer.content
    assert answer.error.startswith("Service internal error: ")
    assert same(api.scroll("one"), before)
    assert api.upload("/collections/one/shards/0/snapshots/upload", genuine).status == 200


def test_every_cut_of_an_archive_is_refused(api: Any, recordings: Path) -> None:
    whole = (recordings / "films.shard-1.snapshot").read_bytes()
    assert api("PUT", "/collections/one", FILMS).result is True
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        ends = [member.offset for member in tar]
    for length in [*ends[1:], len(whole) // 3, 100, 0]:
        answer = api.upload("/collections/one/shards/0/snapshots/upload", whole[:length])
        assert answer.status == 500, length
    assert api.count("one") == 0


def test_a_panic_of_the_engine_is_a_500() -> None:
    class PanicException(BaseException):  # as the engine's: no Exception
        pass

    def panic() -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(QdrantError) as caught:
        call_engine(panic)
    assert caught.value.status == 500
    assert caught.value.message == "Service internal error: the engine panicked: index out of bounds"
