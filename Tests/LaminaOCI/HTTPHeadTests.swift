import LaminaDigest
import LaminaOCI
import Testing

@Suite("Heads of HTTP responses")
struct HTTPHeadTests {
    private func head(_ lines: [String]) -> HTTPHead {
        var head = HTTPHead()
        for line in lines { Array((line + "\r\n").utf8).withUnsafeBytes { head.take(line: $0) } }
        return head
    }

    @Test(
        "Content-Range is read",
        arguments: [
            ("bytes 0-99/1000", 0..<100, 1000), ("bytes 5-5/6", 5..<6, 6), ("bytes 0-99/*", 0..<100, nil),
            ("bytes */7", nil, 7),
            ("Bytes  1-2/3", 1..<3, 3),
        ] as [(String, Range<Int64>?, Int64?)])
    func contentRange(text: String, range: Range<Int64>?, size: Int64?) throws {
        let parsed = try #require(ContentRange(parsing: text))
        #expect(parsed.range == range)
        #expect(parsed.size == size)
    }

    @Test(
        "a Content-Range that is none, or contradicts itself, is refused",
        arguments: [
            "", "bytes", "bytes */*", "bytes 0-99", "0-99/100", "bytes 99-0/100", "bytes 0-100/100", "bytes 0-/100",
            "bytes -1/100",
            "bytes 0--1/100", "bytes +0-1/2", "items 0-1/2", "bytes 0-9223372036854775807/*",
            "bytes 0-1/99999999999999999999",
            "bytes 0-1/2/3", "bytes 0 - 1/2",
        ])
    func badContentRange(text: String) {
        #expect(ContentRange(parsing: text) == nil)
    }

    @Test("fields are read whatever their case, a later status line begins anew, trailers are ignored")
    func fields() {
        let digest = SHA256.hash([1])
        let first = head(["HTTP/1.1 307 Temporary Redirect", "Location: http://x/", "Content-Length: 5", ""])
        #expect(first.isRedirect)
        #expect(first.isComplete)
        let second = head([
            "HTTP/1.1 307 X", "location: y", "", "HTTP/2 206", "CONTENT-LENGTH:  12 ", "content-type: A/b; charset=x",
            "docker-content-digest: \(digest)", "Content-Range: bytes 0-11/20", "", "Content-Length: 99",
        ])
        #expect(second.status == 206)
        #expect(!second.isRedirect)
        #expect(second.contentLength == 12)
        #expect(second.contentType == "a/b")
        #expect(second.digest == digest)
        #expect(second.contentRange?.range == 0..<12)
    }

    @Test("a length that is none is no length", arguments: ["-1", "x", "", "9223372036854775808", "1 2"])
    func badLength(text: String) {
        #expect(head(["HTTP/1.1 200 OK", "Content-Length: \(text)", ""]).contentLength == nil)
    }

    @Test("random heads never crash, and a range that is accepted is within its size")
    func fuzz() {
        var random = SeededGenerator(seed: 3)
        let seed = Array(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-99/1000\r\nContent-Length: 90\r\nWWW-Authenticate: Bearer realm=\"x\"\r\n\r\n"
                .utf8)
        for _ in 0..<5000 {
            var head = HTTPHead()
            for line in mutated(seed, &random).split(separator: 0x0A, omittingEmptySubsequences: false) {
                Array(line).withUnsafeBytes { head.take(line: $0) }
            }
            if let range = head.contentRange?.range, let size = head.contentRange?.size {
                #expect(range.upperBound <= size)
            }
            #expect(head.contentLength ?? 0 >= 0)
        }
    }
}
