"""These tests cover what all data formats share: recognising them, action scales, rotations, images."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from rlds_samples import episode, write_dataset
from scipy.spatial.transform import Rotation

from learner.datasets import UNKNOWN_SCALE, ActionScale, motion, open_dataset, open_datasets
from learner.datasets.images import MAX_PIXELS, decode_image, encode_png, resize
from protos.errors import CorruptData, InputError
from protos.schema import Schema

SCHEMA = Schema(side_px=16, wrist_px=16)
ANGLES = arrays(np.float64, (5, 3), elements=st.floats(-3, 3))


def test_a_folder_without_data_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"among notes.txt; looked for RLDS .* LeRobotDataset v3 .* pickles"):
        open_dataset(tmp_path, SCHEMA)
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(tmp_path / "missing", SCHEMA)


def test_the_newest_version_of_an_rlds_folder_is_taken(tmp_path):
    rng = np.random.default_rng(0)
    for version, count in (("0.9.0", 1), ("0.10.0", 2)):
        write_dataset(tmp_path / "cups" / version, [[episode(rng)] * count])
    found = open_dataset(tmp_path / "cups", SCHEMA)
    assert (found.format, found.name, len(found)) == ("rlds", "cups", 2)


def test_a_settings_file_describes_a_dataset(tmp_path):
    write_dataset(tmp_path / "cups", [[episode(np.random.default_rng(0))]])
    settings = tmp_path / "cups.json"
    settings.write_text(json.dumps({"path": "cups", "instruction": "do it", "rlds": {"human": False}}))
    (read,) = open_dataset(settings, SCHEMA)
    assert read.instruction == "do it" and not read.human.any()
    settings.write_text(json.dumps({"path": "cups", "rlds": {"humans": False}}))
    with pytest.raises(InputError, match="nearest is 'human'"):
        open_dataset(settings, SCHEMA)


def test_datasets_that_are_learnt_from_together_have_one_scale(tmp_path):
    folders = [write_dataset(tmp_path / str(i), [[episode(np.random.default_rng(i))]]) for i in range(2)]
    datasets, scale = open_datasets(folders, SCHEMA)
    apart = [open_dataset(folder, SCHEMA).action_scale for folder in folders]
    assert [each.action_scale for each in datasets] == [scale, scale] and scale == apart[0] != apart[1]
    wanted = ActionScale(metres=0.1, radians=0.1)
    assert [each.action_scale for each in open_datasets(folders, SCHEMA, action_scale=wanted)[0]] == [wanted, wanted]
    assert open_datasets([], SCHEMA, action_scale=wanted) == ([], wanted)


def test_an_action_scale_leaves_few_motions_outside():
    rng = np.random.default_rng(0)
    motion = [rng.normal(size=(500, 6)) * (0.01, 0.02, 0.01, 0.1, 0.1, 0.1) for _ in range(4)]
    scale = ActionScale.fit(motion)
    rows = np.concatenate(motion)
    ends = np.abs(np.percentile(rows, (1, 99), axis=0))
    assert scale.metres == pytest.approx(ends[:, :3].max()) and scale.radians == pytest.approx(ends[:, 3:].max())
    action = scale.to_action(rows, np.ones(len(rows)))
    assert np.abs(action).max() == 1 and (np.abs(action[:, :6]) == 1).mean() < 0.02
    inside = (np.abs(action[:, :6]) < 1).all(axis=1)
    np.testing.assert_allclose(scale.to_motion(action)[inside], rows[inside], rtol=1e-5)


def test_actions_go_from_one_scale_to_another():
    action = np.array([[0.5, -1, 0, 0.5, 0, 0, -1]], np.float32)
    fine, coarse = ActionScale(metres=0.01, radians=0.1), ActionScale(metres=0.02, radians=0.05)
    assert fine.converted(action, coarse).tolist() == [[0.25, -0.5, 0, 1, 0, 0, -1]]
    assert fine.converted(action, fine) is action
    with pytest.raises(InputError, match="do not say how far"):
        UNKNOWN_SCALE.converted(action, coarse)
    with pytest.raises(InputError, match="metres=-1"):
        ActionScale(metres=-1.0, radians=0.0)
    with pytest.raises(InputError, match="no action"):
        ActionScale.fit([])


def test_a_group_that_never_moves_stays_where_it_is():
    still = np.zeros((3, 6))
    scale = ActionScale.fit([still])
    assert scale == UNKNOWN_SCALE
    assert scale.to_action(still, np.ones(3)).tolist() == [[0] * 6 + [1]] * 3


@given(ANGLES)
def test_euler_angles_and_rotation_vectors_are_scipys(angles):
    quaternion = motion.quaternions(angles, "euler")
    expected = Rotation.from_euler("xyz", angles)
    np.testing.assert_allclose(
        Rotation.from_rotvec(motion.rotation_vectors(quaternion)).as_matrix(), expected.as_matrix(), atol=1e-6
    )
    again = motion.quaternions(expected.as_quat(), "quaternion_xyzw")
    np.testing.assert_allclose(np.abs((again * quaternion).sum(1)), 1.0, atol=1e-9)
    vectors = motion.quaternions(expected.as_rotvec(), "rotation_vector")
    np.testing.assert_allclose(np.abs((vectors * quaternion).sum(1)), 1.0, atol=1e-9)


@given(ANGLES, ANGLES)
def test_turns_are_applied_on_the_left(before, after):
    turn = motion.turns(motion.quaternions(before, "euler"), motion.quaternions(after, "euler"))
    assert np.linalg.norm(turn, axis=1).max() <= np.pi + 1e-9
    reached = Rotation.from_rotvec(turn) * Rotation.from_euler("xyz", before)
    np.testing.assert_allclose(reached.as_matrix(), Rotation.from_euler("xyz", after).as_matrix(), atol=1e-6)


def test_proprioception_of_a_steady_motion():
    t = np.arange(4)[:, None] / 5.0
    rotation = motion.quaternions(t * (0.0, 0.0, 1.0), "rotation_vector")
    proprio = motion.proprio(t * (0.1, 0.0, -0.2), rotation, np.array([0.0, 0.5, 1.0, 2.0]), times=t[:, 0])
    np.testing.assert_allclose(proprio[1:, 6:12], [[0.1, 0, -0.2, 0, 0, 1.0]] * 3, atol=1e-6)
    assert not proprio[0, 6:12].any() and not proprio[:, 12:18].any()
    assert proprio[:, 18].tolist() == [0.0, 0.5, 1.0, 1.0]


def test_images_are_resized_with_antialiasing():
    """A grid finer than the result becomes grey, not stripes."""
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 16)
    assert small.shape == (16, 16, 3) and np.abs(small.astype(int) - 127).max() < 20
    assert resize(small, 16) is small


def test_images_decode_or_are_corrupt():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    png = encode_png(image)
    assert (decode_image(png) == image).all()
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG")
    assert decode_image(memoryview(jpeg.getvalue())).shape == (9, 7, 3)
    gif = io.BytesIO()
    Image.fromarray(image).save(gif, "GIF")
    for data in (b"", png[:60], gif.getvalue()):
        with pytest.raises(CorruptData, match="neither JPEG nor PNG"):
            decode_image(data)


def test_a_image_that_claims_to_be_huge_is_not_decoded():
    png = bytearray(encode_png(np.zeros((4, 4, 3), np.uint8)))
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(CorruptData, match=rf"{MAX_PIXELS} are read|damaged"):
        decode_image(bytes(png))
