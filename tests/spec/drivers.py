"""``python -m tests.spec.drivers``: which duties Linux's drivers keep, as tests/spec/DRIVERS.md.

Each column is a run of ``vmm check-driver`` with a guest that uses its devices, and lets drivers go
and come again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from vmm.driver_check import load_duties

TABLE: Final = Path(__file__).with_name("DRIVERS.md")
DEADLINE: Final = 900
PACKED: Final = "indirect-desc,event-idx,ring-reset,packed"
COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "mmio": ("--transport", "mmio"),
    "pci": ("--transport", "pci"),
    "mmio, packed": ("--transport", "mmio", "--ring-features", PACKED),
    "pci, packed": ("--transport", "pci", "--ring-features", PACKED),
}
SIGNS: Final = {"kept": "+", "broken": "**broken**", "not exercised": "-"}

SCRIPT: Final = """
echo "kernel: Linux $(uname -r)" >&2
use() {
    dd if=/dev/hwrng of=/dev/null bs=64 count=20 || exit
    dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct || exit
    dd if=/dev/vda of=/dev/null bs=4k iflag=direct || exit
}
use
cat /mnt/file >&2 || exit
for driver in virtio_rng virtio_blk; do
    cd /sys/bus/virtio/drivers/$driver && for device in virtio*; do
        echo $device > unbind && echo $device > bind || exit
    done
done
use
"""

_HEAD: Final = """\
# The duties of a driver, and how Linux keeps them

`make drivers` writes this table. Each column is a run of `vmm check-driver` in
which {kernel} uses its disk, its random numbers, a shared directory and a
console, has a socket device, and lets the first two go and takes them again. `+`: the duty was
kept, `-`: nothing of the kind was done. The rules are those that VIRTIO 1.2 has for drivers, in our
words; [the driver doctor](../../docs/driver-doctor.md) tells when one is broken.

"""

_KNOWN: Final = """\
One breach is known, at a device that is not among these: Linux's balloon, of 6.1 and 6.12, notifies
its queue of statistics before DRIVER_OK (`init_vqs()` of `drivers/virtio/virtio_balloon.c` kicks
`stats_vq`, and `virtio_device_ready()` comes after it). `vmm check-driver --balloon 0 -- true`
tells of it as `kick-before-driver-ok`. It does no harm: the device looks at all queues at
DRIVER_OK.
"""


def main() -> None:
    """Run the guests, write the table, and fail when a duty is broken."""
    results: dict[str, dict[str, str]] = {}
    kernel = ""
    with tempfile.TemporaryDirectory() as folder:
        for column, options in COLUMNS.items():
            print(f"{column} ...", flush=True)
            results[column], kernel = _run(Path(folder), options)
    TABLE.write_text(table(results, kernel), encoding="utf-8")
    print(TABLE)
    if any("broken" in verdicts.values() for verdicts in results.values()):
        raise SystemExit("a duty is broken")


def _run(folder: Path, options: Sequence[str]) -> tuple[dict[str, str], str]:
    (folder / "disk").write_bytes(bytes(1 << 20))
    (folder / "share").mkdir(exist_ok=True)
    (folder / "share" / "file").write_text("of the host\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vmm", "check-driver", "--json", *options),
            *("--disk", str(folder / "disk"), "--share", f"{folder / 'share'}:/mnt"),
            *("--vsock", str(folder / "vsock"), "--console", "virtio"),
            *("--timeout", str(DEADLINE), "--", "sh", "-c", SCRIPT),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE + 60,
    )
    kernel = re.search(r"^kernel: (.*)$", done.stderr, re.MULTILINE)
    if kernel is None or "of the host" not in done.stderr:
        raise SystemExit(f"the guest did not do what it had to:\n{done.stderr}")
    found = json.loads(done.stdout)
    for one in found["diagnoses"]:
        print(f"  {one['device']}: {one['id']}: {one['did']}")
    return {one["id"]: one["verdict"] for one in found["duties"]}, kernel[1]


def table(results: Mapping[str, Mapping[str, str]], kernel: str) -> str:
    """Return the page: a row for each duty, a column for each run."""
    names = list(results)
    lines = [
        f"| duty | section | the rule | {' | '.join(names)} |",
        f"|{' --- |' * (3 + len(names))}",
    ]
    for duty in load_duties().duties.values():
        signs = " | ".join(SIGNS[results[name][duty.id]] for name in names)
        lines.append(f"| {duty.id} | {duty.section} | {duty.says} | {signs} |")
    counts = {
        name: sum(verdict == "kept" for verdict in verdicts.values())
        for name, verdicts in results.items()
    }
    told = ", ".join(f"{count} by {name}" for name, count in counts.items())
    broken = sum("broken" in verdicts.values() for verdicts in results.values())
    end = f"Kept: {told}, of {len(load_duties().duties)}. Runs with a broken duty: {broken}."
    return _HEAD.format(kernel=kernel) + "\n".join(lines) + f"\n\n{end}\n\n{_KNOWN}"


if __name__ == "__main__":
    main()
