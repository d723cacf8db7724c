"""What every store does.

A test module subclasses it and gives the fixtures `store` and `unreachable`: a function from a
store to the same one as it is when what it lies on is away. With parameters, one for each way.
"""

from __future__ import annotations

import os

import pytest

from backups_app.exceptions import BadKey, ObjectMissing
from opsconsole.exceptions import AdapterError

BIG = os.urandom(20 * 1024 * 1024)


def put(store, key: str, data: bytes) -> None:
    with store.writer(key) as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])


def get(store, key: str) -> bytes:
    return b"".join(store.read(key))


class StoreContract:
    @pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "small", "20 MiB"])
    def test_what_is_written_is_read_back(self, store, data):
        put(store, "app/env/a.dump", data)
        assert get(store, "app/env/a.dump") == data
        assert all(len(chunk) <= 1 << 24 for chunk in store.read("app/env/a.dump"))

    def test_a_write_replaces_what_was_there(self, store):
        put(store, "a.json", b"old")
        put(store, "a.json", b"new")
        assert get(store, "a.json") == b"new"

    @pytest.mark.parametrize("size", [0, 1, len(BIG)])
    def test_a_write_that_fails_leaves_nothing(self, store, size):
        with pytest.raises(ZeroDivisionError), store.writer("app/env/a.dump") as file:
            for start in range(0, size, 1 << 20):
                file.write(BIG[start : start + (1 << 20)])
            raise ZeroDivisionError
        assert store.list("app/env") == []
        with pytest.raises(AdapterError, match="cannot read"):
            get(store, "app/env/a.dump")

    def test_list_names_keys_under_a_folder_with_their_sizes(self, store):
        for key in ("app/env/b.dump", "app/env/a.dump", "app/other/c.dump"):
            put(store, key, b"12345")
        assert [(s.key, s.size_bytes) for s in store.list("app/env")] == [
            ("app/env/a.dump", 5),
            ("app/env/b.dump", 5),
        ]
        assert store.list("nothing/here") == []

    def test_delete_twice_is_no_error(self, store):
        put(store, "app/a.dump", b"1")
        store.delete("app/a.dump")
        store.delete("app/a.dump")
        with pytest.raises(AdapterError, match="cannot read"):
            get(store, "app/a.dump")

    def test_object_that_is_not_there_is_told_as_missing(self, store):
        put(store, "app/a.dump", b"1")
        for key in ("app/b.dump", "other/a.dump", "app", "app/a.dump/b"):
            with pytest.raises(ObjectMissing, match="cannot read the archive: "):
                get(store, key)

    @pytest.mark.parametrize(
        "key", ["", ".", "..", "/a", "a/", "a//b", "./a", "a/../a", "../a", "a\\b", "a\0", "a\nb"]
    )
    def test_other_spelling_of_a_key_is_refused(self, store, key):
        for act in (
            lambda: put(store, key, b"1"),
            lambda: get(store, key),
            lambda: store.delete(key),
        ):
            with pytest.raises(BadKey):
                act()

    def test_store_that_cannot_be_reached_does_not_say_that_an_object_is_missing(
        self, store, unreachable
    ):
        put(store, "app/a.dump", b"1")
        away = unreachable(store)
        for act in (lambda: get(away, "app/a.dump"), lambda: away.delete("app/a.dump")):
            with pytest.raises(AdapterError) as error:
                act()
            assert not isinstance(error.value, ObjectMissing)
