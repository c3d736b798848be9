import Testing

@testable import LaminaFormats

@Suite("eStargz footer and table of contents")
struct EStargzReaderTests {
    private func footer(_ offset: String = "00000000000001ff") -> [UInt8] {
        [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 0x1a, 0, 0x53, 0x47, 0x16, 0] + Array(offset.utf8)
            + Array("STARGZ".utf8) + [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    private func parse(_ bytes: [UInt8]) throws -> Int64 { try bytes.withUnsafeBytes { try EStargz.parseFooter($0) } }

    @Test("a footer gives the offset that it says")
    func footerOffset() throws {
        #expect(try parse(footer()) == 0x1ff)
        #expect(try parse(footer("7fffffffffffffff")) == .max)
        #expect(try parse(footer("00000000000000aB")) == 0xab)
    }

    @Test("every byte of a footer counts, but for the operating system's")
    func everyByte() {
        for index in footer().indices where index != 9 {
            var bytes = footer()
            bytes[index] ^= 0x80
            let code = formatError { _ = try parse(bytes) }?.code
            #expect(code == (16..<32 ~= index ? .badFooter : .notEStargz), "byte \(index)")
        }
    }

    @Test(
        "lying footers are errors",
        arguments: [
            ("8000000000000000", FormatError.Code.badFooter), ("ffffffffffffffff", .badFooter),
            ("-000000000000001", .badFooter), ("0x00000000000001", .badFooter), ("               1", .badFooter),
        ])
    func lying(_ offset: String, _ code: FormatError.Code) {
        #expect(formatError { _ = try parse(footer(offset)) }?.code == code)
    }

    @Test("other sizes are no footer", arguments: [0, 1, 47, 50, 52])
    func sizes(_ count: Int) {
        #expect(formatError { _ = try parse([UInt8](repeating: 0, count: count)) }?.code == .notEStargz)
    }

    /// A tar of one file, whose header says `size`.
    private func tar(_ name: String, _ payload: [UInt8], size: String? = nil) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, _ offset: Int) {
            header.replaceSubrange(offset..<offset + text.utf8.count, with: text.utf8)
        }
        put(name, 0)
        put(size ?? octal(payload.count, 11), 124)
        put("        ", 148)
        put("0ustar", 156)
        put(octal(header.reduce(0) { $0 + Int($1) }, 6), 148)
        header[154] = 0
        return header + payload + [UInt8](repeating: 0, count: (512 - payload.count % 512) % 512 + 1024)
    }

    private func octal(_ value: Int, _ digits: Int) -> String {
        let text = String(value, radix: 8)
        return String(repeating: "0", count: max(digits - text.count, 0)) + text
    }

    private func extract(_ member: [UInt8], limits: FormatLimits = FormatLimits()) throws -> [UInt8] {
        try member.withUnsafeBytes { try EStargz.extractTOC(fromMember: $0, limits: limits) }
    }

    @Test("the JSON comes out as it went in", arguments: [0, 1, 511, 512, 100_000])
    func extracts(_ count: Int) throws {
        let json = noise(count)
        #expect(try extract(gzip(tar("stargz.index.json", json))) == json)
        // Header and payload in separate members.
        let whole = tar("stargz.index.json", json)
        #expect(try extract(gzip(Array(whole[..<512])) + gzip(Array(whole[512...]))) == json)
    }

    @Test("another tar, or none, is an error")
    func others() {
        func code(_ member: [UInt8]) -> FormatError.Code? { formatError { _ = try extract(member) }?.code }
        #expect(code(gzip(tar("stargz.index.jso", []))) == .badTOC)
        #expect(code(gzip(tar("stargz.index.json2", []))) == .badTOC)
        #expect(code(gzip(tar("stargz.index.json", [], size: "-0000000001"))) == .badTOC)
        #expect(code(gzip(tar("stargz.index.json", [], size: "00000000010"))) == nil)
        #expect(code(gzip(tar("stargz.index.json", [], size: "00000100000"))) == .corruptMember)
        #expect(code(gzip([UInt8](repeating: 0, count: 2048))) == .badTOC)
        #expect(code(gzip([])) == .corruptMember)
        #expect(code([]) == .corruptMember)
        #expect(code(Array("{\"version\":1}".utf8)) == .corruptMember)
        let cut = gzip(tar("stargz.index.json", noise(5000)))
        #expect(code(Array(cut.prefix(cut.count / 2))) == .corruptMember)
    }

    @Test("a bomb is refused by what it says of itself, before it is inflated")
    func bombs() {
        func error(_ member: [UInt8], _ limits: FormatLimits = FormatLimits()) -> FormatError? {
            formatError { _ = try extract(member, limits: limits) }
        }
        #expect(error(gzip(tar("stargz.index.json", [], size: "77777777777")))?.code == .tooLarge)
        #expect(error(gzip(tar("stargz.index.json", [], size: "02000000000")))?.code == .tooLarge)
        let zeros = [UInt8](repeating: 0x20, count: 20 << 20)
        #expect(error(gzip(tar("stargz.index.json", zeros)))?.code == .tooLarge)
        var limits = FormatLimits()
        limits.tocBytes = 1000
        #expect(error(gzip(tar("stargz.index.json", noise(1001))), limits)?.code == .tooLarge)
        #expect(error(gzip(tar("stargz.index.json", noise(1000))), limits) == nil)
    }
}
