"""The parallel training engine: mesh, pipeline schedules and data-parallel engines."""
