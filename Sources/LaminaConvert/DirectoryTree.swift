import Glibc
import LaminaFormats
import LaminaSystem

/// A directory tree as the entries of a layer, sorted by the bytes of their names, mount points crossed.
///
/// It opens each directory from the one above, so that a path may have any length, and a directory that is replaced by a link
/// meanwhile leads nowhere else.
final class DirectoryTree {
    struct FileID: Hashable {
        var device: UInt64
        var inode: UInt64

        init(_ status: stat) {
            device = UInt64(status.st_dev)
            inode = UInt64(status.st_ino)
        }
    }

    let path: String
    let root: File
    /// The names in the archive of files with several links.
    fileprivate(set) var firstNames: [FileID: [UInt8]] = [:]
    /// The entries that were written before their turn.
    fileprivate(set) var written: Set<[UInt8]> = []
    fileprivate(set) var destination: FileID?

    init(path: String) throws(SystemError) {
        self.path = path
        root = try File(path, O_RDONLY | O_DIRECTORY)
    }

    /// Writes the whole tree, the prioritized files first.
    func write(to writer: LayerWriter, for conversion: Conversion) throws {
        var status = stat()
        if stat(conversion.destination.directory, &status) == 0 { destination = FileID(status) }
        let run = Run(tree: self, writer: writer, conversion: conversion)
        let prioritized = PrioritizedConversion.paths(conversion.options.prioritizedFiles)
        for path in prioritized { try run.writeAhead(path) }
        try writer.append(prioritized.isEmpty ? LayerWriter.Landmark.noPrefetch : .prefetch)
        try run.writeRoot()
        try run.writeChildren(of: root, name: [])
    }

    /// One walk: what its functions share.
    struct Run {
        let tree: DirectoryTree
        let writer: LayerWriter
        let conversion: Conversion
    }
}

extension DirectoryTree.Run {
    func writeRoot() throws {
        guard tree.written.insert([]).inserted else { return }
        try append(tree.root.status(), name: Array("./".utf8), in: tree.root, component: [UInt8(ascii: ".")])
    }

    /// Writes a file and its parents before their turn.
    func writeAhead(_ path: [UInt8]) throws {
        try writeRoot()
        var directory = tree.root
        var name: [UInt8] = []
        let components = path.split(separator: UInt8(ascii: "/")).map(Array.init)
        for (number, component) in components.enumerated() {
            guard let status = try status(of: component, in: directory) else {
                throw ConvertError.missing(path, in: conversion.source)
            }
            let isDirectory = status.st_mode & S_IFMT == S_IFDIR
            guard isDirectory || number == components.count - 1 else {
                throw ConvertError.missing(path, in: conversion.source)
            }
            name += component
            try write(component, name: name, status, in: directory)
            if isDirectory { directory = try open(component, name: name, status, in: directory) }
            name.append(UInt8(ascii: "/"))
        }
    }

    func writeChildren(of directory: File, name: [UInt8]) throws {
        for (component, isDirectory) in try list(directory, name: name) {
            try conversion.checkStop()
            let childName = name + component
            guard let status = try status(of: component, in: directory) else { throw vanished(childName) }
            try write(component, name: childName, status, in: directory)
            if isDirectory, status.st_mode & S_IFMT == S_IFDIR {
                let child = try open(component, name: childName, status, in: directory)
                try writeChildren(of: child, name: childName + [UInt8(ascii: "/")])
            }
        }
    }

    /// Writes one entry, unless it was written before its turn.
    private func write(_ component: [UInt8], name: [UInt8], _ status: stat, in directory: File) throws {
        if tree.written.contains(name) { return }
        tree.written.insertIfAhead(name, of: conversion)
        guard status.st_mode & S_IFMT != S_IFSOCK else {
            conversion.warning("\(display(name)) is a socket, which no layer can hold: left out")
            return
        }
        guard !LayerEntries.isReserved(name) else {
            conversion.warning("\(display(name)) has a name that eStargz keeps for itself: left out")
            return
        }
        if tree.destination == DirectoryTree.FileID(status) {
            throw ConvertError(
                .badReference, "the destination \(conversion.destination) lies in the directory that it is made of")
        }
        try append(status, name: name, in: directory, component: component)
    }

    /// Appends an entry and its payload.
    private func append(_ status: stat, name: [UInt8], in directory: File, component: [UInt8]) throws {
        var header = TarHeader(
            kind: .regular, name: name, mode: status.st_mode & 0o7777, userID: status.st_uid, groupID: status.st_gid,
            modificationTime: .init(
                seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(status.st_mtim.tv_nsec)))
        let place = Array("/proc/self/fd/\(directory.descriptor)/".utf8) + component
        header.attributes = try ExtendedAttributes.read(place, subject: display(name)).map {
            TarHeader.Attribute(name: $0.name, value: $0.value)
        }
        switch status.st_mode & S_IFMT {
        case S_IFDIR: header.kind = .directory
        case S_IFLNK:
            header.kind = .symbolicLink
            header.linkName = try target(of: component, name: name, in: directory)
        case S_IFCHR, S_IFBLK:
            header.kind = status.st_mode & S_IFMT == S_IFCHR ? .characterDevice : .blockDevice
            // The inverse of makedev(3).
            let device = UInt64(status.st_rdev)
            header.deviceMajor = UInt32(truncatingIfNeeded: (device >> 8) & 0xfff | (device >> 32) & 0xffff_f000)
            header.deviceMinor = UInt32(truncatingIfNeeded: device & 0xff | (device >> 12) & 0xffff_ff00)
        case S_IFIFO: header.kind = .fifo
        default: break
        }
        if status.st_nlink > 1, header.kind != .directory {
            let file = DirectoryTree.FileID(status)
            if let first = tree.firstNames[file] {
                header.kind = .hardLink
                header.linkName = first
                header.attributes = []
                try writer.append(header)
                return
            }
            tree.firstNames[file] = name
        }
        guard header.kind == .regular else {
            try writer.append(header)
            return
        }
        try appendFile(&header, status, component, in: directory)
    }

    private func appendFile(
        _ header: inout TarHeader, _ before: stat, _ component: [UInt8], in directory: File
    ) throws {
        let file = try open(component, name: header.name, before, in: directory, flags: O_RDONLY | O_NONBLOCK)
        header.size = Int64(before.st_size)
        try writer.append(header)
        var offset: Int64 = 0
        while offset < header.size {
            try conversion.checkStop()
            var count = 0
            try writer.fill { space in
                // In pieces, so that a stop is noticed while a large chunk is read from a slow disk.
                let piece = UnsafeMutableRawBufferPointer(rebasing: space.prefix(1 << 20))
                count = try file.read(into: piece, at: offset)
                guard count > 0 else { throw changed(header.name) }
                return count
            }
            offset += Int64(count)
            conversion.advance(Int64(count))
        }
        let after = try file.status()
        guard after.st_size == before.st_size, after.st_mtim == before.st_mtim, after.st_ctim == before.st_ctim else {
            throw changed(header.name)
        }
    }
}

extension Set<[UInt8]> {
    /// Remembers a name only if names are written out of turn at all: for a tree of millions they need not be kept.
    fileprivate mutating func insertIfAhead(_ name: [UInt8], of conversion: Conversion) {
        if !conversion.options.prioritizedFiles.isEmpty { insert(name) }
    }
}

extension timespec {
    fileprivate static func == (left: timespec, right: timespec) -> Bool {
        left.tv_sec == right.tv_sec && left.tv_nsec == right.tv_nsec
    }
}
