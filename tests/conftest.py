"""For all tests."""

import os
import shutil

import pytest
from hypothesis import settings

settings.register_profile("tubelet", deadline=None)  # a busy machine is no failure
settings.register_profile("long", deadline=None)  # many more examples, others each time: by hand, tests/test_fuzz.py
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tubelet"))


@pytest.fixture(scope="module")  # not longer: while it lives, asyncio.run fails in this thread, also for other files
def browser():
    """A headless Chromium, of playwright; without one the test skips, or fails where TUBELET_BROWSER=required."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        missing = "no chromium, or no playwright: apt-get install chromium; pip install playwright"
        if os.environ.get("TUBELET_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
