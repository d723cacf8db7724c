"""What can be wrong with an archive itself, as against what is around it."""

from opsconsole.exceptions import AdapterError


class ArchiveCorrupt(AdapterError):
    """The stored bytes are not those that were written."""


class BadKey(AdapterError):
    """A path that no object can have, or not the one spelling that it has."""


class ObjectMissing(AdapterError):
    """A store was reached and answered that it has no such object."""
