"""What happens to people and their roles."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.access.choices import Factor, Guesser
from opsconsole.events.catalogue import Audience, Data, NoData, event


class PersonAdded(Data):
    role: str = Field(examples=["operator"])


class RoleOf(Data):
    membership: str = Field(examples=["maja is operator of Shop"])


class SignInFailed(Data):
    username: str = Field(examples=["maja"])


class GuessingStopped(Data):
    """`guesser` is what the guesses were counted by, `username` the last one that was typed."""

    guesser: str = Field(examples=["name"])
    username: str = Field(examples=["maja"])
    guesses: int = Field(examples=[10])

    def words(self) -> dict[str, object]:
        return super().words() | {"guesser": dict(Guesser.choices).get(self.guesser, self.guesser)}


class FactorOf(Data):
    """`name` is what the person calls it, "" where there is only one."""

    factor: str = Field(examples=["webauthn"])
    name: str = Field(default="", examples=["Laptop"])

    def words(self) -> dict[str, object]:
        word = dict(Factor.choices).get(self.factor, self.factor)
        return super().words() | {"factor": f"{word} ({self.name})" if self.name else word}


class SessionOf(Data):
    session: str = Field(examples=["Firefox on Linux, 192.0.2.7"])


class Sessions(Data):
    count: int = Field(examples=[2])


PERSON_ADDED = event(
    "person.added",
    _("%(actor)s added %(object)s with the role %(role)s."),
    data=PersonAdded,
    seen_by=Audience.CONSOLE,
)
PERSON_DISABLED = event(
    "person.disabled",
    _("%(actor)s locked %(object)s out."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
PERSON_ENABLED = event(
    "person.enabled",
    _("%(actor)s let %(object)s back in."),
    data=NoData,
    seen_by=Audience.CONSOLE,
)
ROLE_GRANTED = event(
    "role.granted",
    _("%(actor)s granted a role: %(membership)s."),
    data=RoleOf,
    seen_by=Audience.CONSOLE,
)
ROLE_REVOKED = event(
    "role.revoked",
    _("%(actor)s revoked a role: %(membership)s."),
    data=RoleOf,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
SIGNED_IN = event(
    "person.signed_in",
    _("%(actor)s signed in."),
    data=NoData,
    tone="idle",
    seen_by=Audience.CONSOLE,
)
SIGNED_OUT = event(
    "person.signed_out",
    _("%(actor)s signed out."),
    data=NoData,
    tone="idle",
    seen_by=Audience.CONSOLE,
)
SESSION_ENDED = event(
    "person.session_ended",
    _("%(actor)s ended a session of %(object)s: %(session)s."),
    data=SessionOf,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
SESSIONS_ENDED = event(
    "person.sessions_ended",
    _("%(actor)s ended sessions of %(object)s: %(count)s."),
    data=Sessions,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
CONFIRMED = event(
    "person.confirmed",
    _("%(actor)s confirmed that it is them."),
    data=NoData,
    tone="idle",
    seen_by=Audience.CONSOLE,
)
SIGN_IN_FAILED = event(
    "person.sign_in_failed",
    _("A sign-in as %(username)s failed."),
    data=SignInFailed,
    tone="bad",
    seen_by=Audience.CONSOLE,
)
GUESSING_STOPPED = event(
    "person.guessing_stopped",
    _(
        "%(guesses)s passwords were guessed within an hour %(guesser)s, the last as %(username)s. "
        "More are refused."
    ),
    data=GuessingStopped,
    tone="bad",
    seen_by=Audience.CONSOLE,
)
PASSWORD_CHANGED = event(
    "person.password_changed",
    _("%(actor)s changed their password."),
    data=NoData,
    seen_by=Audience.CONSOLE,
)
PASSWORD_LINK_MADE = event(
    "person.password_link_made",
    _("%(actor)s made a link with which %(object)s can set a new password."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
PASSWORD_SET = event(
    "person.password_set",
    _("%(object)s set a new password with a link."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
FACTOR_ADDED = event(
    "person.factor_added",
    _("%(actor)s added %(factor)s to their sign-in."),
    data=FactorOf,
    seen_by=Audience.CONSOLE,
)
FACTOR_RENAMED = event(
    "person.factor_renamed",
    _("%(actor)s renamed a factor of their sign-in: %(factor)s."),
    data=FactorOf,
    seen_by=Audience.CONSOLE,
)
FACTOR_REMOVED = event(
    "person.factor_removed",
    _("%(actor)s removed %(factor)s from their sign-in."),
    data=FactorOf,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
FACTORS_TAKEN = event(
    "person.factors_taken",
    _("%(actor)s took the second factors of %(object)s away."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
FACTOR_FAILED = event(
    "person.factor_failed",
    _("Somebody who gave the password of %(object)s gave a wrong second factor."),
    data=NoData,
    tone="bad",
    seen_by=Audience.CONSOLE,
)
RECOVERY_CODES_MADE = event(
    "person.recovery_codes_made",
    _("%(actor)s made new recovery codes."),
    data=NoData,
    seen_by=Audience.CONSOLE,
)
RECOVERY_CODE_USED = event(
    "person.recovery_code_used",
    _("%(object)s used a recovery code."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
