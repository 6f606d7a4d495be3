import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData

from protos.errors import SceneError
from twin.rotations import about_z, matrix_from_quaternion, matrix_from_vector
from twin.splats import Splats, concatenate, merge_voxels, read_ply, write_ply
from twin.splats.cloud import COUNTS, basis, rotate
from twin.surfaces import grid, surface_splats

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def random_splats(count: int, seed: int = 0, coefficients: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(count, 4))
    return Splats.of(
        means=rng.uniform(-0.3, 0.3, (count, 3)),
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=rng.uniform(0.002, 0.03, (count, 3)),
        opacities=rng.uniform(0.05, 0.99, count),
        colours=rng.uniform(0, 1, (count, 3)),
        sh=rng.normal(0, 0.2, (count, coefficients, 3)),
    )


def full(covariances: np.ndarray) -> np.ndarray:
    return covariances[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


@pytest.mark.parametrize("coefficients", COUNTS)
def test_ply_round_trip(tmp_path, coefficients):
    splats = random_splats(50, coefficients=coefficients)
    write_ply(tmp_path / "s.ply", splats)
    back = read_ply(tmp_path / "s.ply")
    for name in ("means", "quaternions", "scales", "opacities", "colours", "sh"):
        np.testing.assert_allclose(getattr(back, name), getattr(splats, name), atol=1e-6, err_msg=name)


def test_harmonics_are_stored_channel_after_channel(tmp_path):
    splats = random_splats(1, coefficients=3)
    write_ply(tmp_path / "s.ply", splats)
    vertex = PlyData.read(tmp_path / "s.ply")["vertex"]
    stored = [vertex[f"f_rest_{k}"][0] for k in range(9)]
    np.testing.assert_array_equal(stored, splats.sh[0].T.ravel())


@pytest.mark.parametrize("present", [range(8), [0, 1, 2, 3, 4, 5, 6, 7, 9], range(48)], ids=["8", "gap", "48"])
def test_harmonics_with_gaps_are_refused(tmp_path, present):
    names = [*"xyz", *(f"f_dc_{k}" for k in range(3)), "opacity", *(f"scale_{k}" for k in range(3))]
    names += [*(f"rot_{k}" for k in range(4)), *(f"f_rest_{k}" for k in present)]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 0",
        *(f"property float {name}" for name in names),
    ]
    (tmp_path / "s.ply").write_bytes("\n".join([*lines, "end_header\n"]).encode())
    with pytest.raises(SceneError, match=r"f_rest_\*; one of \[0, 9, 24, 45\]"):
        read_ply(tmp_path / "s.ply")


@given(
    axis=st.tuples(*[st.floats(-2, 2)] * 3),
    view=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.01),
)
def test_turned_harmonics_seen_from_the_turned_side_are_the_same(axis, view):
    sh = random_splats(5, coefficients=15).sh
    rotation = matrix_from_vector(axis)
    view = np.asarray(view) / np.linalg.norm(view)
    before = np.einsum("k,nkc->nc", basis(view), sh)
    after = np.einsum("k,nkc->nc", basis(rotation @ view), rotate(sh, rotation))
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_harmonics_are_those_of_gsplat(degree):
    torch = pytest.importorskip("torch")
    implementation = pytest.importorskip("gsplat.cuda._torch_impl")
    directions = np.random.default_rng(0).normal(size=(40, 3))
    count = COUNTS[degree]
    for k in range(count):
        one = torch.zeros(40, count + 1, 3, dtype=torch.float64)
        one[:, k + 1] = 1
        theirs = implementation._spherical_harmonics(degree, torch.from_numpy(directions), one)[:, 0]
        np.testing.assert_allclose(basis(directions)[:, k], theirs, atol=1e-7)


def test_a_published_ply_with_harmonics_of_degree_3_loads():
    path = DATA / "splats" / "plush_dog.ply"
    if not path.exists():
        pytest.skip(f"no {path}; set TWINRL_SHARED_DATA to the folder of shared test data")
    splats = read_ply(path)
    assert len(splats) == 15105 and splats.degree == 3
    assert 0.1 < np.median(splats.colours) < 0.9
    np.testing.assert_allclose(np.linalg.norm(splats.quaternions, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a ply", "not a PLY"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n", "binary_little_endian"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty float x\nend_header\n", "opacity"),
        (b"ply\nformat binary_little_endian 1.0\nelement chunk 0\nproperty float x\nend_header\n", "compressed"),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n",
            "property list",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, says):
    (tmp_path / "s.ply").write_bytes(content)
    with pytest.raises(SceneError, match=says) as error:
        read_ply(tmp_path / "s.ply")
    assert "\n" not in str(error.value)


def test_a_cut_or_spoilt_file_is_refused(tmp_path):
    path = tmp_path / "s.ply"
    write_ply(path, random_splats(5))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(SceneError, match="ends early"):
        read_ply(path)
    path.write_bytes(whole[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(SceneError, match="NaN"):
        read_ply(path)
    with pytest.raises(SceneError, match="cannot be read"):
        read_ply(tmp_path / "absent.ply")


def test_transforming_moves_means_and_turns_covariances():
    splats = random_splats(20)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = about_z(0.7), (1, 2, 3)
    moved = splats.transformed(pose, scale=2.0)
    np.testing.assert_allclose(moved.means, 2 * splats.means @ pose[:3, :3].T + [1, 2, 3], atol=1e-5)
    expected = 4 * pose[:3, :3] @ full(splats.covariances()) @ pose[:3, :3].T
    np.testing.assert_allclose(full(moved.covariances()), expected, atol=1e-7)


def test_merging_single_splats_changes_nothing_but_their_cap():
    splats = random_splats(30, coefficients=3)
    spread_out = Splats.of(
        means=np.arange(30)[:, None] * [1.0, 0, 0],
        quaternions=splats.quaternions,
        scales=splats.scales,
        opacities=np.minimum(splats.opacities, 0.9),
        colours=splats.colours,
        sh=splats.sh,
    )
    merged = merge_voxels(spread_out, 0.1)
    order = np.argsort(merged.means[:, 0])
    np.testing.assert_allclose(merged.means[order], spread_out.means, atol=1e-6)
    np.testing.assert_allclose(full(merged.covariances())[order], full(spread_out.covariances()), atol=1e-6)
    np.testing.assert_allclose(merged.opacities[order], spread_out.opacities, atol=1e-4)
    np.testing.assert_allclose(merged.sh[order], spread_out.sh, atol=1e-6)


def test_merging_a_table_keeps_it_flat_closed_and_of_one_colour():
    x, y = grid(0.2, 0.2, 0.008)
    table = surface_splats((np.stack([x, y, 0 * x], 1), np.tile([0.0, 0, 1], (len(x), 1))), 0.008, (0.5, 0.4, 0.3))
    merged = merge_voxels(table, 0.025)
    assert len(merged) < len(table) / 6
    np.testing.assert_allclose(merged.means[:, 2], 0, atol=1e-6)
    normals = matrix_from_quaternion(merged.quaternions)[:, :, 0]  # the shortest axis comes first
    np.testing.assert_allclose(np.abs(normals[:, 2]), 1, atol=1e-3)
    inner = (np.abs(merged.means[:, :2]) < 0.15).all(1)
    assert merged.opacities[inner].min() > 0.9
    assert merged.scales[inner, 1].min() > 0.4 * 0.025
    np.testing.assert_allclose(merged.colours, np.broadcast_to(table.colours[0], merged.colours.shape), atol=1e-6)


def test_overlapping_splats_do_not_inflate_their_voxel():
    pile = concatenate([random_splats(200, seed) for seed in range(5)])
    merged = merge_voxels(pile, 0.1)
    assert merged.scales.max() <= max(0.62 * 0.1, pile.scales.max() + 0.1)
    assert merged.opacities.max() <= 0.95 + 1e-6
    assert len(merge_voxels(pile[:0], 0.1)) == 0


def test_a_table_with_lists_behind_the_splats_is_left_alone(tmp_path):
    """Meshes with splats on their corners end in a table of faces, which no reader of splats needs."""
    splats = random_splats(4)
    write_ply(tmp_path / "s.ply", splats)
    head, body = (tmp_path / "s.ply").read_bytes().split(b"end_header\n")
    faces = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "s.ply").write_bytes(head + faces + body + bytes([3, *[0] * 12]))
    np.testing.assert_array_equal(read_ply(tmp_path / "s.ply").means, splats.means)
