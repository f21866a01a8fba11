"""A tiny generator whose pictures show four latent dimensions, and judges that read them: a world for facecat tests."""

from contextlib import contextmanager

import pytest
import torch

from brainedit.generators.base import Generator
from brainedit.judges import Judge

Z_DIM, SIZE = 8, 16
JUDGES = {"female": "quarter 0", "smiles": "quarter 1", "old": "quarter 2", "blond": "quarter 3"}
AXES = {"female": 0, "smiles": 1, "old": 2, "blond": 3, "male": 0, "nosmile": 1, "young": 2, "darkhaired": 3}


class Quarters(Generator):
    """Each quarter of a picture is as bright as one of the first four dimensions of z, which is normalised."""

    name, spaces, licence = "quarters", ("z",), "Made up."
    z_dim, image_size, normalises_z = Z_DIM, SIZE, True

    def __init__(self, gain: float = 0.6):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain), requires_grad=False)

    def raw_images(self, latents, *, space, labels=None, noise="const"):
        z = self.check_latents(latents, space=space)
        z = z / z.norm(dim=1, keepdim=True) * Z_DIM**0.5
        quarters = torch.tanh(self.gain * z[:, :4]).reshape(-1, 1, 2, 2)
        return quarters.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)

    def style_weights(self):
        return (torch.eye(4, Z_DIM),)


class Pixels(torch.nn.Module):
    """Mean squared difference of pixels, with the interface of a perceptual distance."""

    name = "pixels"

    def prepare(self, images):
        return images

    def forward(self, images, prepared):
        return (images - prepared).square().mean((1, 2, 3))


def load_quarters(name):
    return Quarters(0.9 if name == "others" else 0.6).eval()


def judge_quarter(name):
    row, column = divmod(int(name.split()[1]), 2)
    return Judge(name, "brightness", "", "", lambda x: x[:, 0, 8 * row, 8 * column])


@contextmanager
def quarters_world():
    """The simulation and the study know the tiny generator and its judges."""
    from brainedit.jobs import directions_study, directions_study_arms
    from brainedit.simulate import facecat

    with pytest.MonkeyPatch.context() as patch:
        for module in (facecat, directions_study, directions_study_arms):
            patch.setattr(module, "load_generator", load_quarters)
        for module in (facecat, directions_study_arms):
            patch.setattr(module, "judge", judge_quarter)
        compare = directions_study_arms.compare
        few = {"identity": Pixels(), "n_population": 100, "n_bootstrap": 100}
        patch.setattr(directions_study_arms, "compare", lambda *a, **k: compare(*a, **(k | few)))
        yield
