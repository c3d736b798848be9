import CLinux
import Glibc

/// What a process finds when it is started: its starter may have left it little.
public enum ProcessStart {
    /// Fewer descriptors than this are few for a server: each file that is open in passthrough mode takes one.
    public static let wantedDescriptors: UInt64 = 4096
    /// With less memory than this, in bytes, some thread of a server does not start: each takes its stack and an arena from the
    /// address space, but touches little of them.
    public static let wantedMemory: UInt64 = 2 << 30
    /// With less address space than this a server is not started: libdispatch would wait for ever for a thread that it does not
    /// get.
    public static let leastAddressSpace: UInt64 = 512 << 20

    /// Prepares the process for its work, before its first thread starts and before it opens anything.
    ///
    /// - Closed standard descriptors lead to /dev/null.
    /// - Soft limits of open files, the size of files and memory are raised to the hard ones. Soft limits are for programs that
    ///   use select(2), or that a user wants to limit; the hard limits still apply. A hard limit is raised only if it is too low
    ///   to work with, and this process may raise it.
    /// - If a file may not grow any more (`ulimit -f`), the call fails (EFBIG), and the process does not end.
    public static func prepare() {
        // Without /dev/null there is nothing to open; nothing is lost that was not lost before.
        _ = lamina_occupy_standard_descriptors()
        _ = lamina_raise_limit(lamina_rlimit_files, wantedDescriptors)
        _ = lamina_raise_limit(lamina_rlimit_file_size, 0)
        for resource in [lamina_rlimit_address_space, lamina_rlimit_data] {
            _ = lamina_raise_limit(resource, wantedMemory)
        }
        _ = signal(SIGXFSZ, SIG_IGN)
    }

    /// Has what a server makes be its own, whatever its starter's mask was. What others are to see is given its mode by who makes it.
    public static func setServerMask() { umask(0o077) }
}

/// Standard output.
public enum StandardOutput {
    /// Writes out what was printed so far.
    ///
    /// - Throws: what failed, also for what was printed earlier: for example a full disk.
    public static func flush() throws(SystemError) {
        let error = lamina_flush_output()
        guard error == 0 else {
            throw SystemError(code: error, operation: "write error at", subject: "standard output")
        }
    }
}
