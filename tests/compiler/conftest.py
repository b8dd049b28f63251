"""What holds for all tests of compiled code."""

import pytest

from twofold.compiler import leading


@pytest.fixture(autouse=True)
def python_leads_on_small_arrays_too(monkeypatch):
    """Tests are small, and want to see programs beneath Python that leads (see leading.py)."""
    monkeypatch.setattr(leading, "TRACE_SECONDS", 0.0)
