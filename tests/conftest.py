"""For all tests."""

import os

from hypothesis import settings

settings.register_profile("tubelet", deadline=None)  # a busy machine is no failure
settings.register_profile("long", deadline=None)  # many more examples, others each time: by hand, tests/test_fuzz.py
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tubelet"))
