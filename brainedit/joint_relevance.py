"""A joint model as a classifier of relevance: how well a response fits target trials better than the others."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mne

TrialScorer = Callable[["mne.BaseEpochs", np.ndarray, "mne.BaseEpochs"], np.ndarray]


def joint_scorer(model: Any, *, subject: str | None = None) -> TrialScorer:
    """A method for `score_trials`: log-odds from the model's EEG embeddings phi, at equal priors.

    model : a JointModel that was trained on none of these trials and pictures; its weights stay as they are
    subject : whose input layer is used, where the model has one a person

    On each fold's training trials shrinkage LDA finds the vector v, in the space of picture embeddings, whose
    compatibility F(e, v) = phi(e)^T v tells the two kinds of trial best. Not prototypes, F(e, mu_t) - F(e, mu_o)
    with the kinds' mean embeddings: that is the same with the covariance of phi taken for spherical, which
    it is not, and its values are no log-odds.

    What comes back takes (training epochs, (n,) bool which are targets, epochs to score) and gives (n_scored,).
    It keeps embeddings, so that a trial is embedded once or twice over all folds.
    Raises ValueError, when called, for trials that trained the model, and for pictures that did (those of the
    epochs to score are not known, since they come without metadata).
    """
    return _JointScorer(model, subject)


class _JointScorer:
    def __init__(self, model: Any, subject: str | None) -> None:
        self.model, self.subject = model, subject
        self.known: dict[tuple[bytes, bool], np.ndarray] = {}  # phi of trials that were checked

    def __call__(self, train: "mne.BaseEpochs", is_target: np.ndarray, test: "mne.BaseEpochs") -> np.ndarray:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        phi, asked = self._embed(train), self._embed(test)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        return model.fit(phi, is_target).decision_function(asked)

    def _embed(self, epochs: "mne.BaseEpochs") -> np.ndarray:
        """phi (n, n_dims); trials that are new, or new with metadata, are first checked."""
        named = epochs.metadata is not None
        trials = epochs.get_data(copy=False)
        keys = [(hashlib.blake2b(trial.tobytes(), digest_size=16).digest(), named) for trial in trials]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            fresh = epochs[new]
            self.model.check_unseen(fresh)
            phi = self.model.embed_epochs(fresh, subject=self.subject).double().cpu().numpy()
            if not np.isfinite(phi).all():
                bad = new[int(np.flatnonzero(~np.isfinite(phi).all(1))[0])]
                raise ValueError(
                    f"The model gives NaN or infinity for trial {bad} of {len(epochs)}; it cannot be used."
                )
            self.known |= {keys[i]: row for i, row in zip(new, phi, strict=True)}
        return np.stack([self.known[key] for key in keys])
