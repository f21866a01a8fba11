"""What every generator offers: sampling, mapping, synthesis, and the check of latents."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

SPACES = ("z", "w", "w+", "s")
Noise = str | Sequence[Tensor]


class Generator(nn.Module, ABC):
    """A network that turns latents into RGB pictures.

    A subclass sets the attributes below and writes `raw_images`; one with a mapping network also
    writes `map` and `mean_w`, one with a style space `styles`.

    name : what it is called in results
    spaces : the latent spaces it takes, out of "z", "w", "w+" and "s" (all channel-wise styles in a row)
    z_dim, w_dim, n_layers, n_styles : widths; 0 where there is no w or no s
    c_dim : width of the labels that `map` needs, 0 for none
    normalises_z : True when the network divides z by its length, so that only its direction matters
    image_size : height and width of a picture, pixels
    licence : one sentence on what its weights may be used for
    """

    name: str
    spaces: tuple[str, ...]
    z_dim: int
    w_dim: int = 0
    n_layers: int = 0
    n_styles: int = 0
    c_dim: int = 0
    normalises_z: bool = False
    image_size: int
    licence: str

    @abstractmethod
    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's own output (n, 3, height, width), about -1 to 1, to compare with a reference.

        The arguments are those of `synthesize`.
        """

    @abstractmethod
    def style_weights(self) -> tuple[Tensor, ...]:
        """The matrices (n_features, n_dims) that first read the latent: one per w+ layer, or one for z."""

    def map(self, z: Tensor, *, labels: Tensor | int | None = None) -> Tensor:
        """z (n, z_dim) -> w (n, w_dim).

        labels : for a conditional generator, as in `synthesize`

        Raises ValueError where the generator has no w, or z or labels do not fit.
        """
        raise ValueError(f"{self.name} has no space 'w'; its latents live in {_listed(self.spaces)}.")

    def mean_w(self) -> Tensor:
        """The mean of w (w_dim,), which truncation pulls towards."""
        raise ValueError(f"{self.name} has no space 'w'; its latents live in {_listed(self.spaces)}.")

    def styles(self, w_plus: Tensor) -> Tensor:
        """w+ (n, n_layers, w_dim) -> s (n, n_styles).

        Raises ValueError where the generator has no style space.
        """
        raise ValueError(f"{self.name} has no space 's'; its latents live in {_listed(self.spaces)}.")

    def noise_sizes(self) -> tuple[int, ...]:
        """Height (and width) of each noise map, in the order of the layers that add them; () without noise."""
        return ()

    def truncate(self, w: Tensor, *, psi: float, cutoff: int | None = None) -> Tensor:
        """w (n, w_dim) -> w+ (n, n_layers, w_dim), the first `cutoff` layers (default all) pulled to the mean.

        psi : 1 leaves w as it is, 0 gives the mean
        """
        w_plus = w[:, None].repeat(1, self.n_layers, 1)
        w_plus[:, :cutoff] = self.mean_w() + psi * (w_plus[:, :cutoff] - self.mean_w())
        return w_plus

    def synthesize(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """Pictures (n, 3, height, width) float, 0 to 1; differentiable where no pixel is clipped.

        latents : (n, z_dim), (n, w_dim), (n, n_layers, w_dim) or (n, n_styles), as `space` says
        labels : with latents in z of a conditional generator: a class number, or numbers (c_dim,) or (n, c_dim)
        noise : "const" (stored with the weights), "random" (fresh, from torch's random state), "none", or one
            map (height, width) or (n, 1, height, width) for each of `noise_sizes`

        Raises ValueError when latents, labels or noise do not fit, or latents hold NaN.
        """
        images = self.raw_images(latents, space=space, labels=labels, noise=noise)
        return (images * 0.5 + 0.5).clamp(0, 1)

    def synthesize_batches(
        self,
        latents: Tensor,
        *,
        space: str,
        labels: Tensor | int | None = None,
        noise: Noise = "const",
        batch_size: int = 32,
    ) -> Iterator[Tensor]:
        """Pictures of thousands of latents, `batch_size` at a time, without gradients."""
        latents = self.check_latents(latents, space=space)
        labels = self.check_labels(labels, len(latents)) if space == "z" else labels
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size}.")
        for start in range(0, len(latents), batch_size):
            rows = slice(start, start + batch_size)
            part = labels[rows] if isinstance(labels, Tensor) else labels
            with torch.no_grad():
                images = self.synthesize(latents[rows], space=space, labels=part, noise=noise)
            yield images

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        space: str = "z",
        truncation: float = 1.0,
        cutoff: int | None = None,
        labels: Tensor | int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """n latents drawn from the prior, in `space`.

        truncation : 1 leaves them as drawn, 0 gives the mean of w; only where there is a w
        cutoff : truncate the first so many layers only (w+ and s); default all
        labels : for a conditional generator beyond z, as in `synthesize`

        Raises ValueError for a space the generator lacks, truncation in z, or a cutoff in w.
        """
        self.latent_shape(space)
        if n < 1:
            raise ValueError(f"Need at least 1 latent; asked for {n}.")
        if not np.isfinite(truncation):
            raise ValueError(f"truncation must be a finite number; got {truncation}.")
        if space == "z" and truncation != 1.0:
            raise ValueError(
                f"Truncation {truncation} acts on w, not on z; sample {self.name} in 'w' if it has one."
            )
        if cutoff is not None and (space not in ("w+", "s") or not 0 <= cutoff <= self.n_layers):
            raise ValueError(
                f"A cutoff lies in 0 to {self.n_layers} (layers) and needs space 'w+' or 's'; got {cutoff} "
                f"in {space!r}."
            )
        # drawn on the CPU, so that a seed means the same latents on every device
        z = torch.randn(n, self.z_dim, generator=torch.Generator().manual_seed(seed))
        z = z.to(next(self.parameters()))
        if space == "z":
            return z
        w = self.map(z, labels=labels)
        if space == "w":  # never as w+, which is many times larger
            return self.mean_w() + truncation * (w - self.mean_w())
        w_plus = self.truncate(w, psi=truncation, cutoff=cutoff)
        return w_plus if space == "w+" else self.styles(w_plus)

    def w_plus(self, latents: Tensor, *, space: str, labels: Tensor | int | None = None) -> Tensor:
        """Latents in z, w or w+ as checked w+ (n, n_layers, w_dim).

        Raises ValueError when latents or labels do not fit, or labels come with latents that already hold them.
        """
        latents = self.check_latents(latents, space=space)
        if space != "z" and labels is not None:
            raise ValueError(f"Labels act on the way from z to w; latents in {space!r} take none.")
        if space == "z":
            latents = self.map(latents, labels=labels)
        return latents if space == "w+" else latents[:, None].expand(-1, self.n_layers, -1)

    def latent_shape(self, space: str) -> tuple[int, ...]:
        """Shape of one latent: (z_dim,), (w_dim,), (n_layers, w_dim) or (n_styles,).

        Raises ValueError for a space the generator lacks.
        """
        if space not in self.spaces:
            raise ValueError(
                f"{self.name} has no space {space!r}; its latents live in {_listed(self.spaces)}."
            )
        widths = {"z": (self.z_dim,), "w": (self.w_dim,), "w+": (self.n_layers, self.w_dim)}
        return {**widths, "s": (self.n_styles,)}[space]

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

    def check_labels(self, labels: Tensor | np.ndarray | int | None, n: int) -> Tensor | None:
        """The labels of n latents as a tensor (n, c_dim), None for a generator that takes none.

        labels : a class number, or numbers (c_dim,) or (n, c_dim)

        Raises ValueError when they are missing, not wanted, not finite, or of another width.
        """
        if isinstance(labels, int) and 0 <= labels < self.c_dim:
            labels = torch.eye(self.c_dim)[labels]
        got = "none" if labels is None else labels if isinstance(labels, int) else tuple(labels.shape)
        if labels is None and not self.c_dim:
            return None
        if not self.c_dim or got not in ((self.c_dim,), (n, self.c_dim)):
            need = f"labels ({n}, {self.c_dim})" if self.c_dim else "no labels"
            raise ValueError(f"{self.name} needs {need}; got {got}.")
        labels = torch.as_tensor(labels).to(next(self.parameters()))
        if not torch.isfinite(labels).all():
            raise ValueError("Labels must be finite numbers; these hold NaN or infinity.")
        return labels.expand(n, self.c_dim)

    def check_noise(self, noise: Noise) -> Noise:
        """The noise argument of `synthesize`, its maps as tensors of the generator's type and device.

        Raises ValueError for another word, another number of maps, or maps of another size.
        """
        sizes = self.noise_sizes()
        if isinstance(noise, str) and (noise == "const" or (sizes and noise in ("random", "none"))):
            return noise
        if not sizes:
            raise ValueError(f"{self.name} has no noise inputs; leave noise at 'const'.")
        if isinstance(noise, str):
            raise ValueError(f"noise is 'const', 'random', 'none' or a list of maps; got {noise!r}.")
        found = [tuple(noise_map.shape[-2:]) for noise_map in noise]
        if found != [(size, size) for size in sizes]:
            raise ValueError(f"{self.name} needs noise maps of sizes {list(sizes)}; got {found}.")
        return [torch.as_tensor(noise_map).to(next(self.parameters())) for noise_map in noise]

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
