"""Python threads that take turns as often as can be."""

import sys
import threading


def on_threads(work, count=8):
    """Run `work(0)` to `work(count - 1)` at once, each in a thread of its own."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
