"""From EEG recorded while people look at pictures: joint embeddings, saliency, brain-supervised editing.

The public names, loaded on first use so that `import brainedit` costs nothing.
"""

from importlib import import_module

_HOME = {
    "read_raw": "eeg",
    "read_epochs": "eeg",
    "preprocess": "eeg",
    "make_epochs": "eeg",
    "read_events": "eeg",
    "EEGFileError": "eeg",
    "simulate_oddball": "simulate.viewing",
    "simulate_passive": "simulate.viewing",
    "PairedDataset": "datasets.paired",
    "split_trials": "splits",
    "train_metric": "metric",
    "LatentDataset": "datasets.feature_sets",
    "ArrayEpochs": "datasets.arrays",
    "load_dataset": "datasets.load",
    "LeakageError": "splits",
    "TrialSplit": "splits",
    "run_controls": "audit.controls",
    "audit_design": "audit.design",
    "JointModel": "joint",
    "train_joint": "joint_training",
    "calibrate": "joint_training",
    "load_joint": "joint",
    "score_trials": "relevance",
    "pool_relevance": "relevance",
    "Generator": "generators.base",
    "load_generator": "generators.load",
    "save_generator": "generators.load",
    "convert_checkpoint": "generators.load",
    "train_generator": "adversarial.train",
    "read_pictures": "adversarial.pictures",
    "invert": "inversion",
    "Direction": "directions",
    "brain_direction": "directions",
    "compatibility_direction": "directions",
    "person_directions": "directions",
    "reliability": "directions",
    "embedding_direction": "embedding_direction",
    "interfacegan_direction": "latent_axes",
    "sefa_directions": "latent_axes",
    "ganspace_directions": "latent_axes",
    "edit_photo": "photo",
    "compare": "comparison",
    "edit": "editing",
    "auc_score": "evaluation",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'brainedit' has no attribute {name!r}")
    value = getattr(import_module(f"brainedit.{_HOME[name]}"), name)
    globals()[name] = value  # else a module of the same name takes its place once it is loaded
    return value


def __dir__() -> list[str]:
    return __all__
