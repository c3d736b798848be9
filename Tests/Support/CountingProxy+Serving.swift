import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem

extension CountingProxy {
    /// Answers the requests of one connection until it ends.
    func serve(_ client: LoopbackSocket, connection: Int) {
        if faults.endsBehindHandshake { return passHandshake(of: client) }
        while let head = client.receiveHead() {
            let words = head.firstLine.split(separator: " ").map(String.init)
            guard words.count == 3, words[0] == "GET" || words[0] == "HEAD" else {
                _ = client.send("HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            }
            let blob = Self.blob(in: words[1])
            var request = Request(
                method: words[0], path: words[1], range: head["Range"], blob: blob, connection: connection)
            request.authorization = head["Authorization"]
            for field in head.fields { request.fields[field.name.lowercased()] = field.value }
            let place = log(request)
            if let challenge = tokens?.challenge(to: head["Authorization"]) {
                update(place) { $0.status = 401 }
                let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: \(challenge)\r\nContent-Length: 0\r\n\r\n"
                guard client.send(answer) else { return }
                continue
            }
            let isManifest = words[1].contains("/manifests/")
            let faults = self.faults
            let applies =
                switch faults.scope {
                case .all: true
                case .blobs: blob != nil
                case .manifests: isManifest
                }
            if applies, let delay = faults.delay { _ = state.wait(seconds: delay) { $0.isStopped ? true : nil } }
            let goesOn =
                applies && refuse(client, faults, target: words[1], place: place)
                || pass(
                    head, method: words[0], blob: blob, faults: applies ? faults : Faults(), to: client, place: place)
            guard goesOn else { return }
        }
    }

    /// Passes a handshake of TLS 1.3 on (RFC 8446 §2): one message of the client, the server's, and the client's last one.
    private func passHandshake(of client: LoopbackSocket) {
        let hello = client.receive(atMost: 1 << 14)
        guard let server = try? LoopbackSocket.connected(to: upstream), hello.withUnsafeBytes({ server.send($0) })
        else { return }
        while true {
            var waiting = [client, server].map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
            guard poll(&waiting, 2, 10_000) > 0, waiting[0].revents == 0 else { return }
            let bytes = server.receive(atMost: 1 << 14)
            guard !bytes.isEmpty, bytes.withUnsafeBytes({ client.send($0) }) else { return }
        }
    }

    /// What a Range field asks for.
    static func range(_ field: String) -> Range<Int64>? {
        let ends = field.split(separator: "=").last?.split(separator: "-") ?? []
        guard ends.count == 2, let first = Int64(ends[0]), let last = Int64(ends[1]), first <= last else { return nil }
        return first..<last + 1
    }

    private static func blob(in path: String) -> Digest? {
        guard let range = path.firstRange(of: "/blobs/sha256:") else { return nil }
        return Digest(hex: path[range.upperBound...].prefix(64))
    }

    private func log(_ request: Request) -> Int {
        state.withLock { state in
            state.requests.append(request)
            return state.requests.count - 1
        }
    }

    private func update(_ place: Int, _ change: (inout Request) -> Void) {
        // A reset may have come between.
        state.withLock { if $0.requests.indices.contains(place) { change(&$0.requests[place]) } }
    }

    /// Takes one of a limited number of faults.
    private func take(_ count: WritableKeyPath<Faults, Int>) -> Bool {
        state.withLock { state in
            guard state.faults[keyPath: count] > 0 else { return false }
            if state.faults[keyPath: count] != .max { state.faults[keyPath: count] -= 1 }
            return true
        }
    }

    /// Answers in the registry's place if the faults say so; returns whether it did.
    private func refuse(_ client: LoopbackSocket, _ faults: Faults, target: String, place: Int) -> Bool {
        if let base = faults.redirect {
            update(place) { $0.status = 307 }
            return client.send(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: \(base)\(target)\r\nContent-Length: 0\r\n\r\n")
        }
        guard let status = faults.status, take(\.statusCount) else { return false }
        update(place) { $0.status = status }
        let body = #"{"errors":[{"code":"TOLD_TO","message":"the proxy was told to say \#(status)"}]}"#
        let retry = faults.retryAfter.map { "Retry-After: \($0)\r\n" } ?? ""
        return client.send("HTTP/1.1 \(status) Told To\r\n\(retry)Content-Length: \(body.utf8.count)\r\n\r\n\(body)")
    }

    /// Passes a request on and the response back; returns whether the connection can be used again.
    private func pass(
        _ request: MessageHead, method: String, blob: Digest?, faults: Faults, to client: LoopbackSocket, place: Int
    ) -> Bool {
        var request = request
        request["Connection"] = "close"
        request["Host"] = "127.0.0.1:\(upstream)"
        // Ours, not the registry's.
        if tokens != nil { request["Authorization"] = nil }
        if faults.ignoresRange { request["Range"] = nil }
        let other = blob.flatMap { faults.substitutes[$0] }
        if let blob, let other { request.firstLine = request.firstLine.replacing(blob.hex, with: other.hex) }
        if let range = request["Range"].flatMap(Self.range) {
            let shift = faults.shiftsRange ?? 0
            // What is left of it then comes at once.
            let missing = faults.shortensRange.map { range.count > 2 * $0 ? $0 : 0 } ?? 0
            let last = range.upperBound - 1 - missing
            request["Range"] = "bytes=\(range.lowerBound + shift)-\(last + shift)"
        }
        guard let server = try? LoopbackSocket.connected(to: upstream), server.send(request.text),
            var response = server.receiveHead()
        else { return false }
        response["Connection"] = nil
        if let blob, other != nil { response["Docker-Content-Digest"] = blob.description }
        if let body = faults.body {
            response["Content-Length"] = "\(body.count)"
            for field in faults.fields { response[field.key] = field.value }
            update(place) { $0.status = response.status }
            return client.send(response.text) && body.withUnsafeBytes { client.send($0) }
        }
        for field in faults.fields { response[field.key] = field.value }
        let length = method == "HEAD" || response.status == 304 ? 0 : response["Content-Length"].flatMap { Int64($0) }
        let isChunked = faults.isChunked && length != nil && method == "GET"
        if isChunked {
            response["Content-Length"] = nil
            response["Transfer-Encoding"] = "chunked"
        }
        let start = response["Content-Range"].flatMap { ContentRange(parsing: $0)?.range?.lowerBound } ?? 0
        let isContent = response.status == 200 || response.status == 206
        update(place) {
            $0.status = response.status
            $0.sent = start..<start
        }
        guard client.send(response.text) else { return false }
        var body = Body(
            blob: isContent ? blob : nil, start: start, isChunked: isChunked, place: place, began: ContinuousClock().now
        )
        while length.map({ body.count < $0 }) ?? true {
            let piece = server.receive(atMost: faults.bytesPerSecond == nil ? 1 << 16 : 1 << 12)
            if piece.isEmpty { break }
            guard send(piece, of: &body, faults, to: client) else { return false }
        }
        if isChunked, !client.send("0\r\n\r\n") { return false }
        // Only closing can show that announced bytes did not come.
        return length == body.count
    }

    private struct Body {
        var blob: Digest?
        var start: Int64
        var isChunked: Bool
        var place: Int
        var began: ContinuousClock.Instant
        var count: Int64 = 0
    }

    /// Sends a piece of a body; false if the connection should end.
    private func send(_ bytes: [UInt8], of body: inout Body, _ faults: Faults, to client: LoopbackSocket) -> Bool {
        var bytes = bytes
        corrupt(&bytes, of: body)
        var end = bytes.count
        var isCut = false
        var stalls = false
        if let limit = faults.cutAfter, body.count + Int64(end) > limit, take(\.cutCount) {
            end = max(0, limit - Int(body.count))
            isCut = true
        } else if let limit = faults.stallAfter, body.count + Int64(end) > limit, take(\.stallCount) {
            end = max(0, limit - Int(body.count))
            stalls = true
        }
        // Before they go out, so that a client that has them finds them counted.
        count(Int64(end), of: &body)
        let isSent = bytes.withUnsafeBytes { bytes in
            let piece = UnsafeRawBufferPointer(rebasing: bytes[..<end])
            guard body.isChunked, !piece.isEmpty else { return client.send(piece) }
            return client.send(String(end, radix: 16) + "\r\n") && client.send(piece) && client.send("\r\n")
        }
        guard isSent else {
            count(-Int64(end), of: &body)
            return false
        }
        if stalls {
            // Until the client goes away, which is the only thing that it can do.
            _ = client.receive(atMost: 1)
            return false
        }
        if let rate = faults.bytesPerSecond, !isCut {
            let due = body.began + .seconds(Double(body.count) / Double(rate))
            _ = state.wait(seconds: max(0, Double((due - ContinuousClock().now) / .seconds(1)))) {
                $0.isStopped ? true : nil
            }
        }
        return !isCut
    }

    private func count(_ count: Int64, of body: inout Body) {
        body.count += count
        guard body.blob != nil else { return }
        let sent = body.start..<body.start + body.count
        update(body.place) { $0.sent = sent }
    }

    private func corrupt(_ bytes: inout [UInt8], of body: Body) {
        guard let blob = body.blob else { return }
        let first = body.start + body.count
        let end = first + Int64(bytes.count)
        let offsets = state.withLock { state in
            state.faults.corruptions.indices.compactMap { index -> Int? in
                let corruption = state.faults.corruptions[index]
                guard corruption.digest == blob, corruption.count > 0, corruption.offset >= first,
                    corruption.offset < end
                else { return nil }
                if corruption.count != .max { state.faults.corruptions[index].count -= 1 }
                return Int(corruption.offset - first)
            }
        }
        for offset in offsets { bytes[offset] ^= 0xFF }
    }
}
