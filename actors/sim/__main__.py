"""`python -m actors.sim fleet|evaluate|demonstrate|expand --settings FILE`: the twin side's processes."""

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from actors.sim.settings import DemonstrationSettings, EvaluationSettings, ExpansionRunSettings, FleetSettings
from protos.errors import TwinRLError
from protos.settings import load_settings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run one process of the twin side."""

    what: tyro.conf.Positional[Literal["fleet", "evaluate", "demonstrate", "expand"]]
    settings: Path
    """JSON file of FleetSettings, EvaluationSettings, DemonstrationSettings or ExpansionRunSettings."""


def main() -> int:
    arguments = tyro.cli(Arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    _listen(stop)
    try:
        _run(arguments, stop)
    except TwinRLError as error:
        sys.stderr.write(f"twinrl: {error}\n")
        return 2
    return 0


def _listen(stop: threading.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def _run(arguments: Arguments, stop: threading.Event) -> None:
    if arguments.what == "fleet":
        from actors.sim.fleet import Fleet

        with Fleet(load_settings(FleetSettings, arguments.settings)) as fleet:
            _listen(stop)  # Ray puts handlers of its own in place, which would end us without a goodbye
            fleet.run(stop.is_set)
    elif arguments.what == "evaluate":
        from actors.sim.evaluate import evaluate

        evaluate(load_settings(EvaluationSettings, arguments.settings))
    elif arguments.what == "expand":
        from actors.sim.expand import expand

        expand(load_settings(ExpansionRunSettings, arguments.settings))
    else:
        from actors.sim.demonstrate import demonstrate

        demonstrate(load_settings(DemonstrationSettings, arguments.settings))


if __name__ == "__main__":
    sys.exit(main())
