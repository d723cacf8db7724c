"""Engines: each reads and applies one tool's migrations. A new one is a file and a line here."""

from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.kinds import (
    AppliedMigration,
    Engine,
    FolderReading,
    Limits,
    MigrationScript,
    MigrationState,
    ScriptFailed,
    ScriptUnknown,
    Statement,
    ToolVerdict,
)
from migrations_app.engines.prisma import PrismaEngine
from migrations_app.engines.prisma_cli import PrismaCliEngine

ENGINES: dict[str, type[Engine]] = {
    "prisma": PrismaEngine,
    "prisma-cli": PrismaCliEngine,
    "dbmate": DbmateEngine,
}

__all__ = [
    "ENGINES",
    "AppliedMigration",
    "Engine",
    "FolderReading",
    "Limits",
    "MigrationScript",
    "MigrationState",
    "ScriptFailed",
    "ScriptUnknown",
    "Statement",
    "ToolVerdict",
]
