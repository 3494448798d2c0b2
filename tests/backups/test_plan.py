from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apps.backups.plan import PlanBlocked, check_versions, plan_backup, plan_restore
from apps.clusters.qdrant import CollectionInfo, LocalShard, NodeInfo, Placement, RemoteShard
from tests.backups.test_manifest import MANIFEST as BASE

MANIFEST = replace(BASE, shards=tuple(replace(shard, shard_key=None) for shard in BASE.shards), collection_name="films")
PLACEMENT = Placement(
    peer_id=1,
    shard_count=2,
    local_shards=(LocalShard(1, "Active", 272), LocalShard(0, "Active", 328)),
    remote_shards=(),
    transfers=(),
    resharding=(),
)


def info(**changes: Any) -> CollectionInfo:
    values: dict[str, Any] = {
        "status": "green",
        "optimizer_status": "ok",
        "points_count": 600,
        "config": MANIFEST.config,
        "payload_schema": MANIFEST.payload_schema,
        "raw": {},
    }
    return CollectionInfo(**(values | changes))


class TestBackup:
    def test_names_every_shard_in_order(self) -> None:
        plan = plan_backup(collection="films", info=info(), placement=PLACEMENT)

        assert [source.shard_id for source in plan.shards] == [0, 1]
        assert {source.peer_id for source in plan.shards} == {1}
        assert plan.warnings == ()

    def test_names_only_the_shard_asked_for(self) -> None:
        plan = plan_backup(collection="films", info=info(), placement=PLACEMENT, shard_id=1)

        assert [source.shard_id for source in plan.shards] == [1]

    @pytest.mark.parametrize(
        ("placement", "words"),
        [
            (replace(PLACEMENT, local_shards=(LocalShard(0, "Partial", 3),)), "shard 0 is Partial"),
            (replace(PLACEMENT, local_shards=(LocalShard(0, "SomethingNew", 3),)), "SomethingNew"),
            (replace(PLACEMENT, transfers=({"shard_id": 0},)), "moved or resharded"),
            (replace(PLACEMENT, resharding=({"shard_id": 0},)), "moved or resharded"),
            (
                replace(PLACEMENT, remote_shards=(RemoteShard(2, 7, "Active"),)),
                "shard 2 of 'films' live on other nodes",
            ),
            (replace(PLACEMENT, local_shards=()), "nothing to back up"),
        ],
    )
    def test_is_refused_where_points_could_be_missing(self, placement: Placement, words: str) -> None:
        with pytest.raises(PlanBlocked, match=words):
            plan_backup(collection="films", info=info(), placement=placement)

    def test_a_replica_elsewhere_does_not_matter_when_there_is_one_here(self) -> None:
        placement = replace(PLACEMENT, remote_shards=(RemoteShard(0, 7, "Dead"),))

        assert len(plan_backup(collection="films", info=info(), placement=placement).shards) == 2

    def test_an_unknown_shard_is_refused_naming_those_that_exist(self) -> None:
        with pytest.raises(PlanBlocked, match="no shard 9; it has shards 0, 1"):
            plan_backup(collection="films", info=info(), placement=PLACEMENT, shard_id=9)

    def test_trouble_that_does_not_hinder_is_a_warning(self) -> None:
        sick = info(status="red", optimizer_status={"error": "disk"})

        plan = plan_backup(collection="films", info=sick, placement=PLACEMENT)

        assert len(plan.warnings) == 2


class TestRestore:
    def plan(self, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "manifest": MANIFEST,
            "collection": "films",
            "target": NodeInfo("1.18.3", None),
            "existing": None,
            "placement": None,
            "existing_points": 0,
            "aliased_to": None,
            "overwrite": False,
        }
        return plan_restore(**(values | changes))

    def test_creates_what_is_not_there(self) -> None:
        plan = self.plan()

        assert plan.create
        assert plan.shard_ids == (0, 1)
        assert plan.create_indexes == ("city",)

    def test_refuses_to_overwrite_without_the_word(self) -> None:
        with pytest.raises(PlanBlocked, match="exists with 600 points: set overwrite"):
            self.plan(existing=info(), placement=PLACEMENT, existing_points=600)

    def test_overwrites_with_the_word(self) -> None:
        plan = self.plan(existing=info(), placement=PLACEMENT, existing_points=600, overwrite=True)

        assert not plan.create
        assert plan.drop_indexes == plan.create_indexes == ()

    def test_brings_the_indexes_of_an_overwritten_collection_in_line(self) -> None:
        existing = info(payload_schema={"city": {"data_type": "text"}, "extra": {"data_type": "bool"}})

        plan = self.plan(existing=existing, placement=PLACEMENT, overwrite=True)

        assert plan.drop_indexes == ("city", "extra")
        assert plan.create_indexes == ("city",)

    def test_another_shape_is_refused_even_with_the_word(self) -> None:
        other = info(config={"params": {"vectors": {"size": 8, "distance": "Dot"}, "shard_number": 2}})

        with pytest.raises(PlanBlocked, match="params.vectors.size is 8, should be 4"):
            self.plan(existing=other, placement=PLACEMENT, overwrite=True)

    def test_an_alias_is_not_overwritten_behind_its_collection(self) -> None:
        with pytest.raises(PlanBlocked, match="alias of 'films-v1'"):
            self.plan(aliased_to="films-v1", overwrite=True)

    def test_one_shard_needs_an_existing_collection(self) -> None:
        with pytest.raises(PlanBlocked, match="no collection 'films'"):
            self.plan(shard_id=0)

    def test_one_empty_shard_needs_no_word(self) -> None:
        plan = self.plan(existing=info(), placement=PLACEMENT, shard_id=1, existing_points=0)

        assert plan.shard_ids == (1,)

    def test_one_filled_shard_needs_the_word(self) -> None:
        with pytest.raises(PlanBlocked, match="Shard 1 .* set overwrite"):
            self.plan(existing=info(), placement=PLACEMENT, shard_id=1, existing_points=5)

    def test_custom_keys_do_not_fit_a_standalone_node(self) -> None:
        config = {"params": MANIFEST.config["params"] | {"sharding_method": "custom"}}

        with pytest.raises(PlanBlocked, match="custom shard keys"):
            self.plan(manifest=replace(MANIFEST, config=config))


@pytest.mark.parametrize(
    ("source", "target", "fine"),
    [
        ("1.18.3", "1.18.0", True),
        ("1.18.3", "1.19.1", True),
        ("1.18.3", "1.20.0", False),
        ("1.18.3", "1.17.9", False),
        ("1.18.3", "2.18.3", False),
        ("1.9.0", "1.10.0", True),
        ("1.19.0-dev", "1.19.0", True),
    ],
)
def test_versions_follow_qdrants_rule(source: str, target: str, fine: bool) -> None:
    if fine:
        assert check_versions(source, target) == []
    else:
        with pytest.raises(PlanBlocked, match="same minor version"):
            check_versions(source, target)


def test_versions_that_cannot_be_read_warn() -> None:
    assert check_versions("nightly", "1.18.3")
