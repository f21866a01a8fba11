"""Directions in z from real EEG-derived scores: crowd against single person, split-half cosine, null band.

How the scores were made is not documented, so this tests direction finding and proves nothing about brains.
They separate faces of kind d from the others; kinds t and r are at chance against each other. The faces of
kind d in a block are nearly one point of z (so are those of kind t), so they are no independent draws: in all
figures of reliability the faces of one kind and block count as one, those of kind r, whose z are independent, each
for itself. The cosine between blocks says too whether other faces would give the direction.
"""

import time
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
from real_p300 import add_data_option, arguments, data_file, print_table, write_results
from tqdm import tqdm

from brainedit.directions import brain_direction, reliability
from brainedit.evaluation import auc
from brainedit.relevance import pool_relevance

N_SPLITS_PERSON = 20


def read_scores(folder: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores, one row a person and face (subject, block, kind, stimulus, probability), and z by stimulus.

    Faces of kind r are shared by the blocks and have one stimulus; the others have one in each block.
    """
    with np.load(data_file(folder, "face_memory_scores.npz")) as data:
        z, names, index = data["z"].astype(float), data["score_image"].astype(str), data["score_z_index"]
        kind = np.array([name[0] for name in names])
        block = data["score_target"].astype(str)
        scores = pd.DataFrame({"subject": data["score_subject"], "block": block, "kind": kind})
        scores["probability"] = data["score"].astype(float)
    _, first, same = np.unique(z, axis=0, return_index=True, return_inverse=True)
    scores["stimulus"] = [f"z{first[i]:04d}" for i in same.ravel()[index]]
    latents = pd.DataFrame(z[first], index=[f"z{i:04d}" for i in first])
    return scores, latents


def clusters(scores: pd.DataFrame) -> pd.Series:
    """Group of each stimulus: the kind and block of kinds d and t, the face itself of kind r."""
    faces = scores.drop_duplicates("stimulus").set_index("stimulus")
    cluster = faces["kind"] + " " + faces["block"]
    return cluster.mask(faces["kind"] == "r", faces.index.to_series())


def direction(latents: pd.DataFrame, scores: pd.DataFrame) -> np.ndarray:
    """Unit vector (512,) of the ridge on the mean log-odds of each face over the rows given."""
    relevance = pool_relevance(scores)
    return brain_direction(latents.loc[relevance.index], relevance, space="z").vector


def part(latents: pd.DataFrame, scores: pd.DataFrame, *, n_permutations: int = 1000) -> dict:
    """Reliability of the crowd's direction and of single people's, and the cosines between them.

    Each person is compared with the crowd without that person. Clusters of faces count as one.
    """
    crowd = pool_relevance(scores)
    groups = clusters(scores)
    shown = latents.loc[crowd.index]
    by_face = scores.groupby("stimulus")["kind"].first().loc[crowd.index]
    people = sorted(scores["subject"].unique())
    own, against, halves = [], [], []
    for person in tqdm(people, desc="people", leave=False):
        mine = scores[scores["subject"] == person]
        own.append(direction(latents, mine))
        against.append(float(own[-1] @ direction(latents, scores[scores["subject"] != person])))
        r = pool_relevance(mine)
        single = reliability(
            latents.loc[r.index], r, groups=groups, n_permutations=10, n_null=10, n_splits=N_SPLITS_PERSON
        )
        halves.append(single.split_half)
    whole = reliability(shown, crowd, groups=groups, n_permutations=n_permutations)
    found = {
        "crowd": asdict(whole),
        "looks_needed": [asdict(whole.looks_needed(wanted)) for wanted in (0.5, 0.7, 0.9)],
        "person split_half": _spread(halves),
        "person against crowd of the others": _spread(against),
        "between people": _spread([float(a @ b) for a, b in combinations(own, 2)]),
        "n_people": len(people),
        "vector": direction(latents, scores),
    }
    if (by_face == "d").any() and (by_face != "d").any():
        labels = (by_face == "d").astype(float)
        explicit = brain_direction(shown, labels, space="z").vector
        found["crowd against kind d given as labels"] = float(found["vector"] @ explicit)
    return found


def _spread(values: list[float]) -> dict:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }


def print_part(name: str, found: dict) -> None:
    """The figures of one part as a table."""
    crowd = found["crowd"]
    rows = {
        "crowd: strength (clusters left out)": f"{crowd['strength']:+.3f}  permuted {crowd['null_strength']:+.3f}"
        f"  p {crowd['p']:.4f}",
        "crowd: split-half cosine by cluster": f"{crowd['split_half']:+.3f}"
        f"  at all of them {crowd['split_half_full']:+.3f}",
        "crowd: predicted cosine to the truth": "{:+.3f} [{:+.3f}, {:+.3f}]".format(
            crowd["predicted_cosine"], *crowd["predicted_interval"]
        ),
        "crowd: clusters for .5, .7, .9": "  ".join(
            f"{one['n']:.0f} [{one['low']:.0f}, {one['high']:.0f}]" for one in found["looks_needed"]
        ),
        "crowd: null band of the cosine": "[{:+.3f}, {:+.3f}]".format(*crowd["null_band"]),
    }
    for key in ("person split_half", "person against crowd of the others", "between people"):
        rows[key] = "{mean:+.3f}  SD {sd:.3f}  {min:+.3f} to {max:+.3f}".format(**found[key])
    key = "crowd against kind d given as labels"
    if key in found:
        rows[key] = found[key]
    print_table(
        f"{name}: {crowd['n_images']} faces in {crowd['n']} clusters, {found['n_people']} people", rows
    )


def left_out_blocks(latents: pd.DataFrame, scores: pd.DataFrame) -> dict[str, float]:
    """AUC of kind d over kind t in each block by z . direction, the direction from the other blocks.

    Kind r is left out of the comparison, as its faces are in all blocks.
    """
    found = {}
    for name, rows in scores.groupby("block"):
        vector = direction(latents, scores[scores["block"] != name])
        faces = rows[rows["kind"] != "r"].drop_duplicates("stimulus")
        found[f"block {name}"] = auc(faces["kind"] == "d", latents.loc[faces["stimulus"]].to_numpy() @ vector)
    return found


def tightness(latents: pd.DataFrame, scores: pd.DataFrame) -> dict[str, float]:
    """Mean correlation between the z of two faces of a kind and block."""
    found = {}
    for kind, rows in scores.groupby("kind"):
        values = []
        for _, block in rows.groupby("block"):
            c = np.corrcoef(latents.loc[block["stimulus"].unique()])
            values.append(c[np.triu_indices(len(c), 1)].mean())
        found[f"kind {kind}"] = float(np.mean(values))
    return found


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    options = add_data_option(arguments(__doc__.splitlines()[0], "face_memory")).parse_args()
    start = time.time()
    scores, latents = read_scores(options.data)
    close = tightness(latents, scores)
    print_table("Correlation between the z of two faces of one kind in one block", close)
    parts = {"all blocks": scores} | {f"block {name}": rows for name, rows in scores.groupby("block")}
    parts["kind r alone, all blocks"] = scores[scores["kind"] == "r"]
    found = {}
    for name, rows in parts.items():
        found[name] = part(latents, rows)
        print_part(name, found[name])
    blocks = [entry["vector"] for name, entry in found.items() if name.startswith("block")]
    between = _spread([float(a @ b) for a, b in combinations(blocks, 2)])
    text = "{mean:+.3f}  SD {sd:.3f}  {min:+.3f} to {max:+.3f}".format(**between)
    print_table("Crowd's directions of different blocks", {"cosine": text})
    unseen = left_out_blocks(latents, scores)
    print_table("AUC of kind d over t in a block that did not make the direction (chance .5)", unseen)
    print(
        "\nThe scores tell kind d from the others; how they were made is not documented: direction finding is\n"
        "tested, nothing is proven about brains. Kinds d and t are tight clusters in z and count as one face a\n"
        "block; kind r alone and the cosine between blocks say too whether other faces give the direction."
    )
    results = {"tightness": close, "parts": found, "between_blocks": between}
    results["auc_d_over_t_in_left_out_block"] = unseen
    write_results(options.out, "face_memory", results | {"seconds": round(time.time() - start)})


if __name__ == "__main__":
    main()
