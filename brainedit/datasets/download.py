"""Files from their public place to a folder, each checked by its hash before it takes its name."""

from collections.abc import Mapping
from pathlib import Path


def fetch(files: Mapping[str, tuple[str, str]], root: str | Path) -> list[Path]:
    """Fetch what is not below root yet; a file that is there stays as it is.

    files : path below root -> link (http, ftp, or doi as pooch writes it) and hash ("sha256:...", "md5:...")

    Returns the paths of all files. Raises ValueError when what came has another hash (nothing is kept of it),
    OSError when it could not be fetched.
    """
    import pooch

    paths = []
    for name, (link, known_hash) in files.items():
        path = Path(root) / name
        paths.append(path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pooch.retrieve(link, known_hash, fname=path.name, path=path.parent, progressbar=True)
        except OSError as error:  # requests' errors are, too
            raise OSError(f"{link} could not be fetched ({error}); {name} is not there.") from error
        except ValueError as error:
            raise ValueError(
                f"{link} has another content than {name} had when it was listed ({known_hash}); nothing was kept."
            ) from error
    return paths
