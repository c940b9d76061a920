"""Freed memory is kept: the next tensor that fits costs no page faults."""

import platform
import sys

import pytest

CODE = """
import resource, sys, torch
from probes.host.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for size in (1 << 24, (1 << 24) - 4096):  # alignment takes a little: an equal tensor may not fit
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (4 << 24) // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep freed memory")
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "handed-back"])
def test_the_second_tensor_is_given_the_memory_of_the_first(kept, warm, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    done = warm.python(script, "kept" if kept else "not", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) < PAGES // 10) is kept


def test_other_systems_are_left_alone(monkeypatch):
    from probes.host.allocator import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
