"""This module scans in a process of its own, so that a run can show its progress and end it at any moment.

python -m twinrl.run.scan --settings scan.json
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from protos.folders import owned
from protos.problems import doing
from protos.process import run_process
from protos.settings import load_settings
from protos.status import StatusFile
from twin.scan import ScanReport, ScanSettings, ScanStep, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScanJob:
    """A scan to be done: its source, its scene folder, its settings."""

    source: Path
    """Folder of photos, or a video file."""
    out: Path
    """Scene folder to write."""
    settings: ScanSettings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Scan the photos named in a settings file."""

    settings: Path
    """JSON file of a ScanJob."""


def run_scan(job: ScanJob) -> ScanReport:
    """Scans, writes progress to the status file, and logs the warnings and the result."""
    with owned(job.out, "twinrl scan"):
        return _scan(job)


def _scan(job: ScanJob) -> ScanReport:
    status = StatusFile()

    def progress(step: ScanStep, share: float) -> None:
        status.write(doing=step.label, percent=100 * step.total(share))
        log.info("%s %d %%", step.label, round(100 * share))

    with doing("scanning", job.out):
        report = scan(job.source, job.out, settings=job.settings, on_progress=progress)
    for line in report.warnings():
        log.warning("%s", line)
    log.info("%s", summary(report, job.out))
    return report


def summary(report: ScanReport, out: Path) -> str:
    """Returns one line about the result for the person who asked for the scan."""
    return (
        f"{out}: {report.registered} of {report.photos} photos registered, {report.splats} splats, "
        f"held-out PSNR {report.held_out_psnr_db:.1f} dB, SSIM {report.held_out_ssim:.3f}; "
        f"scale: {report.scale_provenance}; see {out / 'report.html'}"
    )


def main(arguments: Arguments) -> None:
    run_scan(load_settings(ScanJob, arguments.settings))


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
