"""`twinrl serve replay|weights|guide|metrics`: one service of a cluster, on this machine, until SIGTERM or Ctrl-C.

The options are those of `python -m services.replay` and its like, because it is their code that runs.
"""

from collections.abc import Sequence
from importlib import import_module

from protos.process import run_process
from twinrl.cli import choose

MODULES = {"replay": "replay", "weights": "weights", "guide": "guide", "metrics": "monitor"}
SERVICES = {
    "replay": "an embedded Valkey: transitions of all actors, a ring per buffer, on disk",
    "weights": "the newest weights of the policy, to everyone who acts",
    "guide": "initial configurations, drawn from where the twin says the policy fails",
    "metrics": "a page with the state of a run and its cluster, and samples for Prometheus",
}


def main(arguments: Sequence[str]) -> int:
    name = choose(arguments, SERVICES, prog="twinrl serve", about="Serve one part of a cluster on this machine.")
    if name is None:
        return 0
    service = import_module(f"services.{MODULES[name]}.__main__")
    return run_process(service.Arguments, service.main, prog=f"twinrl serve {name}", arguments=arguments[1:])
