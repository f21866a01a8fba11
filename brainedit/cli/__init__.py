"""The command: parses, calls one job, prints where the result lies."""

import sys

from brainedit.cli import eeg, pictures, start, tools  # the commands
from brainedit.cli.options import app

__all__ = ["app", "eeg", "main", "pictures", "start", "tools"]


def main() -> None:
    """Run the command; what a user can mend is one sentence and exit code 2, never a traceback."""
    import logging
    import os

    # threads that wait sleep instead of spinning: twice as fast beside other work, read before torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("MNE_LOGGING_LEVEL", "warning")  # MNE tells its steps on standard output
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(_explained(error))


def _explained(error: Exception) -> int:
    """Print one sentence for an error of the user's; let a bug show its traceback."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 2
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        print(f"brainedit: {error.format_message()}", file=sys.stderr)
        return 2
    if isinstance(error, (ValueError, FileNotFoundError, TypeError)):
        print(f"brainedit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        print(f"brainedit: {error.strerror or error}{where}; nothing was written.", file=sys.stderr)
        return 2
    raise error
