"""`python -m twin.scan SOURCE --out FOLDER`: one scan from the command line."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro

from protos.errors import TwinRLError
from twin.scan import ScanSettings, scan

logger = logging.getLogger("twin.scan")


def main(
    source: tyro.conf.Positional[Path],
    out: Path,
    settings: Annotated[ScanSettings, tyro.conf.arg(name="")] = ScanSettings(),  # noqa: B008  frozen
) -> int:
    """Turns a folder of photos or a video (SOURCE) into the scene folder OUT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        report = scan(source, out, settings=settings, on_progress=_log)
    except TwinRLError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in report.warnings():
        logger.warning("%s", line)
    logger.info(
        "%s: %d of %d pictures, %d splats, held-out PSNR %.1f dB; scale: %s; see %s",
        out,
        report.registered,
        report.pictures,
        report.splats,
        report.held_out_psnr_db,
        report.scale_provenance,
        out / "report.html",
    )
    return 0


def _log(stage: str, share: float) -> None:
    logger.info("%s %d %%", stage, round(100 * share))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
