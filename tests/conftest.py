"""The order of the tests."""


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process of pytest-xdist begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
