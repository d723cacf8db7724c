"""What can be asked of migrations, as the browser and the command line ask it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from opsconsole.runs.documents import Parameters, Stored


class Answer(BaseModel):
    """A line of the checklist as it was answered: by the console's own evidence, or a person."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    ok: bool
    by: Literal["console", "person"]
    note: str = ""


class MigrateParameters(Parameters):
    """What is applied is in the run's plan. `commit` is where its scripts are read, "" for the
    folder."""

    operation: ClassVar[str] = "migrate"
    checklist: dict[str, Answer] = Field(default_factory=dict)
    commit: str = ""


class OfMigration(Parameters):
    """Whatever is done with one migration, by its name. Version 0 called it `resolve`."""

    migration: str

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        if version:
            return data
        return {n: v for n, v in data.items() if n not in {"title", "resolve"}} | {
            "migration": data["resolve"]
        }


class ResolveParameters(OfMigration):
    operation: ClassVar[str] = "resolve"
    mark: Literal["rolled_back", "applied"]


class FinishParameters(OfMigration):
    """`checksum` is the file's as it was shown, `landed` how many statements had landed then."""

    operation: ClassVar[str] = "finish"
    checksum: str
    landed: int

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        upgraded = super().upgraded(data, version)
        return upgraded if version else {n: v for n, v in upgraded.items() if n != "mark"}


class AdoptDriftParameters(Parameters):
    """`shown_schema` is the hash of the schema as it was shown, `checksum` that of the script."""

    operation: ClassVar[str] = "adopt_drift"
    migration: str
    checksum: str
    shown_schema: str

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        if version:
            return data
        return {
            "migration": data["adopt"],
            "checksum": data["checksum"],
            "shown_schema": data["schema"],
        }


class EndSessionParameters(Parameters):
    """The session that holds the tool's lock: `since` tells it from a later one with its `pid`."""

    operation: ClassVar[str] = "end_session"
    pid: int
    user: str
    since: str | None

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        asked = data if version else data["end_session"]
        return asked if isinstance(asked, dict) else {}
