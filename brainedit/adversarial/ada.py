"""StyleGAN2 with adaptive augmentation: one step of its training, for an accelerator."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.adversarial.augment import AdaptiveAugment
from brainedit.adversarial.residual import StyleGAN2Discriminator
from brainedit.generators.stylegan2 import StyleGAN2

W_AVERAGE = 0.995


class StyleGAN2ADA:
    """Non-saturating logistic loss, lazy R1 and path-length penalties, style mixing, adaptive augmentation.

    r1 : weight of the penalty on the discriminator's gradient at real pictures; 0 for none
    r1_every, path_every : steps between the penalties, which are weighted up in return
    path_length : weight of the path-length penalty; 0 for none
    style_mixing : share of fakes whose layers take two latents
    target : the mean sign of the discriminator on real pictures that the augmentation steers to
    adjust_over : pictures in which the augmentation's probability can go from 0 to 1
    channel_base, channel_max : the discriminator's widths

    Source: Karras et al., NeurIPS 2020, appendix B and D; Karras et al., CVPR 2020, section 3.2. Differs: no
    reduced precision; R1 is taken at augmented pictures; the path-length penalty takes the latents of the
    generator's step.
    """

    def __init__(
        self,
        generator: StyleGAN2,
        real: Tensor,
        *,
        fresh: bool = True,
        learning_rate: float = 2e-3,
        r1: float = 1.0,
        r1_every: int = 16,
        path_length: float = 2.0,
        path_every: int = 4,
        style_mixing: float = 0.9,
        target: float = 0.6,
        adjust_over: float = 500_000,
        channel_base: int = 16384,
        channel_max: int = 512,
        seed: int = 0,
    ):
        self.generator, self.r1, self.r1_every = generator, r1, r1_every
        self.path_length, self.path_every = path_length, path_every
        self.style_mixing, self.target, self.adjust_over = style_mixing, target, adjust_over
        self.discriminator = StyleGAN2Discriminator(
            size=generator.image_size,
            c_dim=generator.c_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            seed=seed,
        ).to(generator.device)
        self.augment = AdaptiveAugment()
        self.seen = self.n_steps = 0
        self.path_mean = 0.0
        self.averages = {"generator": copy.deepcopy(generator).eval().requires_grad_(False)}
        # lazily penalised networks: rate and momenta corrected for the steps in between
        self.optimizers = {
            "generator": _adam(generator, learning_rate, path_every if path_length else 0),
            "discriminator": _adam(self.discriminator, learning_rate, r1_every if r1 else 0),
        }

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average_generator": self.averages["generator"],
        }

    def state(self) -> dict[str, float]:
        """Numbers that a checkpoint must hold."""
        return {
            "seen": self.seen,
            "n_steps": self.n_steps,
            "path_mean": self.path_mean,
            "augment": self.augment.p,
        }

    def load_state(self, state: dict[str, float]) -> None:
        """Take over numbers from a checkpoint."""
        self.seen, self.n_steps = int(state["seen"]), int(state["n_steps"])
        self.path_mean, self.augment.p = state["path_mean"], state["augment"]

    def reconstruct(self, real: Tensor) -> None:
        """This method has no encoder."""

    def step(self, real: Tensor, condition: Tensor | None) -> dict[str, float]:
        """Train on a batch of real pictures (n, 3, size, size), -1 to 1; gives the losses."""
        numbers = self._discriminator_step(real, condition) | self._generator_step(len(real), condition)
        self.seen += len(real)
        self.n_steps += 1
        return {"loss": numbers["generator_loss"] + numbers["discriminator_loss"]} | numbers

    def _discriminator_step(self, real: Tensor, condition: Tensor | None) -> dict[str, float]:
        self.discriminator.requires_grad_(True)
        penalised = self.r1 > 0 and self.n_steps % self.r1_every == 0
        with torch.no_grad():
            fake, _ = self._fakes(len(real), condition)
        # the penalty acts where the discriminator looks: sampling a picture is not differentiable twice
        real = self.augment(real).detach().requires_grad_(penalised)
        on_real = self.discriminator(real, condition)
        on_fake = self.discriminator(self.augment(fake), condition)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        numbers = {"discriminator_loss": loss.item()}
        if penalised:
            penalty = r1_penalty(on_real, real)
            loss = loss + self.r1 / 2 * self.r1_every * penalty
            numbers["r1"] = penalty.item()
        self._update("discriminator", loss)
        sign = on_real.detach().sign().mean().item()
        self.augment.adjust(math.copysign(len(real), sign - self.target) / self.adjust_over)
        self.discriminator.requires_grad_(False)
        return numbers | {"sign": sign, "augment": self.augment.p}

    def _generator_step(self, n: int, condition: Tensor | None) -> dict[str, float]:
        fake, w_plus = self._fakes(n, condition)
        loss = F.softplus(-self.discriminator(self.augment(fake), condition)).mean()
        numbers = {"generator_loss": loss.item()}
        if self.path_length and self.n_steps % self.path_every == 0:
            lengths = path_lengths(fake, w_plus)
            self.path_mean += 0.01 * (lengths.detach().mean().item() - self.path_mean)
            penalty = (lengths - self.path_mean).square().mean()
            loss = loss + self.path_length * self.path_every * penalty
            numbers["path_length"] = lengths.mean().item()
        self._update("generator", loss)
        return numbers

    def _fakes(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pictures, and the w+ they come from."""
        generator = self.generator
        z = torch.randn(2, n, generator.z_dim, device=generator.device)
        w = generator.map(z[0], labels=condition)
        with torch.no_grad():
            generator.mapping.w_avg.lerp_(w.mean(0), 1 - W_AVERAGE)
        w_plus = w[:, None].repeat(1, generator.n_layers, 1)
        if self.style_mixing:
            layer = torch.arange(generator.n_layers, device=w.device)
            cut = torch.randint(1, generator.n_layers, (n, 1), device=w.device)
            mixed = (torch.rand(n, 1, device=w.device) < self.style_mixing) & (layer >= cut)
            other = generator.map(z[1], labels=condition)[:, None]
            w_plus = torch.where(mixed[:, :, None], other, w_plus)
        return generator.raw_images(w_plus, space="w+"), w_plus

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()


def r1_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """Mean squared length of the discriminator's gradient at real pictures.

    Source: Mescheder et al., ICML 2018, equation 9.
    """
    (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(fake: Tensor, w_plus: Tensor) -> Tensor:
    """How far pictures move, in a random direction, when w does: (n,).

    Source: Karras et al., CVPR 2020, section 3.2.
    """
    noise = torch.randn_like(fake) / math.sqrt(fake.shape[2] * fake.shape[3])
    (gradient,) = torch.autograd.grad((fake * noise).sum(), w_plus, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def _adam(module: nn.Module, rate: float, every: int) -> torch.optim.Adam:
    share = every / (every + 1) if every else 1.0
    return torch.optim.Adam(module.parameters(), lr=rate * share, betas=(0.0, 0.99**share), eps=1e-8)
