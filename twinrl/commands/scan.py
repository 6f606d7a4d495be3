"""This module is `twinrl scan`: it turns a capture into a scene folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from twin.scan import ScanSettings
from twinrl.run.scan import ScanJob, run_scan, summary


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Turn photos or a video of a workspace into a scene folder with a report."""

    source: tyro.conf.Positional[Path]
    """Folder of photos, or a video file."""
    out: Path
    """Scene folder to write."""
    settings: Annotated[ScanSettings, tyro.conf.arg(name="")] = field(default_factory=ScanSettings)


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Scan, prog="twinrl scan", args=arguments)
    report = run_scan(ScanJob(source=command.source, out=command.out, settings=command.settings))
    sys.stdout.writelines(f"warning: {line}\n" for line in report.warnings())
    sys.stdout.write(summary(report, command.out) + "\n")
    return 0
