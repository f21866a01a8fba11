"""Fixation lists: what is read, what is scaled, and the baselines and intervals that come from them."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saliency.baselines import centre_map
from saliency.evaluation import fixation_density, fixation_scores
from saliency.fixations import (
    FixationSet,
    bootstrap_pictures,
    other_pictures_map,
    read_fixations,
    score_pictures,
    score_viewers,
)

SIZES = {"a": (20, 30), "b": (40, 60), "c": (20, 30)}


def simulated(*, seed: int = 0, n: int = 12, n_viewers: int = 3) -> FixationSet:
    """Simulated fixations, uniform in each picture of SIZES."""
    rng = np.random.default_rng(seed)
    rows = [
        (picture, f"v{viewer}", *(rng.random(2) * (width, height)))
        for picture, (height, width) in SIZES.items()
        for viewer in range(n_viewers)
        for _ in range(n)
    ]
    return FixationSet(pd.DataFrame(rows, columns=["picture", "viewer", "x", "y"]), SIZES)


def maps(*, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {picture: rng.random(size) for picture, size in SIZES.items()}


def table(**changed: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"picture": ["a", "b"], "viewer": ["v", "w"], "x": [1.0, 2.0], "y": [3.0, 4.0]} | changed
    )


def jpeg(height: int, width: int) -> np.ndarray:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="JPEG")
    return np.frombuffer(file.getvalue(), np.uint8)


def test_fixations_by_picture_and_by_viewer() -> None:
    fixations = simulated()
    assert fixations.pictures == ("a", "b", "c")
    assert fixations.viewers == ("v0", "v1", "v2")
    assert fixations.of("b").shape == (36, 2)
    parts = fixations.by_viewer("b")
    assert list(parts) == ["v0", "v1", "v2"]
    np.testing.assert_array_equal(np.concatenate(list(parts.values())), fixations.of("b"))
    with pytest.raises(ValueError, match=r"no picture 'bb' among 3. Did you mean 'b'"):
        fixations.of("bb")


def test_fixations_on_other_pictures_are_scaled_to_this_one() -> None:
    fixations = simulated()
    others = fixations.others("b")
    np.testing.assert_allclose(others, 2 * np.concatenate([fixations.of("a"), fixations.of("c")]))
    mixed = fixations.others("a")
    np.testing.assert_allclose(mixed, np.concatenate([fixations.of("b") / 2, fixations.of("c")]))


def test_scaling_never_leaves_the_picture() -> None:
    last = np.nextafter(np.array([7.0, 7.0]), 0)
    data = table(x=[last[0], 0.0], y=[last[1], 0.0])
    for side in range(1, 60):
        others = FixationSet(data, {"a": (7, 7), "b": (side, side)}).others("b")
        assert (others.astype(int) == side - 1).all()


def test_pictures_are_scored_against_the_fixations_of_the_others() -> None:
    fixations, heats = simulated(), maps()
    found = score_pictures(heats, fixations, blur=2.0, uniform=0.1)
    assert list(found.index) == ["a", "b", "c"]
    for picture in "abc":
        others = fixations.others(picture)
        density = 0.9 * fixation_density(others, SIZES[picture], blur=2.0) + 0.1 / math.prod(SIZES[picture])
        expected = fixation_scores(
            heats[picture], fixations.of(picture), others=others, blur=2.0, baseline=density
        )
        assert found.loc[picture].to_dict() == pytest.approx(expected)
    lazy = score_pictures(((name, heats[name]) for name in "cb"), fixations, blur=2.0, uniform=0.1)
    pd.testing.assert_frame_equal(lazy, found.loc[["c", "b"]])


def test_each_baseline_gains_nothing_over_itself() -> None:
    fixations = simulated()
    own = {
        "other_pictures": {name: other_pictures_map(fixations, name, blur=3.0) for name in SIZES},
        "centre": {name: centre_map(size) for name, size in SIZES.items()},
        "uniform": {name: np.ones(size) for name, size in SIZES.items()},
    }
    for baseline, heats in own.items():
        found = score_pictures(heats, fixations, blur=3.0, baseline=baseline)
        np.testing.assert_allclose(found["ig"], 0, atol=1e-12)


def test_other_pictures_map_is_a_density_without_this_picture() -> None:
    data = table(picture=["a", "b"], x=[5.0, 100.0], y=[5.0, 50.0])
    fixations = FixationSet(data, {"a": (60, 120), "b": (60, 120)})
    heat = other_pictures_map(fixations, "a", blur=2.0, uniform=0.0)
    assert heat.sum() == pytest.approx(1)
    assert np.unravel_index(heat.argmax(), heat.shape) == (50, 100)
    assert heat[5, 5] == 0
    assert other_pictures_map(fixations, "a", blur=2.0, uniform=0.25)[5, 5] == pytest.approx(0.25 / 7200)


@pytest.mark.parametrize("predict", ["viewer", "rest"])
def test_one_viewer_against_the_rest_is_the_mean_over_viewers(predict: str) -> None:
    fixations = simulated()
    found = score_viewers(fixations, predict=predict, blur=2.0, baseline="uniform")
    parts = fixations.by_viewer("c")
    scores = []
    for viewer, own in parts.items():
        rest = np.concatenate([places for name, places in parts.items() if name != viewer])
        known, scored = (rest, own) if predict == "viewer" else (own, rest)
        heat = 0.99 * fixation_density(known, (20, 30), blur=2.0) + 0.01 / 600
        scores.append(fixation_scores(heat, scored, others=fixations.others("c"), blur=2.0))
    assert found.loc["c"].to_dict() == pytest.approx(pd.DataFrame(scores).mean().to_dict())


def test_viewers_who_look_at_one_place_predict_one_another_and_strangers_do_not() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for picture, (x, y) in {"a": (5, 5), "b": (25, 15)}.items():
        near = np.clip(rng.normal((x, y), 1.0, (40, 2)), 0, 19)
        rows += [(picture, f"v{i % 4}", *place) for i, place in enumerate(near)]
    agreed = FixationSet(
        pd.DataFrame(rows, columns=["picture", "viewer", "x", "y"]), {"a": (20, 30), "b": (20, 30)}
    )
    assert score_viewers(agreed, blur=1.0)["sauc"].min() > 0.95
    apart = score_viewers(simulated(n=200), blur=1.0)
    assert apart["sauc"].mean() == pytest.approx(0.5, abs=0.05)
    assert apart["nss"].mean() == pytest.approx(0, abs=0.15)


def test_a_single_picture_has_no_shuffled_area() -> None:
    alone = FixationSet(table(picture=["a", "a"]), {"a": (10, 10)})
    found = score_pictures({"a": np.eye(10)}, alone, baseline="centre")
    assert math.isnan(found.loc["a", "sauc"])
    assert math.isnan(bootstrap_pictures(found).loc["sauc", "value"])
    assert bootstrap_pictures(found).loc["sauc", "n"] == 0
    with pytest.raises(ValueError, match="'a' is the only one"):
        score_pictures({"a": np.eye(10)}, alone)


def test_intervals_over_pictures_are_those_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = bootstrap_pictures(pd.DataFrame({"nss": values, "cc": values * 0 + 0.3}), n_bootstrap=4000)
    error = values.std() / math.sqrt(400)
    row = found.loc["nss"]
    assert row["value"] == pytest.approx(values.mean())
    assert row["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert row["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert found.loc["cc", ["value", "low", "high"]].tolist() == pytest.approx([0.3] * 3)
    assert found["n"].tolist() == [400, 400]


@pytest.mark.filterwarnings("error")
def test_missing_and_infinite_scores_stay_what_they_are() -> None:
    scores = pd.DataFrame({"sauc": [0.5, np.nan, 0.7], "ig": [1.0, -np.inf, 2.0]})
    found = bootstrap_pictures(scores)
    assert found.loc["sauc", ["value", "n"]].tolist() == pytest.approx([0.6, 2])
    assert found.loc["ig", "value"] == found.loc["ig", "low"] == -math.inf


def test_intervals_reach_the_mean_of_the_population_about_95_times_in_100() -> None:
    rng = np.random.default_rng(5)
    draws = [
        bootstrap_pictures(pd.DataFrame({"cc": rng.normal(size=60)}), n_bootstrap=500) for _ in range(300)
    ]
    reached = np.mean([row.loc["cc", "low"] <= 0 <= row.loc["cc", "high"] for row in draws])
    assert 0.90 <= reached <= 0.98


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t")])
def test_text_comes_back_as_it_was_written(tmp_path, suffix: str, separator: str) -> None:
    path = tmp_path / f"list{suffix}"
    data = table(picture=["007", "1e3"], viewer=["01", "NA7"], duration=[0.2, 0.3])
    data.assign(height=[10, 20], width=[30, 40]).to_csv(path, sep=separator, index=False)
    found = read_fixations(path)
    pd.testing.assert_frame_equal(found.table, data, check_dtype=False)
    assert found.sizes == {"007": (10, 30), "1e3": (20, 40)}
    data.to_csv(path, sep=separator, index=False)
    assert read_fixations(path, sizes=(8, 9)).sizes == {"007": (8, 9), "1e3": (8, 9)}
    with pytest.raises(ValueError, match=f"list{suffix} does not tell the pictures' sizes"):
        read_fixations(path)


def test_arrays_tell_sizes_by_their_pictures(tmp_path) -> None:
    files = [jpeg(12, 34), jpeg(56, 78)]
    arrays = {
        "name": np.array(["p.jpg", "q.jpg"]),
        "fix_image": np.array([1, 1, 0]),
        "fix_viewer": np.array([3, 10, 3]),
        "fix_x": np.float32([77.5, 0, 33.25]),
        "fix_y": np.float32([55.5, 0, 11.0]),
    }
    pictures = {"jpeg": np.concatenate(files), "offset": np.cumsum([0, *map(len, files)])}
    path = tmp_path / "list.npz"
    np.savez(path, **arrays, **pictures, fix_dur_ms=np.float32([250, 100, 300]))
    found = read_fixations(path)
    assert found.sizes == {"p.jpg": (12, 34), "q.jpg": (56, 78)}
    np.testing.assert_array_equal(found.of("q.jpg"), [[77.5, 55.5], [0, 0]])
    assert found.table["viewer"].tolist() == ["3", "10", "3"]
    assert found.table["duration"].tolist() == pytest.approx([0.25, 0.1, 0.3])
    np.savez(path, **arrays)
    assert read_fixations(path, sizes=(60, 80)).sizes == {"p.jpg": (60, 80), "q.jpg": (60, 80)}
    with pytest.raises(ValueError, match="give sizes="):
        read_fixations(path)
    np.savez(path, **arrays | {"fix_image": np.array([1, 2, 0])})
    with pytest.raises(ValueError, match="from 0 to 1, an index into name, got 0 to 2"):
        read_fixations(path, sizes=(60, 80))
    np.savez(path, **arrays | {"name": np.array(["p", "p"])})
    with pytest.raises(ValueError, match="2 but some are the same"):
        read_fixations(path, sizes=(60, 80))
    del arrays["fix_y"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"fix_y missing in list.npz"):
        read_fixations(path, sizes=(60, 80))


def test_pickled_arrays_are_never_opened(tmp_path) -> None:
    path = tmp_path / "list.npz"
    names = np.array(["p", None], dtype=object)
    np.savez(path, name=names, fix_image=[0], fix_viewer=[0], fix_x=[0.0], fix_y=[0.0])
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_fixations(path, sizes=(5, 5))


def test_fixations_outside_are_told_or_dropped(tmp_path, caplog) -> None:
    path = tmp_path / "list.csv"
    table(x=[1.0, 9.0]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"1 of 2 are not, the first at x 9, y 4 in 'b' \(9 x 9\)"):
        read_fixations(path, sizes=(9, 9))
    with caplog.at_level("INFO", logger="saliency.fixations"):
        found = read_fixations(path, sizes={"a": (9, 9), "b": (9, 9)}, outside="drop")
    assert len(found.table) == 1
    assert found.pictures == ("a", "b")
    assert "1 of 2 fixations" in caplog.text
    with pytest.raises(ValueError, match="every picture that has a map, 'b' has none"):
        score_pictures({"b": np.eye(9)}, found)


@pytest.mark.parametrize(
    ("data", "sizes", "match"),
    [
        (table().drop(columns="y"), {"a": (9, 9), "b": (9, 9)}, "y missing"),
        (table().iloc[:0], {"a": (9, 9)}, "the table has none"),
        (table(), {"a": (9, 9)}, "'b' and 0 more have none"),
        (table(), {"a": (9, 9), "b": (9,)}, r"'b' has \(9,\)"),
        (table(), {"a": (9, 9), "b": (0, 9)}, r"'b' has \(0, 9\)"),
        (table(y=[3.0, math.nan]), {"a": (9, 9), "b": (9, 9)}, "y nan in 'b'"),
        (table(x=[-0.5, 1.0]), {"a": (9, 9), "b": (9, 9)}, "x -0.5"),
        (table(viewer=[1, 2]), {"a": (9, 9), "b": (9, 9)}, "viewer as text in every row, got .*1"),
    ],
)
def test_a_table_that_does_not_fit_is_told(data: pd.DataFrame, sizes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FixationSet(data, sizes)


def test_settings_that_do_not_fit_are_told(tmp_path) -> None:
    fixations, heats = simulated(), maps()
    with pytest.raises(ValueError, match=r"'a' has \(30, 20\) for a picture of \(20, 30\)"):
        score_pictures({"a": heats["a"].T}, fixations)
    with pytest.raises(ValueError, match=r"Unknown baseline 'center'. Did you mean 'centre'"):
        score_pictures(heats, fixations, baseline="center")
    with pytest.raises(ValueError, match=r"got 1\.5"):
        score_pictures(heats, fixations, uniform=1.5)
    with pytest.raises(ValueError, match="no picture 'z'"):
        score_pictures({"z": heats["a"]}, fixations)
    with pytest.raises(ValueError, match="at least one picture, got none"):
        score_pictures({}, fixations)
    with pytest.raises(ValueError, match="got 'all'"):
        score_viewers(fixations, predict="all")
    with pytest.raises(ValueError, match="'a' has 1"):
        score_viewers(simulated(n_viewers=1))
    with pytest.raises(ValueError, match=r"n_bootstrap.*got 0"):
        bootstrap_pictures(pd.DataFrame({"cc": [1.0]}), n_bootstrap=0)
    with pytest.raises(ValueError, match=r"got list\.mat"):
        read_fixations(tmp_path / "list.mat")
    with pytest.raises(ValueError, match="got 'clip'"):
        read_fixations(tmp_path / "list.csv", outside="clip")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"list\.csv cannot: No columns"),
        ("picture,viewer,x,y\na,v,three,1\n", r"column x of list\.csv, got 'three'"),
        ("picture,viewer,x,y,height,width\na,v,1,1,,9\n", r"column height of list\.csv, got nan"),
        ("picture,viewer,x,y,height,width\na,v,1,1,9,9.5\n", r"column width of list\.csv, got 9\.5"),
        ("picture,viewer,x,y,height,width\na,v,1,1,9,wide\n", r"column width of list\.csv, got 'wide'"),
    ],
)
def test_text_that_cannot_be_read_is_told(tmp_path, text: str, match: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_fixations(tmp_path / "list.csv")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_broken_arrays_are_told(tmp_path, share: float) -> None:
    path = tmp_path / "list.npz"
    np.savez(path, name=["a"], fix_image=[0], fix_viewer=[0], fix_x=[0.0], fix_y=[0.0])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"list\.npz cannot: it is no \.npz archive"):
        read_fixations(path, sizes=(5, 5))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"fix_x": ["one"]}, r"numbers in fix_x of list\.npz, got <U3"),
        ({"fix_image": [0.0]}, r"whole numbers in fix_image of list\.npz, got float64"),
        ({"fix_y": [0.0, 1.0]}, r"fix_y \(1,\) in list\.npz.*got \(2,\)"),
        ({"jpeg": np.zeros(5, np.uint8), "offset": [0, 5]}, r"list\.npz cannot: cannot identify"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, changed: dict, match: str) -> None:
    arrays = {"name": ["a"], "fix_image": [0], "fix_viewer": [0], "fix_x": [0.0], "fix_y": [0.0]}
    np.savez(tmp_path / "list.npz", **arrays | changed)
    with pytest.raises(ValueError, match=match):
        read_fixations(tmp_path / "list.npz")


def test_sizes_that_are_no_pair_are_told(tmp_path) -> None:
    table().to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(ValueError, match=r"one \(height, width\) or a dict of them by picture, got 5"):
        read_fixations(tmp_path / "list.csv", sizes=5)
    with pytest.raises(ValueError, match="'a' has 5"):
        read_fixations(tmp_path / "list.csv", sizes={"a": 5, "b": 5})
