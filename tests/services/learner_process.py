"""This program leads a run from a process of its own, which a test may stop, wake and kill.

It takes the lease, tells the weights service, then sets an allowance and publishes ten times a second, and ends like
every process of TwinRL: python learner_process.py REPLAY WEIGHTS NAME LIFETIME_S
"""

import sys
import time
from contextlib import closing

from protos.process import exit_code_of
from protos.schema import Schema
from services.replay import Lease, ReaderSettings, ReplayReader, ReplaySettings
from services.weights import WeightPublisher, lead


def main() -> int:
    url, weights, name, lifetime_s = sys.argv[1:]
    settings = ReplaySettings(urls=(url,))
    reading = ReaderSettings(capacity={"twin": 99}, gamma=0.9, n_step=1)
    with Lease(settings, name=name, lifetime_s=float(lifetime_s)) as lease:
        lease.take()
        lead(weights, lease)
        reader = ReplayReader(settings, Schema(side_px=16, wrist_px=16), reading, name=name, lease=lambda: lease.number)
        with closing(WeightPublisher(weights, lease=lease.number)) as publisher, reader:
            sys.stdout.write(f"{lease.number}\n")
            sys.stdout.flush()
            for turn in range(6_000):
                reader.received()
                reader.allow("twin", 1_000 * lease.number + turn % 2)
                publisher.publish({"head": {}}, settings={"by": name})
                time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
