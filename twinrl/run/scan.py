"""The scan as a process of its own, so that a run can show its progress and end it at any moment.

python -m twinrl.run.scan --settings scan.json
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from protos.process import run_process
from protos.settings import load_settings
from protos.status import StatusFile
from twin.scan import ScanReport, ScanSettings, scan

log = logging.getLogger(__name__)

SHARE_BEFORE = {"frames": 0, "poses": 2, "features": 2, "matching": 15, "mapping": 30, "alignment": 40, "splats": 41}
"""Roughly how much of a scan's time lies before each step, in percent."""
TRAINING_PERCENT = 58


@dataclass(frozen=True, kw_only=True)
class ScanJob:
    """One scan: where the pictures are and where the scene goes."""

    source: Path
    out: Path
    settings: ScanSettings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Scan the pictures named in a settings file."""

    settings: Path
    """JSON file of a ScanJob."""


def run_scan(job: ScanJob) -> ScanReport:
    """Scans and logs one line that says what came of it."""
    status = StatusFile()

    def progress(step: str, share: float) -> None:
        percent = 42 + TRAINING_PERCENT * share if step == "training" else SHARE_BEFORE.get(step, 100)
        status.write(doing=step, percent=float(percent))
        log.info("%s %d %%", step, round(100 * share))

    report = scan(job.source, job.out, settings=job.settings, on_progress=progress)
    for line in report.warnings():
        log.warning("%s", line)
    log.info("%s", summary(report, job.out))
    return report


def summary(report: ScanReport, out: Path) -> str:
    """One line for the person who asked for the scan."""
    return (
        f"{out}: {report.registered} of {report.pictures} pictures registered, {report.splats} splats, "
        f"held-out PSNR {report.held_out_psnr_db:.1f} dB, SSIM {report.held_out_ssim:.3f}; "
        f"scale: {report.scale_provenance}; see {out / 'report.html'}"
    )


def main(arguments: Arguments) -> None:
    run_scan(load_settings(ScanJob, arguments.settings))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
