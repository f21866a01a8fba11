"""Generators: latent -> picture; load one with `brainedit.generators.load.load_generator`."""
