"""These tests read other people's LeRobotDatasets as they are found: odd stamps, odd rates, damaged episodes."""

import json
import logging
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_others import CAMERA, describe, grey, make, poses, which

from learner.datasets import open_dataset
from protos.errors import CorruptData, InputError
from protos.proprioception import tool_vector
from protos.schema import Outcome, Schema

SCHEMA = Schema(side_px=64, wrist_px=64)


def opened(folder, hz=None, **mapping):
    return open_dataset(describe(folder, **mapping), SCHEMA, hz=hz)


def frames(folder, **options):
    """Returns which frame each row of each episode shows, without the repeated last one."""
    return [which(episode.observation.side)[:-1] for episode in opened(folder, **options)]


class TestFrames:
    def test_a_faster_video_gives_the_frames_at_the_rows_times(self, tmp_path):
        folder = make(tmp_path / "d", [10], video=(grey(30), 30))
        assert frames(folder) == [[0, 3, 6, 9, 12, 15, 18, 21, 24, 27]]

    def test_a_slower_video_gives_the_nearest_frames(self, tmp_path):
        folder = make(tmp_path / "d", [9], fps=30, video=(grey(3), 10))
        assert frames(folder) == [[0, 0, 1, 1, 1, 2, 2, 2, 2]]

    @pytest.mark.parametrize(("rows", "video"), [(30, 15), (10, 30)])
    def test_a_frame_per_row_at_another_rate_has_no_times(self, tmp_path, rows, video):
        folder = make(tmp_path / "d", [12], fps=rows, video=(grey(12), video))
        with pytest.raises(CorruptData, match=rf"a frame per row, but at {video} per second; the rows come at {rows}"):
            frames(folder)

    def test_starts_that_drifted_by_some_milliseconds(self, tmp_path):
        folder = make(tmp_path / "d", [6, 6], starts=[0.0, 0.64])
        assert frames(folder) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]

    def test_a_video_that_ends_early_costs_its_episode_only(self, tmp_path):
        folder = make(tmp_path / "d", [6, 6], video=(grey(9), 10))
        data = opened(folder)
        assert [episode.steps for episode in data] == [6]
        (skipped,) = data.skipped
        assert "episode 1" in str(skipped) and "ends before 0.900 s" in str(skipped)


class TestStamps:
    def test_rows_that_come_late(self, tmp_path):
        stamps = np.arange(10) / 10 + np.tile((0.0, 0.04), 5)
        (found,) = opened(make(tmp_path / "d", [10], stamps=stamps))
        assert which(found.observation.side)[:-1] == list(range(10))
        velocity = 0.003 / np.diff(stamps)
        np.testing.assert_allclose(found.observation.proprio[1:10, 6], velocity, rtol=1e-3)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda t: np.where(np.arange(12) == 5, t[4] - 0.01, t), "goes back from 0.400 s to 0.390 s at row 5"),
            (lambda t: np.where(np.arange(12) == 5, t[4], t), "goes back from 0.400 s to 0.400 s at row 5"),
            (lambda t: t + 0.3 * (np.arange(12) > 5), "jumps from 0.500 s to 0.900 s at row 6, 0.1 s are expected"),
            (lambda t: t / 3, "rows come at 30 Hz, info.json .* say 10 Hz"),
            (lambda t: np.where(np.arange(12) == 5, np.nan, t), "nan in row 5"),
        ],
    )
    def test_an_episode_whose_stamps_are_no_rate_is_skipped_and_named(self, tmp_path, caplog, change, why):
        stamps = np.concatenate([change(np.arange(12) / 10), np.arange(12) / 10])
        data = opened(make(tmp_path / "d", [12, 12], stamps=stamps))
        with caplog.at_level(logging.WARNING):
            (found,) = data
        assert found.name == "d/000001"
        assert [skipped.place for skipped in data.skipped] == [f"{tmp_path / 'd'}: episode 0"]
        assert re.search(f"timestamp: {why}", str(data.skipped[0]))
        assert str(data.skipped[0]) in caplog.text and "d: 1 of 2 episodes skipped" in caplog.text

    @pytest.mark.parametrize("fps", [None, 0, "ten", -5, True, [10], float("inf")])
    def test_a_rate_that_info_does_not_say_comes_from_the_stamps(self, tmp_path, fps):
        data = opened(make(tmp_path / "d", [12], fps=20), hz=None)
        info = tmp_path / "d/meta/info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"fps": fps}))
        data = opened(tmp_path / "d")
        (found,) = data
        assert (data.hz, found.hz) == (20.0, 20.0)
        np.testing.assert_allclose(found.observation.proprio[1:, 6].max(), 0.06, rtol=1e-3)

    def test_a_rate_in_a_text_is_a_rate(self, tmp_path):
        assert opened(make(tmp_path / "d", [12], fps="10")).hz == 10.0

    def test_without_rate_and_stamps_it_is_asked_for(self, tmp_path):
        folder = make(tmp_path / "d", [2], fps=None)
        assert opened(folder).hz is None and next(iter(opened(folder))).hz is None
        with pytest.raises(InputError, match=r"do not say at which rate .* 10 Hz are wanted; give their rate \(hz\)"):
            opened(folder, hz=10.0)
        described = describe(folder, hz=10.0)
        assert open_dataset(described, SCHEMA, hz=10.0).hz == 10.0


class TestDamage:
    def test_an_empty_episode_costs_nothing(self, tmp_path):
        data = opened(make(tmp_path / "d", [6, 0, 6]))
        assert [episode.name for episode in data] == ["d/000000", "d/000002"]
        assert [str(each) for each in data.skipped] == [f"{tmp_path / 'd'}: episode 1: it has no rows"]

    def test_a_number_that_is_none_is_named_by_row_and_column(self, tmp_path):
        state, _ = poses(12)
        state[7, 1] = np.nan
        data = opened(make(tmp_path / "d", [6, 6], state=state))
        assert [episode.steps for episode in data] == [6]
        assert str(data.skipped[0]) == f"{tmp_path / 'd'}: episode 1: observation.state: nan in row 1, number 1"
        assert data.action_scale.metres == pytest.approx(0.003)

    @pytest.mark.parametrize("column", ["length", f"videos/{CAMERA}/chunk_index", "data/file_index"])
    def test_a_row_of_an_episode_that_makes_no_sense_costs_that_episode(self, tmp_path, column):
        reward = np.zeros(12, np.float32)
        data = make(tmp_path / "d", [6, 6], columns={"next.reward": reward})
        path = data / "meta/episodes/chunk-000/file-000.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[0][column] = None
        pq.write_table(pa.Table.from_pylist(rows), path)
        dataset = opened(data)
        assert [episode.name for episode in dataset] == ["d/000001"] and len(dataset.skipped) == 1

    def test_the_same_iteration_again_tells_the_same(self, tmp_path):
        data = opened(make(tmp_path / "d", [6, 0, 6]))
        assert len(list(data)) == len(list(data)) == 2 and len(data.skipped) == 1

    def test_nothing_readable_is_an_error_with_the_first_reason(self, tmp_path):
        folder = make(tmp_path / "d", [6, 6])
        (folder / f"videos/{CAMERA}/chunk-000/file-000.mp4").unlink()
        with pytest.raises(CorruptData, match=r"d: none of its 2 episodes can be read; .*episode 0: videos/.*No such"):
            list(opened(folder))

    def test_a_reward_that_is_none_costs_its_episode(self, tmp_path):
        reward = np.zeros(12, np.float32)
        reward[3] = np.inf
        data = opened(make(tmp_path / "d", [6, 6], columns={"next.reward": reward}))
        assert [episode.name for episode in data] == ["d/000001"]
        assert "next.reward: inf in row 3" in str(data.skipped[0])


def test_a_tool_that_points_down_does_not_jump(tmp_path):
    state, action = poses(12)
    state[:, 3] = np.where(np.arange(12) % 2, -np.pi + 0.02, np.pi - 0.02)
    (found,) = opened(make(tmp_path / "d", [12], state=state, action=action))
    vectors = found.observation.proprio[:12, 3:6]
    np.testing.assert_allclose(vectors, tool_vector(state[:, 3:6] * (1, 1, 1)), atol=1e-5)
    assert np.abs(np.diff(vectors, axis=0)).max() < 0.05


def test_an_episode_that_the_data_call_neither_is_unknown_or_what_the_person_says(tmp_path):
    folder = make(tmp_path / "d", [6])
    assert [each.outcome for each in opened(folder)] == [Outcome.UNKNOWN]
    (found,) = opened(folder, outcome="success")
    assert found.outcome is Outcome.SUCCESS and found.reward.tolist() == [0, 0, 0, 0, 0, 1]
