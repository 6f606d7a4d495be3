"""Calls without a deadline are given up in time, and stand in the way of no other."""

import threading

import pytest

from actors.real.patience import Patience
from protos.errors import Unreachable


def test_calls_are_answered_one_after_another_by_one_thread():
    with Patience(5.0) as patience:
        first, second = (patience.run("asking", threading.get_ident) for _ in range(2))
    assert first == second != threading.get_ident()


def test_an_error_of_the_call_is_told_and_the_next_call_is_answered():
    def fail() -> None:
        raise RuntimeError("no such register")

    with Patience(5.0) as patience:
        with pytest.raises(Unreachable, match="reading: no such register"):
            patience.run("reading", fail)
        assert patience.run("reading", lambda: 7) == 7


def test_a_call_that_is_given_up_does_not_stand_in_the_way_of_the_next_and_its_thread_ends_with_it():
    released, began = threading.Event(), list[threading.Thread]()

    def hang() -> None:
        began.append(threading.current_thread())
        released.wait(30)

    with Patience(0.2) as patience:
        with pytest.raises(Unreachable, match=r"stop: no answer \(deadline 0.2 s\)"):
            patience.run("stop", hang)
        assert patience.run("stop", lambda: "stopped") == "stopped"
        released.set()
        began[0].join(30)
        assert not began[0].is_alive()
