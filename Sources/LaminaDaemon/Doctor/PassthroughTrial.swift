import Glibc
import LaminaFUSE
import LaminaSystem

/// Really tries passthrough: mounts a file system of one file, opens the file in passthrough mode, reads it, and checks whether
/// the kernel read it itself. Leaves nothing behind.
struct PassthroughTrial {
    enum Outcome: Equatable {
        case works
        /// FUSE works, passthrough does not; the reason.
        case withoutPassthrough(String)
        /// Not even FUSE works; the reason.
        case fails(String)
    }

    /// The directory for the scratch mount and its backing file: the store's, because passthrough depends on its file system.
    let directory: String
    private let resend = Monitor<Bool?>(nil)

    init(directory: String) { self.directory = directory }

    /// Whether the kernel sends requests again that a dead server had read; nil if no mount could be made.
    var canResend: Bool? { resend.withLock { $0 } }

    /// Exactly this must be read.
    private static let text = Array("lamina\n".utf8)

    /// Blocks; some milliseconds.
    func run() -> Outcome {
        var template = Array("\(directory)/.lamina-doctor-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            return .fails("no scratch directory in \(directory): \(SystemError.text(of: errno))")
        }
        let scratch = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { rmdir(scratch) }
        let mountPoint = scratch + "/mount"
        let backingPath = scratch + "/file"
        defer { rmdir(mountPoint) }
        defer { unlink(backingPath) }
        do {
            try createDirectories(mountPoint)
            let backing = try File(backingPath, O_RDWR | O_CREAT | O_EXCL)
            try Self.text.withUnsafeBytes { try backing.write($0, at: 0) }
            return try trial(at: mountPoint, backing)
        } catch {
            return .fails("\(error)")
        }
    }

    private func trial(at mountPoint: String, _ backing: File) throws -> Outcome {
        let handler = OneFile()
        var configuration = FUSEConfiguration()
        configuration.threadCount = 1
        configuration.allowsOtherUsers = false
        let session = try FUSESession(configuration: configuration, handler: handler)
        try session.start(at: mountPoint)
        resend.withLock { $0 = session.canResend }
        let outcome = attempt(session, handler, mountPoint, backing)
        handler.backing.withLock { $0 = nil }
        do {
            try session.stop()
        } catch {
            return .fails("the scratch mount cannot be ended: \(error)")
        }
        return outcome
    }

    private func attempt(_ session: FUSESession, _ handler: OneFile, _ mountPoint: String, _ backing: File) -> Outcome {
        if case .unavailable(let reason) = session.passthrough { return .withoutPassthrough("\(reason)") }
        let registered: BackingID
        do {
            registered = try session.registerBacking(backing.descriptor)
        } catch {
            return .withoutPassthrough(Self.explain(error))
        }
        handler.backing.withLock { $0 = registered }
        do {
            let file = try File(mountPoint + "/" + OneFile.name, O_RDONLY)
            guard try file.read(64, at: 0) == Self.text else { return .withoutPassthrough("it gave wrong bytes") }
        } catch {
            return .withoutPassthrough("reading through it failed: \(error)")
        }
        let reads = session.requestCount(.read)
        return reads == 0
            ? .works : .withoutPassthrough("the kernel asked for \(counted(Int(clamping: reads), "read")) all the same")
    }

    private static func explain(_ error: SystemError) -> String {
        switch error.code {
        case EPERM: "CAP_SYS_ADMIN is missing"
        case ELOOP: "the store's file system is stacked itself (overlayfs, FUSE)"
        case EOPNOTSUPP: "the store's file system cannot stand behind it"
        case ENOTTY, EINVAL: "the kernel does not know it"
        default: "\(error)"
        }
    }
}

/// A file system with one file, which is opened in passthrough mode.
private final class OneFile: FUSEHandler {
    static let name = "file"
    private static let root: UInt64 = 1
    private static let file: UInt64 = 2

    let backing = Monitor<BackingID?>(nil)

    private func attributes(_ node: UInt64) -> FUSEAttributes {
        node == Self.root
            ? FUSEAttributes(node: Self.root, mode: S_IFDIR | 0o755, linkCount: 2)
            : FUSEAttributes(node: Self.file, mode: S_IFREG | 0o444, size: 7)
    }

    func lookup(parent: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming EntryReply) {
        guard parent == Self.root, name.elementsEqual(Self.name.utf8) else { return reply.error(ENOENT) }
        reply.entry(attributes(Self.file))
    }

    func getattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeReply) {
        reply.attributes(attributes(node))
    }

    func readlink(node: UInt64, thread: FUSEThread, reply: consuming DataReply) { reply.error(EINVAL) }

    func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply) {
        guard let backing = backing.withLock({ $0 }) else { return reply.error(EIO) }
        reply.passthrough(backing, handle: 0)
    }

    func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply
    ) {
        // The session counts it; it has no other purpose.
        reply.error(EIO)
    }

    func release(node: UInt64, handle: UInt64, thread: FUSEThread) {}

    func readdir(node: UInt64, offset: Int64, thread: FUSEThread, reply: consuming DirectoryReply) {
        reply.entries(DirectoryEntries(size: 0, isPlus: reply.isPlus))
    }

    func getxattr(
        node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming AttributeValueReply
    ) { reply.error(ENODATA) }

    func listxattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeValueReply) {
        reply.value(UnsafeRawBufferPointer(start: nil, count: 0))
    }

    func statfs(node: UInt64, thread: FUSEThread, reply: consuming StatisticsReply) {
        reply.statistics(FUSEFilesystemStatistics())
    }
}
