"""load_dataset: public data sets and your own by name, and for each where its files are and how they must lie."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from brainedit._check import pick
from brainedit.datasets.download import fetch
from brainedit.datasets.feature_sets import LatentDataset
from brainedit.datasets.paired import PairedDataset

DEFAULT = "default"


@dataclass(frozen=True)
class DatasetEntry:
    """One data set.

    loader : "module:function"; the function takes root and keyword-only settings
    source : where the files are published and under which licence
    layout : how they must lie below root
    files : path below root -> public link and hash, for `download`; empty where no link with a hash is known
    """

    loader: str
    source: str
    layout: str
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def help(self) -> str:
        return f"{self.source} {self.layout}"


DATASETS: dict[str, DatasetEntry] = {
    "things_eeg2": DatasetEntry(
        "brainedit.datasets.things_eeg2:load_things_eeg2",
        "THINGS-EEG2 (Gifford et al., NeuroImage 2022) is on OSF: raw EEG osf.io/3jk45, preprocessed EEG "
        "osf.io/anp5v, pictures osf.io/y63gw (CC BY 4.0).",
        "root must hold sub-01 to sub-10 with preprocessed_eeg_training.npy and preprocessed_eeg_test.npy (or, raw, "
        "ses-01 to ses-04 with raw_eeg_training.npy and raw_eeg_test.npy), image_metadata.npy and the folders "
        "training_images and test_images.",
    ),
    "cvpr40": DatasetEntry(
        "brainedit.datasets.cvpr40:load_cvpr40",
        "EEG-CVPR40 (Spampinato et al., CVPR 2017) is linked from "
        "github.com/perceivelab/eeg_visual_classification (no licence is stated); its pictures are ImageNet's.",
        "root must hold eeg_5_95_std.pth (or 14_70, 55_95) and block_splits_by_image_all.pth (or _single), and, itself "
        "or in images, the pictures as n02106662/n02106662_1.JPEG.",
    ),
    "facecat": DatasetEntry(
        "brainedit.datasets.facecat:load_facecat",
        "facecat (Davis et al., CVPR 2022) is in the folder data of "
        "github.com/Cognitive-Computing-Group/Brain-Supervised-Image-Editing (for research only).",
        "root must hold facecat.xz and latents.pkl, itself or in data.",
    ),
    "thoughtviz": DatasetEntry(
        "brainedit.datasets.thoughtviz:load_thoughtviz",
        "The ThoughtViz windows (Tirupattur et al., ACM MM 2018) are linked from github.com/ptirupat/ThoughtViz "
        "(no licence is stated).",
        "root must hold data/eeg/image/data.pkl (char, digit likewise), and the pictures in "
        "training/images/ImageNet-Filtered (char: Char-Font).",
    ),
    "self_calibrating": DatasetEntry(
        "brainedit.datasets.self_calibrating:load_self_calibrating",
        "The self-calibrating BCI set (Grizou et al., NeurIPS 2025) is on Hugging Face as "
        "ctorre/self-calibrating-bci and in src/data of github.com/jgrizou/neurips-self-calibrating-bci (whose code "
        "is MIT).",
        "root must hold all_data_sorted.npz, itself or in src/data.",
    ),
    "kaneshiro2015": DatasetEntry(
        "brainedit.datasets.kaneshiro:load_kaneshiro",
        "Kaneshiro et al. (PLoS ONE 2015) is at purl.stanford.edu/bq914sc3730, files "
        "stacks.stanford.edu/file/bq914sc3730/S1.mat to S10.mat (CC BY 3.0).",
        "root must hold S1.mat to S10.mat.",
    ),
    "bids": DatasetEntry(
        "brainedit.datasets.bids:load_bids",
        "Your own recordings, or a set of openneuro.org, in BIDS.",
        "root must hold sub-*/eeg/*_eeg.vhdr (or .edf, .bdf, .set; sessions in ses-*) with *_events.tsv whose "
        "stim_file names pictures below root/stimuli.",
    ),
    "folder": DatasetEntry(
        "brainedit.datasets.folder:load_folder",
        "Your own epochs, saved with MNE.",
        "root must hold *-epo.fif whose metadata have `stimulus` (or `label`), and the pictures in pictures, images "
        "or stimuli.",
    ),
}  # fmt: skip


def load_dataset(
    *,
    name: str,
    root: str | Path | None = None,
    subject: int | str | None = DEFAULT,
    split: str = DEFAULT,
    download: bool = False,
    **settings,
) -> PairedDataset | LatentDataset:
    """A data set of `DATASETS` by name.

    root : folder of its files
    subject, split : the person (None for all, where the loader can) and the published part; "default" is the
        loader's own choice. One that the data set does not have is refused, never passed over
    download : fetch what is missing in root, where a public link and a hash are known; nothing is fetched unasked
    settings : the loader's keyword arguments

    Raises FileNotFoundError that says where the files are published and how they must lie, ValueError for
    unknown names and settings.
    """
    entry = pick("data set", name, DATASETS)
    module, function = entry.loader.split(":")
    loader = getattr(importlib.import_module(module), function)
    usual = {key: value for key, value in {"subject": subject, "split": split}.items() if value != DEFAULT}
    settings = _checked(name, loader, usual, settings)
    if download and not entry.files:
        raise ValueError(
            f"{name!r} cannot be downloaded: no public link with a hash is known to us. {entry.help}"
        )
    if root is None:
        raise FileNotFoundError(f"{name!r} needs root, the folder of its files. {entry.help}")
    if download:
        fetch(entry.files, root)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"There is no folder {root}. {entry.help}")
    try:
        return loader(Path(root), **settings)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {entry.help}") from error


def _checked(name: str, loader: Callable, usual: dict, settings: dict) -> dict:
    """The loader's keyword arguments; ValueError for those that it does not take."""
    _, *parameters = inspect.signature(loader).parameters.values()
    takes = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}
    if len(takes) == len(parameters):
        for setting in settings:
            pick(f"setting of {name!r}", setting, takes)
    for setting, given in usual.items():
        if setting not in takes:
            raise ValueError(f"{name!r} has no {setting} to choose, got {setting}={given!r}; leave it out.")
    settings = usual | settings
    lacking = [key for key, p in takes.items() if p.default is p.empty and key not in settings]
    if lacking:
        raise ValueError(f"{name!r} needs {lacking[0]}=; there is no default.")
    return settings
