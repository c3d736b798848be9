/// What a registry asks for, from a `WWW-Authenticate` field.
///
/// https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate, https://distribution.github.io/distribution/spec/auth/token/
struct AuthChallenge: Sendable, Hashable {
    /// Lower case: `basic`, `bearer`.
    var scheme: String
    /// Names in lower case.
    var parameters: [String: String] = [:]

    /// The challenges of a field, which may contain several; what is not understood is left out.
    static func parse(_ field: String) -> [AuthChallenge] {
        var found: [AuthChallenge] = []
        var rest = Array(field.utf8.prefix(8 << 10))[...]
        let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
        while true {
            rest = rest.drop { isSpace($0) || $0 == UInt8(ascii: ",") }
            let word = rest.prefix { isToken($0) }
            guard !word.isEmpty else { return found }
            rest = rest.dropFirst(word.count)
            let name = String(decoding: word, as: UTF8.self).lowercased()
            let behind = rest.drop(while: isSpace)
            guard behind.first == UInt8(ascii: "="), !found.isEmpty else {
                found.append(AuthChallenge(scheme: name))
                continue
            }
            rest = behind.dropFirst().drop(while: isSpace)
            let value = takeValue(&rest)
            found[found.count - 1].parameters[name] = value
        }
    }

    private static func takeValue(_ rest: inout ArraySlice<UInt8>) -> String {
        guard rest.first == UInt8(ascii: "\"") else {
            let word = rest.prefix { isToken($0) }
            rest = rest.dropFirst(word.count).drop { $0 == UInt8(ascii: "=") }
            return String(decoding: word, as: UTF8.self)
        }
        rest = rest.dropFirst()
        var text: [UInt8] = []
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\"") { break }
            // A quoted pair.
            if byte == UInt8(ascii: "\\"), let next = rest.popFirst() { text.append(next) } else { text.append(byte) }
        }
        return String(decoding: text, as: UTF8.self)
    }

    private static func isToken(_ byte: UInt8) -> Bool {
        isAlphanumeric(byte) || "!#$%&'*+-.^_`|~/:".utf8.contains(byte)
    }
}
