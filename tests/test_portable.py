import json
import random

import numpy as np
import pandas as pd
import pytest
from test_cli import edgeutils

from edgeutils import ROOT, EdgeError, datasets
from edgeutils.networks import tflite, zoo
from edgeutils.networks.kernels import kernel_frame
from edgeutils.networks.sampler import sample
from edgeutils.regression import kernel_predictor, portable
from edgeutils.regression.kernel_predictor import MEMBERS, KernelPredictor, TreesMember
from edgeutils.regression.refit import adapt, compact, fidelity

SHIPPED = ROOT / "data" / "predictors" / "litert-x86"
KINDS = ["add", "bn", "fc", "hswish", "maxpool"]
ABOUT = {
    "target": "latency",
    "unit": "s",
    "device": "x86-64 virtual machine",
    "processor": "CPU1",
    **{"dtypes": ["float32"], "boundaries": [], "idle_policies": [], "sources": ["measured"]},
}


def measured(processor="CPU1", kinds=None):
    rows = datasets.load("litert-x86")
    rows = rows[(rows["processor"] == processor) & (rows["dtype"] == "float32")]
    return rows[rows["kernel_type"].isin(kinds or KINDS)].reset_index(drop=True)


def fitted(rows, members=MEMBERS[:4], target="latency_s"):
    return KernelPredictor(members=members).fit(rows, rows[target].to_numpy(float))


@pytest.fixture(scope="module")
def rows():
    return measured()


@pytest.fixture(scope="module")
def exact(rows):
    return fitted(rows)


@pytest.fixture(scope="module")
def small(rows):
    return fitted(rows[rows["kernel_type"].isin(["add", "bn"])])


def fresh(predictor, n=40):
    return kernel_frame(k for kind in predictor.types_ for k in sample(kind, n, seed=5))


def closest(one, other, table):
    return fidelity(one, other, table).abs().max()


def test_a_loaded_predictor_says_what_the_saved_one_said(exact, rows, tmp_path):
    loaded, about = portable.load(portable.save(exact, tmp_path / "new" / "p.json", ABOUT))
    assert about == ABOUT
    for table in (rows, fresh(exact)):
        found = closest(exact, loaded, table)
        assert found["value"] < 1e-6
        assert found["width"] < 1e-4
        assert (loaded.extrapolated(table) == exact.extrapolated(table)).all()
    again = portable.save(loaded, tmp_path / "again.json", about)
    assert closest(exact, portable.load(again)[0], rows)["value"] < 1e-6


def test_a_process_of_two_scales_survives_and_can_be_refitted(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_predictor, "_TWO_SCALES", 60)
    some = rows[rows["kernel_type"] == "fc"]
    predictor = fitted(some, ("sizes",))
    terms = predictor.types_["fc"].members["sizes"].process.terms
    assert [term.linear for term in terms] == [False, False]
    loaded, _ = portable.load(portable.save(predictor, tmp_path / "p.json", ABOUT))
    asked = fresh(predictor, 100)
    asked = asked[~predictor.extrapolated(asked)]
    assert closest(predictor, loaded, asked)["value"] < 1e-6
    found = fidelity(predictor, compact(predictor, points=150), asked).abs()
    assert (found["value"] < 0.01).mean() > 0.9


def test_trees_and_kernels_that_are_not_square_survive(rows, tmp_path):
    some = rows[rows["kernel_type"] == "fc"].reset_index(drop=True)
    some["pixels"] = np.where(np.arange(len(some)) % 2, 4.0, np.nan)
    predictor = fitted(some.drop(columns="macs").assign(macs=some["macs"]), MEMBERS)
    members = predictor.types_["fc"].members.values()
    assert any(isinstance(member, TreesMember) for member in members)
    loaded, _ = portable.load(portable.save(predictor, tmp_path / "p.json", ABOUT))
    assert closest(predictor, loaded, some)["value"] < 1e-6


def test_types_that_share_a_process_store_it_once(exact, tmp_path):
    document = json.loads(portable.encode(exact, ABOUT))
    uses = [
        member["process"]
        for each in document["types"].values()
        for member in each["members"].values()
    ]
    assert len(set(uses)) == len(document["processes"]) < len(uses)


def test_outside_the_training_is_flagged_and_wider(exact, rows):
    inside = rows[rows["kernel_type"] == "maxpool"].iloc[[0]].astype({"hw": float})
    outside = inside.assign(dilation=3)
    huge = inside.assign(**{c: inside[c] * 1e3 for c in ("cin", "input_bytes", "output_bytes")})
    assert not exact.extrapolated(inside).any()
    for table in (outside, huge):
        assert exact.extrapolated(table).all()
        width = [np.log(np.divide(*exact.interval(t)[::-1]))[0] for t in (inside, table)]
        assert width[1] > 1.3 * width[0]


def damaged(text, rng):
    """A file after some harm: a byte, a cut, or a value of the JSON."""
    how = rng.random()
    if how < 0.2:
        place = rng.randrange(len(text))
        return text[:place] + chr(rng.randrange(32, 127)) + text[place + 1 :]
    if how < 0.25:
        return text[: rng.randrange(len(text))]
    document = json.loads(text)
    holder = key = None
    value = document
    while isinstance(value, dict | list) and value and (key is None or rng.random() < 0.85):
        holder, key = (
            value,
            rng.choice(list(value) if isinstance(value, dict) else range(len(value))),
        )
        value = holder[key]
    odd = [None, True, -1, 0, 10**6, 10**30, 1e308, "x", "", [], {}, [[1, 2], 3], 0.5, "relu"]
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(odd)
    return json.dumps(document)


def test_no_harm_to_a_file_gives_anything_but_one_sentence(small, rows, tmp_path):
    rng, path = random.Random(1), tmp_path / "p.json"  # noqa: S311
    text, said = portable.encode(small, ABOUT), []
    table = rows[rows["kernel_type"].isin(["add", "bn"])].iloc[::9]
    for _ in range(300):
        path.write_text(damaged(text, rng), encoding="utf-8")
        try:
            predictor, _ = portable.load(path)
        except EdgeError as error:
            said.append(str(error))
        else:
            known = table[table["kernel_type"].isin(list(predictor.types_))]
            predictor.predict(known)
    assert len(said) > 150
    assert all(str(path) in text and "\n" not in text for text in said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(version=portable.VERSION + 1), "newer"),
        (lambda d: d.update(version="1"), "version"),
        (lambda d: d.update(format="pickle"), "edgeutils predictor"),
        (lambda d: d["about"].update(unit="mJ"), "unit"),
        (lambda d: d["about"].pop("dtypes"), "dtypes"),
        (lambda d: d["points"].update(colour=[]), "colour"),
        (lambda d: d["points"]["cin"].pop(), "cin"),
        (lambda d: d["processes"][0]["variance"].__setitem__(0, -1), "number is not in"),
        (lambda d: d["processes"][0]["target"].__setitem__(0, float("nan")), "NaN"),
        (lambda d: d["processes"][0]["features"].update(magic=[0, 1]), "magic"),
        (lambda d: d["types"]["bn"]["members"].popitem(), "add up to 1"),
        (lambda d: d["types"]["bn"].update(widening=True), "expected numbers"),
    ],
)
def test_a_file_that_is_newer_or_broken_says_why(small, tmp_path, change, said):
    document, path = json.loads(portable.encode(small, ABOUT)), tmp_path / "p.json"
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(EdgeError, match=said):
        portable.load(path)


def test_trees_that_do_not_end_are_refused():
    good = {"feature": [0, -1, -1], "number": [1.0, 2.0, 3.0], "base": 0.5}
    assert portable._trees(good, 1).predict(np.array([[1.0], [5.0]])).tolist() == [2.5, 3.5]
    for feature in ([], [0], [0, -1], [0, 0, -1, -1], [-1, 0], [-2], [1, -1, -1]):
        with pytest.raises(EdgeError):
            portable._trees({"feature": feature, "number": [1] * len(feature), "base": 0}, 1)


def test_a_file_of_the_first_version_is_still_read(rows, tmp_path):
    rows = rows[rows["kernel_type"] == "fc"]
    predictor = fitted(rows, ("sizes", "boosting"))
    document = json.loads(portable.encode(predictor, ABOUT))
    document["version"] = 1
    document["types"]["fc"]["members"]["boosting"]["trees"] |= {"right": [], "roots": []}
    path = tmp_path / "first.json"
    path.write_text(json.dumps(document))
    assert closest(predictor, portable.load(path)[0], rows)["value"] < 1e-6


def test_a_compact_predictor_agrees_and_holds_no_training_row(exact, rows, tmp_path):
    made = compact(exact, points=150)
    made, _ = portable.load(portable.save(made, tmp_path / "p.json", ABOUT))
    inside = fresh(exact, 100)
    inside = inside[~exact.extrapolated(inside)]
    found = fidelity(exact, made, inside).abs()
    assert (found["value"] < 0.01).mean() > 0.9
    assert (found["width"] < 0.1).mean() > 0.9
    sizes = ["kernel_type", *datasets.choose(rows, "kernel_type", "fc").columns[13:25]]
    points = [m.rows for t in made.types_.values() for m in t.members.values()]
    held = pd.concat(points).reindex(columns=sizes).astype({c: float for c in sizes[1:]})
    seen = rows[sizes].astype({c: float for c in sizes[1:]})
    assert held.merge(seen, on=sizes).empty


def test_a_compact_predictor_of_platformx_is_as_good_as_the_exact_one(at_hand):
    at_hand("platformx-conv-cpu")
    table = datasets.load("platformx-conv-cpu")
    full = fitted(table, target="energy_j")
    inside = kernel_frame(sample("conv-bn-relu", 300, seed=5))
    inside = inside[~full.extrapolated(inside)]
    made = compact(full, points=440)
    new, seen = (fidelity(full, made, part).abs() for part in (inside, table))
    assert (new["value"] < 0.01).mean() > 0.98
    assert (seen["value"] < 0.01).mean() > 0.98
    # At a kernel that was measured the exact one is surer than one that holds no such row can be.
    assert (new["width"] < 0.1).mean() > 0.97


def test_trees_are_refused_where_no_row_may_be_held(rows):
    with pytest.raises(EdgeError, match="trees"):
        compact(fitted(rows[rows["kernel_type"] == "fc"], ("sizes", "boosting")))


def test_few_points_move_a_predictor_to_another_processor(exact):
    other = measured("CPU2")
    drawn = other.sample(20, random_state=1)
    rest = other[~other["group"].isin(drawn["group"])]
    moved = adapt(exact, drawn, drawn["latency_s"].to_numpy(float))
    truth = rest["latency_s"].to_numpy(float)
    error = [np.abs(p.predict(rest) / truth - 1).mean() for p in (exact, moved)]
    assert error[1] < 0.75 * error[0]
    low, high = moved.interval(rest)
    assert np.mean((low <= truth) & (truth <= high)) > 0.8
    with pytest.raises(EdgeError, match="2 or more"):
        adapt(exact, drawn.iloc[:1], drawn["latency_s"].iloc[:1])


def test_a_planted_shift_is_found(exact, rows):
    few = rows.groupby("kernel_type").sample(6, random_state=0)
    moved = adapt(exact, few, 3 * exact.predict(few))
    assert moved.predict(rows) == pytest.approx(3 * exact.predict(rows), rel=0.02)


# The commands.


def plain_table(path, rows=None):
    """Kernels as a user would write them: configuration and one target."""
    rows = measured(kinds=["add", "maxpool"]) if rows is None else rows
    used = rows[["kernel_type", "hw", "cin", "kernel_size", "stride"]]
    used.assign(energy_j=rows["latency_s"] * 2.5).to_csv(path, index=False)
    return used


def test_fit_and_predict_a_plain_table(tmp_path):
    path = tmp_path / "mine.csv"
    used = plain_table(path)
    done = edgeutils("fit", str(path), "--out", str(tmp_path / "p"))
    assert done.returncode == 0, done.stderr
    assert "energy-float32.json" in done.stdout
    assert "fitted after" in done.stderr
    _, about = portable.load(tmp_path / "p" / "energy-float32.json")
    assert about["unit"] == "J"
    assert about["rows"] == used["kernel_type"].value_counts().to_dict()
    assert about["boundaries"] == ["none"]
    assert len(about["training_sha256"]) == 64
    done = edgeutils("predict", str(path), "--predictor", str(tmp_path / "p"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(used)
    assert list(found[0]) == ["name", "value", "std", "low90", "high90", "extrapolated"]
    assert all(row["low90"] < row["value"] < row["high90"] for row in found)
    base = str(tmp_path / "p")
    rows = measured("CPU2", ["add", "maxpool"]).iloc[:20]
    plain_table(path, rows)
    done = edgeutils("fit", str(path), "--out", str(tmp_path / "q"), "--base", base)
    assert done.returncode == 0, done.stderr
    assert portable.load(tmp_path / "q" / "energy-float32.json")[1]["base"]["training_sha256"]


def test_predict_a_model_as_the_sum_of_its_kernels(tmp_path):
    path = tmp_path / "net.tflite"
    tflite.write(zoo.network("squeezenet-1.1"), path)
    options = ("--predictor", str(SHIPPED), "--target", "latency", "--processor", "CPU1")
    done = edgeutils("predict", str(path), *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    values = [row["value"] for row in found["kernels"]]
    assert found["total"] == pytest.approx(sum(values) + found["overhead"]["value"])
    assert found["low90"] < found["total"] < found["high90"]
    assert found["unit"] == "s"
    assert found["predictor"]["processor"] == "CPU1"
    shown = edgeutils("predict", str(path), *options)
    assert "total" in shown.stdout


def test_shipped_predictors_are_small_and_say_what_they_are():
    paths = sorted(SHIPPED.rglob("*.json"))
    assert len(paths) == 4
    for path in paths:
        _, about = portable.load(path)
        assert about["datasets"] == ["litert-x86"]
        assert path.parent.name == about["processor"]


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("kernel_type,hw,cin\nadd,8,8\n", [], "no kernel has a value"),
        ("hw,cin,energy_j\n8,8,1\n", [], "kernel_type"),
        ("kernel_type,hw,energy_j\nadd,8,1\n", [], "kernel 1: a add kernel needs cin"),
        ("kernel_type,hw,cin,energy_j\nadd,8,8,1\n", [], "or more of a kernel type"),
        ("kernel_type,hw,cin,energy_j\nadd,8,8,-1\n", [], "energy_j"),
        ("kernel_type,hw,cin,energy_j\nadd,8,8,1\n", ["--target", "speed"], "speed"),
        ("kernel_type,hw,cin,energy_j\nadd,8,8,1\n", ["--target", "power"], "power"),
        ("kernel_type,hw,cin,energy_mj\nadd,8,8,1\n", [], "energy_mj"),
        ("", [], "cannot be read"),
        ("kernel_type,hw,cin,energy_j,boundary\nadd,8,8,1,wall\nadd,8,9,1,battery\n", [], "wall"),
        (
            "kernel_type,hw,cin,energy_j,device\nadd,8,8,1,a\nadd,8,9,1,b\n",
            [],
            "choose one with --device",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path, text, arguments, said):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    done = edgeutils("fit", str(path), "--out", str(tmp_path / "p"), *arguments)
    assert done.returncode == 2
    sentences = [line for line in done.stderr.splitlines() if line.startswith("edgeutils: ")]
    assert len(sentences) == 1
    assert said in sentences[0]
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "latency"], "choose with --device and --processor"),
        (["--target", "energy"], "no such predictor"),
        (["--target", "latency", "--processor", "GPU"], "CPU1"),
    ],
)
def test_a_predictor_that_is_not_there_is_one_sentence(tmp_path, options, said):
    path = tmp_path / "mine.csv"
    plain_table(path)
    done = edgeutils("predict", str(path), "--predictor", str(SHIPPED), *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
