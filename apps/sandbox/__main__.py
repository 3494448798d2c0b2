"""Run a sandbox node, or a cluster of them, as a process: python -m apps.sandbox --data DIR [--port N] [--nodes N]."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading

from .cluster import SandboxCluster
from .node import SandboxNode

_PARENT_POLL_SECONDS = 0.25
_MAX_NODES = 9


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the parent's death; print one JSON line when ready."""
    parser = argparse.ArgumentParser(prog="python -m apps.sandbox", description=__doc__)
    parser.add_argument("--data", required=True, help="directory of the data; made when missing")
    parser.add_argument(
        "--port", type=int, default=0, help="0 takes a free one (default); further nodes take this one + 10, + 20, ..."
    )
    parser.add_argument(
        "--nodes", type=_nodes, default=1, help="how many nodes (1); from 2 on they are a cluster, all in one process"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("SANDBOX_API_KEY"),
        help="key for everything; better in SANDBOX_API_KEY, since a command line is for all to read",
    )
    parser.add_argument(
        "--read-only-api-key", default=os.environ.get("SANDBOX_READ_ONLY_API_KEY"), help="key for reading"
    )
    parser.add_argument("--parent-pid", type=int, help="exit when this process, our parent, is gone")
    options = parser.parse_args(arguments)

    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    is_child = os.getppid() == options.parent_pid
    if options.nodes == 1:
        node = SandboxNode(
            options.data,
            options.port,
            options.api_key,
            host=options.host,
            read_only_api_key=options.read_only_api_key,
        )
        nodes: list[SandboxNode] = [node]
        running: SandboxNode | SandboxCluster = node
    else:
        cluster = SandboxCluster(
            options.data,
            options.nodes,
            api_key=options.api_key,
            read_only_api_key=options.read_only_api_key,
            ports=[options.port + 10 * number if options.port else 0 for number in range(options.nodes)],
            host=options.host,
        )
        nodes, running = cluster.nodes, cluster
    with running:
        ready = {
            "url": nodes[0].url,
            "urls": [node.url for node in nodes],
            "pid": os.getpid(),
            "peer_id": nodes[0].peer_id,
            "peer_ids": [node.peer_id for node in nodes],
        }
        print(json.dumps(ready), flush=True)  # noqa: T201, whoever started us waits for this line
        while not done.wait(_PARENT_POLL_SECONDS):
            if options.parent_pid is not None and not _is_there(options.parent_pid, is_child):
                break
    return 0


def _nodes(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MAX_NODES:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MAX_NODES} is needed")
    return number


def _is_there(pid: int, is_child: bool) -> bool:
    # The kernel's own signal comes when the thread that started us ends, not the process; so we look.
    if is_child:
        return os.getppid() == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    raise SystemExit(main())
