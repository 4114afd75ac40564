"""A real systemd for one unit, in namespaces of its own: systemd.sh keeps it from everything else."""

import os
import pathlib
import signal
import subprocess
import sys
import uuid

from tests.servers.waiting import PATIENCE, wait_until

SCRIPT = pathlib.Path(__file__).with_name("systemd.sh")
CHECKOUT = SCRIPT.parents[2]
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup", "--kill-child"]
TARGETS = ("default", "sysinit", "basic", "shutdown")


def lacking() -> str | None:
    """What this machine lacks to run it; None: nothing. Namespaces and control groups are for root, outside containers."""
    if _control_groups() is None:
        return "no control groups, version 2, that can be written to"
    done = subprocess.run([*NAMESPACES, "mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def _control_groups() -> pathlib.Path | None:
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return pathlib.Path(place)
    return None


class Systemd:
    """Process 1 there, and its one service."""

    def __init__(self, folder: pathlib.Path, unit: pathlib.Path, drop_in: str) -> None:
        """`folder` is the test's own, and what the unit sees of it is for reading; `drop_in` is of the [Service] section."""
        self.folder = folder
        self.name = unit.name
        folder.chmod(0o755)  # the service's user is not ours
        for name in TARGETS:
            self._write(f"{name}.target", "[Unit]\nDefaultDependencies=no\n")
        self._write(self.name, unit.read_text())
        seen = [str(CHECKOUT), sys.base_prefix, str(folder)]
        # Where it is in somebody's home or in /tmp, which the unit hides.
        paths = "ProtectHome=tmpfs\n" + "".join(f"BindReadOnlyPaths={path}\n" for path in seen)
        output = f"StandardOutput=append:{folder}/stdout\nStandardError=append:{folder}/stderr\n"
        self._write(f"{self.name}.d/test.conf", f"[Service]\n{paths}{output}{drop_in}")

        parent = _control_groups()
        assert parent is not None
        self._group = parent / f"walrus-bridge-test-{uuid.uuid4()}"
        self._group.mkdir()
        # It ends with this process, however that ends.
        enter = f'echo $$ > "{self._group}/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"'
        with (folder / "systemd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "bash",
                    "-c",
                    enter,
                    "-",
                    *NAMESPACES,
                    "bash",
                    str(SCRIPT),
                    str(folder),
                    str(CHECKOUT),
                    sys.base_prefix,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self.ask("is-system-running").strip() in {"running", "degraded"}, "systemd runs")

    def _write(self, name: str, text: str) -> None:
        path = self.folder / "units" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def ask(self, *arguments: str) -> str:
        """What `systemctl` prints."""
        if (command := self.systemctl()) is None:
            assert self._process.poll() is None, (self.folder / "systemd.log").read_text()
            return ""
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60).stdout

    def systemctl(self) -> list[str] | None:
        """The command that reaches it from outside; None: it has not come so far."""
        pid = self._process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return None
        return ["nsenter", "--target", children[0], "--mount", "--pid", "/usr/bin/systemctl", "--no-pager"]

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.ask("show", "--value", f"--property={name}", self.name).strip()

    def signal_main(self, number: signal.Signals) -> None:
        self.ask("kill", "--kill-who=main", f"--signal={number.name}", self.name)

    def text(self, name: str) -> str:
        """`stdout` or `stderr` of the service."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def wait_for(self, state: str, seconds: float = PATIENCE) -> None:
        ends = {state, "failed"}
        try:
            found = wait_until(lambda: ends & {self.show("ActiveState")}, f"{self.name} is {state}", seconds)
            assert found == {state}, f"{self.name} has failed"
        except AssertionError as error:
            status = self.ask("status", self.name)
            raise AssertionError(f"{error}\n{status}\n{self.text('stderr')[-3000:]}") from None

    def end(self) -> None:
        """All of it: what ends with its process 1."""
        self._process.kill()
        self._process.wait(PATIENCE)
        groups = [self._group, *(path for path in self._group.rglob("*") if path.is_dir())]
        for group in sorted(groups, reverse=True):
            wait_until(lambda group=group: _removed(group), f"{group} is empty")


def _removed(group: pathlib.Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
