"""Distillation: a batch, one step of the method, its losses, and the loop over stages."""
