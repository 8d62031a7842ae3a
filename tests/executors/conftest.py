"""Settings of this room's property tests."""

from hypothesis import settings

# No deadline: on a shared machine a first call may take any time, which says nothing about the code.
settings.register_profile("groundswell", deadline=None)
settings.load_profile("groundswell")
