"""Ask an http(s) address that answers JSON with a `status`."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from opsconsole.formats import count
from opsconsole.health.probes.kinds import ProbeAnswer, ProbeRequest

GOOD_WORDS = {"healthy", "ok", "up", "pass"}
MAX_BYTES = 64 * 1024
MAX_REDIRECTS = 3


def probe_http(request: ProbeRequest) -> ProbeAnswer:
    """Healthy: a 2xx answer whose JSON `status`, if it has one, is a good word.

    Reads at most 64 KiB and follows at most 3 redirects, to http and https only.
    """
    began = time.perf_counter()
    try:
        with httpx.Client(
            timeout=request.timeout_seconds,
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            trust_env=False,
        ) as client:
            with client.stream("GET", request.address) as response:
                body = b""
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        break
                status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ProbeAnswer(False, _ms(began), f"no answer: {why}"[:500])
    answer = _parse(body)
    word = str(answer.get("status", "")).lower()
    is_healthy = 200 <= status < 300 and (not word or word in GOOD_WORDS)
    return ProbeAnswer(is_healthy, _ms(began), _summary(status, word, answer), answer)


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body[:MAX_BYTES])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _summary(status: int, word: str, answer: dict[str, Any]) -> str:
    parts = [f"{status} {word}".strip()]
    if answer.get("error"):
        parts.append(str(answer["error"]))
    parts += [
        f"{count(value)} {name}"
        for name, value in answer.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    return ", ".join(parts)[:500]
