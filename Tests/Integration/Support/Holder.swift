import Glibc
import LaminaSystem

/// A process in its own mount namespace, which has what was mounted when the namespace was made.
struct Holder {
    /// How it comes to see the mount: whether mounts propagate from its namespace and to it, and what its root is.
    enum Way: String, CaseIterable {
        case `private`, slave, shared, chroot, pivot, bind
    }

    /// `WAY MOUNT BASE`: prints "ready"; when there is a file BASE/go.NAME it reads all that is in the mount, and prints how
    /// many files; when there is BASE/end.NAME it ends. NAME is a fourth word. The base stays reachable whatever happens to the
    /// root.
    private static let script = """
        import ctypes, os, platform, sys, time
        way, mount, base, name = sys.argv[1:5]
        libc = ctypes.CDLL(None, use_errno=True)
        def check(result):
            if result != 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        NEWNS, REC, PRIVATE, SLAVE, SHARED, BIND, DETACH = 0x20000, 16384, 1 << 18, 1 << 19, 1 << 20, 4096, 2
        base_fd = os.open(base, os.O_RDONLY)
        check(libc.unshare(NEWNS))
        kind = {"slave": SLAVE, "shared": SHARED}.get(way, PRIVATE)
        if way != "shared": check(libc.mount(None, b"/", None, REC | kind, None))
        root = mount
        if way == "chroot":
            os.chroot(mount)
            root = "/"
        elif way == "pivot":
            os.chdir(mount)
            check(libc.syscall({"aarch64": 41}.get(platform.machine(), 155), b".", b"."))
            check(libc.umount2(b".", DETACH))
            root = "/"
        elif way == "bind":
            root = base + "/bound." + name
            os.makedirs(root, exist_ok=True)
            check(libc.mount(mount.encode(), root.encode(), None, BIND, None))
            check(libc.umount2(mount.encode(), DETACH))
        os.chdir("/")
        print("ready", flush=True)
        def wait(what):
            while True:
                try: return os.stat(f"{what}.{name}", dir_fd=base_fd)
                except FileNotFoundError: time.sleep(0.01)
        def fail(error): raise error
        wait("go")
        count = 0
        for directory, _, files in os.walk(root, onerror=fail):
            for file in files:
                path = os.path.join(directory, file)
                if os.path.islink(path) or not os.path.isfile(path): continue
                with open(path, "rb") as opened: opened.read()
                count += 1
        print("read", count, flush=True)
        wait("end")
        """

    let child: Child
    private let sandbox: Sandbox
    private let name: String

    /// Starts one, and waits until it has the mount.
    init(_ way: Way, of mount: String, in sandbox: Sandbox, name: String = "one") throws {
        self.sandbox = sandbox
        self.name = name
        child = try sandbox.startProgram(["python3", "-c", Self.script, way.rawValue, mount, sandbox.directory, name])
        let process = child
        guard eventually(seconds: 60, { process.outputSoFar.hasPrefix("ready") || !process.isRunning }), child.isRunning
        else {
            throw Outcome.Failed(description: "a process has no mount namespace\n\(child.wait())")
        }
    }

    /// Has it read all that it sees: returns how many files.
    func read() throws -> Int {
        try write([], to: "\(sandbox.directory)/go.\(name)")
        let process = child
        guard eventually(seconds: 60, { process.outputSoFar.contains("read ") || !process.isRunning }), child.isRunning
        else {
            throw Outcome.Failed(description: "what is mounted elsewhere cannot be read\n\(child.wait())")
        }
        return process.outputSoFar.split(separator: " ").last.flatMap { Int($0.prefix { $0.isNumber }) } ?? 0
    }

    /// Ends it, and with it its namespace.
    func end() throws {
        try write([], to: "\(sandbox.directory)/end.\(name)")
        child.wait(seconds: 60)
    }
}
