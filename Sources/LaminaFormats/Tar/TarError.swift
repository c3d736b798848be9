extension FormatError {
    /// A rule of tar that an entry breaks; `entry` is its name as it stands in the archive.
    static func tar(_ message: String, entry: [UInt8], offset: Int64?, unsupported: Bool = false) -> FormatError {
        FormatError(
            unsupported ? .unsupported : .badTar, message,
            entry: entry.isEmpty ? nil : entry.withUnsafeBytes { display($0) }, offset: offset)
    }
}
