"""What an EEG embedding holds: classifiers and clusters fitted on training data, and its geometry."""

from collections.abc import Callable

import numpy as np

from brainedit._check import pick
from brainedit.evaluation import (
    Score,
    accuracy_score,
    bootstrap_interval,
    permutation_p,
    permuted,
)


def embedding_scores(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    *,
    units: np.ndarray | None = None,
    unit: str = "trial",
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Nearest neighbours, k-means, a linear SVM, and how well clusters and labels agree, on test trials.

    Everything is fitted on the training trials; the test trials are only looked up.
    train_embeddings, test_embeddings : (n, n_dims); train_labels, test_labels : (n,)
    units : (n_test,) what intervals draw anew and permutations keep together, e.g. the picture or the person
        of each test trial; each trial by itself when None
    unit : what a unit is called, e.g. "picture"

    Raises ValueError for NaN, sizes that do not match, and test labels that no training trial has.
    Source: EEGStyleGAN-ADA (Singh et al., WACV 2024) for the first three. Differs: its k-means and nearest
    neighbours are fitted inside the test set.
    """
    data = train_embeddings, train_labels, test_embeddings, test_labels
    settings = {
        "units": units,
        "unit": unit,
        "n_permutations": n_permutations,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    return [score(*data, **settings) for score in (knn_score, kmeans_score, svm_score, nmi_score, ari_score)]


def knn_score(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: int = 5,
    **settings,
) -> Score:
    """Share of test trials whose k nearest training trials (Euclidean) vote for their label.

    settings : units, unit, n_permutations, n_bootstrap, seed of `embedding_scores`
    """
    from sklearn.neighbors import KNeighborsClassifier

    train, own, test, test_own = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    if not 1 <= k <= len(train):
        raise ValueError(f"Neighbours come from {len(train)} training trials; {k} were asked for.")
    chosen = KNeighborsClassifier(k).fit(train, own).predict(test)
    return accuracy_score(test_own, chosen, name=f"accuracy, {k} nearest neighbours", **settings)


def kmeans_score(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
    **settings,
) -> Score:
    """Share of test trials in the cluster of their label; as many clusters as labels.

    Clusters, and which label each stands for (the best one-to-one matching), come from the training trials.
    settings : units, unit, n_permutations, n_bootstrap of `embedding_scores`
    """
    from scipy.optimize import linear_sum_assignment

    train, own, test, test_own = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    names, column = np.unique(own, return_inverse=True)
    train_cluster, test_cluster = _clusters(train, test, len(names), seed)
    cluster, label = linear_sum_assignment(_contingency(train_cluster, column), maximize=True)
    chosen = names[label[np.argsort(cluster)]][test_cluster]
    name = f"accuracy, k-means of {len(names)} clusters"
    return accuracy_score(test_own, chosen, name=name, seed=seed, **settings)


def svm_score(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
    **settings,
) -> Score:
    """Share of test trials whose label a linear SVM on standardised embeddings (C = 1) chooses.

    settings : units, unit, n_permutations, n_bootstrap of `embedding_scores`
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    train, own, test, test_own = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    svm = make_pipeline(StandardScaler(), LinearSVC(random_state=seed, max_iter=5000))
    chosen = svm.fit(train, own).predict(test)
    return accuracy_score(test_own, chosen, name="accuracy, linear SVM", seed=seed, **settings)


def nmi_score(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    **settings,
) -> Score:
    """Normalised mutual information of test trials' labels and their clusters, which training trials made.

    Its chance is not 0 but what permuted labels give.
    settings : units, unit, n_permutations, n_bootstrap, seed of `embedding_scores`
    """
    data = train_embeddings, train_labels, test_embeddings, test_labels
    return _cluster_agreement(
        *data, measure=_nmi, name="normalised mutual information of clusters", **settings
    )


def ari_score(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    **settings,
) -> Score:
    """Adjusted Rand index of test trials' labels and their clusters, which training trials made.

    settings : units, unit, n_permutations, n_bootstrap, seed of `embedding_scores`
    """
    data = train_embeddings, train_labels, test_embeddings, test_labels
    return _cluster_agreement(*data, measure=_ari, name="adjusted Rand index of clusters", **settings)


def representational_similarity(
    first: np.ndarray,
    second: np.ndarray,
    *,
    dissimilarity: str = "correlation",
    n_permutations: int = 2000,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> Score:
    """Spearman correlation of two sets of dissimilarities between the same conditions.

    first, second : (n_conditions, any number of dimensions), e.g. mean EEG embeddings and picture features, rows
        in the same order
    dissimilarity : "correlation", "cosine" or "euclidean", for both

    The permutation moves conditions, and so does the bootstrap, which leaves out pairs of one condition.
    Raises ValueError for other numbers of conditions, fewer than four, NaN, or a row that has no dissimilarity.
    Source: Kriegeskorte et al., Frontiers in Systems Neuroscience 2008.
    """
    from scipy.spatial.distance import squareform
    from scipy.stats import rankdata

    a, b = _dissimilarities(first, dissimilarity), _dissimilarities(second, dissimilarity)
    if a.shape != b.shape:
        raise ValueError(f"The same conditions are needed on both sides; got {len(first)} and {len(second)}.")
    n, rng = len(first), np.random.default_rng(seed)
    upper = np.triu_indices(n, 1)
    ranks, other = rankdata(a), squareform(rankdata(b))
    value = _correlation(ranks, other[upper])
    orders = (rng.permutation(n) for _ in range(n_permutations))
    null = np.array([_correlation(ranks, other[np.ix_(order, order)][upper]) for order in orders])
    square_a, square_b = squareform(a), squareform(b)

    def of_drawn(i: np.ndarray) -> float:
        rows, columns = i[upper[0]], i[upper[1]]
        pairs = rows != columns
        rows, columns = rows[pairs], columns[pairs]
        return _correlation(rankdata(square_a[rows, columns]), rankdata(square_b[rows, columns]))

    low, high = bootstrap_interval(of_drawn, n, None, n_bootstrap, rng)
    return Score(
        name="representational similarity",
        value=value,
        n=n,
        unit="condition",
        chance=0.0,
        low=low,
        high=high,
        p=permutation_p(value, null),
        n_permutations=n_permutations,
        permuted="conditions",
    )


def noise_ceiling(
    first_half: np.ndarray, second_half: np.ndarray, *, dissimilarity: str = "correlation"
) -> float:
    """About how high a representational similarity could be: the root of the dissimilarities' reliability, 0 to 1.

    first_half, second_half : (n_conditions, n_dims), means over two halves of each condition's trials; two halves
        are corrected to the whole by Spearman and Brown's formula
    """
    from scipy.stats import spearmanr

    a, b = _dissimilarities(first_half, dissimilarity), _dissimilarities(second_half, dissimilarity)
    if a.shape != b.shape:
        raise ValueError(f"Both halves need all conditions; got {len(first_half)} and {len(second_half)}.")
    half = float(spearmanr(a, b).statistic)
    return float(np.sqrt(2 * half / (1 + half))) if half > 0 else 0.0


def _checked(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    train, test = np.asarray(train, float), np.asarray(test, float)
    own, test_own = np.asarray(train_labels), np.asarray(test_labels)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(
            f"Embeddings are (n, n_dims); got {train.shape} in training and {test.shape} in test."
        )
    if own.shape != (len(train),) or test_own.shape != (len(test),):
        raise ValueError(
            f"Need a label for each of {len(train)} and {len(test)} trials; got {own.shape} and {test_own.shape}."
        )
    n_bad = int((~np.isfinite(train)).any(1).sum() + (~np.isfinite(test)).any(1).sum())
    if n_bad:
        raise ValueError(f"{n_bad} of {len(train) + len(test)} embeddings hold NaN or infinite values.")
    unknown = sorted(set(test_own.tolist()) - set(own.tolist()))
    if unknown or len(set(own.tolist())) < 2 or len(test) == 0:
        what = f"no training trial of {unknown[0]!r}" if unknown else f"labels {sorted(set(own.tolist()))}"
        raise ValueError(f"Need two or more labels that training and test share; there are {what}.")
    return train, own, test, test_own


def _clusters(train: np.ndarray, test: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    if len(np.unique(train, axis=0)) < n:
        raise ValueError(f"{n} clusters need as many different training embeddings.")
    fitted = KMeans(n, n_init=10, random_state=seed).fit(train)
    return fitted.labels_, fitted.predict(test)


def _cluster_agreement(
    train_embeddings: np.ndarray,
    train_labels: np.ndarray,
    test_embeddings: np.ndarray,
    test_labels: np.ndarray,
    *,
    measure: Callable[[np.ndarray], float],
    name: str,
    units: np.ndarray | None = None,
    unit: str = "trial",
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Score:
    train, own, test, test_own = _checked(train_embeddings, train_labels, test_embeddings, test_labels)
    _, column = np.unique(test_own, return_inverse=True)
    _, cluster = _clusters(train, test, len(np.unique(own)), seed)
    rng = np.random.default_rng(seed)
    value = measure(_contingency(cluster, column))
    null = np.array(
        [measure(_contingency(cluster, permuted(column, rng, units=units))) for _ in range(n_permutations)]
    )
    drawn = []

    def of_drawn(i: np.ndarray) -> float:
        drawn.append(measure(_contingency(cluster[i], column[i])))
        return drawn[-1]

    low, high = bootstrap_interval(of_drawn, len(column), units, n_bootstrap, rng)
    copies = (
        float(np.mean(drawn)) - value
    )  # trials drawn twice agree with themselves, which is no information
    return Score(
        name=name,
        value=value,
        n=len(column) if units is None else len(np.unique(units)),
        unit=unit,
        chance=float(null.mean()),
        low=low - copies,
        high=min(high - copies, 1.0),
        p=permutation_p(value, null),
        n_permutations=n_permutations,
        permuted="labels",
    )


def _contingency(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Trials of each pair of two numberings, (n_a, n_b)."""
    n_b = int(b.max()) + 1
    return np.bincount(a * n_b + b, minlength=(int(a.max()) + 1) * n_b).reshape(-1, n_b)


def _nmi(table: np.ndarray) -> float:
    """Mutual information over the mean of the two entropies."""
    joint = table / table.sum()
    rows, columns = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    mutual = rows + columns - _entropy(joint.ravel())
    return 1.0 if rows + columns == 0 else float(max(mutual, 0) / (0.5 * (rows + columns)))


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _ari(table: np.ndarray) -> float:
    """Pairs that both numberings keep together, less what chance gives, over the most there could be."""
    both, rows, columns = (_pairs(counts) for counts in (table.ravel(), table.sum(1), table.sum(0)))
    expected = rows * columns / _pairs(table.sum())
    most = 0.5 * (rows + columns)
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) / 2).sum())


def _dissimilarities(conditions: np.ndarray, kind: str) -> np.ndarray:
    from scipy.spatial.distance import pdist

    conditions = np.asarray(conditions, float)
    if conditions.ndim != 2 or len(conditions) < 4:
        raise ValueError(f"Dissimilarities need (4 or more conditions, n_dims); got {conditions.shape}.")
    kind = pick("dissimilarity", kind, {name: name for name in ("correlation", "cosine", "euclidean")})
    with np.errstate(invalid="ignore", divide="ignore"):
        found = pdist(conditions, kind)
    if not np.isfinite(found).all():
        raise ValueError(
            f"{(~np.isfinite(found)).sum()} of {len(found)} pairs have no {kind} dissimilarity: rows hold NaN, or do "
            "not vary."
        )
    return found


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0
