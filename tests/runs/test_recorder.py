"""What a run says: redacted before it is stored, numbered without a gap, fenced by the claim."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups_app.parameters import BackupParameters
from backups_app.runs.steps import BackupPreflight
from opsconsole.access.models import User
from opsconsole.environments.models import Environment
from opsconsole.exceptions import FencedOut, StepFailed
from opsconsole.redaction import REDACTED, is_wordlike, redact
from opsconsole.runs import recorder as module
from opsconsole.runs import services as runs
from opsconsole.runs.choices import StepStatus
from opsconsole.runs.lines import clean_line, lines_of
from opsconsole.runs.models import LogChunk, Run
from opsconsole.runs.recorder import Recorder
from tests.conftest import PASSWORD, log_of
from tests.worker import execute_run


def requested(environment: Environment, operator: User) -> Run:
    return runs.request_run(
        actor=operator,
        parameters=BackupParameters(),
        target=environment.targets.get(),
        idempotency_key=uuid.uuid4().hex,
    )


@pytest.fixture
def run(transactional_db, environment, operator) -> Run:
    claimed = runs.claim_run(requested(environment, operator).pk, "w")
    assert claimed is not None
    return claimed


# Neither the dots that stand for a secret nor the mark that this test puts in their place.
LETTERS = st.characters(exclude_characters="•\x00", exclude_categories=["Cs"])


SECRETS = st.text(LETTERS, min_size=6).filter(lambda secret: not is_wordlike(secret))


@given(st.text(LETTERS), st.lists(SECRETS, max_size=4))
def test_no_secret_survives_redaction(text, secrets):
    cleaned = redact("".join([text, *secrets]), secrets)
    assert not any(secret in cleaned.replace(REDACTED, "\x00") for secret in secrets)


@pytest.mark.parametrize("secret", ["x", "public", "index", "p$1", "production"])
def test_password_that_is_a_word_is_hidden_where_a_password_stands_and_nowhere_else(secret):
    words = f"CREATE INDEX x_index ON public.production (p$1); {secret}"
    assert redact(words, [secret]) == words
    for before, after in (
        ("postgresql://app:", "@db/shop"),
        ("host=db password=", " dbname=shop"),
        ("Password: '", "'"),
        ("PGPASSWORD=", ""),
    ):
        assert redact(f"{before}{secret}{after}", [secret]) == f"{before}{REDACTED}{after}"


@given(st.text())
def test_clean_lines_hold_no_control_character_and_are_short(text):
    cleaned = clean_line(text)
    assert all(c == "\t" or c.isprintable() for c in cleaned)


def test_long_line_is_cut_and_says_so():
    assert clean_line("x" * 20_000).endswith("… (3.6 kB cut)")


SECRETS = ["hunter2", "sesame", ""]
SAID = st.text() | st.sampled_from(
    ["", "a\nb", "hunter2", "open hunter", "2 sesame\ttab", "\x1b[0m", "x" * 20_000]
)


def test_secret_is_no_longer_hidden_by_a_control_character_within():
    assert lines_of([(0.0, "", "open hun\x00ter2")], SECRETS) == [(0.0, "", f"open {REDACTED}")]


@given(st.lists(SAID))
def test_lines_made_at_once_are_those_made_one_by_one(texts):
    said = [(float(at), "ok", text) for at, text in enumerate(texts)]
    assert lines_of(said, SECRETS) == [
        line for one in said for line in lines_of([(*one[:2], f"\x00{one[2]}")], SECRETS)
    ]


def test_lines_are_numbered_without_a_gap_over_many_flushes(run, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINES", 10)
    with Recorder(run, ["hunter2"]) as recorder:
        for number in range(35):
            recorder.log(f"line {number} hunter2\x00")
        recorder.log("two\nlines")
        recorder.log("")
    chunks = list(LogChunk.objects.filter(run=run))
    numbers = [n for c in chunks for n in range(c.first_seq, c.last_seq + 1)]
    assert numbers == list(range(1, 39))
    assert log_of(run).splitlines()[0] == f"line 0 {REDACTED}"
    run.refresh_from_db()
    assert run.log_seq == 38


class Meanwhile(str):
    """A secret during whose reading another one is hidden, as by a second thread."""

    recorder: Recorder

    def __bool__(self) -> bool:
        self.recorder.hide("another-1")
        return True


def test_lines_above_a_number_are_read_in_order_wherever_a_chunk_ends(run, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINES", 3)
    with Recorder(run) as recorder:
        for number in range(1, 9):
            recorder.log(f"line {number}", "ok")
    seen = [(line.number, line.tone, line.text) for line in run.log_chunks.read_lines(after=4)]
    assert seen == [(number, "ok", f"line {number}") for number in range(5, 9)]
    assert list(run.log_chunks.read_lines(after=8)) == []


def test_secret_is_kept_out_of_steps_and_their_progress(run):
    with Recorder(run, ["hunter2"]) as recorder:
        recorder.plan_steps(["preflight"])
        recorder.begin_step("preflight")
        recorder.progress(50, None, "half of hunter2")
        recorder.flush()
        assert run.steps.get().summary == f"half of {REDACTED}"
        recorder.end_step(StepStatus.FAILED, "hunter2 is wrong")
    assert run.steps.get().summary == f"{REDACTED} is wrong"


@pytest.mark.parametrize("error", [StepFailed, RuntimeError])
def test_password_of_the_target_is_nowhere_in_what_a_failing_step_leaves(
    transactional_db, environment, operator, monkeypatch, caplog, error
):
    def fail(step, context):
        raise error(f"not let in with {PASSWORD}")

    monkeypatch.setattr(BackupPreflight, "run", fail)
    run = requested(environment, operator)
    execute_run(run.pk, "w")
    run.refresh_from_db()
    said = [run.summary, log_of(run), caplog.text, *run.steps.values_list("summary", flat=True)]
    assert [text for text in said if PASSWORD in text] == []
    assert f"not let in with {REDACTED}" in run.summary


def test_secret_hidden_while_a_line_is_redacted_breaks_nothing():
    secret = Meanwhile("hunter2")
    secret.recorder = Recorder(Run(), [secret])
    assert secret.recorder.redact("hunter2") == REDACTED
    assert secret.recorder.redact("another-1") == REDACTED


def test_writer_without_the_claim_is_fenced_out(run):
    recorder = Recorder(run)
    Run.objects.filter(pk=run.pk).update(claim_token=uuid.uuid4())
    recorder.log("late")
    with pytest.raises(FencedOut):
        recorder.flush()
    assert recorder.fenced
    assert not LogChunk.objects.exists()
