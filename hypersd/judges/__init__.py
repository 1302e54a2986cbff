"""Judges: `(images in [0, 1], prompts) -> scores`, higher is better, differentiable in the images.

One file a judge; a file never imports its sibling. Each says what it was trained on and its licence.
"""
