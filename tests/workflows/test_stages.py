from __future__ import annotations

import threading
import time

import pytest

from asd_cli.workflows.stages import StageClock


def test_seconds_are_summed_over_threads_and_kept_after_an_error() -> None:
    clock = StageClock()

    def work() -> None:
        with clock.busy("read"):
            time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="broken"), clock.busy("write"):
        raise ValueError("broken")
    seconds = clock.seconds()
    assert list(seconds) == ["read", "write"]
    assert seconds["read"] >= 0.2
    clock.reset()
    assert clock.seconds() == {}
