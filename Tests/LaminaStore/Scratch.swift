import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaStore
import LaminaSystem
import LaminaTestSupport

extension Scratch {
    /// In memory if the machine has room: the speed of a disk's fsync is not tested.
    static func inMemory() -> Scratch { Scratch(in: access("/dev/shm", W_OK) == 0 ? "/dev/shm" : nil) }

    /// A store's root.
    var root: String { path }

    var index: String { root + "/index.db" }

    /// Opens the store. A process that another test starts holds every lock of this one between its fork and its exec, so a
    /// closed store may be locked a moment longer.
    func open() throws -> Store {
        try retried(while: { if case .locked = ($0 as? StoreError)?.code { true } else { false } }) {
            try Store(root: root)
        }
    }

    /// A plain SQLite connection to the index, as another program would have it.
    func sqlite(_ sql: String) throws {
        try Connection(path: index, access: .readWrite).execute(sql)
    }

    /// The first column of the first row.
    func integer(_ sql: String) throws -> Int64? {
        try Connection(path: index, access: .readOnly).integer(sql)
    }

    /// The integers of a first column.
    func integers(_ sql: String) throws -> [Int64] {
        try Connection(path: index, access: .readOnly).prepare(sql).map { $0.integer(0) }
    }

    /// What a shell command prints, including its errors.
    func shell(_ command: String) throws -> String {
        guard let pipe = popen("{ \(command)\n} 2>&1", "r") else { throw SystemError.last("start", command) }
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = fread(&buffer, 1, buffer.count, pipe)
            if count == 0 { break }
            output += buffer.prefix(count)
        }
        pclose(pipe)
        return String(decoding: output, as: UTF8.self)
    }

    /// What the sqlite3 command line prints, run as in the documentation.
    func sqlite3(_ sql: String, options: String = "") throws -> String {
        let script = "\(root)/query-\(UInt32.random(in: 0 ... .max)).sql"
        let file = try File(script, O_RDWR | O_CREAT)
        try Array(sql.utf8).withUnsafeBytes { try file.write($0, at: 0) }
        defer { unlink(script) }
        return try shell("sqlite3 -readonly \(options) '\(index)' < '\(script)'")
    }

    /// Writes bytes into a backing file as a merge does.
    func write(_ bytes: [UInt8], to content: ContentRecord, at offset: Int64 = 0, in store: Store) throws {
        let file = try store.files.make(content.name, size: content.size)
        try bytes.withUnsafeBytes { try file.write($0, at: offset) }
    }
}

func digest(_ text: String) -> Digest { SHA256.hash(Array(text.utf8)) }

/// Bytes that differ with the seed.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 31) ^ ($0 >> 8) ^ (seed &* 101)) }
}

extension ContentFiles {
    /// Makes a backing file and records it.
    @discardableResult
    func make(_ name: BackingName, size: Int64) throws -> File {
        var lease = lease(writing: name)
        defer { lease.recorded() }
        return try lease.create(name, size: size)
    }

    /// Writes a content of one chunk and records it.
    func write(_ bytes: UnsafeRawBufferPointer, as name: BackingName, keepsCached: Bool) throws {
        var lease = lease(writing: name)
        defer { lease.recorded() }
        try lease.write(bytes, as: name, keepsCached: keepsCached)
    }
}

extension Store {
    /// Takes back all that has landed of a content; its file stays.
    func takeBack(_ content: ContentRecord) throws {
        let chunks = try index.chunks(of: content, preferring: nil)
        try takeBack(chunks.map { $0.offset..<($0.offset + $0.size) }, of: content.id)
    }
}
