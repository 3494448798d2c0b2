"""From laps to a table, targets and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .contest import AWS, NAIVE, OUR_FOLDER, OUR_S3, SCRIPT_FOLDER, Lap

FOLDER_TARGET = 0.8
S3_TARGET = 1.0
MEMORY_TARGET_MIB = 150
#: "The same at both sizes": the peaks may differ by this much.
MEMORY_SPREAD_MIB = 15
MIB = 1024 * 1024

Laps = Mapping[str, Sequence[Lap]]


@dataclass(frozen=True)
class Spread:
    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.2f} … {self.median:.2f} … {self.high:.2f}"


@dataclass(frozen=True)
class Target:
    """One thing to reach. `value` is better when it is higher, unless `at_most`."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_most: bool = False
    spread: Spread | None = None

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def line(self) -> str:
        shown = f"{self.value:.0f}{self.unit}" if self.unit else f"{self.value:.2f}"
        limit = f"{self.limit:.0f}{self.unit}" if self.unit else f"{self.limit:.2f}"
        spread = f"  (rounds: {self.spread})" if self.spread else ""
        sign = "≤" if self.at_most else "≥"
        return f"  {'yes' if self.reached else 'NO '}  {self.what}: {shown}, target {sign} {limit}{spread}"


def spread(values: Sequence[float]) -> Spread:
    return Spread(min(values), statistics.median(values), max(values))


def speed(laps: Sequence[Lap], seconds: Callable[[Lap], float]) -> Spread:
    """MB/s (10^6 bytes)."""
    return spread([lap.size_bytes / 1e6 / seconds(lap) for lap in laps])


def transfer(lap: Lap) -> float:
    return lap.transfer_seconds


def whole(lap: Lap) -> float:
    return lap.whole_seconds


def ratio(ours: Sequence[Lap], theirs: Sequence[Lap], seconds: Callable[[Lap], float]) -> Spread:
    """Our speed over theirs, round by round: what else the machine did then, it did to both."""
    return spread([seconds(their) / seconds(our) for our, their in zip(ours, theirs, strict=True)])


def partners(laps: Laps) -> dict[str, str]:
    """Return whom each of ours is measured against: the partner that the target names, or the faster of two."""
    found = {}
    if OUR_FOLDER in laps:
        found[OUR_FOLDER] = SCRIPT_FOLDER
    if OUR_S3 in laps:
        found[OUR_S3] = max(AWS, NAIVE, key=lambda name: speed(laps[name], transfer).median)
    return found


def speed_targets(laps: Laps) -> list[Target]:
    targets = []
    for name, rival in partners(laps).items():
        found = ratio(laps[name], laps[rival], transfer)
        limit = FOLDER_TARGET if name == OUR_FOLDER else S3_TARGET
        targets.append(Target(f"{name}, transfer, over {rival}", found.median, limit, spread=found))
    return targets


def memory_targets(memory: Mapping[tuple[str, int], Lap]) -> list[Target]:
    """`memory` maps storage and MiB of payload to the job that was measured."""
    targets = []
    for storage in dict.fromkeys(storage for storage, _ in memory):
        peaks = {size: lap.memory_bytes / MIB for (name, size), lap in memory.items() if name == storage}
        for size, peak in peaks.items():
            name = f"{storage}, peak memory above idle at {size} MiB"
            targets.append(Target(name, peak, MEMORY_TARGET_MIB, unit=" MiB", at_most=True))
        difference = max(peaks.values()) - min(peaks.values())
        name = f"{storage}, difference between the sizes"
        targets.append(Target(name, difference, MEMORY_SPREAD_MIB, unit=" MiB", at_most=True))
    return targets


def table(laps: Laps) -> str:
    """A table of speeds in MB/s, in Markdown, with the ratios to the partner that a target names."""
    lines = [
        "| | transfer, MB/s: min / median / max | whole backup, MB/s | ratio of transfers | of whole backups "
        "| client's CPU, s per GB |",
        "|---|---|---|---|---|---|",
    ]
    rivals = partners(laps)
    for name, each in laps.items():
        moved, all_of_it = speed(each, transfer), speed(each, whole)
        ratios = ["", ""]
        if name in rivals:
            ratios = [f"{ratio(each, laps[rivals[name]], part).median:.2f}" for part in (transfer, whole)]
        lines.append(
            f"| {name.replace('|', chr(92) + '|')} | {moved.low:.0f} / **{moved.median:.0f}** / {moved.high:.0f} "
            f"| {all_of_it.low:.0f} / {all_of_it.median:.0f} / {all_of_it.high:.0f} | {ratios[0]} | {ratios[1]} "
            f"| {statistics.median(lap.cpu_seconds * 1e9 / lap.size_bytes for lap in each):.1f} |"
        )
    return "\n".join(lines)


def as_json(
    machine: Mapping[str, Any], laps: Laps, memory: Mapping[tuple[str, int], Lap], targets: Sequence[Target]
) -> dict[str, Any]:
    return {
        "machine": dict(machine),
        "laps": {name: [asdict(lap) for lap in each] for name, each in laps.items()},
        "memory": [{"storage": name, "size_mib": size, **asdict(lap)} for (name, size), lap in memory.items()],
        "targets": [{**asdict(target), "reached": target.reached} for target in targets],
        "reached": all(target.reached for target in targets),
    }
