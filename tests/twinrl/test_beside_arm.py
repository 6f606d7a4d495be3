"""What real RL draws from, and the settings of the twins beside the arm."""

import pytest

from protos.errors import InputError
from twinrl.run.beside_arm import TWIN_CAPACITY, batch
from twinrl.run.settings import RealRlPlan, RunSettings, ScanPlan


@pytest.mark.parametrize(("share", "twin"), [(0.125, 16), (0.25, 32), (0.45, 58), (0.01, 1)])
def test_the_twins_share_is_of_the_whole_batch_and_comes_out_of_fresh_experience(share, twin):
    settings = batch(RealRlPlan(twin_share=share))
    assert settings.size == 128
    assert settings.online == {"real": 64 - twin, "twin": twin}
    assert settings.demo == {"demo": 48, "human": 16}
    assert settings.capacity["twin"] == TWIN_CAPACITY


def test_without_a_share_the_twin_is_not_drawn_from():
    assert batch(RealRlPlan(twin_share=0.0)).online == {"real": 64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"twin_share": 0.5}, r"real_rl\.twin_share=0\.5: 0 to 0\.45"),
        ({"twin_share": -0.1}, r"real_rl\.twin_share=-0\.1"),
        ({"twin_steps": 0.0}, r"real_rl\.twin_steps=0\.0"),
        ({"twin_actors": 0}, r"real_rl\.twin_actors=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RealRlPlan(**settings)


def test_a_region_that_the_task_lacks_is_refused():
    with pytest.raises(InputError, match=r"real_rl\.regions: 'C': choose among A, B"):
        RunSettings(real_rl=RealRlPlan(regions=("A", "C")))


@pytest.mark.parametrize(
    "settings", [{"actors": -1}, {"refresh": 0}, {"rollouts": 0}, {"rollouts": 101}, {"half_life": -1.0}]
)
def test_scans_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(InputError, match=rf"real_rl\.scan\.{name}="):
        ScanPlan(**settings)
