"""Which part of a picture, and which electrode and moment, a score depends on; names load on first use."""

from importlib import import_module

_NAMES = {
    "image": "occlusion_map occlusion_steps multiscale_map rise_map gradient_map peak region_hit",
    "fills": "fill_patches fill_picture",
    "neural": "neural_map neural_maps channel_importance feature_association kept_windows",
    "bands": "band_map band_maps window_map window_maps",
    "clusters": "cluster_test",
    "dependence": "eeg_dependence map_z",
    "sanity": "randomised sanity_checks map_verdict",
    "baselines": "centre_map edge_map",
    "evaluation": "fixation_scores fixation_density pointing_hit deletion_insertion",
    "fixations": "FixationSet read_fixations other_pictures_map score_pictures score_viewers bootstrap_pictures",
    "plots": "evoked overlay saliency_figure neural_figure band_figure time_strip sanity_figure",
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(f"saliency.{_PUBLIC[name]}"), name)
    if name in _PUBLIC.values():
        return import_module(f"saliency.{name}")
    raise AttributeError(f"module 'saliency' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_PUBLIC.values()})
