"""The store of a campaign: a folder with an SQLite file that every result enters at once.

A result is there once `add` returns, whatever happens to this process or to the power. Nothing is
ever changed: a further attempt at a point is a further row. Of a point's attempts those with the
fewest doubts count, and their median is its value.
"""

import fcntl
import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeutils import EdgeError
from edgeutils.hardware.points import EFFORT, CampaignPlan, Point

_FILE, _LOCK = "campaign.sqlite", "lock"
_TABLES = (
    "meta(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "points(key TEXT PRIMARY KEY, place INTEGER NOT NULL, point TEXT NOT NULL)",
    "results(key TEXT, attempt INTEGER, result TEXT NOT NULL, PRIMARY KEY (key, attempt))",
    "anchors(started_s REAL PRIMARY KEY, latency_s REAL NOT NULL)",
)
#: Neighbouring measurements of the anchor that differ by more than this share: flag `drift`.
DRIFT = 0.05
#: Flags with which a point is measured again.
DOUBTS = {"failed", "unstable", "disturbed", "busy", "hot", "drift"}
#: Quantities of a result: their values are pooled over the attempts that count.
_QUANTITIES = {"latency": "s", "energy": "j", "power": "w"}


@dataclass(frozen=True)
class Best:
    """A point with what its attempts say together; see `_pooled`."""

    key: str
    point: Point
    attempts: int
    result: dict[str, Any]  # `flags` include `drift`, `anchor_ratio` is there

    @property
    def doubtful(self) -> bool:
        """Whether it is worth another attempt."""
        return not DOUBTS.isdisjoint(self.result["flags"])


class Store:
    """The results of one campaign, for one process at a time; use it in a with statement.

    EdgeError: another campaign has it, it is of another plan, or it cannot be read.
    """

    def __init__(
        self, folder: str | Path, plan: CampaignPlan, points: Callable[[], Iterable[Point]]
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise EdgeError(
                f"another campaign is running in {self.folder}; wait for it or use another --store"
            ) from None
        try:
            self._db = _connect(self.folder)
            with self._db:
                for table in _TABLES:
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            self._begin(json.loads(json.dumps(asdict(plan))), points)
        except sqlite3.DatabaseError as error:
            raise EdgeError(_unreadable(self.folder, error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.close()

    def _begin(self, plan: dict[str, Any], points: Callable[[], Iterable[Point]]) -> None:
        found = self._db.execute("SELECT value FROM meta WHERE name = 'plan'").fetchone()
        if found:
            # What the recorded plan is too old to name cannot differ.
            recorded = plan | json.loads(found[0])
            if differ := [n for n in plan if recorded[n] != plan[n] and n not in EFFORT]:
                raise EdgeError(
                    f"{self.folder} holds a campaign with another plan, which differs in "
                    f"{', '.join(differ)}; give that plan or another --store"
                )
            with self._db:
                self._db.execute(
                    "UPDATE meta SET value = ? WHERE name = 'plan'", (json.dumps(plan),)
                )
            return
        rows = [(p.key, i, json.dumps(asdict(p))) for i, p in enumerate(points())]
        with self._db:
            self._db.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
            self._db.execute("INSERT INTO meta VALUES ('plan', ?)", (json.dumps(plan),))

    def points(self) -> dict[str, tuple[Point, int]]:
        """Point and number of attempts so far, by key, in the order of the campaign."""
        done = dict(self._db.execute("SELECT key, MAX(attempt) FROM results GROUP BY key"))
        rows = self._db.execute("SELECT key, point FROM points ORDER BY place")
        return {key: (Point(**json.loads(text)), done.get(key, 0)) for key, text in rows}

    def add(self, key: str, attempt: int, result: dict[str, Any]) -> None:
        """Add an attempt, durably."""
        row = key, attempt, json.dumps(result)
        with self._db:
            self._db.execute("INSERT INTO results VALUES (?, ?, ?)", row)

    def add_anchor(self, started_s: float, latency_s: float) -> None:
        """Add a measurement of the anchor, durably; stamp in s since 1970."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO anchors VALUES (?, ?)", (started_s, latency_s))

    def best(self) -> list[Best]:
        """Return the points that were measured, in the order of the campaign."""
        return _best(self._db)


def load(folder: str | Path) -> tuple[dict[str, Any], list[Best]]:
    """Plan and results of a store, also while it is in use; EdgeError if there is none."""
    folder = Path(folder)
    if not (folder / _FILE).is_file():
        raise EdgeError(f"{folder} holds no campaign; give the folder of edgeutils measure --store")
    try:
        with closing(_connect(folder)) as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'plan'").fetchone()
            return (json.loads(found[0]), _best(db)) if found else ({}, [])
    except sqlite3.DatabaseError as error:
        raise EdgeError(_unreadable(folder, error)) from None


def _connect(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(folder / _FILE, timeout=30)
    db.execute("PRAGMA synchronous = FULL")
    return db


def _unreadable(folder: Path, error: Exception) -> str:
    return f"{folder / _FILE} is no store of a campaign ({error}); use another --store"


def _best(db: sqlite3.Connection) -> list[Best]:
    anchors = np.array(db.execute("SELECT * FROM anchors ORDER BY started_s").fetchall())
    attempts: dict[str, list[dict[str, Any]]] = {}
    for key, text in db.execute("SELECT key, result FROM results ORDER BY attempt"):
        attempts.setdefault(key, []).append(json.loads(text))
    rows = db.execute("SELECT key, point FROM points ORDER BY place")
    texts = {key: text for key, text in rows if key in attempts}
    found = []
    for key, text in texts.items():
        tries = [_with_drift(result, anchors) for result in attempts[key]]
        found.append(Best(key, Point(**json.loads(text)), len(tries), _pooled(tries)))
    return found


def _pooled(tries: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool the attempts at a point that have the fewest doubts; drift is no fault of an attempt.

    Values are medians over the attempts; their u has the scatter between attempts in it. A flag
    stays if half of them have it. The rest is that of the attempt with the narrowest interval.
    """
    faults = [
        (("failed" in f), len(f - {"drift"})) for f in (DOUBTS & {*t["flags"]} for t in tries)
    ]
    counted = [each for each, fault in zip(tries, faults, strict=True) if fault == min(faults)]
    widths = [each.get("width") or np.inf for each in counted]
    result = dict(counted[int(np.argmin(widths))])
    for quantity, unit in _QUANTITIES.items():
        name, name_u = f"{quantity}_{unit}", f"{quantity}_u"
        values, u = (np.array([t[n] for t in counted if t.get(n)]) for n in (name, name_u))
        if values.size > 1:
            result[name] = float(np.median(values))
            if u.size:
                variance = np.mean(u**2) + np.var(values, ddof=1)
                result[name_u] = float(np.sqrt(variance / values.size))
    latencies = [t["latency_s"] for t in counted if t.get("latency_s")]
    result["visits"] = len(counted)
    result["spread"] = max(latencies) / min(latencies) - 1 if len(latencies) > 1 else None
    every = [flag for each in counted for flag in {*each["flags"]}]
    flags = [flag for flag in dict.fromkeys(every) if 2 * every.count(flag) >= len(counted)]
    return result | {"flags": sorted(flags)}


def _with_drift(result: dict[str, Any], anchors: np.ndarray) -> dict[str, Any]:
    """Compare an attempt with the anchors before and after it.

    `anchor_ratio` is the anchor's latency then over its median in this campaign; None: no anchor.
    """
    if not len(anchors):
        return result | {"anchor_ratio": None}
    at_s, latency_s = anchors.T
    now_s = result["started_s"]
    after = int(np.searchsorted(at_s, now_s))
    beside = latency_s[max(after - 1, 0) : after + 1]
    drifts = beside.max() / beside.min() - 1 > DRIFT
    ratio = float(np.interp(now_s, at_s, latency_s) / np.median(latency_s))
    return result | {"anchor_ratio": ratio, "flags": result["flags"] + ["drift"] * bool(drifts)}
