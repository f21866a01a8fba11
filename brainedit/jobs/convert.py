"""Anyone's generator checkpoint as our own files, with a look at what it makes."""

import json
from pathlib import Path

from brainedit.editing import grid_image
from brainedit.generators.load import convert_checkpoint, load_generator
from brainedit.report import Result, Section, check_out, result_folder

N_SAMPLES = 12


def convert(
    checkpoint: str | Path, out: str | Path, *, licence: str = "", seed: int = 0, overwrite: bool = False
) -> Path:
    """A checkpoint, read without running its code -> OUT with generator.safetensors and generator.json.

    licence : what the weights may be used for; a note to fill in when empty
    """
    check_out(out, overwrite=overwrite)
    with result_folder(out, overwrite=overwrite) as folder:
        convert_checkpoint(checkpoint, folder, licence=licence)
        generator = load_generator(folder)
        n = 2 if generator.image_size > 512 else N_SAMPLES
        source = json.loads((folder / "generator.json").read_text(encoding="utf-8"))["source"]
        labels = 0 if generator.c_dim else None
        z = generator.sample(n, seed=seed)
        samples = next(generator.synthesize_batches(z, space="z", labels=labels, batch_size=n))
        result = Result(
            job="convert",
            title=f"Converted: {generator.name}",
            lead=f"{generator.architecture}, {generator.image_size} x {generator.image_size} pixels, latents in "
            f"{', '.join(generator.spaces)}. {generator.licence}",
            settings={"seed": seed, "licence": licence},
            inputs={"checkpoint": checkpoint},
            figures={
                "architecture": generator.architecture,
                "image_size": generator.image_size,
                "n_parameters": sum(p.numel() for p in generator.parameters()),
                "classes": generator.c_dim,
                "source": source,
            },
        )
        caption = f"z drawn from seed {seed}" + (", class 0." if generator.c_dim else ".")
        picture = grid_image(samples, columns=6, zoom=max(1, 128 // generator.image_size))
        result.sections.append(Section("What it makes", source["notes"], pictures=[(picture, caption)]))
        result.write(folder)
    return Path(out)
