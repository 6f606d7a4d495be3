"""Twin actors run at the lowest priority, whatever the priority of this suite."""

import subprocess
import sys

PROGRAM = """
import os, threading
from actors.sim.twin_actor import step_aside

if os.geteuid() == 0:
    os.seteuid(65534)
os.setpriority(os.PRIO_PROCESS, 0, max(15, os.getpriority(os.PRIO_PROCESS, 0)))
before = os.getpriority(os.PRIO_PROCESS, 0)
seen = {}

def episodes():
    step_aside()
    started = threading.Thread(target=lambda: seen.update(child=priority()))
    started.start()
    started.join()
    seen.update(own=priority())

def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

thread = threading.Thread(target=episodes)
thread.start()
thread.join()
print(seen["own"], seen["child"], priority() == before)
"""


def test_episodes_run_at_the_lowest_priority_without_privileges_in_a_worker_that_ray_made_nice():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["19", "19", "True"], ran.stderr
