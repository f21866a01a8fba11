"""Picture files that say of themselves that they were edited with a generative model."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

_KEY = "brainedit"
_IMAGE_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131  # EXIF
_EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"  # IPTC's term
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'Iptc4xmpExt:DigitalSourceType="{edited}" xmp:CreatorTool="{software}"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)


def save_marked(
    image: np.ndarray | Image.Image,
    path: str | os.PathLike,
    mark: dict[str, Any],
    *,
    colour_profile: bytes | None = None,
) -> Path:
    """Write a PNG or JPEG that is marked as edited, whole or not at all.

    The mark stands in three places: EXIF (ImageDescription, Software), XMP (IPTC's DigitalSourceType, the field
    that says "edited with generative AI"), and, as JSON, a PNG text named "brainedit" or the JPEG's comment. All
    other metadata of a photograph (place, camera, time) are left out. A mark is easily removed: it is no
    signature, as C2PA's would be. JPEG changes all pixels a little; PNG none.

    image : uint8 (height, width, 3)
    mark : what `read_mark` gives back; can be written as JSON
    colour_profile : ICC profile of the picture the pixels came from

    Raises ValueError for a name that ends otherwise.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"Edited pictures are written as .png, .jpg or .jpeg; got {Path(path).name!r}.")
    software = f"brainedit {metadata.version('brainedit')}"
    text = json.dumps(mark)
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION], exif[_SOFTWARE] = "Edited with a generative model", software
    xmp = _XMP.format(edited=_EDITED, software=software)
    settings: dict[str, Any] = {"exif": exif, "icc_profile": colour_profile}
    if kind == "PNG":
        info = PngInfo()
        info.add_text("Software", software)
        info.add_text("Description", "Edited with a generative model")
        info.add_text(_KEY, text)
        info.add_itxt("XML:com.adobe.xmp", xmp)
        settings["pnginfo"] = info
    else:
        settings |= {"comment": f"{_KEY}: {text}".encode(), "xmp": xmp.encode(), "quality": 95}
        settings["subsampling"] = 0
    partial = Path(f"{path}.partial")
    picture.save(partial, format=kind, **settings)
    os.replace(partial, path)
    return Path(path)


def read_mark(path: str | os.PathLike) -> dict[str, Any] | None:
    """The mark of a file that `save_marked` wrote, None for any other picture.

    Raises ValueError for a file that is no picture.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get(_KEY)
            comment = picture.info.get("comment", b"")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is no picture that can be read ({error}).") from error
    start = f"{_KEY}: ".encode()
    if isinstance(comment, bytes) and comment.startswith(start):
        text = comment[len(start) :].decode()
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def colour_profile(picture: str | os.PathLike | np.ndarray) -> bytes | None:
    """The ICC profile of an RGB picture file; None for an array, or a file without one."""
    if isinstance(picture, np.ndarray):
        return None
    with Image.open(picture) as opened:
        return opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA") else None
