"""How a whole cluster is: every shard of the replay, who writes and reads, who acts with which weights.

    replay shards ── server_stats, presence ─┐
    weights ── Status ───────────────────────┼─► Reading ─┬─► rates_between(two readings)
    guide ── SuccessMap ─────────────────────┘            ├─► alarms      what a person should look at
                                                          └─► samples     Prometheus

`twinrl status` shows it in a terminal, `services.monitor.console` on a page, `python -m services.monitor` to
Prometheus. A service that does not answer within about two seconds is a line of its own; the others are
shown all the same.

Doors: `ClusterSettings`, `read_cluster`, `Reading`, `rates_between`, `alarms`, `samples`.
"""

from services.monitor.alarms import Alarm, alarms
from services.monitor.metrics import samples
from services.monitor.rates import Rates, rates_between
from services.monitor.reading import ClusterSettings, Problem, Reading, Watcher, WeightsReading, read_cluster

__all__ = [
    "Alarm",
    "ClusterSettings",
    "Problem",
    "Rates",
    "Reading",
    "Watcher",
    "WeightsReading",
    "alarms",
    "rates_between",
    "read_cluster",
    "samples",
]
