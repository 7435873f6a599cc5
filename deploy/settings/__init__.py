"""The one schema: defaults < profile YAML < ``MISTRAL_SERVE_*`` environment < arguments < flags.

Everything that configures the product ends here: ``serve.py``'s flags, the profiles in ``configs/``, the environment,
``serve run deploy.app:build_app key=value``, and the ``args`` of a RayService. Imports neither ray nor vllm.
"""

from deploy.settings.fields import option
from deploy.settings.gateway import AdmissionSettings, GatewaySettings, LimitSettings, QuotaSettings
from deploy.settings.guard import GuardSettings
from deploy.settings.observing import LogSettings, TracingSettings, UsageSettings
from deploy.settings.root import DEMO_MODEL, ENV_PREFIX, Settings
from deploy.settings.scaling import HardwareSettings, ScalingSettings
from deploy.settings.server import ServerSettings, TlsSettings
from deploy.settings.vllm import VllmSettings

__all__ = [
    "DEMO_MODEL",
    "ENV_PREFIX",
    "AdmissionSettings",
    "GatewaySettings",
    "GuardSettings",
    "HardwareSettings",
    "LimitSettings",
    "LogSettings",
    "QuotaSettings",
    "ScalingSettings",
    "ServerSettings",
    "Settings",
    "TlsSettings",
    "TracingSettings",
    "UsageSettings",
    "VllmSettings",
    "option",
]
