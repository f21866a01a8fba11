"""Pickles, torch files and object arrays read without running or importing anything that they name."""
