import LaminaFormats

/// The rules for what a source's tar may hold, whichever way it is converted.
struct LayerEntries {
    private var paths = LayerPaths()

    /// Whether an entry goes to the new layer, under the name that it is given here: where an unpacked layer has it. Landmarks and
    /// the table of contents of an eStargz source do not, as the writer adds its own.
    ///
    /// - Throws: `FormatError` for an entry that no layer may have.
    mutating func isKept(_ entry: inout TarEntry) throws(FormatError) -> Bool {
        do throws(FormatError) {
            guard try paths.place(&entry.header) else { return false }
        } catch {
            var error = error
            error.offset = entry.offset
            throw error
        }
        return !Self.isReserved(Tar.clean(entry.header.name))
    }

    /// Whether a cleaned name is one of those that eStargz keeps for itself.
    static func isReserved(_ name: [UInt8]) -> Bool {
        name.elementsEqual(LayerWriter.tocName.utf8)
            || LayerWriter.Landmark.allCases.contains { name.elementsEqual($0.rawValue.utf8) }
    }
}

/// A layer that is converted as it comes, without being stored in between.
///
/// An entry that a later one replaces cannot be known yet: its bytes stay in the new layer's tar, where the later one wins as
/// in the old tar, and the writer leaves it out of the table of contents.
struct StreamedLayer {
    let input: any LayerInput

    func write(to writer: LayerWriter, for conversion: Conversion) throws {
        try writer.append(LayerWriter.Landmark.noPrefetch)
        var reader = TarReader()
        var entries = LayerEntries()
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
