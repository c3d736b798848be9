import CLinux
import Glibc

/// What the kernel says about this process (proc_pid_stat(5), proc_pid_fd(5)); nil if it does not say it.
public enum ProcessFacts {
    /// Resident memory and address space, in bytes.
    public static var memory: (resident: Int64, virtual: Int64)? {
        // statm counts pages.
        guard let bytes = try? readFile("/proc/self/statm") else { return nil }
        let pages = String(decoding: bytes, as: UTF8.self).split(separator: " ").compactMap { Int64($0) }
        let page = Int64(sysconf(Int32(_SC_PAGESIZE)))
        return pages.count > 1 ? (pages[1] * page, pages[0] * page) : nil
    }

    /// Open descriptors. It has to list a directory, which itself takes a descriptor.
    public static var openDescriptorCount: Int? {
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count = 0
        while let entry = readdir(directory) {
            if entry.pointee.d_name.0 != CChar(UInt8(ascii: ".")) { count += 1 }
        }
        return count - 1
    }

    /// How many descriptors there may be.
    public static var descriptorLimit: UInt64? {
        var limit = rlimit()
        return getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 ? UInt64(limit.rlim_cur) : nil
    }

    /// How many bytes its address space, or the writable part of it, may have (`ulimit -v`, `ulimit -d`); nil without a limit.
    public static var memoryLimit: UInt64? {
        [addressSpaceLimit, limit(lamina_rlimit_data)].compactMap { $0 }.min()
    }

    /// How many bytes its address space may have (`ulimit -v`); nil without a limit.
    public static var addressSpaceLimit: UInt64? { limit(lamina_rlimit_address_space) }

    private static func limit(_ resource: Int32) -> UInt64? {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(UInt32(resource)), &limit) == 0, limit.rlim_cur != rlim_t.max else {
            return nil
        }
        return UInt64(limit.rlim_cur)
    }

    /// Processor time in seconds, including that of the kernel on its behalf.
    public static var processorSeconds: Double? {
        var time = timespec()
        guard clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return nil }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
