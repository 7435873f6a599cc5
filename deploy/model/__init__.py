"""``--model``: what it stands for (``inspect``), and making it a directory on this machine (``prepare``)."""

from deploy.model.sources import PreparedModel, inspect, prepare

__all__ = ["PreparedModel", "inspect", "prepare"]
