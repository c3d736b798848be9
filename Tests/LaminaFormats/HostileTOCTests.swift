import Testing

@testable import LaminaFormats

@Suite("hostile tables of contents")
struct HostileTOCTests {
    static let malformedDocuments = [
        "", " ", "{", "[]", "null", "{}", "{\"entries\":{}}", "{\"entries\":[}", "{\"entries\":[{]}",
        "{\"entries\":[{}",
        "{\"entries\":[]}x", "{\"entries\":[],}", "{\"entries\":[],\"entries\":[]}", "{\"version\":2,\"entries\":[]}",
        "{\"version\":\"1\",\"entries\":[]}", "{\"entries\":[{\"name\":\"a\"}]}", "{\"entries\":[{\"type\":\"door\"}]}",
        "{\"entries\":[{\"type\":\"dir\" \"name\":\"a\"}]}", "{\"entries\":[{\"type\":\"dir\",}]}",
        "{\"entries\":[{\"type\":\"dir\"},]}", "{\"entries\":[1]}",
        "{\"entries\":[{\"type\":\"dir\",\"name\":\"a\nb\"}]}",
        "{\"entries\":[{\"type\":\"dir\",\"name\":\"\\x\"}]}", "{\"entries\":[{\"type\":\"dir\",\"name\":\"\\u12\"}]}",
        "{\"entries\":[{\"type\":\"dir\",\"name\":\"\\u0000\"}]}", "{\"entries\":[{\"type\":\"dir\",\"name\":7}]}",
        "{\"a\":tru,\"entries\":[]}", "{\"a\":-,\"entries\":[]}", "{\"a\":01,\"entries\":[]}",
        "{\"a\":1.,\"entries\":[]}",
        "{\"a\":1e,\"entries\":[]}", "{\"a\":+1,\"entries\":[]}", "{\"a\" 1,\"entries\":[]}", "{a:1,\"entries\":[]}",
    ]

    @Test("malformed JSON is a typed error", arguments: malformedDocuments)
    func malformed(_ json: String) {
        let error = formatError { _ = try LayerTree.parse(json) }
        #expect(error != nil, "\(json)")
    }

    @Test("a table that is cut off anywhere is an error")
    func cut() throws {
        let json = Array(
            ("{\"version\":1,\"x\":[1,-2.5e3,true,false,null,{\"y\":\"\\\"\"}],\"entries\":[{"
                + TOCText.file("a\\u00fc", 5) + ",\"xattrs\":{\"user.a\":\"AAEC\"}}]}").utf8)
        _ = try json.withUnsafeBytes { try LayerTree.parse(toc: $0, tocOffset: 1000, format: .estargz) }
        for count in 0..<json.count {
            // A copy of that size, so that a sanitizer finds a read behind the end.
            let part = Array(json.prefix(count))
            let error = formatError {
                _ = try part.withUnsafeBytes { try LayerTree.parse(toc: $0, tocOffset: 1000, format: .estargz) }
            }
            #expect(error?.code == .badTOC || error?.code == .badEntry, "\(count) bytes")
        }
    }

    @Test(
        "numbers that do not fit are errors",
        arguments: [
            "9223372036854775808", "-9223372036854775809", "99999999999999999999999999", "1.5", "1e3", "\"1\"", "00",
            "-", "1E",
        ])
    func numbers(_ number: String) {
        for field in ["size", "mode", "uid", "offset", "innerOffset", "chunkOffset", "chunkSize", "devMajor"] {
            let entry = TOCText.entry("char", "f", "\"\(field)\":\(number)")
            let error = formatError { _ = try LayerTree.parse(entries: [entry]) }
            #expect(error?.code == .badTOC && error?.entry == "f", "\(field)")
        }
    }

    @Test(
        "values that Linux has no place for are errors that name the entry",
        arguments: [
            "\"uid\":-1", "\"gid\":4294967296", "\"mode\":-1", "\"devMajor\":4096", "\"devMinor\":1048576",
            "\"devMinor\":-1",
            "\"modtime\":\"yesterday\"", "\"modtime\":\"2023-13-01T00:00:00Z\"", "\"modtime\":\"2023-01-01T00:00:00\"",
            "\"digest\":\"sha256:abc\"", "\"digest\":\"sha256:\(String(repeating: "g", count: 64))\"",
            "\"digest\":\"x\"",
            "\"xattrs\":{\"\":\"\"}", "\"xattrs\":{\"a\":\"A\"}", "\"xattrs\":{\"a\":\"A===\"}",
            "\"xattrs\":{\"a\":\"AA=A\"}",
            "\"xattrs\":{\"a\":\"AA-_\"}", "\"xattrs\":{\"\(String(repeating: "x", count: 256))\":\"\"}",
            "\"xattrs\":{\"a\\u0000b\":\"\"}",
            "\"xattrs\":{\"a\":\"\(String(repeating: "AAAA", count: 21846))\"}",
        ])
    func values(_ field: String) {
        let error = formatError { _ = try LayerTree.parse(entries: [TOCText.entry("char", "f", field)]) }
        #expect(error?.code == .badEntry && error?.entry == "f", "\(String(describing: error))")
    }

    @Test("digests by other algorithms are not for lamina")
    func otherAlgorithm() {
        let error = formatError {
            _ = try LayerTree.parse(entries: [TOCText.entry("reg", "f", "\"digest\":\"sha512:00\"")])
        }
        #expect(error?.code == .unsupported)
    }

    @Test("targets of symbolic links are neither empty nor endless", arguments: [0, 4096, 5000])
    func targets(_ count: Int) {
        let target = String(repeating: "t", count: count)
        let entry = TOCText.entry("symlink", "f", "\"linkName\":\"\(target)\"")
        #expect(formatError { _ = try LayerTree.parse(entries: [entry]) }?.code == .badEntry)
    }

    @Test("names have limits")
    func names() throws {
        let longest = Array(repeating: String(repeating: "n", count: 255), count: 16).joined(separator: "/")
        #expect(try LayerTree.parse(entries: [TOCText.file(longest)]).nodes.count == 17)
        for name in [
            longest + "/n", String(repeating: "n", count: 256), "a/" + String(repeating: "é", count: 128) + "/b",
        ] {
            #expect(formatError { _ = try LayerTree.parse(entries: [TOCText.file(name)]) }?.code == .badEntry)
        }
    }

    @Test("deep nesting is an error, not the end of the stack")
    func nesting() throws {
        func nested(_ depth: Int) -> String {
            let value = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
            return "{\"deep\":\(value),\"entries\":[]}"
        }
        _ = try LayerTree.parse(nested(60))
        for depth in [65, 1_000_000] {
            #expect(formatError { _ = try LayerTree.parse(nested(depth)) }?.code == .badTOC)
        }
        let objects = String(repeating: "{\"a\":", count: 100_000)
        #expect(formatError { _ = try LayerTree.parse("{\"deep\":" + objects) }?.code == .badTOC)
    }

    @Test("too many entries, listed or implied, are refused")
    func tooMany() {
        var limits = FormatLimits()
        limits.entries = 100
        let listed = (0...100).map { TOCText.file("f\($0)") }
        #expect(formatError { _ = try LayerTree.parse(entries: listed, limits: limits) }?.code == .tooLarge)
        #expect(formatError { _ = try LayerTree.parse(entries: Array(listed.dropLast()), limits: limits) } == nil)
        let implied = [TOCText.file(String(repeating: "a/", count: 100) + "f")]
        #expect(formatError { _ = try LayerTree.parse(entries: implied, limits: limits) }?.code == .tooLarge)
        limits.tocBytes = 10
        #expect(formatError { _ = try LayerTree.parse(entries: [], limits: limits) }?.code == .tooLarge)
    }

    @Test("long chains of hard links and rings cost no more than their length")
    func chains() throws {
        let count = 5000
        let chain = (0..<count).map { TOCText.link("l\($0)", "l\($0 + 1)") }
        let tree = try LayerTree.parse(entries: chain + [TOCText.file("l\(count)", 1)])
        #expect(tree.nodes.count == 2 && tree.nodes[1].nlink == UInt32(count + 1))
        let error = formatError { _ = try LayerTree.parse(entries: chain + [TOCText.link("l\(count)", "l0")]) }
        #expect(error?.code == .badEntry && error?.message == "the hard link leads to itself")
    }

    @Test("an error reads as a sentence and says which entry it is about")
    func sentence() {
        let error = formatError {
            _ = try LayerTree.parse(entries: [TOCText.file("ok"), TOCText.entry("dir", "etc/x", "\"uid\":-7")])
        }
        #expect(error?.description == "entry 'etc/x' at byte 167: uid does not fit 32 bits (found -7)")
    }
}

@Suite("times")
struct TimestampTests {
    @Test(
        "RFC 3339 becomes seconds and nanoseconds",
        arguments: [
            ("1970-01-01T00:00:00Z", 0, 0), ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
            ("2023-11-14T23:13:20.25+01:00", 1_700_000_000, 250_000_000),
            ("2023-11-14T17:43:20-04:30", 1_700_000_000, 0),
            ("1969-12-31T23:59:59.999999999Z", -1, 999_999_999), ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("2000-02-29T12:00:00.1234567899Z", 951_825_600, 123_456_789), ("2016-12-31T23:59:60Z", 1_483_228_800, 0),
            ("10000-01-01T00:00:00Z", 253_402_300_800, 0), ("-0001-01-01T00:00:00z", -62_198_755_200, 0),
            ("1900-03-01t00:00:00Z", -2_203_891_200, 0),
        ] as [(String, Int64, Int32)])
    func valid(_ text: String, _ seconds: Int64, _ nanoseconds: Int32) throws {
        let time = try #require(Array(text.utf8).withUnsafeBytes { Timestamp($0) })
        #expect(time.seconds == seconds && time.nanoseconds == nanoseconds)
    }

    @Test(
        "anything else is no time",
        arguments: [
            "x", "2023", "2023-11-14", "2023-11-14 22:13:20Z", "2023-11-14T22:13:20", "2023-11-14T24:00:00Z",
            "2023-00-14T22:13:20Z", "2023-11-32T22:13:20Z", "2023-11-14T22:60:20Z", "2023-11-14T22:13:61Z",
            "2023-11-14T22:13:20.Z", "2023-11-14T22:13:20+0100", "2023-11-14T22:13:20Zx", "12345678901-01-01T00:00:00Z",
        ])
    func invalid(_ text: String) { #expect(Array(text.utf8).withUnsafeBytes { Timestamp($0) } == nil) }
}
