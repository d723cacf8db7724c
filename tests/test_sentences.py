from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from django.utils.translation import override, trans_real
from hypothesis import given
from hypothesis import strategies as st

from opsconsole.language import tell, tell_again
from opsconsole.sentences import Sentence, say, say_count
from tests.test_layers import sources

MEMO = say(
    "Applied %(names)s. %(rest)s",
    names="a, b",
    rest=say_count("%(count)s row is left.", "%(count)s rows are left.", 2),
)


@contextmanager
def in_german(messages: dict[str, str | tuple[str, str]]):
    """German with these messages alone."""
    with override("de"):
        catalogue = trans_real.translation("de")
        before = dict(catalogue._catalog.items())
        for message, translated in messages.items():
            if isinstance(translated, tuple):
                for number, text in enumerate(translated):
                    catalogue._catalog[message, number] = text
            else:
                catalogue._catalog[message] = translated
        try:
            yield
        finally:
            for message, translated in messages.items():
                keys = [(message, 0), (message, 1)] if isinstance(translated, tuple) else [message]
                for key in keys:
                    for each in catalogue._catalog._catalogs:
                        each.pop(key, None)
            assert dict(catalogue._catalog.items()) == before


GERMAN = {
    "Applied %(names)s. %(rest)s": "%(rest)s Angewendet: %(names)s.",
    "%(count)s row is left.": ("%(count)s Zeile bleibt.", "%(count)s Zeilen bleiben."),
}


def test_sentence_is_told_in_the_readers_language_with_those_it_is_made_of():
    with in_german(GERMAN):
        assert tell(MEMO) == "2 Zeilen bleiben. Angewendet: a, b."
        assert str(MEMO) == "Applied a, b. 2 rows are left."
    assert tell(MEMO) == "Applied a, b. 2 rows are left."


def test_kept_sentence_is_told_again_and_in_english_as_it_was_said_then():
    with in_german(GERMAN):
        kept = MEMO.stored()
        assert tell_again("As it was said then.", kept) == "2 Zeilen bleiben. Angewendet: a, b."
        assert tell_again("As it was said then.", None) == "As it was said then."
    assert tell_again("As it was said then.", kept) == "As it was said then."
    assert kept["parameters"]["names"] == "a, b"


def test_text_before_a_full_stop_is_said_without_its_own():
    said = say("%(why)s. Nothing was changed.", why="The server is away.")
    assert str(said) == "The server is away. Nothing was changed."


def test_texts_among_the_parameters_are_changed_and_numbers_are_not():
    found = say("%(a)s %(b)s", a=say("%(c)s %(n)s", c="secret", n=7), b="secret")
    assert str(found.changed(lambda text: text.replace("secret", "…"))) == "… 7 …"


@given(st.text())
def test_any_text_may_be_a_parameter_and_is_kept_as_it_is(text):
    sentence = say("%(text)s, twice: %(again)s", text=text, again=say("%(text)s", text=text))
    assert str(sentence) == f"{text}, twice: {text}"
    assert Sentence.read(json.loads(json.dumps(sentence.stored()))) == sentence


def said(module: ast.Module) -> Iterator[tuple[list[str], set[str]]]:
    """The messages and the parameters of every sentence that a module says."""
    imported = {
        name.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "opsconsole.sentences"
        for name in node.names
    }
    if not imported & {"say", "say_count"}:
        return
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "say":
                messages, counted = node.args[:1], set()
            elif node.func.id == "say_count":
                messages, counted = node.args[:2], {"count"}
            else:
                continue
            yield (
                [ast.literal_eval(each) for each in messages],
                counted | {str(keyword.arg) for keyword in node.keywords},
            )


def test_messages_are_written_out_and_have_a_placeholder_for_each_parameter():
    found = [each for _name, module in sources() for each in said(module)]
    assert len(found) > 100
    assert [
        (message, parameters)
        for messages, parameters in found
        for message in messages
        if set(re.findall(r"%\((\w+)\)s", message)) != parameters
    ] == []
