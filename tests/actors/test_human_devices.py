"""Devices in a person's hand: bytes of reports, events and keys to readings; what is missing has its remedy named."""

import os
import struct
import sys

import numpy as np
import pytest
from hand import HANDS, SPANS, GamepadHand, KeyboardHand, SpaceMouseHand
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.human.devices import Button, Nodes, gamepad, open_device
from actors.human.devices.checking import Seen, advice, found_lines, watch
from actors.human.devices.gamepad import GamepadEvents
from actors.human.devices.keyboard import LAPSE_S
from actors.human.devices.spacemouse import SILENT_S, SpaceMouseReports
from protos.errors import InputError, Unreachable

AXES = st.lists(st.floats(-1, 1), min_size=6, max_size=6)


@pytest.fixture(params=HANDS)
def hand(request):
    hand = HANDS[request.param]()
    yield hand
    hand.close()


def events(*told):
    return b"".join(gamepad.EVENT.pack(1, 2, *each) for each in told)


@pytest.mark.parametrize(
    ("reports", "axes"),
    [
        (["01 5e01 0000 0000", "02 0000 0000 0000"], [1, 0, 0, 0, 0, 0]),
        (["01 0000 a2fe 0000"], [0, 1, 0, 0, 0, 0]),  # pushed away: y = -350
        (["01 0000 0000 a2fe"], [0, 0, 1, 0, 0, 0]),  # pulled up: z = -350
        (["02 0000 a2fe 5e01"], [0, 0, 0, 0, 1, -1]),
        (["01 5e01 0000 0000 0000 0000 a2fe"], [1, 0, 0, 0, 0, 1]),  # a newer one: all in one
        (["01 0a00 0a00 f6ff"], [0, 0, 0, 0, 0, 0]),  # the dead zone
        (["01 ff7f 0000 0000"], [1, 0, 0, 0, 0, 0]),  # beyond full deflection
    ],
)
def test_reports_of_a_spacemouse(reports, axes):
    decoder = SpaceMouseReports()
    for report in reports:
        decoder.feed(bytes.fromhex(report))
    np.testing.assert_allclose(decoder.axes, axes, atol=1e-9)
    assert not decoder.deadman and not decoder.ignored


def test_buttons_of_a_spacemouse():
    decoder = SpaceMouseReports()
    for report, held in (
        ("03 01 00", True),
        ("03 03 00", True),
        ("03 03 00", True),
        ("03 00 00", False),
        ("03 02", False),
    ):
        decoder.feed(bytes.fromhex(report))
        assert decoder.deadman is held
    assert decoder.pressed == [Button.GRIPPER] * 2
    for foreign in (b"", b"\x17\x64", b"\x01\x00", b"\x03"):
        decoder.feed(foreign)
    assert decoder.ignored == 4


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_break_a_decoder(packets):
    for decoder in (SpaceMouseReports(), GamepadEvents(SPANS)):
        for packet in packets:
            decoder.feed(packet)
        assert decoder.axes.shape == (6,) and np.abs(decoder.axes).max() <= 1


def test_events_of_a_gamepad():
    pad = GamepadEvents(SPANS)
    pad.feed(events((3, 0, 32767), (3, 1, -32768), (3, 4, 32767), (3, 3, -32768), (0, 0, 0)))
    np.testing.assert_allclose(pad.axes, [1, 1, -1, 0, 0, 1], atol=1e-9)
    pad.feed(events((3, 16, -1), (3, 17, 1), (1, gamepad.BTN_TL, 1)))
    np.testing.assert_allclose(pad.axes, [1, 1, -1, 1, -1, 1], atol=1e-9)
    assert pad.deadman
    pad.feed(
        events((1, gamepad.BTN_SOUTH, 1), (1, gamepad.BTN_SOUTH, 2), (1, gamepad.BTN_SOUTH, 0), (1, gamepad.BTN_TR, 1))
    )
    assert pad.pressed == [Button.SUCCESS, Button.GRIPPER]
    pad.feed(events((0, gamepad.SYN_DROPPED, 0)))
    assert not pad.deadman and not pad.axes.any(), "what was lost may have been the release"


def test_a_pad_with_its_right_stick_on_z():
    pad = GamepadEvents({0: (0, 255), 1: (0, 255), 2: (0, 255), 5: (0, 255)})
    pad.feed(events((3, 0, 128), (3, 1, 127), (3, 2, 255), (3, 5, 0)))
    np.testing.assert_allclose(pad.axes, [0, 0, 1, 0, 0, -1], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(AXES)
def test_what_a_hand_wishes_is_what_is_read(wish):
    wish = np.round(wish, 2)
    for make in (SpaceMouseHand, lambda: SpaceMouseHand(new=True), GamepadHand):
        hand = make()
        try:
            asked = np.where(np.arange(6) // 3 == 1, np.round(wish), wish)  # a D-pad is all or nothing
            hand.wish(asked)
            reading = hand.device.read()
        finally:
            hand.close()
        np.testing.assert_allclose(reading.axes, asked, atol=0.004)
        assert reading.deadman and not reading.trouble and reading.t == hand.clock.now


def test_a_reading_has_its_time_and_every_press_once(hand):
    hand.clock.now += 5
    hand.wish([1, 0, 0, 0, 0, 0])
    hand.press(Button.GRIPPER)
    first, second = hand.device.read(), hand.device.read()
    assert first.t == hand.clock.now and first.axes[0] == 1 and first.deadman
    assert first.pressed == (Button.GRIPPER,) and second.pressed == ()


def test_an_unplugged_device_says_so_and_lets_go(hand):
    hand.wish([1, 0, 0, 0, 0, 0])
    hand.device.read()
    hand.unplug()
    for _ in range(2):
        reading = hand.device.read()
        assert reading.trouble and not reading.deadman and not reading.axes.any()


@pytest.mark.parametrize("make", [SpaceMouseHand, GamepadHand])
def test_a_deflected_device_that_is_silent_is_lost_and_needs_its_deadman_anew(make):
    hand = make()
    hand.wish([1, 0, 0, 0, 0, 0])
    hand.clock.now += 5
    reading = hand.device.read()
    assert "silent for 5.0 s" in reading.trouble and not reading.deadman and not reading.axes.any()
    hand._send(struct.pack("<B3h", 1, 350, 0, 0) if make is SpaceMouseHand else events((3, 0, 32767)))
    reading = hand.device.read()
    assert not reading.trouble and reading.axes[0] == 1 and not reading.deadman
    hand.close()


def test_a_device_at_rest_may_be_silent():
    hand = SpaceMouseHand()
    hand.wish(np.zeros(6))
    hand.clock.now += 100 * SILENT_S
    assert hand.device.read().deadman and not hand.device.read().trouble
    hand.close()


class TestKeyboard:
    @pytest.fixture
    def hand(self):
        hand = KeyboardHand()
        yield hand
        hand.close()

    @pytest.mark.parametrize(
        ("keys", "axes"),
        [
            (b"\x1b[C", [1, 0, 0, 0, 0, 0]),
            (b"\x1b[B\x1b[B", [0, -1, 0, 0, 0, 0]),
            (b"\x1b[5~\x1b[D", [-1, 0, 1, 0, 0, 0]),
            (b"]", [0, 0, 0, 0, 0, -1]),
            (b" ", [0, 0, 0, 0, 0, 0]),
        ],
    )
    def test_a_key_moves_once_and_its_person_acts_on_until_no_key_comes(self, hand, keys, axes):
        hand.type(keys)
        reading = hand.device.read()
        np.testing.assert_array_equal(reading.axes, axes)
        assert reading.deadman
        hand.clock.now += 0.9 * LAPSE_S
        assert hand.device.read().deadman and not hand.device.read().axes.any()
        hand.clock.now += 0.2 * LAPSE_S
        assert not hand.device.read().deadman

    def test_a_key_that_comes_in_two_halves(self, hand):
        hand.type(b"\x1b")
        assert not hand.device.read().axes.any()
        hand.type(b"[6~")
        assert hand.device.read().axes[2] == -1

    def test_b_gives_back_at_once(self, hand):
        hand.type(b"\x1b[Cb")
        assert not hand.device.read().deadman

    @pytest.mark.parametrize("slip", [b"s", b"s\x1b[A\n", b"s \n", b"\n", b"sf", b"xs"])
    def test_letters_judge_with_enter_only(self, hand, slip):
        hand.type(slip)
        assert hand.device.read().pressed == ()

    @pytest.mark.parametrize("typed", [b"s\n", b"\x1b[As\r", b"fs\n"])
    def test_a_letter_and_enter_judge(self, hand, typed):
        hand.type(typed)
        assert hand.device.read().pressed == (Button.SUCCESS,)

    def test_the_terminal_is_given_back_as_it_was(self):
        import termios

        hand = KeyboardHand()
        assert not termios.tcgetattr(hand.terminal)[3] & (termios.ICANON | termios.ECHO)
        hand.device.close()
        assert termios.tcgetattr(hand.terminal)[3] & termios.ICANON
        hand.close()


def kernel(tmp_path, *, vendor="256F", product="C635", keys=True):
    """A kernel that shows a mouse, a keyboard of a desk, a SpaceMouse and a pad."""
    sys, dev = tmp_path / "sys", tmp_path / "dev"
    for name, told in (("hidraw0", "0003:0000046D:0000C077"), ("hidraw1", f"0003:0000{vendor}:0000{product}")):
        (sys / "hidraw" / name / "device").mkdir(parents=True)
        (sys / "hidraw" / name / "device/uevent").write_text(
            f"DRIVER=hid\nHID_ID={told}\nHID_NAME=SpaceMouse Compact\n"
        )
    pad = (1 << gamepad.BTN_SOUTH | 1 << gamepad.BTN_TL) if keys else 1 << 30
    words = " ".join(f"{pad >> 64 * word & 2**64 - 1:x}" for word in reversed(range(5)))
    for name, mask in (("event0", "10000 0"), ("event3", words)):
        (sys / "input" / name / "device/capabilities").mkdir(parents=True)
        (sys / "input" / name / "device/name").write_text("Some Pad\n")
        (sys / "input" / name / "device/capabilities/key").write_text(mask + "\n")
    (dev / "input").mkdir(parents=True)
    return Nodes(sys, dev), dev


def test_devices_are_found_by_what_the_kernel_tells(tmp_path):
    nodes, dev = kernel(tmp_path)
    assert [(one.kind, one.node) for one in nodes.found()] == [
        ("spacemouse", dev / "hidraw1"),
        ("gamepad", dev / "input/event3"),
    ]
    lines = list(found_lines(nodes))
    assert "SpaceMouse Compact" in lines[0] and "may not be read by this user" in lines[0] and "udevadm" in lines[0]


def test_a_device_is_opened_by_its_kind(tmp_path):
    nodes, dev = kernel(tmp_path)
    os.mkfifo(dev / "hidraw1")
    writer = os.open(dev / "hidraw1", os.O_RDWR)
    device = open_device("spacemouse", nodes=nodes)
    assert device.name == "SpaceMouse Compact" and "LEFT button" in device.help
    os.close(writer)
    device.close()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("spacemouse", "USB vendor 256f"), ("gamepad", "/proc/bus/input/devices"), ("keyboard", "terminal")],
)
def test_a_missing_device_is_named_with_its_remedy(kind, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    nodes, _ = kernel(tmp_path, vendor="1234", keys=False)
    with pytest.raises(InputError, match=remedy):
        open_device(kind, nodes=nodes)
    assert sum("none: " in line for line in found_lines(nodes)) == 3


def test_a_node_that_may_not_be_read_is_named_with_a_udev_rule(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"may not read it; as root: echo 'KERNEL==\"hidraw\*\"") as told:
        open_device("spacemouse", tmp_path / "hidraw7")
    assert "70-twinrl.rules" in str(told.value)


def test_the_self_test_names_what_it_has_not_seen():
    hand, seen = SpaceMouseHand(), Seen("spacemouse")
    hand.wish(np.zeros(6))
    hand.press(Button.GRIPPER)
    seen.add(hand.device.read())
    assert len(seen.missing()) == 12 and "right +" in seen.missing()
    assert "cap does not" in advice("spacemouse", seen.missing())
    for way in (1.0, -1.0):
        hand.wish(way * np.ones(6))
        seen.add(hand.device.read())
    assert seen.missing() == []
    assert "right -1.00" in seen.line(hand.device.read()) and "deadman HELD" in seen.line(hand.device.read())
    hand.close()


def test_the_self_test_shows_the_device_and_ends_when_it_is_lost(hand):
    shown = []
    hand.unplug()
    with pytest.raises(Unreachable, match=r"unplugged|closed"):
        watch(hand.device, hand.kind, shown.append, 5.0)
    assert len(shown) == 1


def test_the_self_test_ends_after_its_time(hand):
    assert "deadman" in watch(hand.device, hand.kind, lambda line: None, 0.0)


def test_no_library_is_loaded():
    assert not {"hid", "evdev", "pyspacemouse"} & set(sys.modules)
