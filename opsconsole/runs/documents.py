"""What is stored with a run: what was asked (parameters), and what came of it (result)."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from opsconsole.exceptions import ConsoleError

Stored = dict[str, JsonValue]


class Unreadable(ConsoleError):
    """What is stored with a run is nothing that this version of the console understands."""


class Parameters(BaseModel):
    """What a run is asked to do, as stored with it; never changed afterwards.

    Each operation has a subclass that bears its key. A field that it does not know is refused:
    dropping one could make the run do more than was asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    operation: ClassVar[str]
    # Goes up with every change of the stored shape, which `upgraded` then makes up for.
    version: ClassVar[int] = 1

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        """Data of an older version in the shape of this one. Version 0 kept its title with it."""
        return {name: value for name, value in data.items() if version or name != "title"}

    @classmethod
    def read(cls, data: Stored, version: int) -> Self:
        """The stored parameters of a run, of any version. Raises Unreadable."""
        try:
            return cls.model_validate(cls.upgraded(data, version))
        except (ValidationError, KeyError) as error:
            raise Unreadable(f"the parameters of {cls.operation}: {_told(error)}") from error

    def stored(self) -> Stored:
        return self.model_dump(mode="json")


class Result(BaseModel):
    """What came of a run so far, as stored with it.

    A field is stored once it is set: assign a list, and add to that one. What is read may be of
    any version: keys that it does not know, and values of another shape, are not read, and stay
    where they are stored.
    """

    # Ways out that a run which needs a decision offers: `{action, title, takes, leaves}` each.
    ways: list[dict[str, str]] = Field(default_factory=list)
    availability: dict[str, JsonValue] | None = None

    @classmethod
    def read(cls, data: Stored) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            foreign = {each["loc"][0] for each in error.errors() if each["loc"]}
            return cls.model_validate({n: v for n, v in data.items() if n not in foreign})

    def stored_over(self, data: Stored) -> Stored:
        """`data` with everything that was set here in its place."""
        return data | self.model_dump(mode="json", exclude_unset=True)


def _told(error: ValidationError | KeyError) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return "; ".join(
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg'].lower()}"
        for each in error.errors(include_url=False, include_input=False)
    )
