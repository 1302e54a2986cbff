"""Drawing with a base and, on it, a few-step LoRA."""
