"""`python -m actors.sim fleet|evaluate|demonstrate|expand --settings FILE` runs one process of the twin side."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from actors.sim.settings import DemonstrationSettings, EvaluationSettings, ExpansionRunSettings, FleetSettings
from protos.process import run_process, stop_on_signal
from protos.settings import load_settings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run one process of the twin side."""

    what: tyro.conf.Positional[Literal["fleet", "evaluate", "demonstrate", "expand"]]
    settings: Path
    """JSON file of FleetSettings, EvaluationSettings, DemonstrationSettings or ExpansionRunSettings."""


def main(arguments: Arguments) -> None:
    if arguments.what == "fleet":
        from actors.sim.fleet import Fleet

        with Fleet(load_settings(FleetSettings, arguments.settings)) as fleet:
            stop = stop_on_signal()  # Ray has put handlers of its own in place, which would end us at once
            fleet.run(stop.is_set)
    elif arguments.what == "evaluate":
        from actors.sim.evaluation import evaluate

        evaluate(load_settings(EvaluationSettings, arguments.settings))
    elif arguments.what == "expand":
        from actors.sim.expansion import expand

        expand(load_settings(ExpansionRunSettings, arguments.settings))
    else:
        from actors.sim.demonstrations import demonstrate

        demonstrate(load_settings(DemonstrationSettings, arguments.settings))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
