"""How a training run goes: command line, exact resume, progress, sample videos."""
