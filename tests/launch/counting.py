"""A run of a sweep without a network: counts to N, twenty a second; told to stop, it saves and asks to go on later.

python counting.py FILE N [--work NAME]
"""

import os
import signal
import sys
import time
from pathlib import Path

ENVIRONMENT = ("SLURM_PROCID", "SLURM_NTASKS", "MASTER_ADDR", "OMP_NUM_THREADS")

told: list[int] = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(number))

saved, end = Path(sys.argv[1]), int(sys.argv[2])
count = int(saved.read_text()) if saved.exists() else 0
with saved.with_suffix(".starts").open("a") as starts:
    starts.write(" ".join([str(os.getpid()), str(count), *(os.environ.get(name, "-") for name in ENVIRONMENT)]) + "\n")
while count < end and not told:
    time.sleep(0.05)
    count += 1
if os.environ.get("SLURM_PROCID", "0") == "0":
    saved.write_text(str(count))
print("counted to", count, "told", told, flush=True)
sys.exit(75 if told else 0)
