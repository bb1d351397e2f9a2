"""Who computes a step: PyTorch, OpenVINO or CUDA graphs."""
