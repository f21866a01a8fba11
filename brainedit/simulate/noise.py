"""Noise of simulated trials with a covariance over channels and times that is known, drawn and inverted fast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from brainedit.simulate.head import _alpha_spectrum, _background_mixing, _pink_spectrum, topography_of

SENSOR_SHARE = 0.04  # of the background's variance, as in `simulate_head`
_RESOLUTION = 0.05  # Hz, of the spectra


@dataclass(frozen=True)
class KroneckerNoise:
    """Gaussian noise of one trial: cortical 1/f, alpha from a few sources, and white sensor noise.

    cortical, sensor : covariance over channels (n_channels, n_channels)
    fields : of alpha's sources (n_channels, n_sources)
    cortical_time, alpha_time : covariance over times (n_times, n_times), 1 on the diagonal

    Covariance of channels x times: cortical ⊗ cortical_time + fields fieldsᵀ ⊗ alpha_time + sensor ⊗ identity.
    """

    cortical: np.ndarray
    fields: np.ndarray
    sensor: np.ndarray
    cortical_time: np.ndarray
    alpha_time: np.ndarray

    def mixed(self, matrix: np.ndarray) -> "KroneckerNoise":
        """The noise after a matrix over channels, such as a choice of channels or a whitening."""
        cortical, sensor = (matrix @ space @ matrix.T for space in (self.cortical, self.sensor))
        return KroneckerNoise(cortical, matrix @ self.fields, sensor, self.cortical_time, self.alpha_time)

    def whitening(self) -> np.ndarray:
        """Symmetric matrix that makes the covariance over channels (the same at every time) the identity."""
        values, vectors = np.linalg.eigh(self.cortical + self.fields @ self.fields.T + self.sensor)
        return (vectors / np.sqrt(values)) @ vectors.T

    def covariance(self) -> np.ndarray:
        """The whole covariance (n_channels * n_times, the same); large for many channels and times."""
        sensor = np.kron(self.sensor, np.eye(len(self.cortical_time)))
        alpha = np.kron(self.fields @ self.fields.T, self.alpha_time)
        return np.kron(self.cortical, self.cortical_time) + alpha + sensor

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Independent trials (n, n_channels, n_times) float32."""
        return self.sampler()(n, rng)

    def sampler(self) -> Callable[[int, np.random.Generator], np.ndarray]:
        """`draw` for many calls: the matrix roots are taken once."""
        shape = (len(self.cortical), len(self.cortical_time))
        n_sources, fields = self.fields.shape[1], self.fields.astype(np.float32)
        pink, alpha = root(self.cortical_time), root(self.alpha_time)
        cortical, sensor = root(self.cortical), root(self.sensor)

        def draw(n: int, rng: np.random.Generator) -> np.ndarray:
            white = rng.standard_normal((n * shape[0], shape[1]), np.float32)
            trials = cortical @ (white @ pink).reshape(n, *shape)
            rng.standard_normal(out=white, dtype=np.float32)
            trials += sensor @ white.reshape(n, *shape)
            sources = rng.standard_normal((n * n_sources, shape[1]), np.float32) @ alpha
            trials += fields @ sources.reshape(n, n_sources, shape[1])
            return trials

        return draw

    def solve(self, eeg: np.ndarray) -> np.ndarray:
        """Inverse covariance times `eeg` (n, n_channels, n_times), without building the covariance.

        The two full parts have common eigenvectors over channels and times; alpha is added by Woodbury's identity.
        """
        variances, channel = scipy.linalg.eigh(self.cortical, self.sensor)
        powers, time = np.linalg.eigh(self.cortical_time)
        gains = 1 / (np.outer(variances, powers) + 1)  # (n_channels, n_times)

        def without_alpha(x: np.ndarray) -> np.ndarray:
            return channel @ ((channel.T @ x @ time) * gains) @ time.T

        alpha = root(self.alpha_time, np.float64)
        local, turned = channel.T @ self.fields, time.T @ alpha
        middle = np.einsum("ca,cb,ct,ti,tj->aibj", local, local, gains, turned, turned, optimize=True)
        size = middle.shape[0] * middle.shape[1]
        middle = middle.reshape(size, size) + np.eye(size)
        first = without_alpha(np.asarray(eeg, np.float64))
        seen = (self.fields.T @ first @ alpha).reshape(len(first), size)
        weights = np.linalg.solve(middle, seen.T).T.reshape(len(first), -1, len(alpha))
        return first - without_alpha(self.fields @ (weights @ alpha.T))


def background_noise(
    channels: Sequence[str], reference: str, times: np.ndarray, *, noise_uv: float, alpha_uv: float
) -> KroneckerNoise:
    """Noise at channels referred to one electrode, with the sources and spectra of `simulate_head`.

    noise_uv : RMS of the background without alpha, over channels
    alpha_uv : RMS of alpha at its largest electrode, before the reference
    """
    names = (*channels, reference)
    mixing = rereferenced(_background_mixing(names))
    cortical = mixing @ mixing.T
    cortical *= (1 - SENSOR_SHARE) * noise_uv**2 / np.mean(np.diag(cortical))
    sensor = (np.eye(len(channels)) + 1) / 2 * SENSOR_SHARE * noise_uv**2
    fields = [topography_of(names, ((name, 1.0), ("Oz", 0.6)), 0.65) for name in ("O1", "O2")]
    fields = rereferenced(np.column_stack(fields)) * alpha_uv * np.sqrt(0.5)
    pink, alpha = (_time_covariance(times, spectrum) for spectrum in (_pink_spectrum, _alpha_spectrum))
    return KroneckerNoise(cortical, fields, sensor, pink, alpha)


def rereferenced(eeg: np.ndarray) -> np.ndarray:
    """EEG (n_channels + 1, ...) referred to its last channel (n_channels, ...), in double precision."""
    return eeg[:-1].astype(np.float64) - eeg[-1]


def root(covariance: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Symmetric square root of a covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T).astype(dtype)


def _time_covariance(times: np.ndarray, spectrum) -> np.ndarray:
    """Covariance over times (n_times, n_times) of stationary noise of variance 1."""
    nyquist = 0.5 / (times[1] - times[0])
    frequencies = np.arange(_RESOLUTION, nyquist, _RESOLUTION)
    power = spectrum(frequencies) ** 2
    lags = times - times[0]
    correlation = np.cos(2 * np.pi * np.outer(lags, frequencies)) @ power / power.sum()
    return scipy.linalg.toeplitz(correlation)
