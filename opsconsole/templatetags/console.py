"""How statuses, times, durations and strips look. Available in every template."""

from __future__ import annotations

import html
import json
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.templatetags.static import static
from django.utils.dates import MONTHS_3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.timezone import get_current_timezone, localtime
from django.utils.translation import gettext as _
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PostgresLexer

from opsconsole import formats
from opsconsole.access.permissions import can as user_can
from opsconsole.access.permissions import can_somewhere as user_can_somewhere
from opsconsole.access.places import CONSOLE, Place
from opsconsole.choices import look_of
from opsconsole.runs.models import LogLine

register = template.Library()
STRIP_TONES = {0: "", 1: "w", 2: "b", None: "n"}


@register.simple_tag
@lru_cache(maxsize=512)
def icon(name: str, tone: str = "") -> SafeString:
    spin = " spin" if name == "loader" else ""
    return format_html(
        '<svg class="icon {}{}" aria-hidden="true"><use href="{}#{}"/></svg>',
        tone,
        spin,
        static("icons.svg"),
        name,
    )


@register.simple_tag
def tag(tone: str, name: str, word: Any) -> SafeString:
    """A status: icon and word, never colour alone."""
    return _tag(tone, name, str(word))


# Lists have dozens of them, of a few kinds. By type: what is marked safe is no other text's answer.
@lru_cache(maxsize=512, typed=True)
def _tag(tone: str, name: str, word: str) -> SafeString:
    return format_html('<span class="tag {}">{}{}</span>', tone, icon(name), word)


@register.simple_tag
def status_tag(status: Any) -> SafeString:
    tone, name, word = look_of(status)
    return tag(tone, name, word)


@register.simple_tag
def ago(moment: datetime | None) -> SafeString:
    """An age in words, with the exact moment in the viewer's time zone as its title."""
    if moment is None:
        return format_html('<span class="muted">{}</span>', _("never"))
    exact = f"{to_the_second(moment)} {localtime(moment):%Z}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, naturaltime(moment)
    )


@register.filter
def to_the_second(moment: datetime) -> str:
    """`3 Nov 2026, 09:05:00`, in the viewer's time zone. In long lists: `date` takes ten times as
    long."""
    local = localtime(moment)
    return f"{local.day} {MONTHS_3[local.month].title()} {local.year}, {local:%H:%M:%S}"


@register.filter
def duration(seconds: float | None) -> str:
    return "" if seconds is None else formats.duration(seconds)


@register.filter
def milliseconds(value: float | None) -> str:
    return "" if value is None else formats.duration(value / 1000)


@register.filter
def size(amount: int | None) -> str:
    """Of bytes."""
    return "" if amount is None else formats.size(amount)


@register.filter
def grouped(value: int | None) -> str:
    return "" if value is None else formats.count(value)


@register.filter
def short_hash(value: str) -> str:
    return f"{value[:8]}…{value[-4:]}" if value else ""


@register.filter
def migration_title(name: str) -> str:
    """`20250728101500_add_parent` -> `add_parent`."""
    stamp, _underscore, rest = name.partition("_")
    return rest if stamp.isdigit() and rest else name


@register.filter
def word(status: Any) -> str:
    """That of a status, where no tag fits."""
    return look_of(status)[2]


@register.filter
def key_word(key: str) -> str:
    """A key of a recorded event in English, as it was recorded: `keep_days` -> `Keep days`."""
    return capfirst(key.replace("_", " "))


@register.filter
def as_text(value: Any) -> str:
    """A recorded value for people: text as it is, `yes` or `no`, the rest as indented JSON."""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, indent=1)


@register.filter
def clock(seconds_since_epoch: float) -> str:
    moment = localtime(datetime.fromtimestamp(seconds_since_epoch).astimezone())
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


@register.simple_tag
def log_lines(lines: list[LogLine]) -> SafeString:
    """The lines of a log as list items. Thousands of them: a template takes ten times as long."""
    zone, label = get_current_timezone(), html.escape(_("Line %(n)s"))
    return mark_safe("".join(_log_line(line, zone, label) for line in lines))  # noqa: S308


def _log_line(line: LogLine, zone: tzinfo, label: str) -> str:
    moment = datetime.fromtimestamp(line.at, zone)
    n = line.number
    return (
        f'<li id="L{n}"><a href="#L{n}" aria-label="{label % {"n": n}}">{n}</a>'
        f"<time>{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}</time>"
        f'<span class="{html.escape(line.tone)}">{html.escape(line.text)}</span></li>\n'
    )


@register.simple_tag
def strip(bins: list[int | None], title: str) -> SafeString:
    """A row of bars: good, slow, failing, no data. The title says it in words."""
    bars = "".join(_bar(position, len(bins), value) for position, value in enumerate(bins))
    return format_html(
        '<svg class="strip" viewBox="0 0 288 20" preserveAspectRatio="none" role="img">'
        "<title>{}</title>{}</svg>",
        title,
        mark_safe(bars),  # noqa: S308
    )


# A dashboard has thousands of them, of a few hundred kinds.
@lru_cache(maxsize=4096)
def _bar(position: int, count: int, value: int | None) -> SafeString:
    width = 288 / count
    return format_html(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="1" class="{}"/>',
        f"{position * width:.2f}",
        0 if value == 2 else 2,
        f"{width - 1.5:.2f}",
        20 if value == 2 else 16,
        STRIP_TONES.get(value, "n"),
    )


@register.filter
def sql(text: str) -> SafeString:
    """SQL with its words, strings and comments marked; Pygments escapes the text itself."""
    return mark_safe(highlight(text, PostgresLexer(), HtmlFormatter(nowrap=True)))  # noqa: S308


@register.filter
def diff_tone(line: str) -> str:
    return {"+": "plus", "-": "minus", "~": "tilde"}.get(line[:1], "")


@register.simple_tag(takes_context=True)
def can(context: template.Context, action: str, place: Place | str) -> bool:
    """`{% can "run.start" environment as may_start %}`; the place "console" is the console."""
    where = CONSOLE if isinstance(place, str) else place
    return user_can(context["request"].user, action, where)


@register.simple_tag(takes_context=True)
def can_somewhere(context: template.Context, action: str) -> bool:
    """`{% can_somewhere "settings.edit" as may_edit %}`, for a link to where places are listed."""
    return user_can_somewhere(context["request"].user, action)


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: Any) -> str:
    """The current query string with some parameters changed; those given as "" are left out."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters[name] = value
        if value == "":
            del parameters[name]
    return f"?{parameters.urlencode()}"
