"""The explorer refuses what it does not know, and both of its halves agree."""

import json
import shutil
import subprocess

import pytest

from edgeutils import ROOT, EdgeError, datasets
from edgeutils.widgets import ApplicationExplorer

MODULE = ROOT / "edgeutils" / "widgets" / "application_explorer.mjs"


@pytest.fixture(scope="module")
def table():
    return datasets.load("paper-applications")


def test_selected_follows_the_choice(table):
    explorer = ApplicationExplorer(table, device="Huawei P40 Pro", network="DNN7")
    explorer.device = "OnePlus 8 Pro"
    rows = explorer.selected()
    expected = table.query("device == 'OnePlus 8 Pro' and name == 'DNN7'")
    assert rows["energy_j"].tolist() == expected["energy_j"].tolist()
    assert repr(explorer) == "ApplicationExplorer(device='OnePlus 8 Pro', network='DNN7')"


@pytest.mark.parametrize(
    ("device", "network", "valid"),
    [("nonsense", "DNN7", "Huawei P40 Pro"), ("Huawei P40 Pro", "DNN99", "DNN12")],
)
def test_unknown_choice_lists_the_valid_ones(table, device, network, valid):
    with pytest.raises(EdgeError, match=valid):
        ApplicationExplorer(table, device=device, network=network)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_front_end_says_what_the_table_says(table):
    explorer = ApplicationExplorer(table, device="Huawei P40 Pro", network="DNN7")
    script = (
        f"import * as w from {json.dumps(MODULE.as_uri())};"
        f"const rows = {json.dumps(explorer.rows)};"
        "const shown = w.cells(rows, 'Huawei P40 Pro', 'DNN7');"
        "console.log(JSON.stringify({sentence: w.sentence(rows, 'Huawei P40 Pro', 'DNN7'),"
        " places: shown.map((row) => w.rank(rows, row).place)}))"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    rows = table.query("name == 'DNN7'")
    mine = rows[rows["device"] == "Huawei P40 Pro"]
    best = mine.loc[mine["energy_j"].idxmin()]
    assert f"least energy on {best.processor}" in said["sentence"]
    places = rows.groupby("processor")["energy_j"].rank(method="min")
    assert said["places"] == places.loc[mine.index].tolist()
