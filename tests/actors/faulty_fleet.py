"""A fleet whose actors have faults: a poisoned slot in twin-0, a hang in the first incarnation of twin-1.

python faulty_fleet.py SETTINGS
"""

import sys
import threading
from pathlib import Path

import numpy as np

from actors.sim import FleetSettings, fleet
from actors.sim.twin_actor import TwinActor
from protos.settings import load_settings


class FaultyActor(TwinActor):
    def _make_loop(self, group, twins, writer, avoid):
        loop = super()._make_loop(group, twins, writer, avoid)
        twin, hung = loop.environment, self._settings.run_dir / "hung"
        if self._index == 0:
            self._poison(twin)
        elif not hung.exists():
            hung.touch()
            self._hang(twin)
        return loop

    @staticmethod
    def _poison(twin):
        reset = twin.reset

        def poisoned(slot, configuration):
            reset(slot, configuration)
            if slot == 1:
                twin._physics.place(np.array([1]), {twin.task.free_bodies[0]: np.full((1, 4), np.nan)})

        twin.reset = poisoned

    @staticmethod
    def _hang(twin):
        step, left = twin.step, iter(range(10))

        def hanging(action):
            if next(left, None) is None:
                threading.Event().wait()
            return step(action)

        twin.step = hanging


if __name__ == "__main__":
    fleet.TwinActor = FaultyActor
    settings = load_settings(FleetSettings, Path(sys.argv[1]))
    with fleet.Fleet(settings) as running:
        running.run((settings.run_dir / "enough").exists)
