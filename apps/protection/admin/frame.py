"""What the frame of every page shows of the verdict: the mark in its title, the icon, the badge in the menu."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.admin_cells import BAD, OFF, OK, WARN, state_cell
from apps.jobs.admin.frame import running_now
from apps.protection.facts import recent_verdict
from apps.protection.judge import State, Verdict

#: State → (word, tone, mark in the title).
WORDS = {
    State.FAILING: ("Failing", BAD, "✕"),
    State.UNPROTECTED: ("Unprotected", "bare", "∅"),
    State.OVERDUE: ("Overdue", WARN, "!"),
    State.UNKNOWN: ("Unknown", "unknown", "?"),
    State.UNPROVEN: ("Unproven", "unproven", "◔"),
    State.PROTECTED: ("Protected", OK, "✓"),
    State.NOTHING: ("Nothing yet", OFF, ""),
}
_BADGES = {BAD: "bad", "bare": "bad", WARN: "warn", "unknown": "unknown", OK: "ok"}


@dataclass(frozen=True)
class Shown:
    """A verdict as the frame shows it."""

    verdict: Verdict

    @property
    def word(self) -> str:
        return WORDS[self.verdict.state][0]

    @property
    def tone(self) -> str:
        return WORDS[self.verdict.state][1]

    @property
    def mark(self) -> str:
        return WORDS[self.verdict.state][2]

    @property
    def icon(self) -> str:
        return static(f"backupmgr/icons/{self.verdict.state}.svg")

    @property
    def badge(self) -> SafeString:
        """How many collections need somebody; a mark when it is not about collections; nothing when all is fine."""
        if self.verdict.state in (State.PROTECTED, State.NOTHING):
            return SafeString("")
        count = self.verdict.attention
        spoken = f"{count} need attention" if count else self.word
        return format_html(
            '<span class="bm-badge bm-badge-{}" title="{}"><span aria-hidden="true">{}</span>'
            '<span class="bm-sr">{}</span></span>',
            _BADGES.get(self.tone, "plain"), f"{self.word}: {self.verdict.sentence}", count or self.mark, spoken,
        )  # fmt: skip


def protection_cell(state: State, title: str = "") -> SafeString:
    word, tone, _ = WORDS[state]
    return state_cell(word, tone, title=title)


def may_see(request: HttpRequest) -> bool:
    return request.user.has_perm("jobs.view_job")


def shown_verdict(request: HttpRequest, verdict: Verdict | None = None) -> Shown:
    """The verdict that this request shows everywhere: one per request, so that no two parts of a page disagree."""
    found: Shown | None = getattr(request, "shown_verdict", None)
    if found is None or verdict is not None:
        if verdict is None:
            request.verdict_asked_at = time.monotonic()  # type: ignore[attr-defined]
        found = Shown(verdict or recent_verdict(timezone.now()))
        request.shown_verdict = found  # type: ignore[attr-defined]
    return found


def favicon(request: HttpRequest) -> str:
    """The mark of the product, with the state in its corner for who may see it."""
    return shown_verdict(request).icon if may_see(request) else static("backupmgr/icon.svg")


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context of every page; nothing for who may not see anything."""
    if not may_see(request):
        return {}
    return {"running_now": running_now(), "standing": shown_verdict(request)}
