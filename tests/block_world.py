"""A generator whose pictures are linear in z, and a distance of pixels: what edits do to them is known."""

from torch import nn

from brainedit.generators.pggan import PGGAN


class Pixels(nn.Module):
    """Mean squared pixel difference, with the interface of `FeatureDistance`."""

    def prepare(self, images):
        return images

    def forward(self, images, prepared):
        return (images - prepared).square().mean((1, 2, 3))


class Blocks(PGGAN):
    """A picture that is linear in z: each of 12 numbers is the shade of one block of one colour."""

    normalises_z = False

    def raw_images(self, latents, *, space, labels=None, noise="const"):
        z = self.check_latents(latents, space=space).view(-1, 3, 2, 2)
        return 0.1 * z.repeat_interleave(8, 2).repeat_interleave(8, 3)
