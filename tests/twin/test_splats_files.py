"""These tests read splat files of three formats; damaged ones are refused in one line."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splat_writers import compressed_ply_bytes, spz_bytes

from protos.errors import InputError, SceneError
from twin.camera import look_at
from twin.render import rasterize
from twin.splats import UP_AXES, Splats, read_splats, write_ply
from twin.splats.files import z_up_from

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "splats"
COEFFICIENTS = (0, 3, 8, 15)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def random_splats(count: int, seed: int = 0, degree: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(count, 4))
    return Splats.of(
        means=rng.uniform(-2, 2, (count, 3)),
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=np.exp(rng.uniform(-8, -1, (count, 3))),
        opacities=rng.uniform(0, 1, count),
        colours=rng.uniform(0.1, 0.9, (count, 3)),
        sh=rng.uniform(-0.9, 0.9, (count, COEFFICIENTS[degree], 3)),
    )


def assert_close(found: Splats, wanted: Splats, *, mean: float, log_scale: float, rotation: float, sh: float) -> None:
    assert len(found) == len(wanted) and found.degree == wanted.degree
    np.testing.assert_allclose(found.means, wanted.means, atol=mean)
    np.testing.assert_allclose(np.log(found.scales), np.log(wanted.scales), atol=log_scale)
    alignment = np.abs((found.quaternions * wanted.quaternions).sum(1))
    assert 2 * np.arccos(np.minimum(alignment, 1)).max(initial=0) < rotation
    np.testing.assert_allclose(found.opacities, wanted.opacities, atol=0.51 / 255)
    np.testing.assert_allclose(found.colours, wanted.colours, atol=1 / 255)
    np.testing.assert_allclose(found.sh, wanted.sh, atol=sh)


@SAME_FOLDER
@given(count=st.integers(0, 20), seed=st.integers(0, 99), degree=st.integers(0, 3), version=st.sampled_from([2, 3]))
def test_spz_round_trip(tmp_path, count, seed, degree, version):
    splats = random_splats(count, seed, degree)
    path = tmp_path / "splats.anything"
    path.write_bytes(spz_bytes(splats, version=version))
    found = read_splats(path, up="z")
    assert_close(found, splats, mean=1.3e-4, log_scale=0.032, rotation=0.2 if version == 2 else 0.01, sh=0.004)


@SAME_FOLDER
@given(count=st.integers(1, 300), seed=st.integers(0, 99), degree=st.integers(0, 3), bounds=st.booleans())
def test_compressed_ply_round_trip(tmp_path, count, seed, degree, bounds):
    splats = random_splats(count, seed, degree)
    path = tmp_path / "splats.anything"
    path.write_bytes(compressed_ply_bytes(splats, colour_bounds=bounds))
    assert_close(read_splats(path, up="z"), splats, mean=0.0025, log_scale=0.005, rotation=0.01, sh=0.017)


def test_both_rotations_of_every_largest_component_arrive(tmp_path):
    q = np.array([[1, 0.1, 0.2, 0.3], [0.1, 1, 0.2, 0.3], [0.1, 0.2, 1, 0.3], [0.1, 0.2, 0.3, 1]])
    q = np.concatenate([q, -q, q * [-1, 1, -1, 1]])
    splats = Splats.of(**{**vars(random_splats(len(q))), "quaternions": q / np.linalg.norm(q, axis=1, keepdims=True)})
    for content in (spz_bytes(splats), compressed_ply_bytes(splats)):
        (tmp_path / "s").write_bytes(content)
        found = read_splats(tmp_path / "s", up="z").quaternions
        np.testing.assert_allclose(np.abs((found * splats.quaternions).sum(1)), 1, atol=1e-5)


def contents(tmp_path, degree: int = 1) -> list[bytes]:
    splats = random_splats(9, degree=degree)
    write_ply(tmp_path / "plain.ply", splats)
    return [
        (tmp_path / "plain.ply").read_bytes(),
        compressed_ply_bytes(splats),
        spz_bytes(splats),
        spz_bytes(splats, version=2),
    ]


@SAME_FOLDER
@given(data=st.data())
def test_damage_is_refused_in_one_line_or_harmless(tmp_path, data):
    content = bytearray(data.draw(st.sampled_from(contents(tmp_path))))
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content))) :]
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4), label="places"):
        if place < len(content):
            content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged").write_bytes(content)
    try:
        splats = read_splats(tmp_path / "damaged")
    except SceneError as error:
        assert "\n" not in str(error)
        return
    for array in vars(splats).values():
        assert np.isfinite(array).all()
    rasterize(splats, look_at((-3, 0, 0.5), at=(0, 0, 0), fovy_deg=60, px=16))


@SAME_FOLDER
@given(data=st.data())
def test_damage_inside_the_gzip_data_is_refused_or_harmless(tmp_path, data):
    raw = bytearray(gzip.decompress(spz_bytes(random_splats(5, degree=2))))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged").write_bytes(gzip.compress(bytes(raw)))
    try:
        assert np.isfinite(read_splats(tmp_path / "damaged").means).all()
    except SceneError as error:
        assert "\n" not in str(error)


def spz_head(version: int = 3, count: int = 1, degree: int = 0, fraction_bits: int = 12) -> bytes:
    head = b"NGSP" + version.to_bytes(4, "little") + count.to_bytes(4, "little") + bytes([degree, fraction_bits, 0, 0])
    return gzip.compress(head)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "neither PLY nor SPZ"),
        (b"NGSP\x04\0\0\0", "version 4 or later"),
        (b"\x1f\x8bno gzip", "damaged gzip"),
        (gzip.compress(b"NGSP"), "ends early"),
        (gzip.compress(b"NOPE" + bytes(12)), "no SPZ file"),
        (spz_head(version=1), "version 1; versions 2 and 3"),
        (spz_head(degree=4), "degree 4"),
        (spz_head(fraction_bits=60), "60 fraction bits"),
        (spz_head(count=4_000_000_000), "at most 10000000"),
        (spz_head(count=9_000_000), "ends early"),
        (compressed_ply_bytes(random_splats(3)).replace(b"chunk 1", b"chunk 0"), "0 chunks for 3 splats; 1 needed"),
        (compressed_ply_bytes(random_splats(3)).replace(b"element vertex", b"element points"), "without an element"),
        (compressed_ply_bytes(random_splats(3)).replace(b"packed_color", b"packed_paint"), "without packed_color"),
        (compressed_ply_bytes(random_splats(3)).replace(b"min_scale_x", b"min_scale_w"), "without min_scale_x"),
        (compressed_ply_bytes(random_splats(3)).replace(b"float max_g", b"float max_q"), "without max_g"),
        (compressed_ply_bytes(random_splats(3)).replace(b"uint packed_r", b"float packed_r"), "type uint"),
        (compressed_ply_bytes(random_splats(3, degree=1)).replace(b"sh 3", b"sh 2"), "harmonics of 2 splats"),
        (compressed_ply_bytes(random_splats(3, degree=1)).replace(b"f_rest_4", b"f_rest_7"), "two properties"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_files_are_refused_in_one_line(tmp_path, content, says):
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(SceneError, match=says) as error:
        read_splats(tmp_path / "s")
    assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path):
    """A small head in front of 64 MiB of zeros: no more than one splat is taken out."""
    packer = zlib.compressobj(9, wbits=31)
    content = packer.compress(gzip.decompress(spz_head()))
    zeros = bytes(1 << 20)
    content += b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
    (tmp_path / "bomb.spz").write_bytes(content)
    assert len(read_splats(tmp_path / "bomb.spz")) == 1


@pytest.mark.parametrize("up", UP_AXES)
def test_the_axis_that_points_up_becomes_z(up):
    turn = z_up_from(up)[:3, :3]
    axis = np.zeros(3)
    axis["xyz".index(up[-1])] = -1 if up.startswith("-") else 1
    np.testing.assert_array_equal(turn @ axis, [0, 0, 1])
    assert np.linalg.det(turn) == pytest.approx(1)


def test_up_axes_by_format_and_by_hand(tmp_path):
    for content, habit in zip(contents(tmp_path, degree=0), ("-y", "-y", "y", "y"), strict=True):
        (tmp_path / "s").write_bytes(content)
        stored, turned = read_splats(tmp_path / "s", up="z"), read_splats(tmp_path / "s")
        np.testing.assert_array_equal(turned.means, read_splats(tmp_path / "s", up=habit).means)
        sign = -1 if habit == "-y" else 1
        np.testing.assert_array_equal(turned.means[:, 2], sign * stored.means[:, 1])
    with pytest.raises(InputError, match="choose one of x, -x, y, -y, z, -z"):
        read_splats(tmp_path / "s", up="down")


def published(name: str) -> Splats:
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}; set TWINRL_SHARED_DATA to the folder of shared test data")
    return read_splats(DATA / name)


def heights(splats: Splats) -> np.ndarray:
    """Returns the splats' heights between the lowest and the highest, 0..1."""
    low, high = np.quantile(splats.means[:, 2], [0.01, 0.99])
    return (splats.means[:, 2] - low) / (high - low)


def test_a_published_ply_stands_upright():
    dog = published("plush_dog.ply")
    assert len(dog) == 15105 and dog.degree == 3
    black = (dog.colours.max(1) < 0.15) & (dog.opacities > 0.5)  # eyes and nose
    assert 0.5 < np.median(heights(dog)[black]) < 0.9


def test_a_published_compressed_ply_stands_upright():
    guitar = published("guitar.compressed.ply")
    assert len(guitar) == 90854 and guitar.degree == 0
    size = np.ptp(np.quantile(guitar.means, [0.01, 0.99], axis=0), axis=0)
    assert size[2] > 2 * size[:2].max()
    assert np.median(heights(guitar)) < 0.4  # the body, not the neck
