public import LaminaDigest

/// The status line and the few header fields of a response that lamina uses.
///
/// https://www.rfc-editor.org/rfc/rfc9110, https://www.rfc-editor.org/rfc/rfc9112
public struct HTTPHead: Sendable, Hashable {
    public private(set) var status = 0
    public private(set) var contentLength: Int64?
    public private(set) var contentRange: ContentRange?
    /// Lower case, without parameters.
    public private(set) var contentType: String?
    /// `Docker-Content-Digest`, if it is a SHA-256.
    public private(set) var digest: Digest?
    /// Each `WWW-Authenticate` field.
    public private(set) var challenges: [String] = []
    public private(set) var hasLocation = false
    /// Whether the empty line that ends the head has been seen.
    public private(set) var isComplete = false

    // Far more than any registry sends; otherwise libcurl bounds a head.
    private static let challengeLimit = 8

    public init() {}

    /// Whether a client that follows redirects goes on instead of reading this response.
    public var isRedirect: Bool { hasLocation && [301, 302, 303, 307, 308].contains(status) }

    /// Takes one line, with its line end. A status line begins a new head, as after a redirect or a 1xx response; lines after
    /// the end of a head (trailers) are ignored.
    public mutating func take(line: UnsafeRawBufferPointer) {
        var end = line.count
        while end > 0, line[end - 1] == 0x0A || line[end - 1] == 0x0D { end -= 1 }
        let line = UnsafeRawBufferPointer(rebasing: line[..<end])
        if line.starts(with: "HTTP/".utf8) {
            self = HTTPHead()
            let parts = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: true)
            if parts.count > 1, parts[1].count == 3 { status = Int(String(decoding: parts[1], as: UTF8.self)) ?? 0 }
            return
        }
        if isComplete { return }
        if line.isEmpty {
            isComplete = true
            return
        }
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), line.count <= 16 << 10 else { return }
        let name = String(decoding: line[..<colon], as: UTF8.self).lowercased()
        let value = Self.trimmed(line[(colon + 1)...])
        switch name {
        case "content-length": contentLength = Int64(value).flatMap { $0 >= 0 ? $0 : nil }
        case "content-range": contentRange = ContentRange(parsing: value)
        case "content-type":
            contentType = value.prefix { $0 != ";" && $0 != " " }.lowercased()
        case "docker-content-digest": digest = Digest(parsing: value)
        case "www-authenticate":
            if challenges.count < Self.challengeLimit { challenges.append(value) }
        case "location": hasLocation = true
        default: break
        }
    }

    private static func trimmed(_ bytes: Slice<UnsafeRawBufferPointer>) -> String {
        let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
        var bytes = bytes.drop(while: isSpace)
        while let last = bytes.last, isSpace(last) { bytes.removeLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// `Content-Range: bytes 0-99/1000`, `bytes 0-99/*` or `bytes */1000`.
///
/// https://www.rfc-editor.org/rfc/rfc9110#name-content-range
public struct ContentRange: Sendable, Hashable {
    /// The bytes that the response has; `nil` if it says that it has none.
    public let range: Range<Int64>?
    /// The size of the whole; `nil` if the server does not say.
    public let size: Int64?

    /// `nil` for anything that does not have the form above, or contradicts itself.
    public init?(parsing text: String) {
        let parts = text.split(separator: " ", omittingEmptySubsequences: true)
        guard parts.count == 2, parts[0].lowercased() == "bytes" else { return nil }
        let halves = parts[1].split(separator: "/", omittingEmptySubsequences: false)
        guard halves.count == 2 else { return nil }
        if halves[1] == "*" {
            size = nil
        } else {
            guard let number = Self.number(halves[1]) else { return nil }
            size = number
        }
        if halves[0] == "*" {
            guard size != nil else { return nil }
            range = nil
            return
        }
        let ends = halves[0].split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count == 2, let first = Self.number(ends[0]), let last = Self.number(ends[1]), first <= last,
            last < size ?? .max
        else { return nil }
        range = first..<last + 1
    }

    private static func number(_ text: Substring) -> Int64? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
        return Int64(text)
    }
}
