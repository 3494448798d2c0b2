"""manage.py retention: what policies would let go, and letting it go.

Exit codes: 0 done, or nothing to do; 1 refused (unknown policy, another plan by now); 3 `preview` found something to
let go (so that a script can tell).
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.schedules.retention.apply import confirm_plan
from apps.schedules.retention.plan import PolicyPlan, plan_policy
from apps.schedules.retention.policies import find_policy

FOUND = 3


class Command(BaseCommand):
    help = "Shows what a retention policy would let go, and lets it go."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for name, text in (("preview", "show what would go; changes nothing"), ("apply", "let go what was previewed")):
            action = actions.add_parser(name, help=text)
            action.add_argument("policy", help="id or name")
            action.add_argument("--json", action="store_true", help="answer in JSON")
            if name == "apply":
                action.add_argument("--confirm", required=True, metavar="DIGEST", help="the digest of the preview")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            policy = find_policy(options["policy"])
            if options["action"] == "apply":
                runs = confirm_plan(policy=policy, digest=options["confirm"], now=now)
                expired = sum(run.counts["expired"] for run in runs)
                answer: dict[str, Any] = {"policy": policy.name, "expired": expired, "runs": [str(r.pk) for r in runs]}
                words = f"{plural(expired, 'backup')} let go; they can be taken back for {policy.grace_days} d."
                self.stdout.write(json.dumps(answer, indent=2) if options["json"] else words)
                return
            plan = plan_policy(policy, now=now)
        except BackupmgrError as error:
            if options["json"]:
                self.stdout.write(json.dumps({"error": str(error)}))
                sys.exit(1)
            raise CommandError(str(error), returncode=1) from error
        self._show(plan, as_json=options["json"])
        if plan.expire_count:
            sys.exit(FOUND)

    def _show(self, plan: PolicyPlan, *, as_json: bool) -> None:
        rows: list[dict[str, Any]] = [
            {
                "cluster": one.key.group.cluster_name,
                "collection": one.key.group.collection_name,
                "storage": one.key.storage_name,
                "backup": row.snapshot_name,
                "taken_at": row.taken_at.isoformat(),
                "keep": verdict.keep,
                "reasons": [str(reason) for reason in verdict.reasons],
            }
            for one in plan.sets
            for row, verdict in one.listed()
        ]
        if as_json:
            shown = {"policy": plan.policy.name, "digest": plan.digest, "expired": plan.expire_count, "backups": rows}
            self.stdout.write(json.dumps(shown, indent=2))
            return
        for row in rows:
            word = "keep" if row["keep"] else "GO  "
            self.stdout.write(f"{word} {row['collection']} {row['backup']}  {', '.join(row['reasons'])}")
        self.stdout.write(
            f"{plural(plan.expire_count, 'backup')} of {plan.kept_count + plan.expire_count} would go, "
            f"{format_size(plan.bytes_expired)}. Digest {plan.digest}"
        )
