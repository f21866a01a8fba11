"""What every generator offers: sampling, mapping, synthesis, and the check of latents."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

SPACES = ("z", "w", "w+")


class Generator(nn.Module, ABC):
    """A network that turns latents into RGB pictures.

    A subclass sets the attributes below and writes `raw_images`; one with a mapping network also
    writes `map` and `mean_w`.

    name : what it is called in results
    spaces : the latent spaces it takes, out of "z", "w", "w+"
    z_dim, w_dim, n_layers : widths; w_dim and n_layers are 0 where there is no w
    image_size : height and width of a picture, pixels
    licence : one sentence on what its weights may be used for
    """

    name: str
    spaces: tuple[str, ...]
    z_dim: int
    w_dim: int = 0
    n_layers: int = 0
    image_size: int
    licence: str

    @abstractmethod
    def raw_images(self, latents: Tensor, *, space: str) -> Tensor:
        """The network's own output (n, 3, height, width), about -1 to 1, to compare with a reference."""

    @abstractmethod
    def style_weights(self) -> tuple[Tensor, ...]:
        """The matrices (n_features, n_dims) that first read the latent: one per w+ layer, or one for z."""

    def map(self, z: Tensor) -> Tensor:
        """z (n, z_dim) -> w (n, w_dim).

        Raises ValueError where the generator has no w.
        """
        raise ValueError(f"{self.name} has no space 'w'; its latents live in {_listed(self.spaces)}.")

    def mean_w(self) -> Tensor:
        """The mean of w (w_dim,), which truncation pulls towards."""
        raise ValueError(f"{self.name} has no space 'w'; its latents live in {_listed(self.spaces)}.")

    def synthesize(self, latents: Tensor, *, space: str) -> Tensor:
        """Pictures (n, 3, height, width) float, 0 to 1; differentiable where no pixel is clipped.

        latents : (n, z_dim), (n, w_dim) or (n, n_layers, w_dim), as `space` says

        Raises ValueError when latents do not fit the space or hold NaN.
        """
        return (self.raw_images(latents, space=space) * 0.5 + 0.5).clamp(0, 1)

    def synthesize_batches(self, latents: Tensor, *, space: str, batch_size: int = 32) -> Iterator[Tensor]:
        """Pictures of thousands of latents, `batch_size` at a time, without gradients."""
        latents = self.check_latents(latents, space=space)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size}.")
        for start in range(0, len(latents), batch_size):
            with torch.no_grad():
                images = self.synthesize(latents[start : start + batch_size], space=space)
            yield images

    @torch.no_grad()
    def sample(self, n: int, *, space: str = "z", truncation: float = 1.0, seed: int = 0) -> Tensor:
        """n latents drawn from the prior, in `space`.

        truncation : 1 leaves them as drawn, 0 gives the mean of w; only where there is a w

        Raises ValueError for a space the generator lacks, or truncation in z.
        """
        shape = self.latent_shape(space)
        if n < 1:
            raise ValueError(f"Need at least 1 latent; asked for {n}.")
        if not np.isfinite(truncation):
            raise ValueError(f"truncation must be a finite number; got {truncation}.")
        if space == "z" and truncation != 1.0:
            raise ValueError(
                f"Truncation {truncation} acts on w, not on z; sample {self.name} in 'w' if it has one."
            )
        # drawn on the CPU, so that a seed means the same latents on every device
        z = torch.randn(n, self.z_dim, generator=torch.Generator().manual_seed(seed))
        z = z.to(next(self.parameters()))
        if space == "z":
            return z
        mean = self.mean_w()
        w = mean + truncation * (self.map(z) - mean)
        return w if space == "w" else w[:, None].expand(n, *shape).clone()

    def latent_shape(self, space: str) -> tuple[int, ...]:
        """Shape of one latent: (z_dim,), (w_dim,) or (n_layers, w_dim).

        Raises ValueError for a space the generator lacks.
        """
        if space not in self.spaces:
            raise ValueError(
                f"{self.name} has no space {space!r}; its latents live in {_listed(self.spaces)}."
            )
        return {"z": (self.z_dim,), "w": (self.w_dim,), "w+": (self.n_layers, self.w_dim)}[space]

    def check_latents(self, latents: Tensor | np.ndarray, *, space: str) -> Tensor:
        """The latents as a tensor of the generator's type and device.

        Raises ValueError when their shape does not fit `space`, none came, or one is not finite.
        """
        shape = self.latent_shape(space)
        latents = torch.as_tensor(latents)
        wanted = "(n, " + ", ".join(map(str, shape)) + ")"
        if latents.ndim != len(shape) + 1 or tuple(latents.shape[1:]) != shape or len(latents) == 0:
            raise ValueError(f"{self.name} in {space!r} takes latents {wanted}; got {tuple(latents.shape)}.")
        if not torch.isfinite(latents).all():
            bad = (~torch.isfinite(latents)).flatten(1).any(1).nonzero()[0].item()
            raise ValueError(f"Latents must be finite numbers; latent {bad} holds NaN or infinity.")
        parameter = next(self.parameters())
        # contiguous: the same numbers in another memory layout would round differently
        return latents.to(device=parameter.device, dtype=parameter.dtype).contiguous()

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def sha256(self) -> str:
        """Fingerprint of names, shapes and values of the weights, the same on every device."""
        state = self.state_dict()
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())
        known = self.__dict__.get("_fingerprint")
        if known is None or known[0] != version:
            known = self.__dict__["_fingerprint"] = (version, tensors_sha256(state))
        return known[1]


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """sha256 over the sorted names with the shapes, types and bytes of their tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
