#!/usr/bin/env python3
"""Runs lamina's own unit under a real systemd, in namespaces of its own, and restarts, kills and stops the server there.

    systemd.py --lamina PATH --unit config/systemd/lamina.service --image oci:DIR:TAG --directory DIR

Ends with 0 when all went well, 1 when not, 77 when systemd cannot be started here. Needs root.
"""
import argparse, os, re, signal, subprocess, sys, time

# What is tried here is what FUSE shows.
os.environ.setdefault("LAMINA_SEAL_MODE", "off")

CONTROLLERS = "/sys/fs/cgroup"


def say(text): print(text, flush=True)


# --- within the namespaces ---

def systemctl(*words):
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True)
    if done.returncode != 0: raise SystemExit(f"systemctl {' '.join(words)}: {done.stderr}")
    return done.stdout


def show(name): return systemctl("show", "-p", name, "--value", "lamina").strip()


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition(): return
        time.sleep(0.02)
    raise SystemExit(f"{what}: not within {seconds} s; {systemctl('show', 'lamina', '-p', 'ActiveState,SubState,Result,StatusText,NFileDescriptorStore')}")


def inner(options):
    root, mount = f"{options.directory}/store", f"{options.directory}/mnt"
    lamina = [options.lamina]
    version = int(re.match(r"systemd (\d+)", subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout)[1])
    wait_until(lambda: os.path.exists("/run/systemd/private"), 20, "systemd")
    systemctl("start", "lamina")
    assert show("ActiveState") == "active" and show("StatusText") == f"serving {root}", show("StatusText")
    held = lambda: int(show("NFileDescriptorStore"))
    assert held() == 3, held()
    os.makedirs(mount)
    subprocess.run(lamina + ["mount", options.image, mount, "--root", root], check=True)
    file = f"{mount}/etc/hello"
    kept = open(file, "rb")
    want = open(file, "rb").read()
    server = lambda: int(show("MainPID"))
    # What root does in a writable mount is done by overlayfs with the server's rights, of which the unit leaves it few.
    changed = f"{options.directory}/changed"
    for path in (changed, f"{options.directory}/upper"): os.makedirs(path)
    subprocess.run(lamina + ["mount", "--rw", f"{options.directory}/upper", options.image, changed, "--root", root], check=True)
    os.utime(f"{changed}/dev/null")
    os.chown(f"{changed}/etc/hello", 1234, 1234)
    os.setxattr(f"{changed}/etc/hello", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    with open(f"{changed}/etc/hello", "ab") as more: more.write(b"more")
    os.remove(f"{changed}/etc/hello")
    subprocess.run(lamina + ["umount", changed, "--root", root], check=True)
    say("a writable mount is written to")

    def goes_on(what, previous):
        """Read by a process that begins before the next server is there."""
        done = subprocess.run(["cat", file], capture_output=True, timeout=60)
        assert done.returncode == 0 and done.stdout == want, (what, done)
        assert os.pread(kept.fileno(), 100, 0) == want[:100], what
        os.lstat(mount)
        try: os.lstat(f"{root}/fs/none")
        except FileNotFoundError: pass
        wait_until(lambda: show("ActiveState") == "active" and server() not in (0, previous), 60, what)
        assert held() == 3, (what, held())
        say(f"{what}: the mount goes on")

    for turn in range(5):
        previous = server()
        os.kill(previous, signal.SIGKILL)
        goes_on(f"SIGKILL {turn + 1}", previous)
    assert int(show("NRestarts")) == 5, show("NRestarts")
    previous = server()
    systemctl("restart", "lamina")
    goes_on("systemctl restart", previous)
    previous = server()
    os.kill(previous, signal.SIGSTOP)
    goes_on("SIGSTOP, until the watchdog acts", previous)
    # Since systemd 254 also over a stop.
    previous = server()
    systemctl("stop", "lamina")
    if version >= 254:
        assert held() == 3
        systemctl("start", "lamina")
        goes_on("stop and start", previous)
    else:
        say(f"systemd {version}: the descriptors are dropped at a stop, so the mount is dead now: {held()} held")
        systemctl("start", "lamina")
        wait_until(lambda: subprocess.run(["cat", file], capture_output=True).stdout == want, 30, "the mount afresh")
        say("stop and start: the dead mounts were taken away and made afresh")
    kept.close()
    previous = server()
    subprocess.run(lamina + ["shutdown", "--root", root], check=True)
    wait_until(lambda: server() not in (0, previous) and show("ActiveState") == "active", 30, "another server after shutdown")
    assert held() == 3, held()
    subprocess.run(lamina + ["umount", mount, "--root", root], check=True)
    say(f"passed under systemd {version}")


# --- outside ---

SETUP = """
mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit 77
(python3 "$0" --inner "$@" > "$RESULT.out" 2>&1; echo $? > "$RESULT.new"; mv "$RESULT.new" "$RESULT") &
export container=lamina-test
exec /lib/systemd/systemd --system --unit=lamina-test.target --log-target=console --show-status=no
"""


def outer(options, words):
    if not os.access("/lib/systemd/systemd", os.X_OK): return 77
    directory = options.directory
    units, result = f"{directory}/units", f"{directory}/result"
    os.makedirs(f"{units}/lamina.service.d")
    with open(options.unit) as file: unit = file.read()
    program = f"{directory}/prefix/bin/lamina"
    os.makedirs(os.path.dirname(program))
    os.symlink(options.lamina, program)
    os.makedirs(f"{directory}/etc/lamina")
    with open(f"{directory}/etc/lamina/config.toml", "w") as file: file.write(f"[store]\nroot = '{directory}/store'\n")
    with open(f"{units}/lamina.service", "w") as file:
        file.write(unit.replace("@PREFIX@", f"{directory}/prefix").replace("@SYSCONFDIR@", f"{directory}/etc"))
    # There is no network target here, and a test should not wait 30 seconds.
    with open(f"{units}/lamina.service.d/test.conf", "w") as file:
        file.write("[Unit]\nDefaultDependencies=no\n[Service]\nWatchdogSec=5\n")
    for name in ("lamina-test", "network-online", "local-fs"):
        with open(f"{units}/{name}.target", "w") as file: file.write("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")
    # A control group of its own, so that systemd takes over nobody else's.
    groups = [f"{path}/lamina-test-{os.getpid()}" for path, _, _ in [(f"{CONTROLLERS}/{name}", 0, 0) for name in os.listdir(CONTROLLERS)]
              if os.path.exists(f"{path}/cgroup.procs")] or [f"{CONTROLLERS}/lamina-test-{os.getpid()}"]
    made = []
    for group in groups:
        try:
            os.mkdir(group)
            made.append(group)
        except OSError:
            pass

    def enter():
        for group in made:
            try:
                with open(f"{group}/cgroup.procs", "w") as file: file.write(str(os.getpid()))
            except OSError:
                pass

    log = open(f"{directory}/systemd.log", "wb")
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc", "--propagation", "private",
         "bash", "-c", SETUP, os.path.abspath(__file__), *words],
        stdout=log, stderr=log, preexec_fn=enter, env=dict(os.environ, RESULT=result, SYSTEMD_UNIT_PATH=units))
    end = time.monotonic() + 180
    try:
        while not os.path.exists(result):
            if process.poll() is not None or time.monotonic() > end or (
                    time.monotonic() > end - 150 and not os.path.exists(f"{result}.out")):
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        for group in made:
            for _ in range(50):
                try: os.rmdir(group)
                except OSError:
                    for parent, names, _ in os.walk(group, topdown=False):
                        try: os.rmdir(parent)
                        except OSError: pass
                    time.sleep(0.1)
                else: break
    text = open(f"{result}.out").read() if os.path.exists(f"{result}.out") else ""
    print(text)
    if os.path.exists(result): return int(open(result).read())
    print(open(f"{directory}/systemd.log", errors="replace").read()[-3000:], file=sys.stderr)
    return 77 if "systemd" not in text else 1


def main():
    parser = argparse.ArgumentParser()
    for name in ("lamina", "unit", "image", "directory"): parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--inner", action="store_true")
    options = parser.parse_args()
    if options.inner: return inner(options)
    return outer(options, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
