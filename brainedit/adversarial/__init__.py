"""Train generators on pictures of your own: StyleGAN2-ADA, or a light one against frozen features."""
