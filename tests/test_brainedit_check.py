"""Choosing by name: the entry, the guess, the list."""

import pytest

from brainedit._check import pick


def test_pick_gives_the_entry_even_when_it_is_none():
    assert pick("thing", "a", {"a": None, "b": 2}) is None


def test_pick_guesses_a_name_that_is_near():
    with pytest.raises(
        ValueError, match=r"^Unknown encoder 'eegnt'\. Did you mean 'eegnet'\? Known: eegnet, lstm\.$"
    ):
        pick("encoder", "eegnt", {"lstm": 1, "eegnet": 2})


@pytest.mark.parametrize("name", ["xyzzy", 3, ""])
def test_pick_lists_all_names_when_none_is_near(name):
    with pytest.raises(ValueError, match=rf"^Unknown loss {name!r}\. Known: hinge, infonce\.$"):
        pick("loss", name, {"infonce": 1, "hinge": 2})


def test_a_name_is_matched_whole():
    with pytest.raises(ValueError, match="Did you mean 'infonce'"):
        pick("loss", "InfoNCE", {"infonce": 1})
