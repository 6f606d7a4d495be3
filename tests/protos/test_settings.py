"""These tests save and load settings; a mistake in them is named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from protos.errors import InputError
from protos.schema import Schema, Source
from protos.settings import from_json, load_settings, save_settings, to_json
from protos.space import Box, ConfigurationSpace


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int = 3
    where: Path = Path("x")
    source: Source = Source.REAL
    inner: Inner = field(default_factory=Inner)
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    maybe: int | None = None


@pytest.mark.parametrize(
    "settings",
    [
        Outer(),
        Outer(count=7, where=Path("a/b"), source=Source.TWIN, names=("u", "v"), sizes={"demo": 3}, maybe=4),
        Outer(inner=Inner(rate=2.0, kind="b"), pair=(-1.0, 2.5)),
    ],
)
def test_round_trip(settings, tmp_path):
    assert load_settings(Outer, save_settings(settings, tmp_path / "s" / "settings.json")) == settings


def test_a_configuration_space_round_trips():
    space = ConfigurationSpace(
        manipulated="cube",
        regions={"A": Box(x=(0, 1), y=(0, 1)), "B": Box(x=(0, 1), y=(-1, 0))},
        others={"target": Box(x=(2, 2), y=(0, 0))},
        rows=2,
    )
    assert from_json(ConfigurationSpace, to_json(space)) == space


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "moon"}, "settings.source='moon': choose one of 'twin', 'real'"),
        ({"names": "twin"}, "settings.names='twin': expected a list"),
        ({"pair": 5}, "settings.pair=5: expected a list"),
        ({"sizes": [1]}, r"settings.sizes=\[1\]: expected an object"),
        ({"where": 5}, "settings.where=5: expected a path"),
    ],
)
def test_a_value_of_another_kind_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        from_json(Outer, settings)


def test_unknown_key_names_the_nearest():
    with pytest.raises(InputError, match=r"settings\.inner\.rat: no such setting; nearest is 'rate'"):
        from_json(Outer, {"inner": {"rat": 1.0}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"count": "3"}, "settings.count='3': expected int"),
        ({"count": True}, "settings.count=True: expected int"),
        ({"inner": {"kind": "c"}}, "choose one of 'a', 'b'"),
        ({"pair": [1.0]}, "expected 2 values"),
        ({"inner": 3}, "expected the settings of Inner"),
    ],
)
def test_wrong_values_are_named(data, message):
    with pytest.raises(InputError) as error:
        from_json(Outer, data)
    assert message in str(error.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match="no such settings file"):
        load_settings(Outer, tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{,")
    with pytest.raises(InputError, match="not JSON"):
        load_settings(Outer, tmp_path / "bad.json")


def test_schema_refuses_odd_sizes():
    with pytest.raises(InputError, match="side_px=65"):
        Schema(side_px=65)


def test_a_file_of_another_format_is_refused_with_the_version_that_reads_it(tmp_path):
    path = save_settings(Outer(), tmp_path / "settings.json")
    content = json.loads(path.read_text())
    assert load_settings(Outer, path, written=True) == Outer()
    del content["format"]
    path.write_text(json.dumps(content))
    assert load_settings(Outer, path) == Outer()  # written by hand
    with pytest.raises(InputError, match=r"settings.json: written by TwinRL 0\.1, this is TwinRL 0\.2.*open it with"):
        load_settings(Outer, path, written=True)
    path.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(InputError, match="written by a later TwinRL"):
        load_settings(Outer, path)
