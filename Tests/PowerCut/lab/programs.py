"""Starting programs."""

import os
import subprocess

# The sources are beside this package.
SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# No command takes this long unless it hangs.
PATIENCE = 180


class Failed(Exception):
    """A program of the laboratory itself did not do what it must."""


class NoDisk(Failed):
    """The file system cannot mount what a cut has left: ext4's superblock torn at 512 bytes, for one. That is its own matter."""


class Hangs(Exception):
    """A command did not end in time."""


def run(*command, check=True, timeout=PATIENCE, **options):
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, **options)
    except subprocess.TimeoutExpired as error:
        raise Hangs(f"{' '.join(command[:4])} does not end in {timeout} s") from error
    if check and done.returncode:
        raise Failed(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done


def last_words(done):
    """How a command ended, in a line."""
    words = (done.stderr.strip() or done.stdout.strip())[-400:].replace("\n", " / ")
    return f"exit code {done.returncode}, {words}"


class Tools:
    """The programs in C, made when they are first needed."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)

    @property
    def recorder(self):
        flags = run("pkg-config", "--cflags", "--libs", "fuse3").stdout.split()
        return self._make("recorder", ["-D_FILE_OFFSET_BITS=64"], flags)

    @property
    def failcall(self):
        return self._make("failcall")

    def _make(self, name, flags=(), libraries=()):
        source, program = os.path.join(SOURCES, name + ".c"), os.path.join(self.directory, name)
        if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
            run("cc", "-O2", "-Wall", "-Wextra", *flags, source, "-o", program + ".new", *libraries)
            os.rename(program + ".new", program)
        return program
