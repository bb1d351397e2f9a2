"""Ids to next ids to frames: the transformer, its cache, rollouts, the upsampler, the simulator environments."""
