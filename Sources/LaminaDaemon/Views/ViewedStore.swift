import LaminaStore

/// What a store shows to members of `[store] group`, who may not open its files: what `ls`, `status` and `sql` say.
///
/// All calls block.
protocol ViewedStore: Sendable {
    func viewedStatus() throws -> StatusReport
    func viewedImages() throws -> [ImageStatus]
    func viewedFiles(_ request: FilesRequest) throws -> [FileStatus]
    /// A script of SQL that makes the views' tables.
    ///
    /// - Parameter names: nil: all of them.
    func viewScript(of names: Set<String>?) throws -> [UInt8]
}

/// Body of `POST /v1/views/files`.
struct FilesRequest: Sendable, Codable, Equatable {
    var reference: String
    var platform: String?
}

/// Body of `POST /v1/views/script`.
struct ScriptRequest: Sendable, Codable, Equatable {
    var names: Set<String>?
}

extension Engine: ViewedStore {
    func viewedStatus() throws -> StatusReport {
        try StatusReport(of: store.index, root: root, server: status(), maxBytes: configuration.store.maxBytes)
    }

    func viewedImages() throws -> [ImageStatus] { try store.index.imageStatus() }

    func viewedFiles(_ request: FilesRequest) throws -> [FileStatus] {
        let image = try store.index.requireImage(request.reference, platform: request.platform, root: root)
        return try store.index.files(of: image)
    }

    func viewScript(of names: Set<String>?) throws -> [UInt8] {
        try store.index.viewScript(of: names, limit: viewScriptLimit)
    }
}

/// What the views of one question may take, in bytes. The server has it in memory, once at a time.
let viewScriptLimit = 32 << 20
