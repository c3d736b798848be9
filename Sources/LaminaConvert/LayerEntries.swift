import LaminaFormats

/// The rules for what a source's tar may contain, for both kinds of conversion.
struct LayerEntries {
    private let limits: FormatLimits
    private var paths: LayerPaths
    private var entryCount = 0
    /// Of names and attributes.
    private var byteCount = 0

    init(limits: FormatLimits) {
        self.limits = limits
        paths = LayerPaths(limits: limits)
    }

    /// Whether an entry goes to the new layer. It gets the name that it has in an unpacked layer. Landmarks and the table of
    /// contents of an eStargz source do not go there, because the writer adds its own.
    ///
    /// - Throws: `FormatError` for an entry that no layer may have.
    mutating func isKept(_ entry: inout TarEntry) throws(FormatError) -> Bool {
        do throws(FormatError) {
            try add(entry.header)
            guard try paths.place(&entry.header) else { return false }
        } catch {
            var error = error
            error.offset = entry.offset
            throw error
        }
        return !Self.isReserved(Tar.clean(entry.header.name))
    }

    /// Counts an entry, also one with a name that came before.
    private mutating func add(_ header: TarHeader) throws(FormatError) {
        entryCount += 1
        byteCount += header.name.count + header.linkName.count + header.userName.count + header.groupName.count
        for attribute in header.attributes { byteCount += attribute.name.count + attribute.value.count }
        try limits.check(entries: entryCount, bytes: byteCount)
    }

    /// Whether a cleaned name is one that eStargz reserves.
    static func isReserved(_ name: [UInt8]) -> Bool {
        name.elementsEqual(LayerWriter.tocName.utf8)
            || LayerWriter.Landmark.allCases.contains { name.elementsEqual($0.rawValue.utf8) }
    }
}

/// A layer that is converted as it comes, without being stored in between.
///
/// It cannot know yet that a later entry replaces an earlier one. The earlier one's bytes stay in the new layer's tar, where
/// the later one counts as in the old tar, and the writer leaves the earlier one out of the table of contents.
struct StreamedLayer {
    let input: any LayerInput

    func write(to writer: LayerWriter, for conversion: Conversion) throws {
        try writer.append(LayerWriter.Landmark.noPrefetch)
        var reader = TarReader()
        var entries = LayerEntries(limits: conversion.options.limits)
        var isKept = false
        let take: (UnsafeRawBufferPointer) throws -> Void = { bytes in
            var piece = bytes
            while true {
                switch try reader.next(&piece) {
                case .more: return
                case .entry(var entry):
                    isKept = try entries.isKept(&entry)
                    if isKept { try writer.append(entry.header) }
                case .payload(let payload):
                    if isKept { try writer.write(payload) }
                case .zeros(let count):
                    if isKept { try [UInt8](repeating: 0, count: count).withUnsafeBytes { try writer.write($0) } }
                }
            }
        }
        try input.readTar(for: conversion, into: take) { try reader.finish() }
    }
}
