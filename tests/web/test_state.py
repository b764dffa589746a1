"""An address and what is chosen, back and forth."""

import pytest

from tubelet.web.state import Field, check_number, restored, rounded, yes

FIELDS = [
    Field("video", choices=lambda: ["a", "b & c"]),
    Field("kinds", ["tube"], choices=lambda: ["tube", "mgm", "smm"]),
    Field("ratio", 0.9, float, between=(0.05, 0.95)),
    Field("motion", False, yes),
]


def test_an_empty_address_means_the_usual():
    assert restored(FIELDS, []) == (["a", ["tube"], 0.9, False], [])


def test_an_address_says_what_is_chosen():
    query = [("video", "b & c"), ("kinds", "mgm"), ("kinds", "smm"), ("ratio", "0.5"), ("motion", "true"), ("x", "y")]
    assert restored(FIELDS, query) == (["b & c", ["mgm", "smm"], 0.5, True], [])


def test_nothing_chosen_of_several_is_not_the_usual():
    assert restored(FIELDS, [("kinds", "")])[0][1] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("video", "/etc/passwd"),
        ("kinds", "cube"),
        ("ratio", "much"),
        ("ratio", "9999"),
        ("ratio", "nan"),
        ("ratio", "-inf"),
    ],
)
def test_what_cannot_be_chosen_is_said_and_the_usual_taken(name, text):
    values, notes = restored(FIELDS, [(name, text)])
    assert values == ["a", ["tube"], 0.9, False]
    assert len(notes) == 1
    assert repr(text) in notes[0]


def test_nothing_to_choose_from_is_none():
    assert restored([Field("run", choices=dict)], []) == ([None], [])


def test_a_number_of_an_address_is_rounded_as_the_field_for_it_rounds():
    """Gradio takes 1.5 for 2 where a whole number is asked for; whoever opens the address sees what was drawn."""
    field = Field("seed", 0, rounded, between=(0, 9))
    assert [field.read([text]) for text in ("1.5", "7")] == [2, 7]
    assert restored([field], [("seed", "inf")]) == ([0], ["seed 'inf' in the address is no number"])


@pytest.mark.parametrize("number", [None, 0.01, float("nan")])
def test_a_number_that_cannot_be_used_is_said(number):
    with pytest.raises(ValueError, match=r"ratio .*: expected 0.05 to 0.95"):
        check_number("ratio", number, (0.05, 0.95))
