"""The tests as other processors compute them: ``python tests/processors.py``, and arguments of pytest.

Which way a rounding falls is decided by the kernels that torch chooses for the processor, and by how many threads
share a sum. Each way is chosen by an environment variable, so that one machine shows them all; a test that passes
one way alone waits for a rounding. Exits 1 if any run fails, and says which.
"""

import os
import subprocess
import sys

#: The variables of one run: kernels without vectors, those of AVX2, those that torch chooses here, two threads.
WAYS = (
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
)


def told(way):
    return " ".join(f"{name}={value}" for name, value in way.items())


def main():
    words = sys.argv[1:] or ["-n", "2", "tests"]
    kept = {name: value for name, value in os.environ.items() if name not in ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")}
    failed = []
    for way in WAYS:
        print(f"{told(way)} pytest {' '.join(words)}", flush=True)
        if subprocess.run([sys.executable, "-m", "pytest", "-q", *words], env=kept | way, check=False).returncode:
            failed.append(told(way))
    print(*(f"failed: {way}" for way in failed or ["none"]), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
