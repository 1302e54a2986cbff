"""LoRA: many roles on one frozen network, and the files they live in."""
