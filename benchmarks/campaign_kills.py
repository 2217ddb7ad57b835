"""Kill a measuring campaign at random moments, resume it, and compare with one that ran through.

    python benchmarks/campaign_kills.py [--kills 50] [--seed 0]

A campaign of small kernels is started again and again in a process of its own and killed
(SIGKILL) after a time drawn between nothing and the time of ten points. After each kill the store
must pass SQLite's integrity check and hold every result that it held before, unchanged; a child
that runs a model must end with the campaign. Then it runs to its end, and its table must have the
keys of the campaign that ran through, each once. Writes `benchmarks/results/campaign_kills.json`;
ends with 1 if anything is amiss.
"""

import argparse
import json
import multiprocessing
import platform
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from edgeutils.hardware import campaign
from edgeutils.hardware.points import CampaignPlan, points

RESULT = Path(__file__).parent / "results" / "campaign_kills.json"
FORK = multiprocessing.get_context("fork")
PLAN = CampaignPlan(
    name="kills",
    device="benchmark",
    kernels={"relu": 40, "add": 40, "fc": 40, "conv-bn-relu": 40},
    settings={"dtypes": ["float32", "int8"]},
    again=0.05,
    anchor={"kernel_type": "relu", "hw": 4, "cin": 8, "every_s": 1},
    # Nothing is in doubt: every point needs one attempt.
    seconds=0.01,
    window_s=0.001,
    precision=1.0,
    quiet=1.0,
    attempts=1,
)


def results(folder: Path) -> dict[str, str]:
    """Every result in the store as it is written there, by key and attempt."""
    if not (folder / "campaign.sqlite").is_file():
        return {}
    with closing(sqlite3.connect(folder / "campaign.sqlite")) as db:
        check = db.execute("PRAGMA integrity_check").fetchone()[0]
        if check != "ok":
            raise SystemExit(f"the store is torn: {check}")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone():
            return {}
        rows = db.execute("SELECT key, attempt, result FROM results")
        return {f"{key} {attempt}": result for key, attempt, result in rows}


def running(process: psutil.Process) -> bool:
    """Whether it runs; one that ended and that no one has collected yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(folder: Path, kill_after_s: float | None = None) -> tuple[int, float]:
    """Run the campaign, killed after a time; return its children that outlived it, and seconds."""
    began = time.monotonic()
    process = FORK.Process(target=campaign.run, args=(PLAN, folder))
    process.start()
    left = 0
    if kill_after_s is not None:
        process.join(kill_after_s)
        alive = process.is_alive()
        children = psutil.Process(process.pid).children() if alive else []
        process.kill()
        until = time.monotonic() + 2
        while (left := sum(map(running, children))) and time.monotonic() < until:
            time.sleep(0.01)
    process.join()
    return left, time.monotonic() - began


def main() -> None:
    """Run through once, then with kills, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    points(PLAN)  # here too, so that the processes that are forked find the zoo's kernels made
    with tempfile.TemporaryDirectory() as temporary:
        through, killed = Path(temporary) / "through", Path(temporary) / "killed"
        _, through_s = run(through)
        expected = campaign.tables(through)[1]["key"].tolist()
        most_s = 10 * through_s / len(expected)
        before: dict[str, str] = {}
        found = {"kills": 0, "orphans": 0, "lost_or_changed": 0, "kills_without_progress": 0}
        while found["kills"] < options.kills:
            left, _ = run(killed, float(rng.uniform(0, most_s)))
            now = results(killed)
            found["kills"] += 1
            found["orphans"] += left
            found["lost_or_changed"] += sum(now.get(key) != value for key, value in before.items())
            found["kills_without_progress"] += len(now) == len(before)
            before = now
        found["points_before_the_last_start"] = len(before)
        run(killed)
        now, keys = results(killed), campaign.tables(killed)[1]["key"].tolist()
        found["lost_or_changed"] += sum(now.get(key) != value for key, value in before.items())
        found |= {"points": len(expected), "rows": len(now), "same_keys": keys == expected}
        found |= {"each_once": len(set(keys)) == len(keys) == len(now), "seconds": through_s}
    found["system"] = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    good = found["same_keys"] and found["each_once"]
    raise SystemExit(not (good and not found["orphans"] and not found["lost_or_changed"]))


if __name__ == "__main__":
    main()
