import Hummingbird
import HummingbirdCore
import Logging

extension HTTP1Channel {
    /// Answers the requests of one connection by a router, for servers that accept connections by their own code.
    init(
        answering router: Router<BasicRequestContext>, log: Logger,
        _ configuration: HTTP1Channel.Configuration = HTTP1Channel.Configuration()
    ) {
        let responder = router.buildResponder()
        self.init(
            responder: { request, writer, channel in
                let context = BasicRequestContext(
                    source: ApplicationRequestContextSource(channel: channel, logger: log))
                var response: Response
                do {
                    response = try await responder.respond(to: request, context: context)
                } catch {
                    response = Response(status: .internalServerError)
                }
                response.headers[.server] = "lamina"
                try await writer.write(response: response.head, body: response.body)
            }, configuration: configuration)
    }
}

extension Logger {
    /// For Hummingbird, which tells of each request at `info`.
    var quiet: Logger {
        var log = self
        log.logLevel = max(logLevel, .warning)
        return log
    }
}
