"""What an upload must pass before the page reads it, and what an error may tell a visitor."""

import functools
import html
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

MAX_FILE_SIZE = 200 * 2**20  # bytes of one upload
READ_SECONDS = 60.0
READ_BYTES = 4 * 2**30  # address space of the process that tries an upload
CHILD = "import sys; sys.path.append(sys.argv[1]); from webui.guards import _child; _child(*sys.argv[2:])"
SORRY = "Something went wrong here; the terminal that runs the page has the details."


class RefusedUpload(ValueError):
    """A file that the page will not read; the message is one sentence."""


def cache_folder() -> Path:
    """Where this page's uploads lie."""
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder()).resolve()


def uploaded(path: str | Path | None, *, what: str = "a file") -> Path:
    """The path, once it is certain that it was uploaded to this page.

    A request can name any file of the server; only what lies in the page's own upload folder, links resolved,
    is opened.
    what : what was to be uploaded, for the message

    Raises RefusedUpload when nothing came, or the file lies elsewhere.
    """
    if not path:
        raise RefusedUpload(f"Upload {what} first.")
    try:
        real = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise RefusedUpload("This file is not here any more; upload it again.") from None
    if not real.is_relative_to(cache_folder()) or not real.is_file():
        raise RefusedUpload("This file was not uploaded to this page; upload it.")
    if real.stat().st_size > MAX_FILE_SIZE:
        raise RefusedUpload(f"{real.name} is larger than {MAX_FILE_SIZE // 2**20} MB; upload a smaller file.")
    return real


def checked_epochs(
    path: str | Path | None, *, seconds: float = READ_SECONDS, max_bytes: int = READ_BYTES
) -> "mne.BaseEpochs":
    """Uploaded epochs, read here only after another process has read them within its limits.

    seconds : of computing, and of waiting; max_bytes : of address space (not limited on Windows)

    Raises RefusedUpload for a file that is no EEG, opens other files, or takes too long or too much memory.
    """
    real = uploaded(path, what="an epochs file")
    stat = real.stat()
    return _read_epochs(real, (stat.st_mtime_ns, stat.st_size), seconds, max_bytes)


@functools.lru_cache(maxsize=2)
def _read_epochs(path: Path, version: tuple, seconds: float, max_bytes: int) -> "mne.BaseEpochs":
    from brainedit.eeg import read_epochs

    _try_reading(path, seconds, max_bytes)
    epochs = read_epochs(path, self_contained=True)
    if epochs.metadata is None or not {"stimulus", "label"} & set(epochs.metadata):
        raise RefusedUpload(
            f"{path.name} does not say what was shown; its metadata need a column 'stimulus' or 'label'."
        )
    return epochs


def checked_picture(path: str | Path | None) -> np.ndarray:
    """An uploaded picture, uint8 (height, width, 3).

    Raises RefusedUpload for a file that was not uploaded, ValueError for one that is no picture of a usable size.
    """
    from brainedit.encoders.image import read_picture

    return read_picture(uploaded(path, what="a picture"))


def sentence(error: BaseException) -> str:
    """The first line of an error's message, with the folders of this machine left out."""
    lines = str(error).strip().splitlines()
    if not lines:
        return SORRY
    folder = re.escape(str(cache_folder()))
    return re.sub(rf"{folder}/(?:[0-9a-f]{{32,}}/)?", "", lines[0])


def told(function: Callable) -> Callable:
    """The function, with every error shown as one sentence and never as a stack trace."""
    import gradio as gr

    @functools.wraps(function)
    def safe(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except (ValueError, TypeError, FileNotFoundError) as error:
            logger.debug("refused", exc_info=True)
            message = sentence(error)
        except MemoryError:
            message = "This needs more memory than there is; use fewer trials or a smaller file."
        except Exception:  # the visitor gets a sentence, the terminal the reason
            logger.exception("error behind the page")
            message = SORRY
        raise gr.Error(html.escape(message, quote=False), title="", print_exception=False)

    return safe


def _try_reading(path: Path, seconds: float, max_bytes: int) -> None:
    """Read the file in a process of its own; raise RefusedUpload when that fails or meets a limit."""
    home = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-P", "-c", CHILD, home, str(path), str(seconds), str(max_bytes)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds, check=False, env=os.environ | threads
        )
    except subprocess.TimeoutExpired:
        raise RefusedUpload(
            f"{path.name} took more than {seconds:g} s to read; is it damaged, or too large?"
        ) from None
    try:
        answer = json.loads(done.stdout.decode().splitlines()[-1])
    except (ValueError, IndexError):  # killed before it could answer
        logger.warning("reading %s ended with %s: %s", path, done.returncode, done.stderr[-2000:].decode())
        raise RefusedUpload(
            f"{path.name} could not be read within {seconds:g} s and {max_bytes / 2**30:.2g} GiB of memory."
        ) from None
    if answer["error"]:
        raise RefusedUpload(sentence(ValueError(answer["error"])))


def _child(path: str, seconds: str, max_bytes: str) -> None:
    """In the process of its own: limits first, then the file; the answer goes to standard output."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(max_bytes), int(max_bytes)))
        limit = max(1, round(float(seconds)))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    except ImportError:  # Windows has no such limits; the time limit of the parent still holds
        pass
    try:
        from brainedit.eeg import read_epochs

        read_epochs(path, self_contained=True)
        error = ""
    except MemoryError:
        error = f"{Path(path).name} needs more memory to read than an upload may take."
    except (ValueError, FileNotFoundError) as problem:
        error = str(problem)
    print(json.dumps({"error": error}))
