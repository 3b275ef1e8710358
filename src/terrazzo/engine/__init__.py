"""The machinery under `train`: processes, one step, what is saved and where, when to stop."""
