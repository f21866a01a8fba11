"""Training against frozen features, with an encoder that teaches the generator to reconstruct: for a processor."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.adversarial.augment import weak_augment
from brainedit.adversarial.discriminators import FrozenFeatures, ProjectedDiscriminator
from brainedit.generators.stylegan2 import StyleGAN2

BETAS = (0.0, 0.99)
W_AVERAGE = 0.995


class PictureCode(nn.Module):
    """Principal components of pictures and their maps, whitened: z of a picture, of mean 0 and variance 1.

    Fitted once on real pictures and then fixed, so that the generator learns to reconstruct from a target
    that does not move, and the z of all pictures together look like the N(0, 1) from which samples are drawn.

    z_dim : components; of n pictures at most n / 8 are kept, the other coordinates are left at 0
    fidelity : correlation of `draw` with the code; the rest is noise, also in coordinates without a code
    """

    def __init__(self, maps: list[Tensor], images: Tensor, *, z_dim: int, fidelity: float = 0.98):
        super().__init__()
        rows = self._rows(maps, images)
        n_kept = min(z_dim, len(rows) // 8)
        centred = rows - rows.mean(0)
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        values, vectors = values[-n_kept:].flip(0), vectors[:, -n_kept:].flip(1)
        basis = centred.T @ (vectors / values) * math.sqrt(len(rows))  # components of variance 1
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("basis", F.pad(basis, (0, z_dim - n_kept)))
        quality = torch.full((z_dim,), fidelity)
        quality[n_kept:] = 0
        self.register_buffer("quality", quality)
        share = F.pad(
            (values / values.sum()).sqrt(),
            (0, z_dim - n_kept),
            value=float((values[-1] / values.sum()).sqrt()),
        )
        self.register_buffer("spread", share / share.square().mean().sqrt())

    def forward(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """The code of pictures (n, 3, size, size), -1 to 1, and their maps: (n, z_dim)."""
        return (self._rows(maps, images) - self.mean) @ self.basis

    def draw(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """The code with noise, (n, z_dim)."""
        code = self(maps, images)
        return self.quality * code + (1 - self.quality.square()).sqrt() * torch.randn_like(code)

    def _rows(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """What the components are taken of: colours in 16 x 16 places, maps in 4 x 4, each group weighted alike."""
        groups = [F.adaptive_avg_pool2d(images, 16) * 2] + [F.adaptive_avg_pool2d(x, 4) for x in maps[:3]]
        groups.append(maps[3])
        return torch.cat([group.flatten(1) / math.sqrt(group[0].numel()) for group in groups], 1)


class Projected:
    """One step: half of the fakes are drawn from the prior, half reconstruct the real pictures of the batch.

    fresh : the generator's weights are random, and are prepared for a reconstruction
    feature_size : side to which pictures are brought for the frozen network; cost grows with its square
    width : channels of the mixed maps and heads
    reconstruction : weight of the squared error of pixels and features, both over their variance; 0 trains
        by the discriminator alone
    fidelity : correlation of the reconstructions' z with the pictures' code, see `PictureCode`
    adversarial : weight of the discriminator's verdict where there is a reconstruction, else 1
    warmup : pictures seen before the discriminator starts, where there is a reconstruction
    decay_after : pictures seen after which both learning rates fall with the root of their number, so that a
        run can be prolonged without knowing its end
    color, shift : augmentation of what the discriminator sees, where there is no reconstruction
    half_precision : the generator computes in bfloat16 (twice as fast on processors that know it)

    Source: Sauer et al., NeurIPS 2021 (discriminator); Larsen et al., ICML 2016 (reconstruction by features
    beside the adversarial loss). Differs: the code of a picture is not learned; the fakes' maps serve both
    players of a step.
    """

    def __init__(
        self,
        generator: StyleGAN2,
        real: Tensor,
        *,
        fresh: bool = True,
        feature_size: int = 64,
        width: int = 64,
        generator_rate: float = 1e-2,
        discriminator_rate: float = 2e-4,
        reconstruction: float = 1.0,
        fidelity: float = 0.98,
        adversarial: float = 0.1,
        warmup: int = 8000,
        decay_after: int = 25_000,
        color: float = 0.3,
        shift: float = 0.1,
        half_precision: bool = False,
        weights: str = "pretrained",
        seed: int = 0,
    ):
        device = generator.device
        self.generator = generator
        self.features = FrozenFeatures(size=feature_size, width=width, weights=weights, seed=seed).to(device)
        self.features.calibrate(real)
        self.variance = real.var(0).mean().item()
        sizes = self.features.map_sizes
        self.discriminator = ProjectedDiscriminator(sizes, width=width, c_dim=generator.c_dim, seed=seed)
        maps = zip(*[self.features(part) for part in real.split(64)], strict=True)
        self.code = PictureCode([torch.cat(m) for m in maps], real, z_dim=generator.z_dim, fidelity=fidelity)
        if fresh and reconstruction:
            _prepare(generator, self.code.spread)
        self.discriminator.to(device)
        self.reconstruction = reconstruction
        self.adversarial = adversarial if reconstruction else 1.0
        self.rates = {"generator": generator_rate, "discriminator": discriminator_rate}
        self.decay_after = decay_after
        self.warmup = warmup if reconstruction else 0
        self.color, self.shift, self.half_precision = color, shift, half_precision
        self.seen = 0
        for module in (self.generator, self.features, self.discriminator):
            module.to(memory_format=torch.channels_last)
        self.averages = {"generator": copy.deepcopy(generator).eval().requires_grad_(False)}
        self.optimizers = {
            "generator": torch.optim.Adam(generator.parameters(), lr=generator_rate, betas=(0.5, 0.99)),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=discriminator_rate, betas=BETAS
            ),
        }

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold; the frozen network has its own file, its mixing comes from the seed."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "code": self.code,
            "average_generator": self.averages["generator"],
        }

    def state(self) -> dict[str, float]:
        """Numbers that a checkpoint must hold."""
        return {"seen": self.seen}

    def load_state(self, state: dict[str, float]) -> None:
        """Take over numbers from a checkpoint."""
        self.seen = int(state["seen"])

    @torch.no_grad()
    def reconstruct(self, real: Tensor) -> Tensor | None:
        """Pictures (n, 3, size, size), -1 to 1, as the averaged networks give them again, 0 to 1."""
        if not self.reconstruction:
            return None
        z = self.code(self.features(real), real)
        generator = self.averages["generator"]
        if generator.c_dim:
            return None
        return generator.synthesize(z, space="z")

    def step(self, real: Tensor, condition: Tensor | None) -> dict[str, float]:
        """Train on a batch of real pictures (n, 3, size, size), -1 to 1; gives the losses."""
        real = real.contiguous(memory_format=torch.channels_last)
        self._set_rates()
        with torch.no_grad():
            real_maps = self.features(self._augmented(real))
        z = self._latents(real_maps, real)
        fake_condition = condition if condition is None else condition.repeat(len(z) // len(real), 1)
        fake = self._fakes(z, fake_condition, len(real))
        maps = self.features(self._augmented(fake))
        numbers, loss = {}, fake.new_zeros(())
        if self.reconstruction:
            errors = self._errors(fake[: len(real)], real, maps, real_maps)
            loss = loss + self.reconstruction * sum(errors.values())
            numbers |= {name: error.item() for name, error in errors.items()}
        if self.seen >= self.warmup:
            numbers |= self._discriminate(real_maps, maps, condition, fake_condition)
            verdict = self.discriminator(maps, fake_condition).mean()
            loss = loss - self.adversarial * verdict
        self.optimizers["generator"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers["generator"].step()
        self.seen += len(real)
        return {"loss": loss.item()} | numbers

    def _set_rates(self) -> None:
        factor = min(1.0, math.sqrt(self.decay_after / max(self.seen, 1)))
        for name, rate in self.rates.items():
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate * factor

    def _latents(self, real_maps: list[Tensor], real: Tensor) -> Tensor:
        """z of the fakes, reconstructions first."""
        drawn = torch.randn(len(real), self.generator.z_dim, device=real.device)
        if not self.reconstruction:
            return drawn
        z = self.code.draw(real_maps, real)
        return torch.cat([z, drawn]) if self.seen >= self.warmup else z

    def _fakes(self, z: Tensor, condition: Tensor | None, n: int) -> Tensor:
        w = self.generator.map(z, labels=condition)
        with torch.no_grad():
            mapping = self.generator.mapping
            mapping.w_avg.lerp_(w[-n:].mean(0), 1 - W_AVERAGE)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.half_precision):
            fake = self.generator.raw_images(w, space="w")
        return fake.float()

    def _augmented(self, images: Tensor) -> Tensor:
        """As they are where they are reconstructed: both must be seen alike."""
        return images if self.reconstruction else weak_augment(images, color=self.color, shift=self.shift)

    def _errors(
        self, fake: Tensor, real: Tensor, maps: list[Tensor], real_maps: list[Tensor]
    ) -> dict[str, Tensor]:
        """Squared error over variance; the maps have variance 1 already."""
        pairs = zip(maps, real_maps, strict=True)
        by_map = [(x[: len(real)] - y).square().mean() for x, y in pairs]
        pixels = (fake - real).square().mean() / self.variance
        return {"pixel_error": pixels, "feature_error": torch.stack(by_map).mean()}

    def _discriminate(
        self,
        real_maps: list[Tensor],
        maps: list[Tensor],
        condition: Tensor | None,
        fake_condition: Tensor | None,
    ) -> dict[str, float]:
        """One step of the discriminator (hinge loss); afterwards it gives gradients to the generator alone."""
        optimizer = self.optimizers["discriminator"]
        self.discriminator.requires_grad_(True)
        on_real = self.discriminator(real_maps, condition)
        on_fake = self.discriminator([x.detach() for x in maps], fake_condition)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        self.discriminator.requires_grad_(False)
        return {
            "discriminator_loss": loss.item(),
            "on_real": on_real.mean().item(),
            "on_fake": on_fake.mean().item(),
        }


@torch.no_grad()
def _prepare(generator: StyleGAN2, spread: Tensor) -> None:
    """Start with unsaturated pictures, whose gradients reach the network, that follow the code's main components."""
    for block in generator.synthesis.values():
        block.torgb.weight *= 0.3
    weight = getattr(generator.mapping, generator.mapping.layers[0]).weight
    weight[:, : len(spread)] *= spread.sqrt()
