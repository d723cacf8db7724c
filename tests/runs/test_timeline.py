"""A run drawn to scale: what is in the drawing, where, and the same in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opsconsole.runs.timeline import LEFT, RIGHT, Span, draw

SECONDS = st.floats(0, 1e5)
STEPS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12)
BEGAN = 1.8e9


@given(
    STEPS,
    st.none() | SECONDS,
    st.lists(st.tuples(SECONDS, st.booleans())),
    st.lists(st.tuples(SECONDS, SECONDS)),
)
def test_every_bar_and_tick_lies_on_the_axis_and_steps_keep_their_order(
    lengths, usual, answers, down
):
    at, steps = BEGAN, []
    for pause, took in lengths:
        steps.append(Span("step", at + pause, at + pause + took))
        at = steps[-1].ended
    drawn = draw(
        steps,
        usual=("usual", usual) if usual else None,
        answers=("answers", [(BEGAN + second, is_good) for second, is_good in answers]),
        outages=("down", [Span("", BEGAN + began, BEGAN + began + took) for began, took in down]),
    )
    assert drawn is not None
    bars = [bar for row in drawn.rows for bar in row.bars]
    assert all(bar.width > 0 and bar.x >= LEFT - 0.01 and bar.end <= RIGHT + 0.01 for bar in bars)
    assert all(bar.y + drawn.bar <= drawn.height for bar in bars)
    own = [row.bars[0] for row in drawn.rows if row.word == "step"]
    assert [bar.x for bar in own] == sorted(bar.x for bar in own)
    assert [bar.y for bar in own] == sorted({bar.y for bar in own})
    assert all(LEFT <= tick.x <= RIGHT for tick in drawn.ticks)
    assert len(drawn.ticks) <= 9


def test_lengths_are_to_scale_and_an_outage_stands_on_the_same_axis():
    steps = [Span("a", BEGAN, BEGAN + 10), Span("b", BEGAN + 10, BEGAN + 40, "bad")]
    drawn = draw(steps, outages=("database", [Span("", BEGAN + 20, BEGAN + 30)]))
    assert drawn is not None
    a, b, database = drawn.rows
    assert round(b.bars[0].width / a.bars[0].width, 2) == 3
    assert b.bars[0].tone == "step bad"
    up, outage = database.bars
    assert (up.tone, outage.tone) == ("up", "down")
    assert outage.x == (a.bars[0].end + b.bars[0].end) / 2 - outage.width / 2


def test_bad_answer_is_drawn_over_the_good_ones_of_the_same_moment():
    answers = [(BEGAN + 1, False), (BEGAN + 1, True), (BEGAN + 2, True)]
    drawn = draw([Span("a", BEGAN, BEGAN + 3)], answers=("checks", answers))
    assert drawn is not None
    assert [bar.tone for bar in drawn.rows[1].bars] == ["up", "up", "down"]


def test_run_without_a_step_has_no_drawing():
    assert draw([], usual=("usual", 3)) is None


def test_page_draws_the_run_and_says_the_same_in_words(as_role, migrate, folder):
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    run = migrate()
    viewer = as_role("viewer")

    def drawing() -> tuple[str, str]:
        page = viewer.get(run.get_absolute_url()).content.decode()
        words, _end, rest = page[page.index('<svg class="timeline"') :].partition(">")
        return words, rest[: rest.index("</svg>")]

    words, lines = drawing()
    assert "Preflight" in words
    assert "the database always answered" in words
    assert lines.count('class="step"') == run.steps.count()
    assert 'class="down"' not in lines
    outage = {"at": run.started_at.timestamp(), "ms": 1500.0}
    run.result["availability"] |= {"outages": [outage], "down_ms": 1500.0}
    run.save(update_fields=["result"])
    words, lines = drawing()
    assert "the database did not answer for 1.5 s" in words
    assert lines.count('class="down"') == 1
