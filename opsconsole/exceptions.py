"""What can go wrong, by who has to act on it."""


class ConsoleError(Exception):
    """Base of the errors a person is shown: the message says what, where, and what to do."""


class Refused(ConsoleError):
    """The user may not do this, or must do something else first. Nothing was changed.

    `status` is the HTTP status a view answers with (403 for a missing right, 409 otherwise);
    `field` names the input that it is about (`reason`, `typed_name`, ...), if it is about one.
    """

    def __init__(self, message: str, *, status: int = 409, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.field = field


class StepFailed(ConsoleError):
    """A step ended in an expected way other than success; the run fails with this message."""


class NeedsAttention(ConsoleError):
    """The outcome cannot be decided by the console; a person has to.

    `ways` is stored with the run: a list of `{action, title, takes, leaves}`.
    """

    def __init__(self, message: str, *, ways: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.ways = ways or []


class Cancelled(ConsoleError):
    """The run was asked to stop; the message says what state the database is in."""


class FencedOut(ConsoleError):
    """This worker no longer holds the run's claim and must write nothing more."""


class AdapterError(ConsoleError):
    """Something outside refused or broke: a server, a tool, a file, an address."""
