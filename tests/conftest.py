"""Settings of all tests: hypothesis fails no example for how long it took, which says more about the machine than about the code."""

from hypothesis import settings

settings.register_profile("graphmill", deadline=None)
settings.load_profile("graphmill")
