"""What the web process seals and opens by itself, under SECRET_KEY: not under the workers' key."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

SESSIONS = b"opsconsole.sessions"


def sealer(purpose: bytes) -> MultiFernet:
    """Under a key of its own for each purpose; what was sealed under a fallback key still opens."""
    return _sealer(purpose, (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache
def _sealer(purpose: bytes, secrets: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(_derived(secret, purpose)) for secret in secrets])


def _derived(secret: str, purpose: bytes) -> bytes:
    """RFC 5869."""
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret.encode())
    return base64.urlsafe_b64encode(key)


class SealedSerializer:
    """Sessions as they are stored: one may hold a form that waits, with an address's password."""

    def dumps(self, session: dict[str, Any]) -> bytes:
        return sealer(SESSIONS).encrypt(json.dumps(session).encode())

    def loads(self, data: bytes) -> dict[str, Any]:
        """Raises ValueError, of which Django makes an empty session: its person signs in again.

        One that was stored before sessions were sealed is read as it is; Django has signed it.
        """
        with suppress(InvalidToken):
            data = sealer(SESSIONS).decrypt(data)
        session: dict[str, Any] = json.loads(data)
        return session
