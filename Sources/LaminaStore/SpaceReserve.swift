import Glibc
import LaminaSQLite
import LaminaSystem

/// A file that only takes space, for a full disk: making room first writes to the index's log, which needs some.
final class SpaceReserve: Sendable {
    /// How much the transaction that gives up a large image writes, in bytes.
    private static let wanted: Int64 = 8 << 20
    /// The reserve takes at most one part in this many of the free space.
    private static let share: Int64 = 64
    private static let least: Int64 = 256 << 10

    /// How much opening the index needs on a full disk: the log's index, and a few pages.
    static let opening: Int64 = 128 << 10

    private let path: String
    private let file: Monitor<File?>

    init(root: String) {
        path = root + "/reserve"
        file = Monitor(try? File(path, O_RDWR))
    }

    /// Takes the space, if there is plenty. If there is not, the store works without it.
    func refill() {
        file.withLock { file in
            file = file ?? (try? File(path, O_RDWR | O_CREAT))
            guard let file, (try? file.size()) == 0 else { return }
            var statistics = statvfs()
            guard fstatvfs(file.descriptor, &statistics) == 0 else { return }
            let free = Int64(clamping: UInt64(statistics.f_bavail) &* UInt64(statistics.f_frsize))
            let size = min(Self.wanted, free / Self.share) & ~4095
            guard size >= Self.least else { return }
            if posix_fallocate(file.descriptor, 0, off_t(size)) != 0 { try? file.truncate(to: 0) }
        }
    }

    private static func isFull(_ error: any Error) -> Bool {
        switch error {
        case let error as SQLiteError: error.isFull
        case let error as StoreError: error.code == .system(ENOSPC)
        default: false
        }
    }

    /// Runs `body`, which makes room or is needed for that; if the disk is full, it runs again with space from the reserve.
    ///
    /// - Parameter bytes: how much of it; by default all.
    func lending<Result>(_ bytes: Int64 = .max, _ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch  where Self.isFull(error) {
            let isLent = file.withLock { file in
                guard let file, let size = try? file.size(), size > 0 else { return false }
                return (try? file.truncate(to: max(0, size - bytes))) != nil
            }
            guard isLent else { throw error }
            return try body()
        }
    }
}

/// Now, in milliseconds since 1970. Takes some nanoseconds, because it is only as exact as the kernel's tick.
func millisecondsSince1970() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return Int64(now.tv_sec) * 1000 + Int64(now.tv_nsec) / 1_000_000
}
