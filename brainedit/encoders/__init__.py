"""Networks that turn EEG (`eeg`) and pictures (`image`) into features."""
