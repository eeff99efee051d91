"""`make fuzz`: look for bytes on which a target raises, hangs, crashes or takes much memory.

    python tests/fuzz/fuzz.py --seconds 300            every target, one after the other
    python tests/fuzz/fuzz.py image --seconds 300      one target

What is found is written to build/fuzz/TARGET-*. Mend the fault and move the file to
tests/fuzz/cases/TARGET, where `test_fuzz_cases.py` keeps it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build/fuzz"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
PER_INPUT_SECONDS = 20
MEMORY_MIB = 3072
MAX_INPUT_BYTES = 65_536

with atheris.instrument_imports(include=["model_store", "service", "zipfile"]):
    from seeds import seeds_of
    from targets import TARGETS


def fuzz_one(target: str, seconds: int) -> None:
    """Fuzz one target in this process, which atheris ends."""
    corpus = OUTPUT / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={PER_INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={OUTPUT}/{target}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what strangers and publishers send.")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="Unset: all of them.")
    parser.add_argument("--seconds", type=int, default=300, help="For all targets together.")
    arguments = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if arguments.target:
        fuzz_one(arguments.target, arguments.seconds)
    failed = []
    for target in TARGETS:  # each in a process of its own, because one that fails ends
        sys.stdout.write(f"fuzzing {target}\n")
        sys.stdout.flush()
        command = [sys.executable, __file__, target, "--seconds"]
        done = subprocess.run([*command, str(arguments.seconds // len(TARGETS))], check=False)
        failed += [target] if done.returncode else []
    found = f"failed: {', '.join(failed)}; see {OUTPUT}" if failed else "nothing was found"
    sys.stdout.write(f"{found}\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
