"""The controls themselves: each reruns the pipeline on data in which what is claimed cannot be, or is worth nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from brainedit.audit import control_data
from brainedit.audit.control_data import CannotRun
from brainedit.audit.control_evidence import FoldEvidence, LinearDecoder
from brainedit.audit.control_experiment import Experiment, Finding
from brainedit.audit.control_statistics import AUC, Measured
from brainedit.audit.exchange import Exchange, recordings
from brainedit.audit.phantom import phantom_dataset
from brainedit.datasets.paired import PairedDataset

N_DRAWS = 20


def shuffled_pairs(experiment: Experiment) -> Finding:
    """Training trials with their answers shuffled, tested on the true ones."""
    rng = np.random.default_rng([experiment.seed, 7])

    def draw() -> tuple[list, np.ndarray]:
        trained_on = [_shuffled_training(experiment.codes, train, rng) for train, _ in experiment.folds]
        return trained_on, experiment.codes

    return _mean_of_draws(experiment, draw)


def _mean_of_draws(experiment: Experiment, draw: Callable[[], tuple]) -> Finding:
    """The mean over wrong answers that are drawn anew, 20 times (5 where the pipeline is not the linear one).

    draw : gives the answers to train on (n,), or one such array for each fold, and those to test on (n,)
    """
    from scipy.stats import ttest_1samp

    statistic, found, chances = experiment.statistics[0], [], []
    n_draws = N_DRAWS if isinstance(experiment.decoder, LinearDecoder) else N_DRAWS // 4
    for _ in range(n_draws):
        trained_on, tested_on = draw()
        folds = experiment.evidence(trained_on)
        owns = [fold.own(tested_on) for fold in folds]
        tables = [statistic.table(fold.values) for fold in folds]
        found.append(statistic.measure(tables, owns, folds, len(tested_on)))
        chances.append(statistic.chance(tables, owns, folds))
    above = np.array([m.value for m in found]) - chances
    p = ttest_1samp(above, 0, alternative="greater").pvalue if above.std() > 0 else float(above[0] <= 0)
    mean = Measured(
        value=float(np.mean([m.value for m in found])),
        influence=np.mean([m.influence for m in found], 0),
        tested=found[0].tested,
    )
    return Finding(
        statistic.name, mean, float(np.mean(chances)), above, f"t-test over {n_draws} draws", float(p)
    )


def _shuffled_training(codes: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shuffled = codes.copy()
    shuffled[train] = rng.permutation(codes[train])
    return shuffled


def shuffled_within_class(experiment: Experiment) -> Finding:
    """Each response's evidence for the other pictures of its picture's class, in place of its own."""
    metadata, codes = experiment.dataset.metadata, experiment.codes
    if "label" not in metadata or metadata["label"].isna().any():
        raise CannotRun("the metadata have no `label` for every trial")
    label = np.unique(metadata["label"].astype(str), return_inverse=True)[1]
    of_code = np.empty(len(experiment.names), int)
    of_code[codes] = label
    if (of_code[codes] != label).any():
        raise CannotRun("a picture has several labels")
    statistic = experiment.statistics[0]
    kept, tables = [], []
    for fold in experiment.evidence(codes):
        same = of_code[fold.columns][:, None] == of_code[fold.columns]
        weight = (same & ~np.eye(len(same), dtype=bool)) / np.maximum(same.sum(0) - 1, 1)
        rows = (same.sum(0) > 1)[fold.own(codes)]
        if rows.any():
            kept.append(FoldEvidence(fold.rows[rows], fold.values[rows], fold.columns))
            tables.append((statistic.table(fold.values) @ weight)[rows])
    if not kept:
        raise CannotRun("no class has two pictures among the test trials of a fold")
    return experiment.measure(kept, codes, tables=tables)


def prestimulus(experiment: Experiment) -> Finding:
    """The same pipeline on the window before 0 s."""
    finding = _rerun(experiment, control_data.before_stimulus(experiment.dataset))
    return replace(finding, notes=control_data.before_stimulus_notes(experiment.dataset.epochs))


def eye_channels(experiment: Experiment) -> Finding:
    """The same pipeline on EOG channels and those above the eyes."""
    return _rerun(experiment, control_data.eye_channels(experiment.dataset))


def phantom(experiment: Experiment) -> Finding:
    """The same pipeline on noise with drift on the same schedule."""
    dataset, notes = phantom_dataset(experiment.dataset, seed=experiment.seed)
    return replace(_rerun(experiment, dataset), notes=notes)


def random_codebook(experiment: Experiment) -> Finding:
    """The same pipeline with a random vector for each answer in place of its pictures."""
    if not experiment.decoder.uses_pictures:
        raise CannotRun("the pipeline looks at no picture")
    answers = experiment.names[experiment.codes]
    return _rerun(experiment, control_data.random_codebook(experiment.dataset, answers, seed=experiment.seed))


def block_permutation(experiment: Experiment) -> Finding:
    """The same pipeline on answers that were permuted among blocks, in training and in test."""
    exchange = experiment.exchange
    if exchange.unit in ("trial", "picture"):
        raise CannotRun(
            f"answers vary within blocks, or no blocks are known; the score's p permutes {exchange.text}"
        )
    rng = np.random.default_rng([experiment.seed, 11])

    def draw() -> tuple[np.ndarray, np.ndarray]:
        codes = exchange.permute(experiment.codes, rng)
        return codes, codes

    return replace(_mean_of_draws(experiment, draw), n_arrangements=exchange.n_arrangements(experiment.codes))


def low_level(experiment: Experiment) -> Finding:
    """The answers predicted from the pictures' low-level features under the same split, without EEG."""
    decoder = LinearDecoder()
    prepared = decoder.whiten(control_data.low_level_features(experiment.dataset), experiment.folds)
    folds = [decoder.decode(prepared, i, fold, experiment.codes) for i, fold in enumerate(experiment.folds)]
    return experiment.measure(folds, experiment.codes)


def pseudo_blocks(experiment: Experiment) -> Finding:
    """Random labels of ten stretches of time in each recording, decoded by the linear pipeline."""
    metadata = experiment.dataset.metadata
    blocks, codes = control_data.pseudo_blocks(metadata, seed=experiment.seed)
    exchange = Exchange("pseudo-block", "labels among pseudo-blocks", blocks, recordings(metadata))
    other = replace(
        experiment,
        decoder=LinearDecoder(),
        statistics=(AUC,),
        codes=codes,
        names=np.array(["0", "1"]),
        gallery=False,
        exchange=exchange,
        _prepared=experiment._prepared if isinstance(experiment.decoder, LinearDecoder) else {},
    )
    return other.measure(other.evidence(codes), codes)


def _rerun(experiment: Experiment, dataset: PairedDataset) -> Finding:
    return experiment.measure(experiment.evidence(experiment.codes, dataset), experiment.codes)


RUNS: dict[str, Callable[[Experiment], Finding]] = {
    "shuffled_pairs": shuffled_pairs,
    "shuffled_within_class": shuffled_within_class,
    "prestimulus": prestimulus,
    "eye_channels": eye_channels,
    "low_level": low_level,
    "block_permutation": block_permutation,
    "phantom": phantom,
    "random_codebook": random_codebook,
    "pseudo_blocks": pseudo_blocks,
}
