"""How a whole cluster is: every shard of the replay, who writes and reads, who acts with which weights.

    replay shards ── server_stats, presence ─┐
    weights ── Status ───────────────────────┼─► Reading ─┬─► rates_between(two readings)
    guide ── SuccessMap ─────────────────────┘            ├─► alarms      what a person should look at
                                                          └─► samples     Prometheus

`twinrl status` shows it in a terminal, `services.console` on a page, `python -m services.cluster` to Prometheus. A
service that does not answer within about two seconds is a line of its own; the others are shown all the same.

Doors: `ClusterSettings`, `read_cluster`, `Reading`, `rates_between`, `alarms`, `samples`.
"""

from services.cluster.alarms import Alarm, alarms
from services.cluster.metrics import samples
from services.cluster.rates import Rates, rates_between
from services.cluster.reading import ClusterSettings, Problem, Reading, Watcher, WeightsReading, read_cluster

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
