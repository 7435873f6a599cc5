"""Which device the replicas run on, and what each takes of it: cores or GPUs."""

from dataclasses import dataclass

from deploy.errors import UsageError
from deploy.machine import Gpu, Machine
from deploy.plan.limits import Device
from deploy.plan.sizes import GIB, count
from deploy.settings import Settings


@dataclass(frozen=True)
class Placement:
    """Where the replicas go. ``gpu`` is the smallest of the GPUs they take, None on a CPU or where it is not known.

    ``measured`` is False where the figures describe a machine other than this one.
    """

    device: Device
    replicas_min: int
    replicas_max: int
    cores_per_replica: int
    gpus_per_replica: int
    gpu: Gpu | None
    measured: bool


def place(settings: Settings, machine: Machine, *, cluster: bool, starting: bool) -> Placement:
    """Place the replicas on this machine, or plan for a cluster whose nodes cannot be seen from here.

    Raises:
        UsageError: no GPU where one is wanted, or more replicas than there are cores or GPUs.
    """
    scaling, workers = settings.scaling, settings.vllm.tensor_parallel_size
    device = _device(settings, machine, cluster)
    gpu = None
    if device == "gpu":
        gpu = _gpu(settings, machine, cluster=cluster, starting=starting)
        cores = workers
    elif workers > 1:
        raise UsageError(f"tensor_parallel_size is {workers} but a CPU replica is not spread: leave it at 1")
    else:
        cores = cores_of_a_replica(settings, len(machine.cores))
    placement = Placement(
        device=device,
        replicas_min=scaling.least_replicas,
        replicas_max=scaling.most_replicas,
        cores_per_replica=cores,
        gpus_per_replica=workers if device == "gpu" else 0,
        gpu=gpu,
        measured=not cluster and (device == "cpu" or bool(machine.gpus)),
    )
    if placement.measured:
        _check_room(placement, machine)
    return placement


def cores_of_a_replica(settings: Settings, cores: int) -> int:
    """Cores that a CPU replica takes where ``cores`` are shared out over the most replicas that may run."""
    return settings.hardware.cores_per_replica or max(1, cores // settings.scaling.most_replicas)


def _device(settings: Settings, machine: Machine, cluster: bool) -> Device:
    if settings.hardware.device != "auto":
        return settings.hardware.device
    elsewhere = cluster and settings.hardware.gpu_memory_gib is not None
    return "gpu" if machine.gpus or elsewhere else "cpu"


def _gpu(settings: Settings, machine: Machine, *, cluster: bool, starting: bool) -> Gpu | None:
    """The GPU to plan against: a real one of this machine, otherwise the one that ``gpu_memory_gib`` describes."""
    size = int((settings.hardware.gpu_memory_gib or 0) * GIB)
    described = Gpu(settings.hardware.accelerator_type or "GPU", size, size) if size else None
    if machine.gpus and not cluster:
        taken = machine.gpus[: settings.vllm.tensor_parallel_size * settings.scaling.most_replicas]
        memory, free = min(gpu.memory_bytes for gpu in taken), min(gpu.free_bytes for gpu in taken)
        return Gpu(taken[0].name, memory, free) if memory else described
    if cluster or (described and not starting):
        return described
    remedy = "--dry-run for a plan only" if described else "hardware.gpu_memory_gib with --dry-run to plan for one"
    raise UsageError(
        f"hardware.device is gpu but nvidia-smi finds no GPU on this machine: use --device cpu, or {remedy}"
    )


def _check_room(placement: Placement, machine: Machine) -> None:
    cpu = placement.device == "cpu"
    _check_resource("GPU", placement.gpus_per_replica, len(machine.gpus), "tensor_parallel_size", placement)
    setting = "hardware.cores_per_replica" if cpu else "tensor_parallel_size"
    _check_resource("core", placement.cores_per_replica, len(machine.cores), setting, placement)


def _check_resource(unit: str, each: int, there_are: int, setting: str, placement: Placement) -> None:
    replicas = placement.replicas_max
    if replicas * each <= there_are:
        return
    remedies = [f"the replicas to {there_are // each}"] if there_are >= each else []
    if each > 1 and there_are >= replicas:
        remedies.append(f"{setting} to {there_are // replicas}")
    verb = "needs" if replicas == 1 else "need"
    raise UsageError(
        f"{count(replicas, 'replica')} of {count(each, unit)} {verb} {count(replicas * each, unit)} "
        f"but {there_are} can be used here: "
        + (f"lower {' or '.join(remedies)}" if remedies else "use a larger machine")
    )
