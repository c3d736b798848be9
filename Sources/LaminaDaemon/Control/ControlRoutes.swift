import FoundationEssentials
import Hummingbird
import LaminaMerge
import LaminaStore
import LaminaSystem
import Logging
import ServiceLifecycle

/// The control API: HTTP/1.1 and JSON, so that curl can speak it.
///
/// `GET /healthz`, `/readyz` and `/metrics`, `GET /v1/status`, `POST /v1/pull`, `POST /v1/check`, `GET|POST|DELETE /v1/mounts`,
/// `DELETE /v1/images`, `POST /v1/gc`, `POST /v1/pins`, `POST /v1/shutdown`. Requests that may take long (all except `GET` and
/// the shutdown) are answered with lines of JSON: `{"progress":…}`, then `{"result":…}` or
/// `{"error":{"message":…,"exitCode":…}}`, with empty lines in between; the others are answered with one document. A client
/// that closes the connection stops what it asked for.
struct ControlRoutes: Sendable {
    let engine: any ControlledEngine
    let configuration: Configuration
    let activity: Activity
    let log: Logger
    /// Asks the server to end.
    let requestShutdown: @Sendable () -> Void

    /// A reference has at most 8 KiB, a path 4 KiB, and JSON may escape each byte.
    static let requestLimit = 128 << 10

    func router() -> Router<BasicRequestContext> {
        let router = Router(context: BasicRequestContext.self)
        Observability(engine: engine).add(to: router)
        router.get("/v1/status") { [engine] _, _ in
            try await Self.answer { try await onThread("status") { engine.status() } }
        }
        router.get("/v1/mounts") { [engine] _, _ in
            try await Self.answer { try await onThread("mounts") { try engine.mounts() } }
        }
        router.post("/v1/shutdown") { [requestShutdown, log] _, _ in
            log.info("the server ends: it was asked to")
            requestShutdown()
            return try await Self.answer { ["state": "stopping"] }
        }
        router.post("/v1/pull") { request, _ in
            try await pull(try await Self.body(PullRequest.self, of: request))
        }
        router.post("/v1/check") { request, _ in
            check(try await Self.body(CheckOptions.self, of: request))
        }
        router.post("/v1/mounts") { request, _ in
            try await mount(try await Self.body(MountRequest.self, of: request))
        }
        router.delete("/v1/mounts") { request, _ in
            try await unmount(try await Self.body(UnmountRequest.self, of: request))
        }
        router.delete("/v1/images") { request, _ in
            let body = try await Self.body(RemoveRequest.self, of: request)
            return stream("rm", ["reference": "\(body.reference)"]) { [engine] _ in
                try engine.removeImage(body.reference, collects: body.collects)
            }
        }
        router.post("/v1/gc") { request, _ in
            let body = try await Self.body(GarbageRequest.self, of: request)
            return stream("gc", [:]) { [engine] _ in try engine.collectGarbage(dryRun: body.dryRun) }
        }
        router.post("/v1/seals") { request, _ in
            seal(try await Self.body(SealRequest.self, of: request))
        }
        router.post("/v1/pins") { request, _ in
            let body = try await Self.body(PinRequest.self, of: request)
            return stream("pin", ["reference": "\(body.reference)"]) { [engine] _ in
                try engine.pin(body.reference, body.pinned)
            }
        }
        return router
    }

    private func pull(_ request: PullRequest) async throws -> Response {
        stream("pull", ["reference": "\(request.reference)"]) {
            [engine, configuration] (operation: StreamedOperation<PullResult>) in
            try request.credentialsFile.map { try engine.use(credentialsFile: $0, for: request.reference) }
            return try engine.pull(
                request.reference, platform: request.platform,
                plainHTTP: request.plainHTTP || configuration.speaksPlainHTTP(request.reference), lazy: request.lazy,
                pin: request.pin, progress: { operation.report($0) }, shouldStop: { operation.shouldStop })
        }
    }

    private func seal(_ request: SealRequest) -> Response {
        stream("seal", ["reference": "\(request.reference)"]) {
            [engine, configuration] (operation: StreamedOperation<SealResult>) in
            try request.credentialsFile.map { try engine.use(credentialsFile: $0, for: request.reference) }
            return try engine.seal(
                request.reference, platform: request.platform,
                plainHTTP: request.plainHTTP || configuration.speaksPlainHTTP(request.reference),
                progress: { operation.report($0) }, shouldStop: { operation.shouldStop })
        }
    }

    private func check(_ options: CheckOptions) -> Response {
        stream("check", ["of": "\(options.image ?? "the store")", "repair": "\(options.repairs)"]) {
            [engine] (operation: StreamedOperation<CheckReport>) in
            // Readers of mounted images go first; the thread ends with the operation.
            Thread.yieldToOthers()
            return try engine.check(
                options, progress: { operation.report($0) }, shouldStop: { operation.shouldStop })
        }
    }

    private func mount(_ request: MountRequest) async throws -> Response {
        stream("mount", ["reference": "\(request.reference)", "target": "\(request.target)"]) {
            [engine, configuration] (operation: StreamedOperation<MountResult>) in
            try MountNamespaces.requireSamePlaces(request)
            try request.credentialsFile.map { try engine.use(credentialsFile: $0, for: request.reference) }
            return try engine.mount(
                request.reference, at: request.target, upper: request.upper, platform: request.platform,
                plainHTTP: request.plainHTTP || configuration.speaksPlainHTTP(request.reference),
                sealed: request.sealed ?? false, rights: request.rights ?? MountRights(),
                progress: { operation.report($0) },
                shouldStop: { operation.shouldStop })
        }
    }

    private func unmount(_ request: UnmountRequest) async throws -> Response {
        stream("umount", ["target": "\(request.target)"]) { [engine] _ in
            let known = try engine.mounts().first { $0.target == request.target }
            try engine.unmount(request.target)
            return known ?? MountListing(target: request.target, reference: nil)
        }
    }

    /// Runs work for a client and streams its result; the log says how it ended.
    private func stream<Result: Codable & Sendable>(
        _ name: String, _ fields: Logger.Metadata,
        _ work: @escaping @Sendable (StreamedOperation<Result>) throws -> Result
    ) -> Response {
        let (activity, log) = (activity, log)
        return Response(
            status: .ok, headers: [.contentType: "application/x-ndjson"],
            body: ResponseBody { writer in
                let operation = StreamedOperation<Result>()
                // A server that ends waits for its clients, so their work must end too.
                try await withTaskCancellationOrGracefulShutdownHandler {
                    try await operation.run(name, activity: activity, to: &writer) { operation in
                        do {
                            let result = try work(operation)
                            // The engine itself logs a mount.
                            log.log(level: name == "mount" ? .debug : .info, "\(name) done", metadata: fields)
                            return result
                        } catch {
                            log.warning(
                                "\(name) failed", metadata: fields.merging(["error": "\(describe(error))"]) { $1 })
                            throw error
                        }
                    }
                } onCancelOrGracefulShutdown: {
                    operation.stop()
                }
                try await writer.finish(nil)
            })
    }

    static func body<Value: Decodable>(
        _ type: Value.Type, of request: Request, limit: Int = requestLimit
    ) async throws -> Value {
        var request = request
        do {
            let buffer = try await request.collectBody(upTo: limit)
            return try JSONText.decode(type, buffer.readableBytesView)
        } catch {
            throw BadRequest()
        }
    }

    private static func answer(_ body: () async throws -> some Encodable) async throws -> Response {
        do {
            let bytes = try JSONText.line(try await body()) + [UInt8(ascii: "\n")]
            return response(.ok, bytes)
        } catch {
            return response(.internalServerError, ControlFailure(error).line + [UInt8(ascii: "\n")])
        }
    }

    static func response(_ status: HTTPResponse.Status, _ bytes: [UInt8]) -> Response {
        Response(
            status: status, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
    }

    /// The answer to a body that does not fit its route.
    private struct BadRequest: Error, ResponseGenerator, HTTPResponseError {
        var status: HTTPResponse.Status { .badRequest }

        func response(from request: Request, context: some RequestContext) throws -> Response {
            let failure = ControlFailure(
                message: "the request has no JSON body of the form that this route takes",
                exitCode: ExitStatus.usage.rawValue)
            return ControlRoutes.response(.badRequest, failure.line + [UInt8(ascii: "\n")])
        }
    }
}
