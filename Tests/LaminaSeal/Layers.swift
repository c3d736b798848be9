import CLinux
import Foundation
import Glibc
import LaminaSeal
import LaminaSystem

/// One path of a test layer. Parents come before what they hold; the empty path is the layer's root.
struct Entry {
    enum Kind {
        case directory
        case opaqueDirectory
        case file([UInt8])
        /// This many bytes, which are not there.
        case hole(Int64)
        case symlink([UInt8])
        case device(UInt32, UInt32, UInt32)
        case fifo
        case socket
        case whiteout
        /// One more name of the file at this path of the layer.
        case link([UInt8])
    }

    var path: [UInt8]
    var kind: Kind
    var permissions: UInt32 = 0o644
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    var seconds: Int64 = 1_700_000_000
    var nanoseconds: UInt32 = 0
    var attributes: [(name: String, value: [UInt8])] = []

    init(
        _ path: String, _ kind: Kind, _ permissions: UInt32? = nil, uid: UInt32 = 0, gid: UInt32 = 0,
        seconds: Int64 = 1_700_000_000, nanoseconds: UInt32 = 0, attributes: [(name: String, value: [UInt8])] = []
    ) {
        self.init(
            bytes: Array(path.utf8), kind, permissions, uid: uid, gid: gid, seconds: seconds, nanoseconds: nanoseconds,
            attributes: attributes)
    }

    init(
        bytes path: [UInt8], _ kind: Kind, _ permissions: UInt32? = nil, uid: UInt32 = 0, gid: UInt32 = 0,
        seconds: Int64 = 1_700_000_000, nanoseconds: UInt32 = 0, attributes: [(name: String, value: [UInt8])] = []
    ) {
        self.path = path
        self.kind = kind
        self.permissions = permissions ?? (kind.isDirectory ? 0o755 : 0o644)
        self.uid = uid
        self.gid = gid
        self.seconds = seconds
        self.nanoseconds = nanoseconds
        self.attributes = attributes
    }

    var parent: [UInt8] { Array(path[..<(path.lastIndex(of: UInt8(ascii: "/")) ?? 0)]) }
    var name: [UInt8] { Array(path[(path.lastIndex(of: UInt8(ascii: "/")).map { $0 + 1 } ?? 0)...]) }
}

extension Entry.Kind {
    var isDirectory: Bool {
        switch self {
        case .directory, .opaqueDirectory: true
        default: false
        }
    }
}

/// A directory of a test with a chain in two forms: rows and contents for an image, and directories for overlayfs.
final class Chain {
    let directory: String
    private(set) var rows = ChainRows()
    private(set) var roots: [Int64] = []
    private(set) var layerCount = 0

    /// On the disk and not in memory: tmpfs does not have user xattrs on every kernel.
    init(_ layers: [[Entry]]) throws {
        directory = "/tmp/lamina-seal-\(UUID().uuidString)"
        for name in ["content", "names", "sealed", "plain", "work"] { try createDirectories("\(directory)/\(name)") }
        try index(layers)
        for layer in layers { try unpack(layer) }
    }

    deinit {
        for name in ["sealed", "plain", "names"] {
            while (try? Mount.unmount("\(directory)/\(name)", detach: true)) != nil {}
        }
        try? DirectoryTree.remove(directory)
    }

    // MARK: As rows

    private func index(_ layers: [[Entry]]) throws {
        var next: Int64 = 10
        var names: [(parent: Int64, name: [UInt8], inode: Int64)] = []
        var attributes: [(inode: Int64, name: [UInt8], value: [UInt8])] = []
        var contents = 0
        for layer in layers {
            var numbers: [[UInt8]: Int64] = [:]
            var links: [[UInt8]: UInt32] = [:]
            for entry in layer { if case .link(let of) = entry.kind { links[of, default: 1] += 1 } }
            roots.append(next)
            for entry in layer {
                if case .link(let of) = entry.kind {
                    names.append((numbers[entry.parent] ?? 0, entry.name, numbers[of] ?? 0))
                    continue
                }
                numbers[entry.path] = next
                if !entry.path.isEmpty { names.append((numbers[entry.parent] ?? 0, entry.name, next)) }
                var inode = SealedInode(
                    mode: entry.permissions, uid: entry.uid, gid: entry.gid, linkCount: links[entry.path] ?? 1,
                    device: 0, size: 0, seconds: entry.seconds, nanoseconds: entry.nanoseconds)
                var bytes: [UInt8]?
                switch entry.kind {
                case .directory, .opaqueDirectory: inode.mode |= 0o040000
                case .file(let data):
                    inode.mode |= 0o100000
                    inode.size = Int64(data.count)
                    contents += 1
                    let path = "c\(contents % 8)/content-\(contents)"
                    try createDirectories("\(directory)/content/c\(contents % 8)")
                    try Data(data).write(to: URL(filePath: "\(directory)/content/\(path)"))
                    if !data.isEmpty { bytes = Array(path.utf8) }
                case .hole(let size):
                    inode.mode |= 0o100000
                    inode.size = size
                    contents += 1
                    try File("\(directory)/content/\(contents)", O_CREAT | O_WRONLY).truncate(to: size)
                    bytes = Array("\(contents)".utf8)
                case .symlink(let target):
                    inode.mode = 0o120777
                    inode.size = Int64(target.count)
                    bytes = target
                case .device(let type, let major, let minor):
                    inode.mode |= type
                    inode.device = minor & 0xFF | major << 8 | (minor & 0xFFF00) << 12
                case .fifo: inode.mode |= 0o010000
                case .socket: inode.mode |= 0o140000
                case .whiteout: inode.mode = 0o020000
                case .link: break
                }
                if let bytes {
                    try bytes.withUnsafeBytes { try rows.addInode(next, inode, bytes: $0) }
                } else {
                    try rows.addInode(next, inode, bytes: nil)
                }
                if case .opaqueDirectory = entry.kind {
                    attributes.append((next, Array("trusted.overlay.opaque".utf8), [UInt8(ascii: "y")]))
                    attributes.append((next, Array("user.overlay.opaque".utf8), [UInt8(ascii: "y")]))
                }
                for (name, value) in entry.attributes { attributes.append((next, Array(name.utf8), value)) }
                next += 1
            }
            // The next layer's numbers do not directly follow this one's.
            next += 5
        }
        names.sort { left, right in
            left.parent != right.parent
                ? left.parent < right.parent : left.name.lexicographicallyPrecedes(right.name)
        }
        for entry in names {
            try entry.name.withUnsafeBytes {
                try rows.addEntry(parent: entry.parent, name: $0, inode: entry.inode)
            }
        }
        for entry in attributes {
            try entry.name.withUnsafeBytes { name in
                try entry.value.withUnsafeBytes { value in
                    try rows.addAttribute(inode: entry.inode, name: name, value: value)
                }
            }
        }
    }

    // MARK: As directories

    private func unpack(_ layer: [Entry]) throws {
        let root = "\(directory)/layer\(layerCount)"
        layerCount += 1
        for entry in layer {
            let path = Array(root.utf8) + (entry.path.isEmpty ? [] : [UInt8(ascii: "/")] + entry.path)
            try make(entry, at: path.map { CChar(bitPattern: $0) } + [0], root)
        }
        // The times last: putting something into a directory changes them.
        for entry in layer.reversed() {
            if case .link = entry.kind { continue }
            let path = Array(root.utf8) + (entry.path.isEmpty ? [] : [UInt8(ascii: "/")] + entry.path)
            var times = [timespec(), timespec()]
            for index in 0..<2 {
                times[index].tv_sec = Int(entry.seconds)
                times[index].tv_nsec = Int(entry.nanoseconds)
            }
            utimensat(AT_FDCWD, path.map { CChar(bitPattern: $0) } + [0], times, AT_SYMLINK_NOFOLLOW)
        }
    }

    private func make(_ entry: Entry, at path: [CChar], _ root: String) throws {
        func check(_ result: Int32) throws {
            guard result == 0 else { throw SystemError.last("make", String(decoding: entry.path, as: UTF8.self)) }
        }
        switch entry.kind {
        case .directory, .opaqueDirectory: try check(mkdir(path, 0o755))
        case .file(let data):
            let fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o644)
            guard fd >= 0 else { throw SystemError.last("make", "a file") }
            try data.withUnsafeBytes { try check($0.count == Glibc.write(fd, $0.baseAddress, $0.count) ? 0 : -1) }
            close(fd)
        case .hole(let size):
            let fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o644)
            try check(ftruncate(fd, off_t(size)))
            close(fd)
        case .symlink(let target):
            try check(symlink(target.map { CChar(bitPattern: $0) } + [0], path))
        case .device(let type, let major, let minor):
            try check(mknod(path, type | 0o644, dev_t(minor & 0xFF | major << 8 | (minor & 0xFFF00) << 12)))
        case .fifo: try check(mknod(path, 0o010644, 0))
        case .socket: try check(mknod(path, 0o140644, 0))
        case .whiteout: try check(mknod(path, 0o020000, 0))
        case .link(let of):
            let target = Array("\(root)/".utf8) + of
            return try check(link(target.map { CChar(bitPattern: $0) } + [0], path))
        }
        try check(lchown(path, entry.uid, entry.gid))
        if case .symlink = entry.kind { return }
        try check(chmod(path, entry.permissions))
        for (name, value) in entry.attributes { try set(name, value, path) }
        if case .opaqueDirectory = entry.kind { try set("trusted.overlay.opaque", [UInt8(ascii: "y")], path) }
    }

    private func set(_ name: String, _ value: [UInt8], _ path: [CChar]) throws {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/setfattr")
        let given = value.isEmpty ? [] : ["-v", "0s" + Data(value).base64EncodedString()]
        process.arguments = ["-h", "-n", name] + given + [text(path)]
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw SystemError.last("set \(name) of", text(path)) }
    }

    // MARK: Mounting

    static let identity = [UInt8](0..<16)

    @discardableResult
    func write(sharesNamePrefix: Bool = true, to name: String = "image") throws -> SealedImage {
        var options = SealedImage.Options(identity: Self.identity)
        options.sharesNamePrefix = sharesNamePrefix
        let image = try SealedImage(rows, roots: roots, options: options)
        let fd = open("\(directory)/\(name)", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o644)
        defer { close(fd) }
        try image.write { bytes in
            guard Glibc.write(fd, bytes.baseAddress, bytes.count) == bytes.count else {
                throw SystemError.last("write", name)
            }
        }
        return image
    }

    @discardableResult
    func mountSealed(
        _ way: SealedMount.Way = .init(backing: .file, saysMetacopy: false, form: .overlay)
    ) throws -> String {
        try SealedMount.mount(
            .init(base: directory, image: "image", content: "content", names: "names"), at: "\(directory)/sealed",
            source: "lamina-test", way: way)
    }

    /// overlayfs over directories, as containerd mounts what it has unpacked.
    func mountPlain() throws {
        let lower = (0..<layerCount).reversed().map { "layer\($0)" } + ["work"]
        try Mount.mount(
            type: "overlay", source: "lamina-test", at: "\(directory)/plain", flags: .readOnly,
            data: "lowerdir=\(lower.joined(separator: ":"))", relativeTo: directory)
    }
}

/// Everything that lstat(2), readlink(2), listxattr(2) and read(2) say about a tree, a line for each path.
func walk(_ root: String) throws -> [String] {
    var lines: [String] = []
    var inodes: [UInt64: Int] = [:]
    var pending: [[UInt8]] = [[]]
    while let path = pending.popLast() {
        let whole = Array(root.utf8) + (path.isEmpty ? [] : [UInt8(ascii: "/")]) + path
        let terminated = whole.map { CChar(bitPattern: $0) } + [0]
        var status = stat()
        guard lstat(terminated, &status) == 0 else {
            // overlayfs lists the whiteouts of a directory that only one layer has, but finds nothing by their names.
            if errno == ENOENT { continue }
            throw SystemError.last("look at", "\(path)")
        }
        let type = status.st_mode & S_IFMT
        var line = path.map { $0 > 32 && $0 < 127 ? String(UnicodeScalar($0)) : "\\\($0)" }.joined()
        line += " mode \(String(status.st_mode, radix: 8)) \(status.st_uid):\(status.st_gid)"
        line += " time \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
        if type != S_IFDIR {
            // Names of one inode are shown with the first of them.
            let first = inodes[UInt64(status.st_ino)] ?? lines.count
            inodes[UInt64(status.st_ino)] = first
            line += " size \(status.st_size) links \(status.st_nlink) rdev \(status.st_rdev) first \(first)"
        }
        if type == S_IFLNK {
            var target = [CChar](repeating: 0, count: 5000)
            let count = readlink(terminated, &target, target.count)
            line += " to \(target.prefix(max(0, count)).map { UInt8(bitPattern: $0) })"
        }
        for attribute in try ExtendedAttributes.read(whole, subject: "a file") {
            line += " \(String(decoding: attribute.name, as: UTF8.self))=\(attribute.value)"
        }
        if type == S_IFREG, status.st_size <= 1 << 20 {
            line += " bytes \(try contents(terminated).hashValue)"
        }
        lines.append(line)
        if type == S_IFDIR {
            pending += try names(in: terminated).reversed().map { path.isEmpty ? $0 : path + [47] + $0 }
        }
    }
    return lines
}

private func contents(_ path: [CChar]) throws -> Data {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw SystemError.last("open", text(path)) }
    return try FileHandle(fileDescriptor: file, closeOnDealloc: true).readToEnd() ?? Data()
}

func names(in path: [CChar]) throws -> [[UInt8]] {
    guard let directory = opendir(path) else { throw SystemError.last("list", text(path)) }
    defer { closedir(directory) }
    var names: [[UInt8]] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: UInt8.self, capacity: 256) {
                Array(UnsafeBufferPointer(start: $0, count: strlen($0)))
            }
        }
        if name != [46], name != [46, 46] { names.append(name) }
    }
    return names.sorted { $0.lexicographicallyPrecedes($1) }
}

/// Runs a program; returns what it prints and its status.
func run(_ program: String, _ arguments: [String]) throws -> (text: String, status: Int32) {
    let process = Process()
    let pipe = Pipe()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = [program] + arguments
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (String(decoding: data, as: UTF8.self), process.terminationStatus)
}

/// A path without its terminating zero, for people and programs.
private func text(_ path: [CChar]) -> String {
    String(decoding: path.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
