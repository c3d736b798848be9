import Glibc
import LaminaSystem

/// Holds a store for one writing process: flock on `<root>/lock`, whose text names the process.
final class StoreLock: Sendable {
    private let file: File

    /// - Parameter directory: the root, open; without it the store's path is looked up.
    init(root: String, in directory: File? = nil) throws {
        do {
            file = try File(
                directory == nil ? root + "/lock" : "lock", O_RDWR | O_CREAT | O_NOFOLLOW,
                mode: StoreDirectory.fileMode, in: directory)
            guard try file.tryLock() else {
                let text = String(decoding: try file.read(200, at: 0), as: UTF8.self)
                let holder = text.split(separator: "\n").first.map(String.init) ?? "an unknown process"
                throw StoreError(.locked(holder: holder), "the store \(root) is in use by \(holder)")
            }
            let command = Self.commandName()
            let text = Array("\(command), process \(getpid())\n".utf8)
            do {
                try file.truncate(to: Int64(text.count))
                try text.withUnsafeBytes { try file.write($0, at: 0) }
            } catch let error as SystemError where error.code == ENOSPC || error.code == EDQUOT {
                // A process that is kept out gets less information; the lock still works.
            }
        } catch let error as SystemError {
            throw StoreError(.system(error.code), "cannot lock the store \(root)", cause: error)
        }
    }

    private static func commandName() -> String {
        let bytes = (try? readFile("/proc/self/cmdline")) ?? []
        let words = bytes.split(separator: 0).prefix(2).map { String(decoding: $0, as: UTF8.self) }
        let program = words.first.map { $0.split(separator: "/").last.map(String.init) ?? $0 } ?? "lamina"
        return ([program] + words.dropFirst()).joined(separator: " ")
    }
}
