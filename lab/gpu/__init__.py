"""The stand-in GPU: NVML in C, nvidia-smi over it, and the container toolkit that puts both into containers."""
