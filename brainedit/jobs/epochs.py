"""A recording and its events -> epochs that name their pictures."""

from pathlib import Path

from brainedit import figures
from brainedit.datasets.paired import PairedDataset
from brainedit.eeg import events_from_annotations, make_epochs, preprocess, read_events, read_raw
from brainedit.report import Result, Section, check_out, is_simulated, result_folder


def make_epochs_file(
    raw: str | Path,
    out: str | Path,
    *,
    events: str | Path | None = None,
    codes: str | Path | None = None,
    images: str | Path | None = None,
    tmin: float = -0.2,
    tmax: float = 0.8,
    reject_uv: float | None = None,
    overwrite: bool = False,
    **preprocessing,
) -> Path:
    """A recording and its events -> OUT/epochs-epo.fif whose metadata name each trial's picture.

    events : BIDS events.tsv; codes : a CSV code -> picture, for annotations or triggers in the recording
    images : folder that must hold every picture that is named
    preprocessing : see `brainedit.eeg.preprocess`

    Returns the result folder.
    """
    check_out(out, overwrite=overwrite)
    if (events is None) == (codes is None):
        raise ValueError("Give either events (a BIDS events.tsv) or codes (a CSV of code and picture).")
    recording = read_raw(raw)
    table = read_events(events) if events is not None else events_from_annotations(recording, codes)
    clean = preprocess(recording, **preprocessing)
    epochs = make_epochs(clean, table, tmin=tmin, tmax=tmax, reject_uv=reject_uv)
    if images is not None:
        PairedDataset(epochs, images)
    conditions = {"all pictures": epochs.average()}
    if "label" in epochs.metadata and 2 <= epochs.metadata["label"].nunique() <= 3:
        labels = epochs.metadata["label"]
        conditions = {str(k): epochs[(labels == k).to_numpy()].average() for k in sorted(labels.unique())}
    counts = [(name, str(len(evoked.ch_names)), str(evoked.nave)) for name, evoked in conditions.items()]
    result = Result(
        job="epochs",
        title="Epochs",
        lead=f"{len(epochs)} trials of {len(epochs.ch_names)} channels at {epochs.info['sfreq']:g} Hz.",
        settings={"tmin": tmin, "tmax": tmax, "reject_uv": reject_uv} | preprocessing,
        inputs={"raw": raw, "events": events if events is not None else codes},
        figures={"n_trials": len(epochs), "n_dropped": len(table) - len(epochs)},
        simulated=is_simulated(epochs.metadata),
    )
    result.sections.append(
        Section(
            "The response",
            table=(("condition", "channels", "trials"), counts),
            pictures=[(figures.response_figure(conditions), "Mean over trials at the largest electrode.")],
        )
    )
    with result_folder(out, overwrite=overwrite) as folder:
        epochs.save(folder / "epochs-epo.fif", verbose="error")
        result.write(folder)
    return Path(out)
