"""EEG with a planted truth. Whatever is shown of these data must be called simulated."""

from importlib import import_module

_HOME = {
    "simulate_oddball": "viewing",
    "simulate_passive": "viewing",
    "simulate_things_eeg2": "things",
    "simulate_kaneshiro": "kaneshiro",
    "simulate_facecat": "facecat",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'brainedit.simulate' has no attribute {name!r}")
    return getattr(import_module(f"brainedit.simulate.{_HOME[name]}"), name)
