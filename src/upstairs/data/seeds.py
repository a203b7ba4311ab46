"""Seeds of tasks, and their random generators."""

import torch

_64 = 2**64 - 1


def task_seed(stream: int, index: int) -> int:
    """Returns the seed of task `index` of a stream; two streams share no seed below 2**31 tasks."""
    return (stream + 1) * 2**31 + index


def stream_seeds(stream: int, step: int, size: int) -> list[int]:
    """Returns the seeds of the `size` tasks of one meta-step."""
    return [task_seed(stream, step * size + i) for i in range(size)]


def hash_seed(seed: int) -> int:
    """Returns 32 bits that depend on all 64 bits of a seed (the finaliser of splitmix64; Steele, Lea and Flood 2014).

    The CPU generator of torch reads only the low 32 bits of a seed, by which every second stream would be the same.
    """
    z = (seed + 0x9E3779B97F4A7C15) & _64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64
    return (z ^ (z >> 31)) >> 32


def dice(seed: int) -> torch.Generator:
    """Returns the random generator of the task with this seed."""
    return torch.Generator().manual_seed(hash_seed(seed))
