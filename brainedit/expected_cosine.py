"""How near a direction is to the one that infinitely many images would give, from the same images alone.

The model is that of random effects: relevance is latents . truth + noise, the truth being normal with a
variance that may follow the latents' own. How much of the relevance is linear in the latents (h2, from 0 to
1) is integrated over, and so is that alignment. Given both, the truth is normal in closed form.
"""

from dataclasses import dataclass

import numpy as np

from brainedit.slopes import Factors

ALIGNMENTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # variance of the truth ~ (variance of the latents) ** alignment
_ALIGNMENT_WEIGHTS = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)
_N_SHARES = 100


@dataclass(frozen=True)
class Truths:
    """Draws of the true slope given the data, in units of the noise, in the basis of `Factors.right`.

    slopes : (n_draws, rank)
    outside : (n_draws, 2) in the dimensions that no image spans: one coordinate, and the squared length
    setting : (n_draws,) row of `variances` that each draw comes from
    variances : (n_settings, rank) prior variance of the slope in each dimension; spare likewise (n_settings,)
    spread : (rank,) variance of the latents in each dimension, shrunk; spare_spread in those not spanned
    n_spare : how many dimensions no image spans
    """

    slopes: np.ndarray
    outside: np.ndarray
    setting: np.ndarray
    variances: np.ndarray
    spare: np.ndarray
    spread: np.ndarray
    spare_spread: float
    n_spare: int

    def cosines(self, slope: np.ndarray, *, covariance: bool = False) -> np.ndarray:
        """Cosine (n_draws,) of a slope of length 1 with each draw; with covariance @ draw for a mean difference.

        slope : (rank,), in the basis; what it lacks in length lies outside
        """
        truths, (along, squares) = self.slopes, self.outside.T
        if covariance:
            truths = truths * self.spread
            along, squares = along * self.spare_spread, squares * self.spare_spread**2
        rest = np.sqrt(max(1 - slope @ slope, 0.0))
        return (truths @ slope + rest * along) / np.sqrt((truths**2).sum(1) + squares + 1e-300)


def draw_truths(factors: Factors, y: np.ndarray, *, n_draws: int = 2000, rng: np.random.Generator) -> Truths:
    """Draws of the slope that infinitely many images would give, from relevance y (n,), centred.

    Source: Dicker and Erdogdu, NeurIPS 2016 (variance components by maximum likelihood stay consistent for a
    fixed truth); Ledoit and Wolf, J. Multivar. Anal. 2004 (spread). Differs: h2 and the alignment are
    integrated over, not maximised. The prior of h2 ** (2 / 3) is flat: little signal is likelier than much.
    """
    n, rank = factors.left.shape
    spread, spare_spread = _spread(factors)
    n_spare = factors.right.shape[0] - rank
    variances, spare, prior = _settings(factors, spread, spare_spread)
    scores = factors.left.T @ y
    gains = 1 + variances * factors.singular**2  # (n_settings, rank)
    misfit = (scores**2 / gains).sum(1) + max((y**2).sum() - (scores**2).sum(), 0.0)
    log_likelihood = -0.5 * np.log(gains).sum(1) - (n - 1) / 2 * np.log(misfit)
    weight = prior * np.exp(log_likelihood - log_likelihood.max())
    setting = rng.choice(len(weight), n_draws, p=weight / weight.sum())
    noise = np.sqrt(misfit[setting] / rng.chisquare(n - 1, n_draws))
    means = (variances * factors.singular * scores / gains)[setting] / noise[:, None]
    slopes = means + np.sqrt((variances / gains)[setting]) * rng.standard_normal((n_draws, rank))
    outside = _outside(np.sqrt(spare[setting]), n_spare, rng)
    return Truths(slopes, outside, setting, variances, spare, spread, spare_spread, n_spare)


def cosine_curve(
    truths: Truths, sizes: np.ndarray, *, penalty: float, covariance: bool = False
) -> np.ndarray:
    """Expected cosine to the truth (n_draws, n_sizes) of the slopes of other numbers of images.

    penalty : of the ridge; covariance : for a mean difference instead

    Source: deterministic equivalents of ridge regression (Dobriban and Wager, Ann. Stat. 2018).
    """
    used, setting = np.unique(truths.setting, return_inverse=True)
    spread = np.append(truths.spread, truths.spare_spread)
    count = np.append(np.ones(len(truths.spread)), truths.n_spare)
    power = (
        np.column_stack([truths.variances, truths.spare])[used] * count
    )  # of the truth, (n_settings, rank + 1)
    if covariance:
        found = [_mean_difference_cosine(power, spread, count, n) for n in sizes]
    else:
        found = [_ridge_cosine(power, spread, count, n, penalty) for n in sizes]
    return np.stack(found, axis=1)[setting]


def _outside(deviation: np.ndarray, n_spare: int, rng: np.random.Generator) -> np.ndarray:
    """One coordinate and the squared length (n_draws, 2) of normal draws in n_spare dimensions."""
    if n_spare == 0:
        return np.zeros((len(deviation), 2))
    along = deviation * rng.standard_normal(len(deviation))
    others = deviation**2 * rng.chisquare(n_spare - 1, len(deviation)) if n_spare > 1 else 0.0
    return np.column_stack([along, along**2 + others])


def _spread(factors: Factors) -> tuple[np.ndarray, float]:
    """Variance of the latents along each factor and outside them, shrunk to their mean (Ledoit and Wolf)."""
    n, n_dims = len(factors.left), factors.right.shape[0]
    values = factors.singular**2 / n
    mean = values.sum() / n_dims
    squares = (values**2).sum()
    lengths = (factors.left * factors.singular) ** 2
    noise = ((lengths.sum(1) ** 2).mean() - squares) / n
    distance = squares - n_dims * mean**2
    shrink = min(max(noise / max(distance, 1e-300), 1e-6), 1.0)
    return (1 - shrink) * values + shrink * mean, shrink * mean


def _settings(
    factors: Factors, spread: np.ndarray, spare_spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prior variances of the slope per factor (n_settings, rank) and outside (n_settings,), and their weights."""
    share = 0.998 * ((np.arange(_N_SHARES) + 0.5) / _N_SHARES) ** 1.5
    ratio = share / (1 - share)
    inside, outside = [], []
    for alignment in ALIGNMENTS:
        shape = (spread / spread.mean()) ** alignment
        scale = ratio * (len(factors.left) - 1) / (factors.singular**2 * shape).sum()
        inside.append(scale[:, None] * shape)
        outside.append(scale * (spare_spread / spread.mean()) ** alignment)
    return np.concatenate(inside), np.concatenate(outside), np.repeat(_ALIGNMENT_WEIGHTS, _N_SHARES)


def _ridge_cosine(
    power: np.ndarray, spread: np.ndarray, count: np.ndarray, n: float, penalty: float
) -> np.ndarray:
    kappa = _effective_penalty(spread, count, n, penalty)
    kept = spread / (spread + kappa)
    freedom = (count * kept**2).sum()
    error = (1 + kappa**2 * power @ (spread / (spread + kappa) ** 2)) / (1 - freedom / n)
    lengths = power @ kept**2 + error / n * (count * spread / (spread + kappa) ** 2).sum()
    return power @ kept / np.sqrt(lengths * power.sum(1))


def _effective_penalty(spread: np.ndarray, count: np.ndarray, n: float, penalty: float) -> float:
    """kappa that solves n kappa = penalty + kappa x the degrees of freedom at kappa; by bisection in its log."""
    low, high = np.log(penalty / n), np.log((penalty + (count * spread).sum()) / n)
    for _ in range(50):
        middle = np.exp((low + high) / 2)
        if n * middle > penalty + middle * (count * spread / (spread + middle)).sum():
            high = np.log(middle)
        else:
            low = np.log(middle)
    return float(np.exp((low + high) / 2))


def _mean_difference_cosine(power: np.ndarray, spread: np.ndarray, count: np.ndarray, n: float) -> np.ndarray:
    signal = power @ spread**2
    noise = ((count * spread).sum() * (1 + power @ spread) + signal) / n
    return np.sqrt(signal / (signal + noise))
