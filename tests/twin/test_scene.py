import numpy as np
import pytest

from protos.errors import SceneError, SchemaMismatch
from twin.scene import Scene, synthetic_scene


def test_scene_folder_round_trip(tmp_path, scene):
    scene.save(tmp_path / "scene")
    back = Scene.load(tmp_path / "scene")
    assert (back.name, back.scale_provenance) == (scene.name, scene.scale_provenance)
    assert (back.side, back.wrist, back.workspace) == (scene.side, scene.wrist, scene.workspace)
    np.testing.assert_allclose(back.static.means, scene.static.means)


def test_what_alignment_found_is_kept(tmp_path, scene):
    from dataclasses import replace

    from twin.scene import RobotAlignment

    found = RobotAlignment(method="photos", views=8, residual_mm=1.25, residual_px=0.4, uncertain_mm=0.5)
    replace(scene, static=scene.static[:5], alignment=found).save(tmp_path)
    assert Scene.load(tmp_path).alignment == found
    toml = tmp_path / "scene.toml"
    toml.write_text(toml.read_text().replace("residual_mm = 1.25", "residual_mm = nan"))
    with pytest.raises(SceneError, match="3 finite numbers"):
        Scene.load(tmp_path)


def test_names_with_quotes_and_accents_survive(tmp_path, scene):
    from dataclasses import replace

    odd = replace(scene, name='Établi "3"\n\\', static=scene.static[:5])
    odd.save(tmp_path)
    assert Scene.load(tmp_path).name == odd.name


def test_another_format_names_both_numbers(tmp_path, scene):
    scene.save(tmp_path)
    toml = tmp_path / "scene.toml"
    toml.write_text(toml.read_text().replace("format = 1", "format = 7"))
    with pytest.raises(SchemaMismatch, match=r"7.*1"):
        Scene.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("eye = [", "eye = [1.0, ", "3 finite numbers"),
        ("fovy_deg = 52.0", "", "no entry 'fovy_deg'"),
        ("[workspace]", "[elsewhere]", "no entry 'workspace'"),
        ("x = [-0.8, 0.1]", "x = [0.8, 0.1]", "first number must not exceed"),
        ("name =", "name ==", "not valid TOML"),
    ],
)
def test_a_broken_scene_is_refused_in_one_line(tmp_path, scene, old, new, says):
    scene.save(tmp_path)
    toml = tmp_path / "scene.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new, 1))
    with pytest.raises(SceneError, match=says) as error:
        Scene.load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path, scene):
    with pytest.raises(SceneError, match=r"scene\.toml"):
        Scene.load(tmp_path)
    scene.save(tmp_path)
    (tmp_path / "static.ply").unlink()
    with pytest.raises(SceneError, match=r"static\.ply"):
        Scene.load(tmp_path)


def test_the_synthetic_table_is_level_and_in_the_base_frame():
    scene = synthetic_scene()
    table = scene.static.means[scene.static.means[:, 0] < 0.2]
    np.testing.assert_allclose(table[:, 2], 0)
    assert table[:, 0].min() > -0.81 and np.abs(table[:, 1]).max() < 0.56


def test_the_wrist_camera_sits_in_front_of_the_gripper(scene):
    pose = scene.wrist.tcp_from_camera
    np.testing.assert_allclose(pose[:3, 3], [0, 0.06, -0.08])
    np.testing.assert_allclose(pose[:3, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], [0, -0.6, 0.8], atol=1e-12)
