"""Addresses of pages, which are remembered."""

import pytest
from django.test.utils import override_script_prefix
from django.urls import NoReverseMatch

from opsconsole.addresses import page

pytestmark = pytest.mark.fast


def test_address_is_of_the_thing_that_was_named():
    assert [page("run", 1), page("run", 2), page("run", 1)] == ["/runs/1", "/runs/2", "/runs/1"]


def test_address_is_below_the_folder_that_a_proxy_serves_the_console_in():
    outside = page("run", 1)
    with override_script_prefix("/console/"):
        assert page("run", 1) == "/console/runs/1"
    assert page("run", 1) == outside


def test_page_that_is_not_there_is_told_each_time():
    for _time in range(2):
        with pytest.raises(NoReverseMatch):
            page("nowhere", 1)
