"""Where replicas are, which one is backed up from, and how shard keys get their ids again."""

from __future__ import annotations

from typing import Any

import pytest

from apps.backups.plan import PlanBlocked, plan_backup
from apps.backups.topology import FILLER, KeysImpossible, KeyStep, key_steps, merge
from apps.clusters.qdrant import CollectionInfo, Placement

INFO = CollectionInfo.from_answer({"status": "green", "optimizer_status": "ok", "config": {"params": {}}})


def seen_from(peer: int, states: dict[int, dict[int, str]], **more: Any) -> Placement:
    """Return the placement as a peer tells it; `states` is shard → peer → state."""
    replicas = [(shard, other, state) for shard, peers in states.items() for other, state in peers.items()]
    return Placement.from_answer(
        {
            "peer_id": peer,
            "shard_count": len(states),
            "local_shards": [{"shard_id": shard, "state": state} for shard, p, state in replicas if p == peer],
            "remote_shards": [
                {"shard_id": shard, "peer_id": p, "state": state} for shard, p, state in replicas if p != peer
            ],
            **more,
        }
    )


def views(states: dict[int, dict[int, str]], *peers: int) -> list[Placement]:
    return [seen_from(peer, states) for peer in peers]


def plan(placements: list[Placement], **more: Any) -> Any:
    first, *others = placements
    return plan_backup(collection="films", info=INFO, placement=first, others=others, addresses=3, **more)


class TestMerge:
    def test_what_a_node_says_of_its_own_replica_counts(self) -> None:
        late = seen_from(1, {0: {1: "Active", 2: "Active"}})
        owner = seen_from(2, {0: {1: "Active", 2: "Dead"}})
        for order in ([late, owner], [owner, late]):
            assert {one.peer_id: one.state for one in merge(order).of(0)} == {1: "Active", 2: "Dead"}

    def test_of_two_that_heard_the_worse_news_counts(self) -> None:
        states = [seen_from(1, {0: {3: "Active"}}), seen_from(2, {0: {3: "Partial"}})]
        assert [one.state for one in merge(states).of(0)] == ["Partial"]
        assert [one.state for one in merge(reversed(states)).of(0)] == ["Partial"]

    def test_a_transfer_that_one_node_tells_of_moves_the_shard(self) -> None:
        transfer = {"shard_transfers": [{"shard_id": 4, "from": 1, "to": 2, "sync": True}]}
        assert merge([seen_from(1, {0: {1: "Active"}}), seen_from(2, {}, **transfer)]).moving == (4,)


class TestBackup:
    def test_one_replica_of_each_shard_and_every_node_does_its_part(self) -> None:
        states = {shard: dict.fromkeys((1, 2, 3), "Active") for shard in range(6)}
        chosen = plan(views(states, 1, 2, 3)).shards
        assert [source.shard_id for source in chosen] == [0, 1, 2, 3, 4, 5]
        assert sorted(source.peer_id for source in chosen) == [1, 1, 2, 2, 3, 3]
        assert all(sorted((source.peer_id, *source.others)) == [1, 2, 3] for source in chosen)

    def test_shards_without_a_choice_are_dealt_out_first(self) -> None:
        states = {0: {1: "Active", 2: "Active"}, 1: {1: "Active"}}
        assert [source.peer_id for source in plan(views(states, 1, 2)).shards] == [2, 1]

    def test_a_ring_of_replicas_keeps_every_node_busy(self) -> None:
        for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1)):
            a, b, c = order
            ring = {0: {a: "Active", b: "Active"}, 1: {b: "Active", c: "Active"}, 2: {c: "Active", a: "Active"}}
            assert sorted(source.peer_id for source in plan(views(ring, 1, 2, 3)).shards) == [1, 2, 3]

    def test_what_is_not_active_is_not_read_and_is_told(self) -> None:
        found = plan(views({0: {1: "Partial", 2: "Active"}}, 1, 2))
        assert [(source.peer_id, source.others) for source in found.shards] == [(2, ())]
        assert found.warnings == ("The replica of shard 0 on peer 1 is Partial: nothing is read there.",)

    def test_a_shard_without_an_active_replica_blocks_and_is_named(self) -> None:
        with pytest.raises(PlanBlocked, match=r"No Active replica .* \(shard 1 is Dead and Partial\)"):
            plan(views({0: {1: "Active"}, 1: {1: "Dead", 2: "Partial"}}, 1, 2))

    def test_a_shard_whose_nodes_are_away_blocks_and_is_named_with_the_peer(self) -> None:
        with pytest.raises(PlanBlocked, match=r"shard 1 of 'films' live only on nodes that cannot be .*peer 3"):
            plan(views({0: {1: "Active"}, 1: {3: "Active"}}, 1, 2))

    def test_a_node_that_is_away_is_left_out_where_others_have_the_shard(self) -> None:
        found = plan(views({0: {1: "Active", 3: "Active"}}, 1, 2))
        assert [(source.peer_id, source.others) for source in found.shards] == [(1, ())]

    def test_a_single_shard_may_be_on_any_node(self) -> None:
        found = plan(views({0: {1: "Active"}, 1: {2: "Active"}}, 1, 2), shard_id=1)
        assert [(source.shard_id, source.peer_id) for source in found.shards] == [(1, 2)]


class Qdrant:
    """Gives ids to the shards of keys as Qdrant does."""

    def __init__(self) -> None:
        self.keys: dict[int, Any] = {}

    def do(self, step: KeyStep) -> None:
        if not step.shards:
            self.keys = {shard: key for shard, key in self.keys.items() if key != step.key}
            return
        following = max(self.keys, default=0) + 1
        self.keys |= dict.fromkeys(range(following, following + step.shards), step.key)


@pytest.mark.parametrize(
    "keys",
    [
        {1: "a"},
        {1: "a", 2: "b", 3: "b", 4: 42},
        {1: "acme", 4: "globex", 5: "globex", 6: 42},
        {3: "late"},
        {1: 1, 2: "1", 9: "z"},
        {7: "b", 2: "a"},
    ],
)
def test_the_steps_give_back_the_ids(keys: dict[int, Any]) -> None:
    qdrant = Qdrant()
    for step in key_steps(keys):
        qdrant.do(step)
    assert qdrant.keys == keys


def test_a_gap_is_filled_by_one_key_that_goes_in_the_end() -> None:
    assert key_steps({1: "a", 4: "b"}) == (
        KeyStep("a", 1),
        KeyStep(f"{FILLER}2", 2),
        KeyStep("b", 1),
        KeyStep(f"{FILLER}2", 0),
    )


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({1: "a", 2: "b", 3: "a"}, "do not lie side by side"),
        ({1: "a", 3: "a"}, "do not lie side by side"),
        ({0: "a"}, "from 1 on"),
        ({1: None}, "has no key"),
    ],
)
def test_ids_that_qdrant_cannot_give_again_are_told(keys: dict[int, Any], reason: str) -> None:
    with pytest.raises(KeysImpossible, match=reason):
        key_steps(keys)
