import LaminaFormats
import LaminaOCI

/// Converts the layers of an image with some files at the front: from the top layer down, because a file belongs to the last
/// layer that holds it.
struct PrioritizedConversion {
    let conversion: Conversion
    let inputs: [any LayerInput]
    let layout: OCILayoutWriter

    func run() throws -> [WrittenLayer] {
        var wanted = Self.paths(conversion.options.prioritizedFiles)
        var layers: [WrittenLayer] = []
        for (number, input) in inputs.enumerated().reversed() {
            conversion.at(layer: number)
            guard !wanted.isEmpty else {
                layers.append(
                    try conversion.write(to: layout, of: input) {
                        try StreamedLayer(input: input).write(to: $0, for: conversion)
                    })
                continue
            }
            let spool: SpooledLayer
            do {
                spool = try SpooledLayer(input, in: layout.directory, for: conversion)
            } catch {
                throw conversion.naming(input, error)
            }
            var here: [Int] = []
            var missing: [[UInt8]] = []
            wanted.removeAll { path in
                switch spool.standing(of: path) {
                case .here(let entry): here.append(entry)
                case .removed: missing.append(path)
                case .unsaid: return false
                }
                return true
            }
            if number == 0 { missing += wanted }
            try check(missing)
            layers.append(
                try conversion.write(to: layout, of: input) {
                    try spool.write(to: $0, prioritized: here, for: conversion)
                })
        }
        try check(inputs.isEmpty ? wanted : [])
        return layers.reversed()
    }

    /// The paths, cleaned, each once.
    static func paths(_ prioritized: [[UInt8]]) -> [[UInt8]] {
        var seen: Set<[UInt8]> = []
        return prioritized.map(Tar.clean).filter { seen.insert($0).inserted }
    }

    private func check(_ missing: [[UInt8]]) throws {
        if let first = missing.first { throw ConvertError.missing(first, in: conversion.source) }
    }
}

extension ConvertError {
    static func missing(_ path: [UInt8], in source: ConversionSource) -> ConvertError {
        ConvertError(
            .noSuchFile,
            "\(source) has no '\(String(decoding: path.prefix(300), as: UTF8.self))', which should come first")
    }
}
