import Hummingbird
import LaminaSystem

/// What monitoring reads: at the control socket, and at `[metrics] address`.
struct Observability: Sendable {
    let engine: any ControlledEngine

    func add(to router: Router<BasicRequestContext>) {
        router.get("/healthz") { _, _ in "ok\n" }
        router.get("/readyz") { [engine] _, _ in
            let reason = try await onThread("ready") { engine.whyNotReady() }
            return Self.text(reason == nil ? .ok : .serviceUnavailable, (reason ?? "ok") + "\n")
        }
        router.get("/metrics") { [engine] _, _ in
            do {
                let text = try await onThread("metrics") { try engine.metrics() }
                return Self.text(.ok, text, type: MetricsText.contentType)
            } catch {
                return Self.text(.internalServerError, describe(error) + "\n")
            }
        }
    }

    private static func text(
        _ status: HTTPResponse.Status, _ text: String, type: String = "text/plain; charset=utf-8"
    ) -> Response {
        Response(
            status: status, headers: [.contentType: type], body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
}
