import CCurl

/// Takes the body of a successful response (200 or 206), over as many exchanges as needed.
protocol HTTPReceiver: AnyObject {
    /// An exchange is about to begin. Returns the range to ask for, or `nil` for everything.
    func prepare() -> Range<Int64>?
    /// The head has come. An error that it throws ends the exchange.
    func begin(_ head: HTTPHead) throws
    /// A part of the body has come. Returns whether the rest is wanted too.
    func receive(_ bytes: UnsafeRawBufferPointer) throws -> Bool
    /// The response has come to its end. An error that it throws is the exchange's result.
    func end() throws
    /// How many bytes have come that will not be asked for again.
    var progress: Int64 { get }
    /// Whether everything that is wanted has come; `nil` if only the end of a response can tell.
    var isComplete: Bool? { get }
}

/// A request and its answer, on the calling thread. Redirects are not followed: the caller decides what is sent where.
final class HTTPExchange {
    struct Request {
        var url: String
        var headers: [String] = []
        /// Secret headers, as whole lines.
        var secretHeaders: [Secret] = []
        var range: Range<Int64>?
        /// A form to POST; without one it is a GET.
        var form: Secret?
        var tls = TLSSettings()
        /// Whether the body may come compressed: only for documents, because a range counts the bytes that are sent.
        var acceptsCompression = false
        /// Whether connections of earlier exchanges are not reused.
        var freshConnection = false
        /// What else a server may have been shown, and may repeat: a password that a token was got with.
        var otherSecrets: [Secret] = []
    }

    enum Ending {
        /// The response has come to its end, with any status.
        case finished
        /// The receiver wanted no more, or an error's text was long enough.
        case enough
        /// The receiver threw this.
        case thrown(any Error)
        case failed(CURLcode, String)
        case stalled
        /// This many bytes came within `slowLimit`.
        case slow(Int64)
        case interrupted
    }

    private(set) var head = HTTPHead()
    /// The beginning of the body of a response with a status other than 200 and 206.
    private(set) var errorBody: [UInt8] = []
    /// What the server was shown, and a log must not show.
    private var secrets: [Secret] = []
    /// Seconds of `Retry-After`, 0 without one.
    private(set) var retryAfter: Int64 = 0
    /// Where a redirect leads, absolute.
    private(set) var redirectURL: String?
    /// Whether the server hung up directly after the TLS handshake, in which lamina showed no certificate.
    private(set) var mayWantCertificate = false
    /// The protocol of the answer: 1.1, 2, …; `nil` without one.
    private(set) var httpVersion: String?

    /// Whether the response is what was asked for.
    var isAccepted: Bool { head.status == 200 || head.status == 206 }

    private let receiver: any HTTPReceiver
    private let shouldStop: () -> Bool
    let settings: RegistryClient.Settings
    private let clock = ContinuousClock()
    private var lastProgress: ContinuousClock.Instant
    private var lastQuestion: ContinuousClock.Instant
    private var meter = RateMeter()
    private var begun = false
    private var early: Ending?

    private static let errorBodyByteCount = 4096
    // How often `shouldStop` is asked; its contract says 200 ms.
    private static let questionInterval: Duration = .milliseconds(100)
    // When only the rest of an unimportant body is missing, its end is awaited for this long.
    private static let tailLimit: Duration = .seconds(2)

    init(receiver: any HTTPReceiver, settings: RegistryClient.Settings, shouldStop: @escaping () -> Bool) {
        self.receiver = receiver
        self.settings = settings
        self.shouldStop = shouldStop
        lastProgress = clock.now
        lastQuestion = clock.now
    }

    /// Runs the exchange to its end.
    func run(_ request: Request, on handle: CurlHandle) -> Ending {
        let lines = request.headers + request.secretHeaders.map(\.revealed)
        let list = lines.reduce(UnsafeMutablePointer<curl_slist>?.none) { curl_slist_append($0, $1) }
        defer { curl_slist_free_all(list) }
        secrets = request.otherSecrets + request.secretHeaders.flatMap(\.valuesOfHeader)
        configure(handle, request, list)
        guard curl_multi_add_handle(handle.multi, handle.easy) == CURLM_OK else {
            return .failed(CURLE_FAILED_INIT, "libcurl takes no more transfers")
        }
        // If the transfer is not at its end, this closes the connection.
        defer { curl_multi_remove_handle(handle.multi, handle.easy) }
        lastProgress = clock.now
        meter.begin(at: lastProgress)
        let ending = wait(for: handle)
        readFacts(handle)
        _ = lamina_curl_get_offset(handle.easy, CURLINFO_RETRY_AFTER, &retryAfter)
        if case .failed(let code, _) = ending, head.status == 0, request.tls.clients.isEmpty {
            // The handshake negotiates HTTP/2, and fails before libcurl has measured its time.
            mayWantCertificate = code == CURLE_HTTP2 || handle.hasShakenHands
        }
        if case .finished = ending, isAccepted {
            do {
                // For a response without a body, only the head's function is called.
                if !begun { try receiver.begin(head) }
                try receiver.end()
            } catch {
                return .thrown(error)
            }
        }
        return ending
    }

    private func wait(for handle: CurlHandle) -> Ending {
        while true {
            var running: Int32 = 0
            guard curl_multi_perform(handle.multi, &running) == CURLM_OK else {
                return .failed(CURLE_FAILED_INIT, "libcurl does not go on")
            }
            var result = CURLE_OK
            if lamina_curl_multi_finished(handle.multi, &result) == 1 {
                if let early { return early }
                return result == CURLE_OK ? .finished : .failed(result, text(of: result, handle))
            }
            if isInterrupted() { return .interrupted }
            if let least = settings.leastByteCount, receiver.isComplete != true,
                let count = meter.bytes(within: settings.slowLimit, until: clock.now), count < least
            {
                return .slow(count)
            }
            let isTail = receiver.isComplete == true || (head.isComplete && head.status >= 300)
            if clock.now - lastProgress > (isTail ? min(Self.tailLimit, settings.stallLimit) : settings.stallLimit) {
                return isTail ? .enough : .stalled
            }
            curl_multi_poll(handle.multi, nil, 0, 100, nil)
        }
    }

    private func isInterrupted() -> Bool {
        let now = clock.now
        guard now - lastQuestion >= Self.questionInterval else { return false }
        lastQuestion = now
        return shouldStop()
    }

    private func text(of code: CURLcode, _ handle: CurlHandle) -> String {
        let text = String(cString: handle.errorText)
        return text.isEmpty ? String(cString: curl_easy_strerror(code)) : text
    }

    // MARK: What libcurl calls

    /// A line of a head; returns whether to go on.
    fileprivate func take(line: UnsafeRawBufferPointer) -> Bool {
        lastProgress = clock.now
        head.take(line: line)
        // docker-registry sends a 416 with the blob's Content-Length and 33 bytes: to wait for the rest would hang.
        guard head.isComplete, head.status == 416 else { return true }
        early = .enough
        return false
    }

    /// A piece of a body; returns whether to go on.
    fileprivate func take(body bytes: UnsafeRawBufferPointer) -> Bool {
        let arrival = clock.now
        // After the receiver, because its time is not the network's.
        defer {
            lastProgress = clock.now
            meter.note(Int64(bytes.count), receiverTime: lastProgress - arrival)
        }
        guard isAccepted else {
            errorBody += bytes.prefix(Self.errorBodyByteCount - errorBody.count)
            guard errorBody.count >= Self.errorBodyByteCount else { return true }
            early = .enough
            return false
        }
        if isInterrupted() {
            early = .interrupted
            return false
        }
        do {
            if !begun {
                begun = true
                try receiver.begin(head)
            }
            if try receiver.receive(bytes) { return true }
            early = .enough
        } catch {
            early = .thrown(error)
        }
        return false
    }
}

extension HTTPExchange {
    /// The first error that a registry names in its answer: on one line, and without what it was shown.
    var registryMessage: String? {
        OCIError.registryMessage(in: errorBody).map { text in
            secrets.reduce(text) { $1.removed(from: $0) }
        }
    }

    private func readFacts(_ handle: CurlHandle) {
        var text: UnsafePointer<CChar>?
        if lamina_curl_get_string(handle.easy, CURLINFO_REDIRECT_URL, &text) == CURLE_OK, let text {
            redirectURL = String(cString: text)
        }
        var version = 0
        _ = lamina_curl_get_long(handle.easy, CURLINFO_HTTP_VERSION, &version)
        httpVersion =
            [Int(CURL_HTTP_VERSION_1_0): "1.0", Int(CURL_HTTP_VERSION_1_1): "1.1", Int(CURL_HTTP_VERSION_2_0): "2"][
                version]
    }

    private func configure(_ handle: CurlHandle, _ request: Request, _ headers: UnsafeMutablePointer<curl_slist>?) {
        let isTLS = request.url.lowercased().hasPrefix("https:")
        handle.set(CURLOPT_URL, request.url)
        handle.set(CURLOPT_USERAGENT, settings.userAgent)
        handle.set(CURLOPT_NOSIGNAL, 1)
        handle.set(CURLOPT_TCP_KEEPALIVE, 1)
        // libcurl's largest; each receive fills as much of it as the socket has.
        handle.set(CURLOPT_BUFFERSIZE, 512 << 10)
        handle.set(CURLOPT_HTTP_VERSION, isTLS ? Int(CURL_HTTP_VERSION_2TLS) : Int(CURL_HTTP_VERSION_1_1))
        handle.set(CURLOPT_PROTOCOLS_STR, "http,https")
        // Nobody's URL says who we are.
        handle.set(CURLOPT_DISALLOW_USERNAME_IN_URL, 1)
        handle.set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        let limit = min(settings.stallLimit, settings.connectLimit)
        let milliseconds = limit.components.seconds * 1000 + limit.components.attoseconds / 1_000_000_000_000_000
        handle.set(CURLOPT_CONNECTTIMEOUT_MS, Int(min(max(1, milliseconds), Int64(Int32.max))))
        if request.freshConnection { handle.set(CURLOPT_FRESH_CONNECT, 1) }
        if let range = request.range { handle.set(CURLOPT_RANGE, "\(range.lowerBound)-\(range.upperBound - 1)") }
        if let form = request.form {
            handle.set(CURLOPT_COPYPOSTFIELDS, form.revealed)
            handle.set(CURLOPT_POSTREDIR, 0)
        }
        if request.acceptsCompression { handle.set(CURLOPT_ACCEPT_ENCODING, "gzip") }
        if let headers { _ = lamina_curl_set_list(handle.easy, CURLOPT_HTTPHEADER, headers) }
        // Our headers are for the server, not for a proxy on the way.
        handle.set(CURLOPT_HEADEROPT, Int(CURLHEADER_SEPARATE))
        handle.setTLS(request.tls)
        handle.setProxy(for: request.url)
        handle.errorText[0] = 0
        _ = lamina_curl_set_pointer(handle.easy, CURLOPT_ERRORBUFFER, handle.errorText)
        // Unretained: the handle is removed from its multi handle before `run` returns, and no callback comes later.
        let context = Unmanaged.passUnretained(self).toOpaque()
        _ = lamina_curl_set_pointer(handle.easy, CURLOPT_HEADERDATA, context)
        _ = lamina_curl_set_pointer(handle.easy, CURLOPT_WRITEDATA, context)
        _ = lamina_curl_set_receive(handle.easy, CURLOPT_HEADERFUNCTION) { bytes, _, count, context in
            guard let context else { return 0 }
            let exchange = Unmanaged<HTTPExchange>.fromOpaque(context).takeUnretainedValue()
            return exchange.take(line: UnsafeRawBufferPointer(start: bytes, count: count)) ? count : 0
        }
        _ = lamina_curl_set_receive(handle.easy, CURLOPT_WRITEFUNCTION) { bytes, _, count, context in
            guard let context else { return 0 }
            let exchange = Unmanaged<HTTPExchange>.fromOpaque(context).takeUnretainedValue()
            // Anything but the count ends the transfer; 0 of 0 would not.
            return exchange.take(body: UnsafeRawBufferPointer(start: bytes, count: count)) ? count : count + 1
        }
    }
}
