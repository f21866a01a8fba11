"""The page: saliency maps, directions and edits in a browser, for people who do not program."""

from webui.app import build, launch

__all__ = ["build", "launch"]
