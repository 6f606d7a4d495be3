"""This module renders the status of a run and of a cluster as terminal tables, at most 100 columns wide for a cluster.

run        processes, then stages, then the end of the logs of failed processes
alarms     in red and yellow, nothing when all is well
replay     a line per shard, then one per buffer and shard that holds something
writers    totals, and the five in the worst state
readers    a line each
weights    the newest version, and the five subscribers furthest behind
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protos.status import duration
from services.monitor.alarms import Rates, alarms, is_behind, spool_share
from services.monitor.reading import Reading, Watcher, WeightsReading
from services.monitor.run import STALE_S, ProcessLine, RunStatus
from services.replay import Presence, ServerStats

FEW, WORST = 8, 5
STYLES = {"error": "red", "warning": "yellow"}
BAR_CELLS, URL_CELLS = 10, 34
T = TypeVar("T")
NEARLY_FULL = 0.8
"""Share of a spool above which a waiting writer waits for room in it, and below which for the learner."""


def render_run(run: RunStatus) -> RenderableType:
    """Renders the processes of a run, then its stages, then the end of the logs of failed processes."""
    head = Text.assemble((str(run.folder), "bold"), "  running" if run.running else "  not running")
    failed = [line for line in run.processes if line.log_end]
    logs = [Text(f"{line.name} {line.state}; the end of its log:\n{line.log_end}", style="red") for line in failed]
    return Group(head, _process_table(run.processes), *_stage_lines(run), *logs)


def _process_table(processes: list[ProcessLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("process", "pid", "state", "restarts", "memory", "does", "waits for", "rates"):
        table.add_column(title, justify="right" if title in ("pid", "restarts", "memory") else "left")
    styles = {"running": "green", "restarting": "yellow"} | dict.fromkeys(("failed", "lost", "gone"), "red")
    for line in processes:
        old = line.age_s is not None and line.age_s > STALE_S and line.state == "running"
        table.add_row(
            Text(line.name, style="bold"),
            str(line.pid) if line.memory_mb is not None else "",
            Text(line.state, style=styles.get(line.state, "")),
            str(line.restarts or ""),
            "" if line.memory_mb is None else f"{line.memory_mb:,.0f} MB",
            Text(line.doing + (f" ({duration(line.age_s or 0)} ago)" if old else "")),
            Text(line.waiting_for, style="yellow"),
            Text("  ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in line.rates.items())),
        )
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _stage_lines(run: RunStatus) -> list[Text]:
    done = [_done_line(stage) for stage in run.stages]
    under_way = [
        f"{name}: {line.get('step', 0):,} of {line.get('total', 0):,}"
        for name, line in run.learning.items()
        if line.get("step", 0) < line.get("total", 0)
    ]
    lines = [("done: ", done), ("under way: ", under_way)]
    return [Text.assemble((title, "dim"), ", ".join(items)) for title, items in lines if items]


def _done_line(stage: dict[str, Any]) -> str:
    return f"{stage.get('stage', '?')} {duration(float(stage.get('wall_s', 0)))}"


def render_cluster(reading: Reading, rates: Rates) -> RenderableType:
    """Renders a cluster; services that were left out take no line."""
    unsent = _unsent_by_host(reading.writers)
    parts: list[list[RenderableType]] = [
        [Text(alarm.text, style=STYLES[alarm.severity]) for alarm in alarms(reading, rates)],
        [_shards(reading.shards)] if reading.shards else [],
        [buffers] if (buffers := _buffers(reading, rates)).row_count else [],
        _writers(reading.writers, rates),
        [unsent] if unsent else [],
        _readers(reading.readers),
        [Text(f"{reading.lease.holder} leads, lease {reading.lease.number}")] if reading.lease is not None else [],
        _weights(reading.weights) if isinstance(reading.weights, WeightsReading) else [],
        [Text(f"guide: aims at {reading.targets} cells")] if isinstance(reading.targets, int) else [],
    ]
    spaced = [piece for part in parts if part for piece in (*part, Text())]
    return Group(*spaced[:-1])


def _table(*columns: str) -> Table:
    """Makes a table whose columns align left; those whose title begins with ">" align right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in columns:
        table.add_column(title.lstrip(">"), justify="right" if title.startswith(">") else "left", no_wrap=True)
    return table


def _shards(shards: Sequence[ServerStats]) -> Table:
    table = _table("shard", "server", "memory", "", ">clients", ">commands/s")
    for stats in shards:
        name = Text(f"{stats.shard} {_short(stats.url)}", style="bold" if not stats.problem else "bold red")
        if not stats.version:
            table.add_row(name, Text("no answer", style="red"))
            continue
        table.add_row(
            name,
            stats.version,
            _bar(stats.memory_bytes, stats.memory_limit_bytes),
            _of(stats.memory_bytes, stats.memory_limit_bytes, none="no maxmemory"),
            f"{stats.clients:,}",
            f"{stats.commands_per_s:,.0f}",
        )
    return table


def _buffers(reading: Reading, rates: Rates) -> Table:
    table = _table("buffer", ">shard", "held", "", ">segments", ">transitions ever", ">transitions/s")
    for buffer in dict.fromkeys(name for stats in reading.shards for name in stats.buffers):
        for stats in reading.shards:
            held = stats.buffers.get(buffer)
            if held is None or not held.transitions:
                continue
            table.add_row(
                Text(buffer, style="bold"),
                str(stats.shard),
                _bar(held.bytes, held.capacity_bytes, full_is_normal=True),
                _of(held.bytes, held.capacity_bytes, none=""),
                f"{held.segments:,}",
                f"{held.transitions:,}",
                _rate(rates.transitions.get((stats.shard, buffer))),
            )
    return table


def _writers(writers: Sequence[Presence], rates: Rates) -> list[RenderableType]:
    if not writers:
        return []
    alive = [writer for writer in writers if not writer.is_lost]
    unsent, spooled, dropped = (
        sum(writer.stats.get(name, 0.0) for writer in writers) for name in ("unsent", "spool_bytes", "dropped")
    )
    flow = sum(writer.stats.get("transitions_per_s", 0.0) for writer in alive)
    held = Counter(filter(None, map(_waits_for, alive)))
    lost = len(writers) - len(alive)
    head = Text.assemble(
        (f"{len(alive)} writer{'s' * (len(alive) != 1)}", "bold"),
        (f"  {lost} lost" if lost else "", "red"),
        f"  {_rate(flow)} transitions/s  {unsent:,.0f} segments unsent",
        f"  {_bytes(spooled)} spooled  {dropped:,.0f} dropped",
        *(f"  {count} wait for {whom}" for whom, count in held.items()),
    )
    table = _table("writer", ">shard", ">/s", "waits for", ">unsent", ">oldest", "spool", "", ">dropped", ">heard")
    shown = _worst(writers, lambda writer: _badness(writer, rates), lambda writer: _needs_a_look(writer, rates))
    for writer in shown:
        stats = writer.stats
        table.add_row(
            Text(writer.name, style="bold"),
            str(writer.shard),
            "–" if writer.is_lost else _rate(stats.get("transitions_per_s")),
            Text("lost", style="red") if writer.is_lost else Text(_waits_for(writer), style="yellow"),
            f"{stats.get('unsent', 0.0):,.0f}",
            _age(stats.get("oldest_unsent_s", 0.0)),
            _bar(stats.get("spool_bytes", 0.0), stats.get("spool_limit_bytes", 0.0)),
            _of(stats.get("spool_bytes", 0.0), stats.get("spool_limit_bytes", 0.0), none=""),
            f"{stats.get('dropped', 0.0):,.0f}",
            _age(writer.age_s),
        )
    return [head, table] if shown else [head]


def _unsent_by_host(writers: Sequence[Presence]) -> Text | None:
    """Names the hosts with segments that no shard has acknowledged, by their writers' last word; None without."""
    left = Counter[str]()
    for writer in writers:
        left[writer.host] += int(writer.stats.get("unsent", 0.0))
    told = ", ".join(f"{host} {count:,}" for host, count in left.most_common(FEW) if count)
    return Text(f"unsent segments: {told}") if told else None


def _worst(things: Sequence[T], badness: Callable[[T], Any], needs_a_look: Callable[[T], bool]) -> list[T]:
    """Returns all of a few, worst first; of many the worst five, and none when all is well."""
    ranked = sorted(things, key=badness, reverse=True)
    return ranked if len(ranked) <= FEW else [thing for thing in ranked[:WORST] if needs_a_look(thing)]


def _needs_a_look(writer: Presence, rates: Rates) -> bool:
    dropping, spool, oldest_s, silent_s = _badness(writer, rates)
    return bool(dropping) or spool > 0.1 or oldest_s > 2 or silent_s > 3 or not writer.stats.get("connected", 1.0)


def _waits_for(writer: Presence) -> str:
    if not writer.stats.get("connected", 1.0):
        return f"shard {writer.shard}"
    if not writer.stats.get("waiting", 0.0):
        return ""
    return "its spool" if spool_share(writer) > NEARLY_FULL else "the learner"


def _badness(writer: Presence, rates: Rates) -> tuple[float, ...]:
    dropping = (rates.of_peer(writer, "dropped") or 0.0) > 0
    return float(dropping), spool_share(writer), writer.stats.get("oldest_unsent_s", 0.0), writer.age_s


def _readers(readers: Sequence[Presence]) -> list[RenderableType]:
    if not readers:
        return []
    table = _table("reader", ">shards", ">/s", ">behind", ">memory", ">overwritten", ">corrupt", ">heard")
    for reader in readers:
        stats = reader.stats
        away = stats.get("shards_away", 0.0)
        table.add_row(
            Text(reader.name + (" lost" if reader.is_lost else ""), style="bold red" if reader.is_lost else "bold"),
            Text(
                f"{stats.get('shards', 1.0) - away:.0f} of {stats.get('shards', 1.0):.0f}", style="red" if away else ""
            ),
            _rate(stats.get("transitions_per_s")),
            _count(stats.get("lag_transitions")),
            _bytes(stats.get("memory_bytes", 0.0)),
            _count(stats.get("overwritten")),
            _count(stats.get("corrupt")),
            _age(reader.age_s),
        )
    return [table]


def _weights(weights: WeightsReading) -> list[RenderableType]:
    late = [each for each in weights.watchers if _is_late(each)]
    state = f"version {weights.version}, {duration(weights.age_s)} old" if weights.version else "no version yet"
    head = Text.assemble(
        ("weights", "bold"),
        f"  {state}  {len(weights.watchers)} subscriber{'s' * (len(weights.watchers) != 1)}",
        (f"  {len(late)} behind", "yellow") if late else "",
    )
    table = _table("subscriber", ">uses", ">behind", ">for", ">told", "")
    shown = _worst(weights.watchers, lambda each: (_is_late(each), each.behind, each.using_s), _is_late)
    for each in shown:
        table.add_row(Text(each.name, style="bold"), *_watcher_cells(each))
    return [head, table] if shown else [head]


def _is_late(each: Watcher) -> bool:
    return is_behind(each.using, each.behind, each.using_s)


def _watcher_cells(each: Watcher) -> tuple[RenderableType, ...]:
    if not each.using:
        return "–", "–", "–", str(each.told), Text("has not said what it uses", style="dim")
    mark = Text("behind" if _is_late(each) else "", style="yellow")
    return str(each.using), str(each.behind), _age(each.using_s), str(each.told), mark


def _short(url: str) -> str:
    """Shortens a url to its end, which tells one socket or host from another."""
    return url if len(url) <= URL_CELLS else f"…{url[1 - URL_CELLS :]}"


def _bar(part: float, whole: float, *, full_is_normal: bool = False) -> Text:
    """Draws a bar of ten cells; empty without a limit. A full ring is normal: it drops its oldest segments."""
    if not whole:
        return Text("")
    share = min(part / whole, 1.0)
    style = "red" if share > 0.9 else "yellow" if share > 0.5 else "green"
    full = math.ceil(share * BAR_CELLS) if part else 0
    return Text("█" * full + "·" * (BAR_CELLS - full), style="green" if full_is_normal else style)


def _of(part: float, whole: float, *, none: str) -> str:
    return f"{_bytes(part)} of {_bytes(whole)}" if whole else f"{_bytes(part)} {none}".strip()


def _bytes(count: float) -> str:
    """Formats bytes in decimal units: 0 B, 12 MB, 1.07 GB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _rate(value: float | None) -> str:
    return _count(value) if value is None or not 0 < abs(value) < 10 else f"{value:.1f}"


def _count(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.0f}"


def _age(seconds: float) -> str:
    if seconds <= 0:
        return ""
    return duration(seconds) if seconds >= 120 else f"{seconds:.{0 if seconds >= 10 else 1}f} s"
