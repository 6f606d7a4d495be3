"""A page for the operator and the lab: what every process does, and where to put the object next.

    runs/<name>/logs/*.status.json ────┐
    guide: newest draw, success map ───┼─► /status.json ─► page, refreshed every second
    services.monitor: replay, weights ─┘

    python -m services.monitor.console --run runs/demo --guide 127.0.0.1:7071 --weights 127.0.0.1:7070

The page only reads, has no login, and listens on loopback.

Doors: `ConsoleServer`, `collect`.
"""

from services.monitor.console.server import ConsoleServer
from services.monitor.console.status import Sources, collect

__all__ = ["ConsoleServer", "Sources", "collect"]
