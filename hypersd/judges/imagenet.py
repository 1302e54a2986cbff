"""Moved: see `hypersd.judges.networks.imagenet`."""

from hypersd.judges.networks.imagenet import SIZE, WIDTH, backbone, features, stage_features

__all__ = ["SIZE", "WIDTH", "backbone", "features", "stage_features"]
