"""The demo from its first line to its last."""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from apps.core.text import format_duration, plural

from . import sample
from .bucket import Bucket
from .compare import Picture, replica_differences
from .errors import DemoError, Interrupted
from .folder import fresh_folder
from .installation import Installation
from .lively import Scene, keep_by_schedule, leave_unprotected, lose_a_disk, make_history
from .manager import Manager
from .node import Node
from .rounds import Outcome, Place, back_up, hash_file, play_round
from .screen import Screen

PULLED = "pulled by the node"
_CLUSTER = "demo"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Small collections that are backed up as well while the demo stays up, so that there is something to look at.
_MORE = {"articles": 600, "faces": 400, "support tickets": 200}


@dataclass(frozen=True)
class Options:
    """What the command line asked for. `qdrant_url` is empty for the sandbox node."""

    folder: Path
    once: bool
    s3: bool
    points: int
    port: int | None
    qdrant_url: str
    qdrant_api_key: str
    nodes: int = 1


def tell_story(options: Options, screen: Screen) -> int:
    """Run the demo; return the exit code. Leaves no process and no collection behind.

    Raises: DemoError; Interrupted, unless it comes while the demo stays up: that is how it ends.
    """
    with fresh_folder(options.folder) as folder, ExitStack() as stack:
        # The collections go after the processes: no worker is at work on them any more.
        collections = stack.enter_context(ExitStack())
        processes = stack.enter_context(ExitStack())
        story = _Story(options, screen, Installation(folder, processes), processes, collections)
        try:
            outcomes = story.run()
        finally:
            ignore_signals()
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def heed_signals() -> None:
    """Have the first SIGINT, SIGTERM or SIGHUP raise Interrupted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise Interrupted(number)

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def ignore_signals() -> None:
    """From now on nothing but kill -9 stops the clean-up; the processes then go with this one."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Story:
    def __init__(
        self,
        options: Options,
        screen: Screen,
        installation: Installation,
        processes: ExitStack,
        collections: ExitStack,
    ) -> None:
        self._options = options
        self._screen = screen
        self._installation = installation
        self._processes = processes
        self._collections = collections
        self._started = time.monotonic()
        self._key = options.qdrant_api_key
        self._nodes: list[Node] = []
        self._config = sample.CLUSTER_CONFIG if options.nodes > 1 else sample.CONFIG
        # On a node that is not ours no name may meet another one.
        self._suffix = f"-{secrets.token_hex(4)}" if options.qdrant_url else ""

    def run(self) -> list[Outcome]:
        options, screen, installation = self._options, self._screen, self._installation
        screen.title("Setting up")
        node = self._node()
        with _timed() as seconds:
            installation.prepare()
        screen.done("Database (SQLite) migrated, admin user and API token made", seconds())
        with _timed() as seconds:
            installation.start(options.port)
        screen.done(f"Web server at {installation.url} and a worker are ready", seconds())
        manager = Manager(installation.url, installation.token, installation.check)
        manager.add_cluster(name=_CLUSTER, urls=[one.url for one in self._nodes], api_key=self._key)

        screen.title("A collection with something of everything")
        name = self._name("catalogue")
        self._fill(node, name, options.points, alias=self._name("shop"))
        before = self._read(node, name)

        folder = self._folder_place(manager)
        screen.title("To a folder, and back")
        outcomes = [self._play(name, folder, before, node, manager)]
        if options.s3:
            screen.title("To S3, and back")
            outcome = self._play(name, self._s3_place(manager), before, node, manager)
            self._check_pulled(node, name, outcome)
            outcomes.append(outcome)

        self._conclude(outcomes, len(before.points))
        if not options.once:
            self._more(node, manager, folder.storage_id)
            self._stay()
        return outcomes

    def _node(self) -> Node:
        """Return the node of QDRANT_URL, or else the first of the sandbox nodes that are started for it."""
        urls, kind = [self._options.qdrant_url], "the Qdrant node of QDRANT_URL"
        count = self._options.nodes
        with _timed() as seconds:
            if not self._options.qdrant_url:
                urls, self._key = self._installation.start_nodes(count)
                kind = "a sandbox node" if count == 1 else f"a cluster of {count} sandbox nodes"
                kind += " (Qdrant's own engine)"
            self._nodes = [Node(url, self._key) for url in urls]
            [version] = {node.version() for node in self._nodes}
        self._screen.done(f"Qdrant {version}, {kind}, at {' and '.join(node.url for node in self._nodes)}", seconds())
        return self._nodes[0]

    def _name(self, word: str) -> str:
        return f"demo-{word}{self._suffix}" if self._suffix else word

    def _fill(self, node: Node, name: str, count: int, alias: str = "") -> None:
        if self._options.qdrant_url:
            # Before it is made, so that it goes even when making it is interrupted half-way; and after the worker.
            self._own(node, name)
        with _timed() as seconds:
            node.create(name, self._config, sample.INDEXES, alias)
            with self._screen.counting(f"Loading {name}", count) as moved:
                node.load(name, sample.points(count), moved)
            node.settle(name)
        aliased = f", alias {alias!r}" if alias else ""
        self._screen.done(
            f"Loaded {plural(count, 'point')} into {name!r}: vectors text (64, cosine) and image (32, dot), sparse "
            f"words, {len(sample.INDEXES)} payload indexes, {self._config['shard_number']} shards"
            f"{', 2 replicas of each' if self._options.nodes > 1 else ''}{aliased}",
            seconds(),
        )

    def _own(self, node: Node, name: str) -> None:
        def remove() -> None:
            try:
                node.delete(name)
            except DemoError as error:
                self._screen.bad(f"The collection {name!r} was left on the node: {error}")

        self._collections.callback(remove)

    def _read(self, node: Node, name: str) -> Picture:
        with _timed() as seconds, self._screen.counting("Reading every point", self._options.points) as moved:
            picture = node.picture(name, moved)
        if len(picture.points) != self._options.points:
            raise DemoError(f"{self._options.points:,} points were loaded, and {len(picture.points):,} are there.")
        self._screen.done(
            f"Read all {plural(len(picture.points), 'point')} back with payload and vectors, for the comparison",
            seconds(),
        )
        return picture

    def _folder_place(self, manager: Manager) -> Place:
        root = self._installation.storages / "folder"
        storage_id, message = manager.add_storage({"name": "folder", "type": "local", "path": str(root)})
        self._screen.done(f"Storage 'folder' tested and added: {message}")
        return Place("folder", storage_id, lambda key: hash_file(root / key))

    def _s3_place(self, manager: Manager) -> Place:
        with _timed() as seconds:
            bucket = Bucket(self._installation.folder / "s3", self._processes)
        self._screen.done(f"S3 server at {bucket.endpoint}", seconds())
        storage_id, message = manager.add_storage(bucket.storage_config())
        self._screen.done(f"Storage 's3' tested and added: {message}")
        return Place("s3", storage_id, bucket.hash_of)

    def _play(self, name: str, place: Place, before: Picture, node: Node, manager: Manager) -> Outcome:
        if not self._options.qdrant_url:
            for one in self._nodes:
                one.clear_log()
        outcome = play_round(
            collection=name,
            place=place,
            cluster=_CLUSTER,
            before=before,
            node=node,
            manager=manager,
            screen=self._screen,
        )
        if len(self._nodes) > 1:
            self._check_replicas(name, len(before.points), outcome)
        return outcome

    def _check_replicas(self, name: str, points: int, outcome: Outcome) -> None:
        """Look at every replica of every node: a cluster that is half restored can look whole from one node."""
        found = replica_differences(
            [node.replicas(name) for node in self._nodes], self._config["replication_factor"], points
        )
        if found:
            self._screen.bad(f"The replicas are not what they should be: {plural(len(found), 'difference')}")
        else:
            self._screen.done(
                f"Counted every replica on every node: {self._config['shard_number']} shards, "
                f"{self._config['replication_factor']} Active replicas of each, {plural(points, 'point')}"
            )
        outcome.problems += found

    def _check_pulled(self, node: Node, name: str, outcome: Outcome) -> None:
        """From S3 the node has to fetch the parts itself, by presigned address: its log and the job's story tell."""
        pulled = outcome.ways == {PULLED}
        if self._options.qdrant_url:
            if pulled:
                self._screen.done("The node fetched every part itself, by presigned address")
            else:
                self._screen.line("The node could not reach this S3 server on loopback, so the worker sent the parts.")
            return
        log = [entry for one in self._nodes for entry in one.log()]
        calls = [entry["path"] for entry in log if entry["status"] == 200 and "/snapshots/" in entry["path"]]
        recovered = sum(path.endswith("/snapshots/recover") for path in calls)
        uploaded = sum(path.endswith("/snapshots/upload") for path in calls)
        parts = self._config["shard_number"] * self._config.get("replication_factor", 1)
        if pulled and recovered == parts and not uploaded:
            self._screen.done(f"The node fetched {plural(recovered, 'part')} itself, by presigned address (its log)")
        else:
            outcome.problems.append(
                f"{name}: the restore from S3 did not travel by presigned address: {recovered} fetched by the node, "
                f"{uploaded} sent to it"
            )

    def _conclude(self, outcomes: list[Outcome], points: int) -> None:
        problems = [f"{outcome.label}: {problem}" for outcome in outcomes for problem in outcome.problems]
        self._screen.title("Result")
        if problems:
            self._screen.bad(f"NOT EQUAL, {plural(len(problems), 'difference')}:")
            self._screen.differences(problems)
        else:
            places = " and ".join(outcome.label for outcome in outcomes)
            self._screen.done(f"EQUAL: all {plural(points, 'point')} came back from {places} as they were")
        self._screen.line(
            f"It took {format_duration(time.monotonic() - self._started)}. Logs and data: {self._installation.folder}"
        )

    def _more(self, node: Node, manager: Manager, storage_id: str) -> None:
        self._screen.title("A few more, so that the admin has something to show")
        for word, count in _MORE.items():
            name = self._name(word)
            self._fill(node, name, count)
            back_up(collection=name, storage_id=storage_id, cluster=_CLUSTER, manager=manager, screen=self._screen)
            self._screen.done(f"Backed up {name!r}")
        scene = Scene(_CLUSTER, storage_id, self._installation.storages, node, manager, self._screen)
        first, second, *_ = [self._name(word) for word in _MORE]
        drafts = self._name("drafts")
        make_history(scene, first)
        keep_by_schedule(
            scene,
            policy="two weeks",
            include=[self._name("catalogue"), *(self._name(word) for word in _MORE)],
            exclude=[],
            storages=["folder"],
        )
        if self._options.qdrant_url:
            self._own(node, drafts)
        leave_unprotected(scene, drafts, self._config)
        lose_a_disk(scene, second)

    def _stay(self) -> None:
        """Show the way in and stay up until a signal comes. Raises: DemoError when a process ends by itself."""
        installation = self._installation
        self._screen.title("Look around")
        self._screen.line(f"Admin     {installation.url}/admin/")
        self._screen.line(f"Login     {installation.user}")
        self._screen.line(f"Password  {installation.password}")
        self._screen.line(f"REST API  {installation.url}/api/v1/docs")
        self._screen.line("Ctrl-C ends everything.")
        with contextlib.suppress(Interrupted):
            while True:
                installation.check()
                time.sleep(1)


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Yield a function that tells the seconds since the start."""
    started = time.monotonic()
    yield lambda: time.monotonic() - started
