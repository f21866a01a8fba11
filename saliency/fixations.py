"""Where people looked: fixation lists, the baselines that they give, and maps scored picture by picture."""

import difflib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from saliency.baselines import centre_map
from saliency.evaluation import fixation_density, fixation_scores
from saliency.faithfulness import Map
from saliency.scores import check_count, pick

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

COLUMNS = ("picture", "viewer", "x", "y")
Sizes = Mapping[str, tuple[int, int]]
T = TypeVar("T")


@dataclass(frozen=True)
class FixationSet:
    """Fixations of some viewers on some pictures.

    table : a row a fixation: picture, viewer, x and y (pixels from the picture's upper left corner), and what
        else there is, such as duration (s)
    sizes : height and width of each picture in pixels; its keys are the pictures, in order

    Raises ValueError for missing columns, pictures without a size, and fixations outside their picture.
    """

    table: "pd.DataFrame"
    sizes: Sizes

    def __post_init__(self) -> None:
        _check_columns(self.table)
        _check_sizes(self.table, self.sizes)
        outside = ~_inside(self.table, self.sizes)
        if outside.any():
            row = self.table[outside].iloc[0]
            height, width = self.sizes[row["picture"]]
            raise ValueError(
                f"Need fixations inside their picture; {outside.sum()} of {len(outside)} are not, the first at "
                f"x {row['x']:g}, y {row['y']:g} in {row['picture']!r} ({height} x {width})."
            )

    @property
    def pictures(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    @cached_property
    def viewers(self) -> tuple[str, ...]:
        return tuple(sorted(self.table["viewer"].unique()))

    def of(self, picture: str) -> np.ndarray:
        """All fixations on a picture, (n, 2), x and y in its pixels."""
        return self._places[self._on(picture)]

    def by_viewer(self, picture: str) -> dict[str, np.ndarray]:
        """Fixations on a picture, (n, 2), of each viewer who has some."""
        on = self._on(picture)
        places, viewers = self._places[on], self._viewer[on]
        return {str(viewer): places[viewers == viewer] for viewer in np.unique(viewers)}

    def others(self, picture: str) -> np.ndarray:
        """Fixations on all other pictures, (n, 2), scaled to this picture's size."""
        elsewhere = ~self._on(picture)
        height, width = self.sizes[picture]
        size = np.array([width, height], float)
        scaled = self._places[elsewhere] * (size / self._extent[elsewhere])
        return np.minimum(scaled, np.nextafter(size, 0))  # rounding may lift the last pixel's to the border

    def _on(self, picture: str) -> np.ndarray:
        if picture not in self.sizes:
            near = difflib.get_close_matches(str(picture), self.sizes, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"There is no picture {picture!r} among {len(self.sizes)}. {hint}".strip())
        return self._picture == picture

    @cached_property
    def _places(self) -> np.ndarray:
        return self.table[["x", "y"]].to_numpy(float)

    @cached_property
    def _picture(self) -> np.ndarray:
        return self.table["picture"].to_numpy(str)

    @cached_property
    def _viewer(self) -> np.ndarray:
        return self.table["viewer"].to_numpy(str)

    @cached_property
    def _extent(self) -> np.ndarray:
        """Width and height of each fixation's picture, (n, 2)."""
        return np.array([self.sizes[name][::-1] for name in self._picture], float).reshape(-1, 2)


def read_fixations(
    path: str | Path, *, sizes: Sizes | tuple[int, int] | None = None, outside: str = "error"
) -> FixationSet:
    """Fixations from a table of text (.csv with commas, .tsv or .txt with tabs) or from arrays (.npz).

    path : a table has the columns picture, viewer, x, y and keeps the others; arrays are name (pictures),
        fix_image (index into name, from 0), fix_viewer, fix_x, fix_y, and maybe fix_dur_ms
    sizes : height and width in pixels, one pair for all pictures or one a picture; None: the table's columns
        height and width, or the pictures that the arrays hold (jpeg, all bytes in a row, and offset)
    outside : fixations outside their picture: "error", or "drop", which the log tells

    Pixels count from 0 at the upper left corner: take 1 off those of MATLAB. Names of pictures and viewers are
    text. Raises ValueError for a file or a table that does not fit.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"Need fixations as {', '.join(_READERS)}, got {path.name}.")
    if outside not in ("error", "drop"):
        raise ValueError(f"Need outside as 'error' or 'drop', got {outside!r}.")
    if sizes is not None and not isinstance(sizes, Mapping) and np.shape(sizes) != (2,):
        raise ValueError(f"Need sizes as one (height, width) or a dict of them by picture, got {sizes!r}.")
    table, found = _READERS[path.suffix.lower()](path)
    if sizes is not None:
        names = found or dict.fromkeys(table["picture"])
        found = dict(sizes) if isinstance(sizes, Mapping) else dict.fromkeys(names, tuple(sizes))
    if not found or None in found.values():
        raise ValueError(f"{path.name} does not tell the pictures' sizes; give sizes=(height, width).")
    _check_sizes(table, found)
    if outside == "drop":
        inside = _inside(table, found)
        logger.info("%d of %d fixations outside their picture were dropped.", (~inside).sum(), len(inside))
        table = table[inside].reset_index(drop=True)
    return FixationSet(table, found)


def other_pictures_map(
    fixations: FixationSet, picture: str, *, blur: float = 35.0, uniform: float = 0.01
) -> np.ndarray:
    """The density of the fixations on all other pictures, (h, w), sum 1: what is looked at in any picture.

    blur : deviation of the Gaussian, pixels
    uniform : share of a uniform density in the mixture; 0 leaves pixels that no Gaussian reaches impossible
    """
    if len(fixations.pictures) < 2:
        raise ValueError(
            f"Need other pictures, {picture!r} is the only one; use the centre or uniform baseline."
        )
    return _mixture(fixations.others(picture), fixations.sizes[picture], blur=blur, uniform=uniform)


def score_pictures(
    maps: Mapping[str, Map] | Iterable[tuple[str, Map]],
    fixations: FixationSet,
    *,
    blur: float = 35.0,
    baseline: str = "other_pictures",
    uniform: float = 0.01,
    progress: bool = False,
) -> "pd.DataFrame":
    """`fixation_scores` of a map a picture; the other pictures' fixations are the negatives of sauc.

    maps : picture and map (h, w) at the picture's size; pairs may come from a generator
    blur : deviation in pixels of the density, and of the baseline of other pictures
    baseline : what ig is measured against: "other_pictures", "centre" (a Gaussian) or "uniform"
    uniform : share of a uniform density in the baseline of other pictures

    Returns a row a picture, a column a score; sauc is NaN where there is one picture alone.
    Raises ValueError for a map of another size than its picture, and as `fixation_scores` does.
    """
    import pandas as pd

    pairs = maps.items() if isinstance(maps, Mapping) else maps
    rows = {}
    for picture, heat in _bar(pairs, "pictures", progress):
        settings = _against(fixations, picture, baseline=baseline, blur=blur, uniform=uniform)
        seen = fixations.of(picture)
        if len(seen) == 0:
            raise ValueError(f"Need fixations on every picture that has a map, {picture!r} has none.")
        if tuple(np.shape(heat)) != tuple(fixations.sizes[picture]):
            sizes = f"{tuple(np.shape(heat))} for a picture of {tuple(fixations.sizes[picture])}"
            raise ValueError(f"Need maps at their picture's size, {picture!r} has {sizes}.")
        rows[picture] = fixation_scores(heat, seen, **settings)
    if not rows:
        raise ValueError("Need the map of at least one picture, got none.")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("picture")


def score_viewers(
    fixations: FixationSet,
    *,
    predict: str = "viewer",
    blur: float = 35.0,
    baseline: str = "other_pictures",
    uniform: float = 0.01,
    progress: bool = False,
) -> "pd.DataFrame":
    """How well people predict one another: each viewer against the rest, averaged over viewers.

    predict : "viewer": the density of the rest is the map, one viewer's fixations are scored, as close to a
        ceiling as these viewers allow; "rest": one viewer's density is the map, the rest's fixations are scored
    uniform : share of a uniform density in each map and in the baseline; the areas, nss and cc do not feel it,
        sim, kl and ig do

    Returns a row a picture, a column a score; the rest is as in `score_pictures`.
    Raises ValueError where a picture has fewer than two viewers.
    """
    import pandas as pd

    if predict not in ("viewer", "rest"):
        raise ValueError(f"Need predict as 'viewer' or 'rest', got {predict!r}.")
    rows = {}
    for picture in _bar(fixations.pictures, "pictures", progress):
        settings = _against(fixations, picture, baseline=baseline, blur=blur, uniform=uniform)
        seen = fixations.by_viewer(picture)
        if len(seen) < 2:
            raise ValueError(f"Need at least two viewers of every picture, {picture!r} has {len(seen)}.")
        scores = []
        for viewer, own in seen.items():
            rest = np.concatenate([places for name, places in seen.items() if name != viewer])
            known, scored = (rest, own) if predict == "viewer" else (own, rest)
            heat = _mixture(known, fixations.sizes[picture], blur=blur, uniform=uniform)
            scores.append(fixation_scores(heat, scored, **settings))
        rows[picture] = pd.DataFrame(scores).mean()
    return pd.DataFrame(rows).T.rename_axis("picture")


def bootstrap_pictures(scores: "pd.DataFrame", *, n_bootstrap: int = 2000, seed: int = 0) -> "pd.DataFrame":
    """Means over pictures with 95 % intervals: pictures are drawn anew, the fixations on each stay.

    scores : a row a picture, as from `score_pictures`; a score counts the pictures where it is not NaN

    Returns a row a score: value, low, high, n (pictures).
    """
    import pandas as pd

    check_count("n_bootstrap", n_bootstrap)
    if len(scores) == 0:
        raise ValueError("Need the scores of at least one picture, got none.")
    rows = {}
    for name in scores.columns:
        values = scores[name].to_numpy(float)
        values = values[~np.isnan(values)]
        if len(values) == 0:
            rows[name] = {"value": np.nan, "low": np.nan, "high": np.nan, "n": 0}
            continue
        drawn = np.random.default_rng(seed).integers(len(values), size=(n_bootstrap, len(values)))
        means = np.sort(values[drawn].mean(1))
        low, high = means[int(0.025 * n_bootstrap)], means[int(np.ceil(0.975 * n_bootstrap)) - 1]
        rows[name] = {"value": values.mean(), "low": low, "high": high, "n": len(values)}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"n": int}).rename_axis("score")


def _mixture(places: np.ndarray, shape: tuple[int, int], *, blur: float, uniform: float) -> np.ndarray:
    if not 0 <= uniform <= 1:
        raise ValueError(f"Need uniform as a share from 0 to 1, got {uniform}.")
    return (1 - uniform) * fixation_density(places, shape, blur=blur) + uniform / (shape[0] * shape[1])


def _against(fixations: FixationSet, picture: str, *, baseline: str, blur: float, uniform: float) -> dict:
    """What a picture's maps are scored against: settings of `fixation_scores`."""
    others = fixations.others(picture)
    density = pick("baseline", baseline, _BASELINES)(fixations, picture, blur, uniform)
    return {"others": others if len(others) else None, "blur": blur, "baseline": density}


_BASELINES: dict[str, Callable[[FixationSet, str, float, float], Map | None]] = {
    "other_pictures": lambda fixations, picture, blur, uniform: other_pictures_map(
        fixations, picture, blur=blur, uniform=uniform
    ),
    "centre": lambda fixations, picture, _blur, _uniform: centre_map(fixations.sizes[picture]),
    "uniform": lambda _fixations, _picture, _blur, _uniform: None,
}


def _bar(items: Iterable, label: str, progress: bool) -> Iterable:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="picture")


def _inside(table: "pd.DataFrame", sizes: Sizes) -> np.ndarray:
    """Which fixations (n,) bool lie in their picture; those with NaN do not."""
    extent = np.array([sizes[name] for name in table["picture"]], float).reshape(-1, 2)
    places = table[["y", "x"]].to_numpy(float)
    return ((places >= 0) & (places < extent)).all(1)


def _check_columns(table: "pd.DataFrame") -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"Need the columns {', '.join(COLUMNS)}, {', '.join(missing)} missing in {list(table)}."
        )
    if len(table) == 0:
        raise ValueError("Need at least one fixation, the table has none.")
    _check_numbers(table, ("x", "y"), "the table")


def _check_numbers(table: "pd.DataFrame", columns: Iterable[str], where: str) -> None:
    import pandas as pd

    for column in columns:
        values = table[column]
        odd = values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]
        if len(odd):
            raise ValueError(f"Need numbers in the column {column} of {where}, got {odd.iloc[0]!r}.")


def _check_sizes(table: "pd.DataFrame", sizes: Sizes) -> None:
    for column in ("picture", "viewer"):
        odd = [name for name in table[column].unique() if not isinstance(name, str)]
        if odd:
            raise ValueError(f"Need the column {column} as text in every row, got {odd[0]!r}.")
    for picture, size in sizes.items():
        if np.shape(size) != (2,) or min(size) < 1:
            raise ValueError(f"Need height and width in pixels of each picture, {picture!r} has {size}.")
    unknown = sorted(set(table["picture"]) - set(sizes))
    if unknown:
        raise ValueError(
            f"Need the size of every picture, {unknown[0]!r} and {len(unknown) - 1} more have none."
        )


def _read_text(path: Path) -> tuple["pd.DataFrame", dict]:
    import pandas as pd

    names = {"picture": str, "viewer": str}
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    table = _readable(path, lambda: pd.read_csv(path, sep=separator, dtype=names))
    _check_numbers(table, {"x", "y", "height", "width"} & set(table), path.name)
    _check_columns(table)
    if not {"height", "width"} <= set(table):
        return table, {}
    for column in ("height", "width"):
        odd = table[column][table[column] % 1 != 0]  # true for an empty cell too
        if len(odd):
            raise ValueError(f"Need whole pixels in the column {column} of {path.name}, got {odd.iloc[0]}.")
    each = table[["picture", "height", "width"]].drop_duplicates()
    if each["picture"].duplicated().any():
        picture = each["picture"][each["picture"].duplicated()].iloc[0]
        raise ValueError(f"Need one height and width a picture, {picture!r} has several in {path.name}.")
    sizes = {row.picture: (int(row.height), int(row.width)) for row in each.itertuples()}
    return table.drop(columns=["height", "width"]), sizes


def _read_arrays(path: Path) -> tuple["pd.DataFrame", dict]:
    import pandas as pd

    data = _readable(path, lambda: _arrays(path))
    missing = [name for name in _ARRAYS if name not in data]
    if missing:
        raise ValueError(
            f"Need the arrays {', '.join(_ARRAYS)}, {', '.join(missing)} missing in {path.name}."
        )
    _check_arrays(data, path.name)
    names, image = data["name"].astype(str), data["fix_image"]
    columns = {"picture": names[image], "viewer": data["fix_viewer"].astype(str)}
    columns |= {axis: data[f"fix_{axis}"].astype(float) for axis in ("x", "y")}
    if "fix_dur_ms" in data:
        columns["duration"] = data["fix_dur_ms"].astype(float) / 1000
    sizes = dict.fromkeys(names.tolist())
    if "jpeg" in data and "offset" in data:
        found = _readable(path, lambda: _jpeg_sizes(data["jpeg"], data["offset"]))
        if len(found) != len(names):
            raise ValueError(f"Need a jpeg for each of {len(names)} names in {path.name}, got {len(found)}.")
        sizes = dict(zip(names.tolist(), found, strict=True))
    return pd.DataFrame(columns), sizes


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz archive")
    wanted = (*_ARRAYS, "fix_dur_ms", "jpeg", "offset")
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in wanted if name in data}


def _check_arrays(data: Mapping[str, np.ndarray], file: str) -> None:
    names, image = data["name"].astype(str), data["fix_image"]
    if len(set(names.tolist())) < len(names):
        raise ValueError(f"Need one name a picture, {file} has {len(names)} but some are the same.")
    for name in data.keys() & {"fix_image", "fix_x", "fix_y", "fix_viewer", "fix_dur_ms"}:
        if data[name].shape != (len(image),):
            raise ValueError(
                f"Need {name} ({len(image)},) in {file}, as long as fix_image, got {data[name].shape}."
            )
    for name, kinds in {"fix_image": "iu", "fix_x": "iuf", "fix_y": "iuf", "fix_dur_ms": "iuf"}.items():
        if name in data and data[name].dtype.kind not in kinds:
            needed = "whole numbers" if kinds == "iu" else "numbers"
            raise ValueError(f"Need {needed} in {name} of {file}, got {data[name].dtype}.")
    if len(image) and not 0 <= image.min() <= image.max() < len(names):
        wrong = f"{image.min()} to {image.max()}"
        raise ValueError(f"Need fix_image from 0 to {len(names) - 1}, an index into name, got {wrong}.")


def _readable(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; raises ValueError that names the file where a library cannot read it."""
    try:
        return read()
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"Need fixations that can be read, {path.name} cannot: {error}.") from error


def _jpeg_sizes(jpeg: np.ndarray, offset: np.ndarray) -> list[tuple[int, int]]:
    from PIL import Image

    files = [io.BytesIO(jpeg[start:end].tobytes()) for start, end in pairwise(offset)]
    return [Image.open(file).size[::-1] for file in files]


_ARRAYS = ("name", "fix_image", "fix_viewer", "fix_x", "fix_y")
_READERS = {".csv": _read_text, ".tsv": _read_text, ".txt": _read_text, ".npz": _read_arrays}
