"""Where the demo's databases are. Nothing is stored: passwords are derived from the home's key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from opsconsole.embedded.home import Home

APPLICATION = "sales-commission"


@dataclass(frozen=True)
class DemoEnvironment:
    """One stage: how many migrations it is behind, and how much data it holds."""

    slug: str
    name: str
    behind: int
    users: int
    targets: int
    commissions: int
    is_protected: bool = False

    @property
    def role(self) -> str:
        return f"sales_commission_{self.slug}"


ENVIRONMENTS = (
    DemoEnvironment("development", "Development", 0, 50, 500, 3_000),
    DemoEnvironment("staging", "Staging", 2, 500, 5_000, 40_000),
    DemoEnvironment("production", "Production", 3, 2_000, 20_000, 150_000, is_protected=True),
)


def password_of(home: Home, role: str) -> str:
    key = home.read_keys().secret_key.encode()
    return hmac.new(key, f"demo:{role}".encode(), hashlib.sha256).hexdigest()[:32]


def dsn_of(home: Home, environment: DemoEnvironment) -> str:
    """The address of one demo database, password included."""
    host = urlsplit(home.read_addresses().superuser_dsn).query.removeprefix("host=")
    role = environment.role
    return f"postgresql://{role}:{password_of(home, role)}@/{role}?host={host}"


def find(slug: str) -> DemoEnvironment:
    """The stage of that short name; raises KeyError."""
    return {environment.slug: environment for environment in ENVIRONMENTS}[slug]
