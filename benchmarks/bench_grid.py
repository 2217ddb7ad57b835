"""Check the way from stamps to joules against the virtual bench, over a grid of monitor faults.

    python benchmarks/bench_grid.py [--repeats 8] [--out benchmarks/results/bench_grid.csv]

Every fault of `bench.faults` meets every scenario (latency, pause, warm-up, marks), each trace
with a seed of its own. A row of the result is a trace:

- `error`: mean energy over what the phone took in this run, less 1; `repair_error`: the same with
  the meter's drawn gain and additive error counted out, which no one can see in a trace.
  `known_clock_error`: that with the true clock offset instead of the one that was found.
- `covers`: whether the 95 % interval holds the energy that an inference takes on average over many
  such runs; `covers_run`: whether the interval without the repeats' part holds what this run took.
- `refused`: the message where the pipeline refused instead; the figures are then missing.
"""

import argparse
import itertools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import stats

from edgeutils import EdgeError
from edgeutils.hardware.bench import SMALL_NETWORK, BenchRun, Phone, simulate
from edgeutils.hardware.bench_monitor import faults
from edgeutils.hardware.energy import summarise
from edgeutils.hardware.offset import OffsetEstimate
from edgeutils.hardware.report import analyse
from edgeutils.hardware.trace import PowerTrace

#: Factor on the work of the small network (about 1.8 ms), inferences, and the phone.
SCENARIOS = {
    "0.5 ms": (0.33, 2000, Phone(dispatch_s=6e-6)),
    "0.5 ms, pauses of 2 ms": (0.33, 600, Phone(dispatch_s=6e-6, pause_s=2e-3, pause_w=0.3)),
    "1.8 ms": (1.0, 670, Phone()),
    "1.8 ms, steady": (1.0, 670, Phone(ramp_s=0.0, heat_k_per_w=0.0)),
    "1.8 ms, no pauses": (1.0, 670, Phone(pause_s=0.0)),
    "1.8 ms, busy pauses": (1.0, 670, Phone(pause_w=2.2)),
    "10 ms, pauses of 5 ms, 18 s": (6.0, 1200, Phone(pause_s=5e-3, pause_w=0.3)),
    "50 ms": (31.0, 60, Phone()),
    "1.8 ms, marks of 50, sync": (1.0, 670, Phone(log_every=50, sync=True)),
}
#: Flags that say that the figure itself cannot be trusted; such traces are counted apart too.
DISTRUSTED = {"clipped", "rate_too_low", "not_stationary"}
#: What an honest interval may say of the traces of one group: 95 % of it lie in this range.
CONFIDENCE = 0.95


def measured(fault: str, scenario: str, seed: int) -> dict[str, object]:
    """Simulate one recording, measure it, and compare with its truth."""
    factor, inferences, phone = SCENARIOS[scenario]
    run = simulate(
        seed=seed,
        inferences=inferences,
        workload=SMALL_NETWORK.times(factor),
        phone=phone,
        monitor=faults()[fault],
    )
    row: dict[str, object] = {"fault": fault, "scenario": scenario, "seed": seed}
    try:
        return row | compared(run)
    except EdgeError as error:
        return row | {"refused": str(error)}


def compared(run: BenchRun) -> dict[str, object]:
    """Errors, coverage, flags and clock of a run that goes through the whole pipeline."""
    found = analyse(run.trace, run.marks)
    mean, offset = found.summary, found.offset
    took_j, mean_j, truth = run.mean_energy_j, mean.mean_energy_j, run.truth
    per_inference_s = (truth["end_s"] - truth["start_s"]).sum() / run.marks.inferences
    shown_j = took_j * (1 + run.gain) + run.error_w * per_inference_s
    parts = {f"{name}_share": u / took_j for name, u in vars(mean.budget).items()}
    true_s = run.monitor.offset_s + lateness_s(run, found.trace)
    known_j = np.nan
    if np.isfinite(true_s):
        known = OffsetEstimate(true_s, 0.0, run.monitor.drift)
        known_j = summarise(found.trace, run.marks, offset=known).mean_energy_j
    measuring_j = np.sqrt(mean.u_j**2 - mean.budget.repeats**2)
    return {
        "error": mean_j / took_j - 1,
        "repair_error": mean_j / shown_j - 1,
        "known_clock_error": known_j / shown_j - 1,
        "period_error": mean.energy_per_period_j / run.period_energy_j - 1,
        "expected_error": mean_j / run.expected_energy_j - 1,
        "covers": bool(mean.low95_j <= run.expected_energy_j <= mean.high95_j),
        "covers_run": bool(abs(mean_j - took_j) <= 1.96 * measuring_j),
        "u_share": mean.u_j / took_j,
        **parts,
        "offset_error_s": offset.offset_s - true_s,
        "offset_u_s": offset.u_s,
        "drift_error": offset.drift - run.monitor.drift,
        "drift_u": offset.drift_u,
        "lost_samples": found.clock.lost_samples,
        "flags": " ".join(found.flags),
    }


def lateness_s(run: BenchRun, trace: PowerTrace) -> float:
    """Return how late a rebuilt clock is: it keeps what a packet takes, as part of the offset.

    NaN where it is not known which sample is which, as some were dropped.
    """
    taken_s = np.unique(run.taken_s)
    if run.monitor.held > 1:
        taken_s = taken_s[:: run.monitor.held]
    same = taken_s.size == trace.time_s.size
    return float(np.median(trace.time_s - taken_s)) if same else np.nan


def table(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Bias, worst error and coverage of each group, with the 95 % interval of the coverage."""
    return pd.DataFrame({name: _group(part) for name, part in rows.groupby(by, sort=False)}).T


def _group(part: pd.DataFrame) -> dict[str, object]:
    kept = part[part["refused"].isna()]
    hits, n = int(kept["covers"].sum()), len(kept)
    span = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, "wilson") if n else (np.nan, np.nan)
    flags = kept["flags"].str.split().explode().value_counts()
    worst = kept["repair_error"].abs()
    return {
        "n": len(part),
        "refused": len(part) - n,
        "error_%": round(100 * kept["error"].mean(), 3),
        "repair_%": round(100 * kept["repair_error"].mean(), 3),
        "known_%": round(100 * kept["known_clock_error"].mean(), 3),
        "worst_%": round(100 * worst.max(), 3),
        "below_0.5_%": round(100 * (worst < 0.005).mean(), 1),
        "u_%": round(100 * kept["u_share"].median(), 3),
        "covers_%": round(100 * hits / n, 1) if n else np.nan,
        "from_%": round(100 * span[0], 1),
        "to_%": round(100 * span[1], 1),
        "covers_run_%": round(100 * kept["covers_run"].mean(), 1),
        "flags": " ".join(f"{name}:{count}" for name, count in flags.items()),
    }


def main() -> None:
    """Run the grid on two processes, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=8, help="traces per fault and scenario")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first trace")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench_grid.csv"))
    options = parser.parse_args()
    cells = list(itertools.product(range(options.repeats), faults(), SCENARIOS))
    seeds = itertools.count(options.seed)
    jobs = [(fault, scenario, next(seeds)) for _, fault, scenario in cells]
    began_s = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        rows = pd.DataFrame(pool.map(measured, *zip(*jobs, strict=True), chunksize=16))
    rows = rows.reindex(columns=[*rows.columns.drop("refused", errors="ignore"), "refused"])
    rows = rows.sort_values(["fault", "scenario", "seed"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out, index=False, float_format="%.4g", lineterminator="\n")
    with pd.option_context("display.width", 250, "display.max_colwidth", 90):
        for by in ("fault", "scenario"):
            print(table(rows, by).to_string(), "\n")
        flags = rows["flags"].fillna("").str.split()
        trusted = [DISTRUSTED.isdisjoint(found) for found in flags]
        names = np.where(trusted, "trusted", "flagged " + " or ".join(sorted(DISTRUSTED)))
        names = np.where(rows["refused"].notna(), "refused", names)
        print(table(pd.concat([rows.assign(all="all"), rows.assign(all=names)]), "all").to_string())
        print(rows["refused"].dropna().astype(str).str[:110].value_counts().to_string())
    print(f"{len(rows)} traces in {time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
