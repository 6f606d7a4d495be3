"""How property tests search: the same examples in every run, without a clock.

A check that fails once in a while says nothing about a change. To search anew, with other examples each time:
HYPOTHESIS_PROFILE=search make test
"""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("RAY_AUTH_MODE", "token")
"""Ray reads it when it is imported, and the first test that imports it may not be one that starts it."""

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
