"""What browsers say they are, in words."""

from __future__ import annotations

from django.utils.translation import gettext as _

# The first that is found counts: most of them name others too.
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrom": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = {
    "Windows": "Windows",
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "CrOS": "ChromeOS",
    "Mac OS": "macOS",
    "Linux": "Linux",
}
LONGEST = 40


def browser_of(user_agent: str) -> str:
    """Such as "Firefox on Linux"; what names no browser is quoted as it is, cut to 40 characters."""
    browser = _named(BROWSERS, user_agent)
    system = _named(SYSTEMS, user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}
    return browser or user_agent[:LONGEST] or _("unknown browser")


def _named(words: dict[str, str], text: str) -> str:
    return next((name for word, name in words.items() if word in text), "")
