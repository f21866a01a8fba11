"""Data sets: EEG epochs joined to the pictures that were looked at."""
