"""LoRA: many roles on one frozen network, their algebra, and the files they live in."""
