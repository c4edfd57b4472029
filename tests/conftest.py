"""Which tests are slow, and the order of all."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before those that have another marker than is asked for are left out
def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process of pytest-xdist begins one when the others are done.

    Whatever needs a whole run that has finished is slow.
    """
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
