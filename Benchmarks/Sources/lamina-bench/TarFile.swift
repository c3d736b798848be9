import Foundation

/// A tar of many small entries, written without making the files.
final class TarFile {
    private let file: UnsafeMutablePointer<FILE>

    static func write(_ path: String, _ body: (TarFile) throws -> Void) throws {
        guard let file = fopen(path, "we") else { throw Failure.system(path) }
        let tar = TarFile(file)
        try body(tar)
        tar.append([UInt8](repeating: 0, count: 1024))
        guard fclose(file) == 0 else { throw Failure.system(path) }
    }

    private init(_ file: UnsafeMutablePointer<FILE>) { self.file = file }

    /// - Parameter content: nil for a directory.
    func add(_ name: String, content: String?) {
        let bytes = Array((content ?? "").utf8)
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at place: Int) {
            header.replaceSubrange(place..<place + text.utf8.count, with: text.utf8)
        }
        func octal(_ number: Int, _ digits: Int) -> String {
            let text = String(number, radix: 8)
            return String(repeating: "0", count: digits - text.count) + text
        }
        put(name, at: 0)
        put(content == nil ? "0000755" : "0000644", at: 100)
        put("0000000", at: 108)
        put("0000000", at: 116)
        put(octal(bytes.count, 11), at: 124)
        put(octal(1_700_000_000, 11), at: 136)
        put("        ", at: 148)
        put(content == nil ? "5" : "0", at: 156)
        put("ustar", at: 257)
        put("00", at: 263)
        put(octal(header.reduce(0) { $0 + Int($1) }, 6), at: 148)
        header[154] = 0
        append(header)
        if !bytes.isEmpty { append(bytes + [UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512)) }
    }

    private func append(_ bytes: [UInt8]) { fwrite(bytes, 1, bytes.count, file) }
}
