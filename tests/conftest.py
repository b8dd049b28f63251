"""What holds for all tests."""

import os

from hypothesis import settings

# The suite tries the same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=explore
# tries new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
