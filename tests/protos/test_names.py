"""Names are refused before anything is done, with one that would do."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import InputError
from protos.folders import MOST_BYTES, check_key, check_name, is_key


@pytest.mark.parametrize("name", ["demo", "table-2", "2026-01-02.seed_1", "küche", "_x", "a" * MOST_BYTES])
def test_names_that_will_do(name):
    check_name("--name", name)
    check_key("prefix", f"twinrl-{name}")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mein tisch", "mein-tisch"),
        ("", "demo"),
        (".", "demo"),
        ("..", "demo"),
        ("../other", "other"),
        ("a/b", "a-b"),
        ("/abs", "abs"),
        ("-seed", "seed"),
        (".hidden", "hidden"),
        ("a\nb", "a-b"),
        ("a\0b", "a-b"),
        ("a:b", "a-b"),
        ("{tag}", "tag"),
        ("x" * 300, "x" * (MOST_BYTES - 1)),
        ("ü" * 41, "ü" * 39),
    ],
)
def test_names_that_will_not_do(name, near):
    with pytest.raises(InputError) as refused:
        check_name("--name", name)
    assert str(refused.value).startswith(f"--name {name!r}: 1 to 80 bytes of letters, digits or any of _ - . and")
    assert str(refused.value).endswith(f"as in {near!r}")


@given(st.text(max_size=100))
def test_what_is_proposed_will_do_and_what_will_do_names_keys_too(name):
    try:
        check_name("--name", name)
    except InputError as error:
        (near,) = re.findall(r"as in '(.*)'$", str(error), re.DOTALL)
        check_name("--name", near)
    else:
        assert is_key(f"twinrl-{name}")
