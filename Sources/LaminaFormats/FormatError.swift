/// What is wrong with a layer's bytes: which rule they break, where, and what is there instead.
///
/// Everything that this room reads comes from outside, so every failure is one of these and none is a crash.
public struct FormatError: Error, Sendable, Equatable {
    /// The kind of failure, on which a caller decides.
    public enum Code: String, Sendable {
        /// The bytes are no eStargz footer.
        case notEStargz
        /// The footer has the right form, but its values are impossible.
        case badFooter
        /// The table of contents cannot be read as a whole.
        case badTOC
        /// One entry of the table of contents (or of a tar) breaks a rule.
        case badEntry
        /// A tar header or its place in the stream is wrong.
        case badTar
        /// A size, a count or a ratio is over its limit.
        case tooLarge
        /// A chunk, or the member that holds it, is larger than the memory that decoders have: the layer can be read only as a stream.
        case largeChunk
        /// A compressed stream or member is damaged.
        case corruptMember
        /// A compressed stream ends before it is complete.
        case truncated
        /// Two digests that must be equal are not.
        case digestMismatch
        /// Well-formed, but lamina does not read or write it.
        case unsupported
    }

    public var code: Code
    /// What is wrong, as the end of a sentence.
    public var message: String
    /// The entry that it is about: its path in the layer, shortened if very long.
    public var entry: String?
    /// Where: a byte offset in the blob or, for ``Code/badTOC`` and ``Code/badEntry``, in the JSON.
    public var offset: Int64?
    /// What should have been there.
    public var expected: String?
    /// What was there.
    public var actual: String?

    public init(
        _ code: Code, _ message: String, entry: String? = nil, offset: Int64? = nil, expected: String? = nil,
        actual: String? = nil
    ) {
        self.code = code
        self.message = message
        self.entry = entry
        self.offset = offset
        self.expected = expected
        self.actual = actual
    }
}

extension FormatError: CustomStringConvertible {
    /// One sentence, without a full stop: `entry 'etc/hosts' (at byte 120): … (expected 1, found 2)`.
    public var description: String {
        var text = ""
        if let entry { text += "entry '\(entry)'" }
        if let offset { text += (text.isEmpty ? "" : " ") + "at byte \(offset)" }
        text += (text.isEmpty ? "" : ": ") + message
        switch (expected, actual) {
        case (let expected?, let actual?): text += " (expected \(expected), found \(actual))"
        case (let expected?, nil): text += " (expected \(expected))"
        case (nil, let actual?): text += " (found \(actual))"
        case (nil, nil): break
        }
        return text
    }
}

extension FormatError {
    /// The same error with the entry's name, unless it has one already.
    func naming(_ entry: @autoclosure () -> String) -> FormatError {
        guard self.entry == nil else { return self }
        var copy = self
        copy.entry = entry()
        return copy
    }

    /// A name as an error shows it: at most 200 bytes; control characters and bytes that are not UTF-8 are replaced.
    static func display(_ name: UnsafeRawBufferPointer) -> String {
        let text = String(decoding: name.prefix(200), as: UTF8.self)
        let visible = String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 32 ? "\u{FFFD}" : $0 }))
        return name.count > 200 ? visible + "…" : visible
    }
}
