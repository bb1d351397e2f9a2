"""Ids to next ids to frames: the transformer, its cache, rollouts, the upsampler, the simulator environments.

Importing this package registers ``worldmodel:WorldModel-v0`` with Gymnasium; nothing else is loaded until used.
"""

import gymnasium

if "WorldModel-v0" not in gymnasium.registry:
    gymnasium.register(
        "WorldModel-v0",
        entry_point="worldmodel.simulator_env:SimulatorEnv",
        vector_entry_point="worldmodel.simulator_vector_env:SimulatorVectorEnv",
    )
