"""How many replicas run, and what each runs on."""

from typing import Literal, Self

from pydantic import model_validator

from deploy.settings.fields import Group, option


class ScalingSettings(Group):
    """How many replicas run, and when their number changes."""

    replicas: int | None = option(None, "Fixed number of replicas.", unset="1", flag="replicas", ge=1, le=1000)
    min_replicas: int | None = option(
        None, "Autoscaling: never fewer replicas than this.", unset="no autoscaling", flag="min-replicas", ge=1, le=1000
    )
    max_replicas: int | None = option(
        None, "Autoscaling: never more replicas than this.", unset="no autoscaling", flag="max-replicas", ge=1, le=1000
    )
    target_ongoing_requests: float | None = option(
        None,
        "Autoscaling: ongoing requests per replica to aim at.",
        unset="half of `vllm.max_num_seqs`",
        unit="requests",
        gt=0,
        le=10000,
    )
    upscale_delay_s: float = option(
        10, "Autoscaling: the load must be high for this long before a replica is added.", unit="s", ge=0, le=3600
    )
    downscale_delay_s: float = option(
        300, "Autoscaling: the load must be low for this long before a replica is removed.", unit="s", ge=0, le=86400
    )
    look_back_s: float = option(10, "Autoscaling: average the load over this long.", unit="s", gt=0, le=3600)
    drain_timeout_s: float = option(
        600,
        "A replica that is scaled away, or replaced by an update, finishes its streams for at most this long.",
        unit="s",
        ge=0,
        le=86400,
    )
    health_check_period_s: float = option(10, "Time between two health checks of a replica.", unit="s", gt=0, le=3600)
    health_check_timeout_s: float = option(
        60,
        "A replica whose health check takes longer is replaced. Long, because a busy replica is not a dead one.",
        unit="s",
        gt=0,
        le=3600,
    )

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        low, high = self.min_replicas, self.max_replicas
        if self.replicas is not None and (low is not None or high is not None):
            raise ValueError(
                f"replicas ({self.replicas}) excludes min_replicas and max_replicas: give a fixed number or a range"
            )
        if (low is None) != (high is None):
            missing = "min_replicas" if low is None else "max_replicas"
            raise ValueError(f"autoscaling needs both bounds: give {missing} too")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_replicas ({low}) cannot exceed max_replicas ({high})")
        return self

    @property
    def autoscaling(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.max_replicas is not None

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas that may run at once."""
        return self.max_replicas or self.replicas or 1

    @property
    def least_replicas(self) -> int:
        """The number of replicas that starting waits for."""
        return self.min_replicas or self.replicas or 1


class HardwareSettings(Group):
    """What a replica runs on."""

    device: Literal["auto", "cpu", "gpu"] = option(
        "auto", "What the model runs on. `auto`: a GPU where one is found, otherwise the CPU.", flag="device"
    )
    cores_per_replica: int | None = option(
        None,
        "CPU only: cores of its own for each replica.",
        unset="all cores, shared out over the most replicas that may run",
        unit="cores",
        ge=1,
        le=1024,
    )
    pin_cores: bool = option(
        True,
        "CPU only: bind a replica to cores that no other replica on the machine has. Turn it off in containers that"
        " share their machine's cores: they do not see each other's.",
    )
    accelerator_type: str | None = option(
        None,
        "GPU only: Ray's name of the GPU to schedule on, for example L4 or A10G.",
        unset="any GPU",
        min_length=1,
    )
    gpu_memory_gib: float | None = option(
        None,
        "GPU only: memory of one GPU, for planning where the GPU is not (on a laptop, in a cluster).",
        unset="measured",
        unit="GiB",
        gt=0,
        le=1024,
    )
