import numpy as np
import pytest

from benchmarks.twin import gpu as twin_gpu
from benchmarks.twin import render as twin_render
from twin import render
from twin.render.moving import MovingSplats
from twin.surfaces import box, surface_splats


def test_the_scene_has_as_many_splats_as_asked_for():
    scene = twin_render.scene_of(3000)
    assert len(scene.static) == 3000
    assert np.ptp(scene.static.means[:, 0]) > 0.9  # the whole table, not a corner


def test_split_splats_cover_the_same_surface():
    splats = surface_splats(box([0.02, 0.02, 0.02], 0.008), 0.008, (1, 0, 0))
    moving = MovingSplats(splats=splats, body=np.arange(len(splats), dtype=np.int32), first_wrist=10)
    finer = twin_render.split(moving)
    assert len(finer.splats) == twin_render.PARTS * len(splats) and finer.first_wrist == 10 * twin_render.PARTS
    groups = finer.splats.means.reshape(len(splats), twin_render.PARTS, 3)
    np.testing.assert_allclose(groups.mean(1), splats.means, atol=1e-7)
    np.testing.assert_array_equal(finer.body.reshape(len(splats), -1), np.arange(len(splats))[:, None].repeat(8, 1))
    area = finer.splats.scales[:, :2].prod(1).sum() / splats.scales[:, :2].prod(1).sum()
    assert area == pytest.approx(1)
    normal_distance = np.abs(np.abs(finer.splats.means).max(1) - 0.02)
    assert normal_distance.max() < 0.006


def test_every_case_is_measured():
    figures = twin_render.figures(rounds=1)
    assert set(twin_render.GOALS) < set(figures)
    assert all(len(values) == 1 and values[0] > 5 for values in figures.values())


def test_the_gpu_bench_says_in_one_line_that_there_is_no_gpu(capsys):
    if render.get("gsplat").obstacle() is None:
        pytest.skip("this machine has a CUDA GPU")
    assert twin_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("GPU" in said or "not installed" in said)


def test_no_batch_moves_less_than_its_splats_and_pixels():
    splats = twin_render.scene_of(1000).static
    one, many = twin_gpu.least_bytes(splats, 1), twin_gpu.least_bytes(splats, 64)
    assert one > 1000 * 14 * 4
    assert (many - one) / 63 == 256 * 256 * 23
    assert {(camera.width, camera.height) for camera in twin_gpu.cameras_around(3)} == {(256, 256)}
