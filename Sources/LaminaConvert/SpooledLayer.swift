import Glibc
import LaminaFormats
import LaminaSystem

/// A layer whose tar is in an unlinked file, so that its entries can be written in another order.
final class SpooledLayer {
    /// What this layer says about a path of the image.
    enum Standing: Equatable {
        /// The layer holds it, as the entry with this number.
        case here(Int)
        /// The layer removes whatever the layers below hold there.
        case removed
        /// The layer says nothing about it.
        case unsaid
    }

    private let file: File
    /// The bytes of sparse files as they are read, with their holes, one after the other; and where each begins, by its entry.
    private let expanded: (file: File, offsets: [Int: Int64])?
    private var entries: [TarEntry] = []
    private var names = LayerNames()
    private let fates: [LayerNames.Fate]?

    /// Spools a layer.
    ///
    /// - Parameter directory: an existing one with room for the uncompressed tar.
    init(_ input: any LayerInput, in directory: String, for conversion: Conversion) throws {
        let file = try Self.namelessFile(in: directory)
        var entries: [TarEntry] = []
        var names = LayerNames()
        var rules = LayerEntries(limits: conversion.options.limits)
        var reader = TarReader()
        var written: Int64 = 0
        var expanded: (file: File, offsets: [Int: Int64])?
        var (isExpanding, expandedEnd) = (false, Int64(0))
        let take: (UnsafeRawBufferPointer) throws -> Void = { bytes in
            try file.write(bytes, at: written)
            written += Int64(bytes.count)
            var piece = bytes
            while true {
                switch try reader.next(&piece) {
                case .more: return
                case .payload(let bytes):
                    guard isExpanding else { continue }
                    try expanded?.file.write(bytes, at: expandedEnd)
                    expandedEnd += Int64(bytes.count)
                case .zeros(let count):
                    // They stay a hole.
                    if isExpanding { expandedEnd += Int64(count) }
                case .entry(var entry):
                    isExpanding = false
                    guard try rules.isKept(&entry) else { continue }
                    if entry.isSparse {
                        isExpanding = true
                        expanded = try expanded ?? (Self.namelessFile(in: directory), [:])
                        expanded?.offsets[entries.count] = expandedEnd
                    }
                    entries.append(entry)
                    names.add(entry.header)
                }
            }
        }
        try input.readTar(for: conversion, into: take) { try reader.finish() }
        try expanded?.file.truncate(to: expandedEnd)
        self.file = file
        self.expanded = expanded
        self.entries = entries
        self.names = names
        fates = names.fates()
    }

    private static func namelessFile(in directory: String) throws(SystemError) -> File {
        var template = Array("\(directory)/.lamina-spool-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        guard descriptor >= 0 else { throw .last("make a temporary file in", directory) }
        unlink(template)
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        return File(adopting: descriptor, path: directory + "/(temporary file)")
    }

    private func fate(_ entry: Int) -> LayerNames.Fate { fates?[entry] ?? .stays }

    /// What the layer says about a cleaned path.
    func standing(of path: [UInt8]) -> Standing {
        if let entry = names.entry(named: path) {
            return fate(entry) == .replaced ? .removed : .here(entry)
        }
        let slash = UInt8(ascii: "/")
        var parent: ArraySlice<UInt8> = []
        for component in path.split(separator: slash) {
            let prefix = parent.isEmpty ? [] : Array(parent) + [slash]
            // There is a whiteout of the component, or everything in its directory is new
            // (https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts).
            if isThere(prefix + Array(".wh.".utf8) + component) || isThere(prefix + Array(".wh..wh..opq".utf8)) {
                return .removed
            }
            parent = path[..<component.endIndex]
            if let entry = names.entry(named: Array(parent)), fate(entry) != .replaced,
                entries[entry].header.kind != .directory
            {
                return .removed
            }
        }
        return .unsaid
    }

    private func isThere(_ path: [UInt8]) -> Bool {
        names.entry(named: path).map { fate($0) != .replaced } ?? false
    }

    /// Writes the layer: first the prioritized entries with what they need, then the landmark, then the rest in its order.
    func write(to writer: LayerWriter, prioritized: [Int], for conversion: Conversion) throws {
        let first = order(prioritized)
        for entry in first { try write(entry, to: writer, for: conversion) }
        try writer.append(prioritized.isEmpty ? LayerWriter.Landmark.noPrefetch : .prefetch)
        let isWritten = Set(first)
        for entry in entries.indices where fate(entry) != .replaced && !isWritten.contains(entry) {
            try write(entry, to: writer, for: conversion)
        }
    }

    /// The entries with their parent directories and the targets of hard links, each before what needs it.
    private func order(_ prioritized: [Int]) -> [Int] {
        var result: [Int] = []
        var picked: Set<Int> = []
        func pick(_ entry: Int) {
            if picked.insert(entry).inserted { result.append(entry) }
        }
        for entry in prioritized {
            // From the link to its target; a cycle ends at the first that comes again.
            var chain: [Int] = []
            var seen: Set<Int> = []
            var next: Int? = entry
            while let current = next, !picked.contains(current), seen.insert(current).inserted {
                chain.append(current)
                next = linkTarget(of: current)
            }
            for link in chain.reversed() {
                for parent in parents(of: link) { pick(parent) }
                pick(link)
            }
        }
        return result
    }

    private func parents(of entry: Int) -> [Int] {
        let name = names.name(of: entry)
        var result: [Int] = []
        if let root = names.entry(named: []), root != entry { result.append(root) }
        for index in name.indices where name[index] == UInt8(ascii: "/") {
            if let parent = names.entry(named: Array(name[..<index])), fate(parent) != .replaced {
                result.append(parent)
            }
        }
        return result
    }

    private func linkTarget(of entry: Int) -> Int? {
        guard entries[entry].header.kind == .hardLink else { return nil }
        switch fate(entry) {
        case .linksTo(let target): return target
        case .becomes, .replaced: return nil
        case .stays:
            let target = names.entry(named: Tar.clean(entries[entry].header.linkName))
            return target.flatMap { fate($0) == .replaced ? nil : $0 }
        }
    }

    private func write(_ number: Int, to writer: LayerWriter, for conversion: Conversion) throws {
        var entry = entries[number]
        var source = number
        switch fate(number) {
        case .linksTo(let target): entry.header.linkName = entries[target].header.name
        case .becomes(let other):
            let name = entry.header.name
            entry = entries[other]
            entry.header.name = name
            source = other
        case .stays, .replaced: break
        }
        try writer.append(entry.header)
        let sparse = expanded?.offsets[source]
        let file = sparse == nil ? self.file : expanded?.file ?? self.file
        var offset = sparse ?? entry.payloadOffset
        let end = offset + entry.header.size
        while offset < end {
            try conversion.checkStop()
            try writer.fill { space in
                let count = try file.read(into: space, at: offset)
                guard count > 0 else {
                    throw SystemError(code: EIO, operation: "read", subject: file.path)
                }
                offset += Int64(count)
                return count
            }
        }
    }
}
