"""The measurement table refuses what would mislead, and loses nothing on the way."""

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.table import (
    COLUMNS,
    measurement_table,
    read_or_build,
    read_table,
    require_comparable,
    validate,
    write_table,
)

DOOR = {
    "dataset": "mine",
    "level": "network",
    "idle_policy": "none",
    "boundary": "battery",
    "source": "measured",
}


def rows(**columns):
    return measurement_table(pd.DataFrame({"name": ["a", "b"], **columns}), **DOOR)


def test_what_does_not_apply_is_missing_not_zero():
    made = rows(energy_j=[0.1, None])
    assert list(made.columns) == list(COLUMNS)
    assert made["energy_j"].isna().tolist() == [False, True]
    assert made["macs"].isna().all()
    assert made["cin"].isna().all()
    assert (made["flags"] == "").all()
    assert made["cin"].dtype == "Int64"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"energy_mj": [1, 2]}, "unknown column.* energy_mj; the measurement table knows: dataset"),
        ({"energy_j": ["much", 1]}, "column energy_j should be float64"),
        ({"energy_j": [0.0, 1.0]}, r"energy_j: greater_than\(0\) fails in 1 row.*first value 0.0"),
        ({"latency_s": [-1.0, 1.0]}, "latency_s"),
        ({"cin": [1.5, 2]}, "column cin should be Int64"),
        ({"boundary": ["plug", "wall"]}, "boundary: isin.*'plug'"),
        ({"source": [None, "measured"]}, "source"),
    ],
)
def test_bad_rows_are_named(columns, said):
    door = {key: value for key, value in DOOR.items() if key not in columns}
    with pytest.raises(EdgeError, match=said):
        measurement_table(pd.DataFrame({"name": ["a", "b"], **columns}), **door)


def test_validate_wants_every_column():
    with pytest.raises(EdgeError, match="not a measurement table"):
        validate(pd.DataFrame({"name": ["a"]}))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_round_trip(tmp_path, ending):
    made = rows(energy_j=[0.1, np.nan], cin=[3, None])
    path = write_table(made, tmp_path / "deep" / f"table.{ending}")
    pd.testing.assert_frame_equal(read_table(path), made)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_read_names_what_is_wrong(tmp_path):
    with pytest.raises(EdgeError, match=r"ending in \.csv or \.parquet"):
        read_table(tmp_path / "table.xlsx")
    with pytest.raises(EdgeError, match="does not exist"):
        read_table(tmp_path / "table.csv")


def test_read_or_build(tmp_path):
    path = tmp_path / "x.parquet"
    built = pd.DataFrame({"x": [1]})
    assert read_or_build(path, lambda: built) is built
    write_table(pd.DataFrame({"x": [2]}), path)
    assert read_or_build(path, lambda: built)["x"].tolist() == [2]


def test_boundaries_and_idle_policies_are_never_mixed_unasked():
    mixed = pd.concat([rows(), rows().assign(boundary="wall")], ignore_index=True)
    with pytest.raises(EdgeError, match="mix boundary battery, wall"):
        require_comparable(mixed)
    assert require_comparable(mixed, across_boundaries=True) is mixed
    with pytest.raises(EdgeError, match="mix idle_policy constant, none"):
        require_comparable(
            pd.concat([rows(), rows().assign(idle_policy="constant")], ignore_index=True)
        )
