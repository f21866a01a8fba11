"""Maps that know nothing of the score: the picture's centre and its edges, which every map must beat."""

import torch

from saliency.scores import check_count, check_picture


def centre_map(shape: tuple[int, int], *, sigma: float = 0.25) -> torch.Tensor:
    """A Gaussian at the picture's centre: what people look at, and photographers aim at, in any picture.

    shape : height and width, pixels
    sigma : standard deviation as a share of each side, so the Gaussian has the picture's proportions; the
        common choices lie between 0.2 and 0.3

    Returns (h, w), float32, largest at the centre; at most 1, which a pixel reaches only when both sides are odd.
    Raises ValueError for a shape or sigma that does not fit.
    Source: the centre baseline of the MIT saliency benchmark (Judd et al., 2012), a Gaussian stretched to the
    picture's proportions.
    """
    if len(shape) != 2:
        raise ValueError(f"Need a height and a width in pixels, got {tuple(shape)}.")
    if not 0 < sigma < float("inf"):
        raise ValueError(f"Need sigma as a positive share of the picture's sides, got {sigma}.")
    for name, size in zip(("the height", "the width"), shape, strict=True):
        check_count(name, size)
    rows, columns = (((torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5) / sigma for size in shape)
    return torch.exp(-0.5 * (rows[:, None] ** 2 + columns**2)).float()


def edge_map(image: torch.Tensor) -> torch.Tensor:
    """How fast the picture's grey value changes at each pixel: the Sobel gradient's length.

    image : (3, h, w), float, 0 to 1

    Returns (h, w), at least float32, on the picture's device, in grey value per pixel; the border repeats the
    outermost pixels, so a uniform picture is exactly 0 everywhere.
    Raises ValueError for a picture that does not fit.
    Source: the edge detector as a baseline of maps, Adebayo et al., NeurIPS 2018, section 5; grey value by the
    luma weights of Rec. ITU-R BT.601.
    """
    check_picture(image)
    values = image.to(torch.promote_types(image.dtype, torch.float32))
    weights = values.new_tensor([0.299, 0.587, 0.114])
    grey = (weights[:, None, None] * values).sum(0)
    padded = torch.nn.functional.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = padded[:, 2:] - padded[:, :-2]  # (h + 2, w)
    down = padded[2:] - padded[:-2]  # (h, w + 2)
    across = (across[:-2] + 2 * across[1:-1] + across[2:]) / 8
    down = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 8
    return torch.hypot(across, down)
