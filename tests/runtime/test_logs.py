"""The log of a run."""

import errno
import io

import pytest

from guided_diffusion.runtime.logs import RunLog


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL], ids=["POSIX", "Windows"])
def test_a_reader_of_the_output_that_has_gone_does_not_end_a_training(number, monkeypatch, tmp_path):
    class Output(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, "the pipe has no reader")

    monkeypatch.setattr("sys.stdout", Output())
    log = RunLog(tmp_path)
    log.info("epoch 1")
    log.close()
    assert (tmp_path / "log.txt").read_text() == "epoch 1\n"
