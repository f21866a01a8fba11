"""What is bundled: FACES, the folder of the painted-face generator and of what reads its pictures."""

from pathlib import Path

FACES = Path(__file__).parent / "faces"
