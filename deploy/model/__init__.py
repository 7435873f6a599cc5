"""``--model``: what it stands for (``inspect``), and making it a directory on this machine (``prepare``)."""

from deploy.model.chat_templates import shipped as shipped_templates
from deploy.model.sources import PreparedModel, inspect, is_directory, prepare

__all__ = ["PreparedModel", "inspect", "is_directory", "prepare", "shipped_templates"]
