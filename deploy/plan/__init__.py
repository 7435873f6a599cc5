"""The plan, made before anything is loaded and printed by ``--dry-run``. Imports neither ray, vllm nor torch."""

from deploy.plan.planning import Plan, make_plan
from deploy.plan.report import render

__all__ = ["Plan", "make_plan", "render"]
