"""Electrode templates by either of their names: MNE renames the 10-05 and 10-20 systems in version 1.14."""

from typing import TYPE_CHECKING

from brainedit._check import pick

if TYPE_CHECKING:
    import mne

RENAMED = {"standard_1005": "colin27_1005", "standard_1020": "colin27_1020"}


def read_montage(name: str = "standard_1005") -> "mne.channels.DigMontage":
    """One of MNE's built-in templates; a renamed one answers to its old name and to its new one.

    Raises ValueError that lists the known names.
    """
    import mne

    known = {template: template for template in mne.channels.get_builtin_montages()}
    known |= {old: new for old, new in RENAMED.items() if new in known}
    known |= {new: old for old, new in RENAMED.items() if new not in known}
    return mne.channels.make_standard_montage(pick("montage", name, known))
