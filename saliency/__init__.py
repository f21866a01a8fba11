"""Which part of a picture, and which electrode and moment, a score depends on; names load on first use."""

from importlib import import_module

_PUBLIC = {
    "occlusion_map": "image",
    "multiscale_map": "image",
    "peak": "image",
    "region_hit": "image",
    "neural_map": "neural",
    "neural_maps": "neural",
    "evoked": "plots",
    "overlay": "plots",
    "saliency_figure": "plots",
    "neural_figure": "plots",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(f"saliency.{_PUBLIC[name]}"), name)
    if name in _PUBLIC.values():
        return import_module(f"saliency.{name}")
    raise AttributeError(f"module 'saliency' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_PUBLIC.values()})
