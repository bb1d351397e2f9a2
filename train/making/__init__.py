"""How a world is made from a source, stage by stage: what ``train.make`` and ``train.release`` run on."""
