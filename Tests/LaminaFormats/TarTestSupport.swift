import Foundation
import LaminaDigest
import LaminaFormats
import Testing

/// An entry and its payload.
struct TarFile: Equatable {
    var header: TarHeader
    var payload: [UInt8] = []

    init(_ header: TarHeader, _ payload: [UInt8] = []) {
        self.header = header
        self.payload = payload
        if header.kind == .regular { self.header.size = Int64(payload.count) }
    }

    /// A regular file, 0644, at a fixed time.
    static func file(_ name: String, _ payload: [UInt8], mode: UInt32 = 0o644) -> TarFile {
        TarFile(
            TarHeader(
                kind: .regular, name: Array(name.utf8), mode: mode, modificationTime: .init(seconds: 1_700_000_000)),
            payload)
    }

    static func directory(_ name: String) -> TarFile {
        TarFile(
            TarHeader(
                kind: .directory, name: Array(name.utf8), mode: 0o755,
                modificationTime: .init(seconds: 1_700_000_000)))
    }

    static func link(_ name: String, to target: String, kind: TarHeader.Kind = .hardLink) -> TarFile {
        TarFile(
            TarHeader(
                kind: kind, name: Array(name.utf8), linkName: Array(target.utf8), mode: 0o644,
                modificationTime: .init(seconds: 1_700_000_000)))
    }
}

/// A tar of the entries, with its end.
func makeTar(_ files: [TarFile], isEnded: Bool = true) throws -> [UInt8] {
    var bytes: [UInt8] = []
    for file in files {
        try TarWriter.append(file.header, to: &bytes)
        bytes += file.payload
        bytes += [UInt8](repeating: 0, count: Tar.padding(file.header.size))
    }
    if isEnded { bytes += [UInt8](repeating: 0, count: Tar.endSize) }
    return bytes
}

/// The entries of a tar that is fed in pieces of `pieceSize` bytes.
func readTar(_ bytes: [UInt8], pieceSize: Int = 1 << 20) throws -> [TarFile] {
    var reader = TarReader()
    var files: [TarFile] = []
    try bytes.withUnsafeBytes { all in
        var start = 0
        while start < all.count {
            var piece = UnsafeRawBufferPointer(rebasing: all[start..<min(all.count, start + pieceSize)])
            start += piece.count
            feeding: while true {
                switch try reader.next(&piece) {
                case .more: break feeding
                case .entry(let entry):
                    files.append(TarFile(entry.header))
                    files[files.count - 1].header = entry.header
                case .payload(let payload): files[files.count - 1].payload += payload
                case .zeros(let count): files[files.count - 1].payload += [UInt8](repeating: 0, count: count)
                }
            }
        }
    }
    try reader.finish()
    return files
}

/// Numbers that are the same in every run (SplitMix64).
struct SeededNumbers: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// Bytes that compress by about a half.
    mutating func bytes(_ count: Int) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count + 8)
        while result.count < count {
            withUnsafeBytes(of: next() & 0x0f0f_0f0f_0f0f_0f0f) { result += $0 }
        }
        return Array(result[..<count])
    }
}

/// Runs a program to its end; if it fails, fails the test with what it printed.
@discardableResult
func run(_ arguments: String...) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    process.environment = ["LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"]
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let text = String(decoding: data, as: UTF8.self)
    try #require(process.terminationStatus == 0, "\(arguments.joined(separator: " ").prefix(300)): \(text)")
    return text
}
